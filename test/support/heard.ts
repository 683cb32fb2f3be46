import type { Socket } from 'node:net'
import { describeFrame, frames } from './http2.ts'

/** For a case that fails: what comes at all comes at once. */
const DEADLINE_MS = 15_000

/** Frames of HTTP/2 that have come on a socket, each as a line. */
export interface Heard {
  /** All of them, once this is so of them, or the peer has said goodbye, or nothing comes for too long. */
  readonly until: (is: (all: readonly string[]) => boolean) => Promise<readonly string[]>
  /** Whether the peer has said goodbye. */
  readonly isOver: () => boolean
}

/** Listens to a socket, `skip` bytes aside. */
export const heard = (socket: Socket, skip = 0): Heard => {
  let bytes = Buffer.alloc(0)
  let isOver = false
  const waiting = new Set<() => void>()
  const wake = () => {
    for (const resolve of waiting) resolve()
    waiting.clear()
  }
  socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk])
    wake()
  })
  const over = () => {
    isOver = true
    wake()
  }
  socket.on('end', over).on('close', over)
  socket.on('error', () => {})
  const found = (): string[] => {
    let end = skip
    while (bytes.length >= end + 9 && bytes.length >= end + 9 + bytes.readUIntBE(end, 3))
      end += 9 + bytes.readUIntBE(end, 3)
    return end > skip ? frames(bytes.subarray(skip, end)).map(describeFrame) : []
  }
  const until = async (is: (all: readonly string[]) => boolean): Promise<readonly string[]> => {
    let isLate = false
    const timer = setTimeout(() => {
      isLate = true
      wake()
    }, DEADLINE_MS)
    while (!is(found()) && !isOver && !isLate) await new Promise<void>((resolve) => waiting.add(resolve))
    clearTimeout(timer)
    return found()
  }
  return { until, isOver: () => isOver }
}
