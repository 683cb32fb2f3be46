import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import type { Test } from 'tap'

/** What one connection to a raw upstream does, once a request's head (and body, by its length) is there. */
export type Behaviour = string | Buffer | ((socket: Socket, request: string) => void)

/** A server that answers each path with exactly these bytes. It closes after a text, so that nothing hangs. */
export interface RawUpstream {
  readonly port: number
  readonly url: (path: string) => string
  /** Whole requests, as they came. */
  readonly requests: readonly string[]
  readonly open: () => number
}

/** Starts a server whose behaviours are looked up by path. */
export const startRawUpstream = async (
  t: Pick<Test, 'teardown'>,
  behaviours: Readonly<Record<string, Behaviour>>,
): Promise<RawUpstream> => {
  const requests: string[] = []
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    let received = ''
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
      const head = received.indexOf('\r\n\r\n')
      if (head < 0) return
      const length = Number(/^content-length: *(\d+)/im.exec(received.slice(0, head))?.[1] ?? 0)
      if (received.length < head + 4 + length) return
      const request = received
      received = ''
      requests.push(request)
      const path = request.split(' ', 2)[1]?.split('?', 1)[0] ?? ''
      const behaviour = behaviours[path] ?? 'HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n'
      if (typeof behaviour === 'function') behaviour(socket, request)
      else socket.end(behaviour)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { port, requests, url: (path) => `http://127.0.0.1:${port}${path}`, open: () => sockets.size }
}

/** An answer with a body of known length. */
export const answer = (status: number, type: string, body: string | Buffer, more = ''): Buffer => {
  const bytes = Buffer.from(body)
  const head = `HTTP/1.1 ${status} Said\r\nContent-Type: ${type}\r\nContent-Length: ${bytes.length}\r\n${more}\r\n`
  return Buffer.concat([Buffer.from(head), bytes])
}
