import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import type { Address } from '../../src/net/address.ts'

/** A TCP server on loopback, on a port of the system's choice, that counts its callers. */
export interface Upstream {
  readonly address: Address
  readonly server: Server
  readonly connections: Socket[]
  close(): void
}

/** Starts one; `talk` gets each connection, which keeps half-close. */
export const upstream = async (talk: (socket: Socket) => void, host = '127.0.0.1'): Promise<Upstream> => {
  const connections: Socket[] = []
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {})
    connections.push(socket)
    talk(socket)
  }).listen(0, host)
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  return {
    address: { host, port },
    server,
    connections,
    close: () => {
      server.close()
      for (const socket of connections) socket.destroy()
    },
  }
}

/** A connected client whose errors are its own affair. */
export const caller = async ({ host, port }: Address): Promise<Socket> => {
  const socket = connect({ host, port, allowHalfOpen: true })
  await once(socket, 'connect')
  socket.on('error', () => {})
  return socket
}

/** All that arrives until the other side's end, as latin1. Rejects when the connection is reset. */
export const readAll = async (socket: Socket): Promise<string> => {
  const chunks: Buffer[] = []
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('latin1')
}
