import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Contender } from './contender.ts'
import { anonymousBytes, residentBytes } from './procfs.ts'
import type { Measurement } from './rounds.ts'

/** Descriptors that a process may have here: run.sh sets it as high as the machine lets it. */
const descriptorsMax = Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 1024)

/** 10,000 where a proxy can hold so many opaque connections: two descriptors each, and some for itself. */
export const IDLE = Math.min(10_000, Math.floor((descriptorsMax - 400) / 2))

/**
 * For the policy of Sluice: the others do not ask idle peers whether they live, and as many questions as there are
 * connections here, all in one moment, are more than loopback carries.
 */
export const NO_PROBES = 'sockets: { keepalive: 0ms }'

/** What a connection costs that has had one message or request answered, and waits. */
export const idle = (protocol: '' | 'http1' | 'http2' = ''): Measurement => ({
  name: `${IDLE} idle connections`,
  metrics: [{ key: 'bytes', title: 'resident bytes each', better: 'lower' }],
  run: async (contender) => {
    const before = await settled(contender)
    const waiting = await idleClients(contender, IDLE, protocol)
    const bytes = ((await settled(contender)) - before) / IDLE
    await waiting.close()
    return { bytes }
  },
})

/** Memory and start, with nothing to do. */
export const resting: Measurement = {
  name: 'at rest',
  metrics: [
    { key: 'startMs', title: 'start-up, milliseconds', better: 'lower' },
    { key: 'own', title: 'MiB of its own', better: 'lower' },
    { key: 'resident', title: 'MiB with its share of the files', better: 'lower' },
  ],
  run: async (contender) => {
    const own = (await settled(contender)) / 2 ** 20
    return { startMs: contender.startMs, own, resident: residentBytes(contender.pids()) / 2 ** 20 }
  },
}

const LOAD = join(import.meta.dirname, '../build/load')

/** Opens connections that have had one answer, and holds them. Rejects if one breaks, then or while it waits. */
const idleClients = async ({ name, port }: Contender, connections: number, protocol: string) => {
  const child = spawn(LOAD, ['idle', String(port), String(connections), protocol], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = once(child, 'close').then(([code]) => code === 0)
  const isReady = await Promise.race([once(createInterface(child.stdout), 'line').then(() => true), ended])
  if (!isReady) throw new Error(`${name}: the client of ${connections} idle ${protocol} connections failed`)
  return {
    close: async () => {
      child.stdin.end()
      if (!(await ended)) throw new Error(`${name}: idle ${protocol} connections did not last`)
    },
  }
}

const LOOK_MS = 500
const STEADY_LOOKS = 30
const LOOKS_MAX = 120

/** Memory of its own, once what was held for the work before is given back: not another hundredth was given back for 15 seconds. */
const settled = async (contender: Contender): Promise<number> => {
  let least = Number.POSITIVE_INFINITY
  for (let looks = 0, steady = 0; steady < STEADY_LOOKS && looks < LOOKS_MAX; looks += 1) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
    const now = anonymousBytes(contender.pids())
    steady = now < least * 0.99 ? 0 : steady + 1
    least = Math.min(least, now)
  }
  return anonymousBytes(contender.pids())
}
