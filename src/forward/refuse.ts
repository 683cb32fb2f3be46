import type { Duplex } from 'node:stream'
import { reset } from '../net/relay.ts'
import type { Traffic } from '../net/traffic.ts'

/** Ends a connection that the policy denies: a reset, as from a port where nothing listens. */
export const deny = (stream: Duplex): Traffic => {
  reset(stream)
  return { sent: 0, received: 0, ended: 'denied' }
}

/** Ends a connection that we cannot serve whatever the policy says; `code` is stable, the message is for a person. */
export const refuse = (stream: Duplex, code: string, message: string): Traffic => {
  reset(stream)
  return { sent: 0, received: 0, ended: 'refused', error: { code, message } }
}
