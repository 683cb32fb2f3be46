import { once } from 'node:events'
import { connect, createServer } from 'node:net'

/** Waits until a port of loopback is listened on. */
export const up = async (port: number): Promise<void> => {
  for (let tries = 0; tries < 2000; tries++) {
    const socket = connect(port, '127.0.0.1')
    const is = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    })
    socket.destroy()
    if (is) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error(`nothing listens on ${port}`)
}

/** A port of loopback that was free a moment ago, for a program that must be told one. */
export const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
