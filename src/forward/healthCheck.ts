import type { Duplex } from 'node:stream'
import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Dial } from '../net/connection.ts'
import { dialWithin } from '../net/dial.ts'
import type { HealthSettings } from './balancing.ts'

/** An answer to a check may be so long before its status line is over. */
const LINE_BYTES_MAX = 1_024

/** Whether a connection can be had, within the time. */
export const isThere = async (dial: Dial, address: Address, ms: number, clock: Clock): Promise<boolean> => {
  try {
    const stream = await dialWithin(dial, address, ms, clock)
    stream.destroy()
    return true
  } catch {
    return false // which is all that was asked
  }
}

/** Asks an endpoint whether it is well. */
export const isWell = async (
  dial: Dial,
  address: Address,
  host: string,
  { path, timeoutMs }: HealthSettings,
  clock: Clock,
): Promise<boolean> => {
  if (path === undefined) return isThere(dial, address, timeoutMs, clock)
  const since = clock.now()
  try {
    const stream = await dialWithin(dial, address, timeoutMs, clock)
    const status = await statusOf(stream, host, path, timeoutMs - (clock.now() - since), clock)
    return status >= 200 && status < 400
  } catch {
    return false
  }
}

/** The status it answers with; 0 where that is none. */
const statusOf = (stream: Duplex, host: string, path: string, ms: number, clock: Clock): Promise<number> =>
  new Promise((resolve) => {
    let heard = ''
    const done = (status: number) => {
      cancel()
      stream.destroy()
      resolve(status)
    }
    const cancel = clock.after(Math.max(1, ms), () => done(0))
    stream.on('data', (chunk: Buffer) => {
      heard += chunk.toString('latin1')
      const found = /^HTTP\/1\.[01] (\d{3})/.exec(heard)
      if (found !== null) done(Number(found[1]))
      else if (heard.length > LINE_BYTES_MAX || heard.includes('\n')) done(0)
    })
    stream.on('error', () => done(0)).on('close', () => done(0))
    stream.write(
      `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nUser-Agent: sluice-health-check\r\nConnection: close\r\n\r\n`,
    )
  })
