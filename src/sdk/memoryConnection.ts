import { Duplex } from 'node:stream'

/** Where an in-memory connection says it comes from. */
export interface Ends {
  readonly remoteAddress: string | undefined
  readonly remotePort: number | undefined
}

/**
 * A connection without a kernel: two Duplex streams, each of which reads what the other writes, one chunk under way at a
 * time. Servers and clients of Node take them for sockets; what only a socket can do (keep-alive, timers) does nothing.
 */
export const memoryConnection = (from: Ends): readonly [client: Duplex, server: Duplex] => {
  const [toServer, toClient] = [pipe(), pipe()]
  const client: Duplex = half(toServer, toClient, () => server)
  const server: Duplex = half(toClient, toServer, () => client)
  return [client, Object.assign(server, from)]
}

/** One direction: what is written waits until it is asked for. */
interface Pipe {
  reader?: Duplex
  isAsked: boolean
  waiting?: { readonly chunk: Buffer | null; readonly done: () => void }
}

const pipe = (): Pipe => ({ isAsked: false })

const move = (pipe: Pipe): void => {
  const { waiting, reader } = pipe
  if (waiting === undefined || !pipe.isAsked || reader === undefined || reader.destroyed) return
  delete pipe.waiting
  pipe.isAsked = false
  reader.push(waiting.chunk)
  waiting.done()
}

const half = (out: Pipe, into: Pipe, other: () => Duplex): Duplex => {
  // Never within the writer's own turn: an HTTP/2 session that is read while it writes aborts the process.
  const send = (chunk: Buffer | null, done: () => void) => {
    out.waiting = { chunk, done }
    process.nextTick(move, out)
  }
  const stream = new Duplex({
    read: () => {
      into.isAsked = true
      if (into.waiting) process.nextTick(move, into)
    },
    write: (chunk: Buffer, _encoding, done) => send(chunk, done),
    writev: (chunks, done) => send(Buffer.concat(chunks.map(({ chunk }) => chunk)), done),
    final: (done) => send(null, done),
    destroy: (error, done) => {
      if (!other().destroyed) setImmediate(() => other().destroy()) // after what is on its way
      done(error)
    },
  })
  into.reader = stream
  const nothing = () => stream
  return Object.assign(stream, {
    setKeepAlive: nothing,
    setNoDelay: nothing,
    setTimeout: nothing,
    ref: nothing,
    unref: nothing,
  })
}
