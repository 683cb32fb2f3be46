import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { Address } from '../../src/net/address.ts'
import { type Upstream, upstream } from './peers.ts'

/** A server that answers each head it reads with what `answer` says, and keeps what it was sent. */
export interface Scripted extends Upstream {
  /** All bytes of each connection, in latin1. */
  readonly received: string[]
}

type Answer = string | ((request: string, socket: Socket, nth: number) => string | undefined)

/** Starts one. A function may also write to the socket itself, and return undefined. */
export const scripted = async (answer: Answer): Promise<Scripted> => {
  const received: string[] = []
  let requests = 0
  const server = await upstream((socket) => {
    const mine = received.push('') - 1
    let unread = ''
    socket.on('data', (bytes: Buffer) => {
      const text = bytes.toString('latin1')
      received[mine] += text
      unread += text
      while (true) {
        const head = /^[\s\S]*?\r\n\r\n/.exec(unread)?.[0]
        if (head === undefined) return
        const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0)
        const isChunked = /transfer-encoding: chunked/i.test(head)
        const end = isChunked ? unread.indexOf('0\r\n', head.length) : head.length + length
        if (end === -1 || unread.length < end) return
        const bodyEnd = isChunked ? unread.indexOf('\r\n\r\n', end) + 4 : end
        if (bodyEnd < end) return
        const request = unread.slice(0, bodyEnd)
        unread = unread.slice(bodyEnd)
        const said = typeof answer === 'string' ? answer : answer(request, socket, requests++)
        if (said !== undefined) socket.write(said, 'latin1')
      }
    })
    socket.on('end', () => socket.end())
  })
  return Object.assign(server, { received })
}

/** A client that speaks in bytes. */
export interface Raw {
  readonly socket: Socket
  send(text: string): void
  /** Waits until what arrived, and was not taken before, matches; takes it up to the end of the match. */
  until(pattern: RegExp): Promise<string>
  /** All that arrives until the server's end, or its reset. */
  rest(): Promise<string>
}

/** Connects one. */
export const raw = async ({ host, port }: Address): Promise<Raw> => {
  const socket = connect({ host, port, allowHalfOpen: true })
  let unread = ''
  let isOver = false
  let wake = () => {}
  socket.on('data', (bytes: Buffer) => {
    unread += bytes.toString('latin1')
    wake()
  })
  const over = () => {
    isOver = true
    wake()
  }
  socket.on('end', over).on('close', over).on('error', over)
  await once(socket, 'connect')
  const changed = () => new Promise<void>((resolve) => (wake = resolve))
  return {
    socket,
    send: (text) => void socket.write(text, 'latin1'),
    until: async (pattern) => {
      while (true) {
        const found = pattern.exec(unread)
        if (found !== null) {
          const end = found.index + found[0].length
          const taken = unread.slice(0, end)
          unread = unread.slice(end)
          return taken
        }
        if (isOver) throw new Error(`ended before ${pattern}: ${JSON.stringify(unread)}`)
        await changed()
      }
    },
    rest: async () => {
      while (!isOver) await changed()
      const taken = unread
      unread = ''
      socket.destroy()
      return taken
    },
  }
}

/** Sends a text, says goodbye once the answer begins to arrive, and reads all of it. */
export const ask = async (to: Address, text: string): Promise<string> => {
  const client = await raw(to)
  client.socket.once('data', () => client.socket.end())
  client.send(text)
  return client.rest()
}
