import { hkdfSync } from 'node:crypto'

const KEY_BYTES = 48 // Node: 16 for the name, 16 for the HMAC, 16 for AES-128

/** Session ticket keys of one process, shared by every listener. `serial` tells one key from the next. */
export interface TicketKeys {
  readonly current: () => { readonly serial: number; readonly key: Buffer }
}

export interface TicketOptions {
  readonly now: () => number
  readonly random: (bytes: number) => Buffer
  /** A stolen key opens the recorded TLS 1.2 sessions of this long and no longer. */
  readonly periodMs: number
}

/** Keys that are replaced after each period, when first asked for after it. A ticket of an old key costs a full handshake. */
export const rotatingTicketKeys = ({ now, random, periodMs }: TicketOptions): TicketKeys => {
  let made = now()
  let held = { serial: 0, key: random(KEY_BYTES) }
  return {
    current: () => {
      if (now() - made < periodMs) return held
      made = now()
      held = { serial: held.serial + 1, key: random(KEY_BYTES) }
      return held
    },
  }
}

/** Keys that threads make alike from one secret: a ticket sealed by one opens at each. `time` is the time of day. */
export const sharedTicketKeys = ({
  time,
  secret,
  periodMs,
}: {
  readonly time: () => number
  readonly secret: Uint8Array
  readonly periodMs: number
}): TicketKeys => {
  let held: { readonly serial: number; readonly key: Buffer } | undefined
  return {
    current: () => {
      const serial = Math.floor(time() / periodMs)
      if (held?.serial !== serial)
        held = { serial, key: Buffer.from(hkdfSync('sha256', secret, '', `ticket key ${serial}`, KEY_BYTES)) }
      return held
    },
  }
}
