import type { Duplex } from 'node:stream'
import { speaksFirst } from '../detect/detect.ts'
import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Dial } from '../net/connection.ts'
import { isFixed, type Reached } from './chooseUpstream.ts'
import type { EarlyDial } from './plan.ts'

// A client that means to speak does so in the packet that completes its handshake, or right behind it.
export const SILENCE_MS = 5

// Another Sluice first has to hear that it is connected, on a machine that may be busy; and there is no way back from a
// greeting in the clear.
export const MESH_SILENCE_MS = 200

/** A dial that is begun now, for somebody who may want it later. */
export const beginEarly = (place: string, reach: (trying: (to: Address) => void) => Promise<Reached>): EarlyDial => {
  let to: Address | undefined
  let hear = (_: Address) => {}
  const upstream = reach((address) => {
    to = address
    hear(address)
  })
  return {
    place,
    upstream,
    tell: (trying) => {
      hear = trying
      if (to !== undefined) trying(to)
    },
  }
}

/**
 * Begins to dial once the client has been silent for a moment, so that a server which speaks first is heard without delay.
 * `spoke` is called when it does, and also when it hangs up or refuses: its answer is then what the client waits for;
 * but not with `onlyWords`, where a client that speaks HTTP after all goes somewhere else.
 * Returns how to end the wait: it gives the dial where one was begun.
 */
export const dialWhileSilent = (
  begin: () => EarlyDial,
  clock: Clock,
  spoke: () => void,
  silenceMs = SILENCE_MS,
  onlyWords = false,
): (() => EarlyDial | undefined) => {
  let early: EarlyDial | undefined
  let over = false
  let stopListening = () => {}
  const cancel = clock.after(silenceMs, () => {
    early = begin()
    const ended = onlyWords ? () => {} : spoke
    early.upstream.then(
      ({ stream }) => {
        if (!over) stopListening = listenTo(stream, spoke, ended)
      },
      () => {
        if (!over) ended()
      },
    )
  })
  return () => {
    over = true
    cancel()
    stopListening()
    return early
  }
}

const listenTo = (server: Duplex, spoke: () => void, ended: () => void): (() => void) => {
  const hear = () => {
    // Readable with nothing to read is the end, which must stay unread for whoever forwards.
    if (server.readableLength === 0) return ended()
    const chunk = server.read() as Buffer
    server.unshift(chunk)
    if (speaksFirst(chunk).is === 'yes') spoke()
  }
  server.once('readable', hear).once('close', ended)
  return () => server.off('readable', hear).off('close', ended)
}

/** Closes an upstream that turned out not to be wanted. */
export const discard = (early: EarlyDial | undefined): void => {
  early?.upstream.then(
    ({ stream, use }) => {
      stream.destroy()
      use?.released()
    },
    () => {},
  )
}

/** So long an early dial waits for the request that needs it: as long as the pool keeps one that nobody needs. */
const UNUSED_MS = 3_000

/** Dials as `dial` does, but for the first dial to where an early one already went: that one is taken. */
export const useEarly = (
  early: EarlyDial | undefined,
  dial: Dial,
  clock: Clock,
): { dial: Dial; discard: () => void } => {
  // One that was chosen among several is given back: a request chooses for itself.
  if (early !== undefined && !isFixed(early.place)) discard(early)
  if (early === undefined || !isFixed(early.place)) return { dial, discard: nothing }
  const { place } = early
  let unused: EarlyDial | undefined = early
  const discardUnused = () => {
    discard(unused)
    unused = undefined
  }
  // Requests may find others open, for as long as the client stays.
  clock.after(UNUSED_MS, discardUnused)
  return {
    dial: (to, signal) => {
      if (unused === undefined || place !== formatAddress(to)) return dial(to, signal)
      const { upstream } = unused
      unused = undefined
      return upstream.then(({ stream }) => {
        // Hardly ever: it was closed again, or refused, while the client was silent; or it is inside TLS already, which
        // whoever dials here begins by the terms of its own request.
        if (!stream.destroyed && !stream.readableEnded && !('encrypted' in stream)) return stream
        stream.destroy()
        return dial(to, signal)
      })
    },
    discard: discardUnused,
  }
}

const nothing = (): void => {}
