import { connect } from 'node:net'

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
