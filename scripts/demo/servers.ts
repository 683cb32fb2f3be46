import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Space } from '../../test/support/netns.ts'

/** Web (80), HTTP/2 without TLS (8080), secure web (443) and mail (25) servers, on every address of the namespace. */
export const startServers = async (where: Space, directory: string): Promise<void> => {
  const key = join(directory, `${where.addresses[4]}.key`)
  const cert = join(directory, `${where.addresses[4]}.cert`)
  const name = ['-subj', '/CN=shop.example', '-days', '2', '-nodes', '-keyout', key, '-out', cert]
  const made = await where.run([
    'openssl',
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    ...name,
  ])
  if (made.code !== 0) throw new Error(`openssl: ${made.err}`)
  await where.evaluate(
    async ({ net, http, http2, tls, events, here }, { key, cert }) => {
      const page = (request: { httpVersion: string }, response: { end(text: string): void }) =>
        response.end(`hello over HTTP/${request.httpVersion}\n`)
      const mail = (socket: import('node:net').Socket) => {
        // As much of RFC 5321 as one message needs.
        let isMessage = false
        const answer = (line: string): string => {
          if (isMessage && line === '.') {
            isMessage = false
            return '250 queued\r\n'
          }
          if (isMessage) return ''
          isMessage = line === 'DATA'
          return isMessage ? '354 go on\r\n' : line === 'QUIT' ? '221 goodbye\r\n' : '250 ok\r\n'
        }
        let rest = ''
        socket.on('error', () => {})
        socket.write('220 mail.example ESMTP\r\n')
        socket.on('data', (bytes) => {
          const lines = (rest + bytes).split('\r\n')
          rest = lines.pop()!
          for (const line of lines) socket.write(answer(line))
          if (lines.includes('QUIT')) socket.end()
        })
      }
      const web = http.createServer(page)
      here.servers = [
        [web, 80],
        [http2.createServer(page), 8080],
        [tls.createServer({ key, cert, ALPNProtocols: ['http/1.1'] }, (socket) => web.emit('connection', socket)), 443],
        [net.createServer(mail), 25],
      ]
      for (const [server, port] of here.servers) await events.once(server.listen(port, '::'), 'listening')
    },
    { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') },
  )
}
