import { once } from 'node:events'
import { Duplex, duplexPair } from 'node:stream'
import { connect, createServer } from 'node:tls'
import { selfSigned } from './selfSigned.ts'

/** The key and certificate of both sides. */
export const own = selfSigned('shop.example')
const { key, cert } = own

/** A real conversation: what either side sent on the wire, and the key log of it. */
export const tlsTalk = async (options: object, requestCert = false) => {
  const wire = { client: [] as Buffer[], server: [] as Buffer[] }
  const tapped = (stream: Duplex, kept: Buffer[]): Duplex => {
    const outer = new Duplex({
      read: () => {},
      write: (chunk: Buffer, _encoding, done) => {
        kept.push(Buffer.from(chunk))
        stream.write(chunk, done)
      },
    })
    stream.on('data', (chunk) => outer.push(chunk))
    return outer
  }
  const [here, there] = duplexPair()
  let log = ''
  const server = createServer({ key, cert, requestCert, rejectUnauthorized: false, ecdhCurve: 'P-256:X25519' })
  server.on('keylog', (line) => (log += line))
  const heard = new Promise<void>((resolve) =>
    server.on('secureConnection', (socket) => socket.once('data', () => resolve())),
  )
  server.emit('connection', tapped(here, wire.server))
  const client = connect({ socket: tapped(there, wire.client), rejectUnauthorized: false, ...options })
  await once(client, 'secureConnect')
  client.write('GET /secret HTTP/1.1\r\nhost: a\r\n\r\n')
  await heard
  client.destroy()
  return { client: Buffer.concat(wire.client), server: Buffer.concat(wire.server), log }
}
