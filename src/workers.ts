import { randomBytes } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { Otlp } from './command/environment.ts'
import { limitTable } from './forward/limitTable.ts'
import type { Address } from './net/address.ts'
import type { Clock } from './net/clock.ts'
import type { Io } from './net/commandLine.ts'
import type { DocumentFile } from './net/documents.ts'
import type { Sections } from './policy/sections.ts'
import { type Afar, hearingOf } from './telemetry/afar.ts'
import type { Ledger } from './telemetry/ledger.ts'
import type { Log } from './telemetry/log.ts'
import { clockBase, type FromWorker, type Seen, type ToWorker, type WorkerStart } from './workerMessages.ts'

/** The threads that serve, seen from the main one. */
export interface Workers {
  readonly addresses: () => readonly Address[]
  /** Gets a policy ready in each; gives what puts it in use in all. Rejects when one of them cannot. */
  readonly prepare: (files: readonly DocumentFile[]) => Promise<() => void>
  /** More addresses of ours, which a connection must not be dialled to. */
  readonly own: (addresses: readonly Address[]) => void
  /** What each showed when it was last looked at. */
  readonly seen: () => readonly Seen[]
  readonly stop: (ms: number) => Promise<void>
}

/** What the workers are given, and whom they tell. */
export interface WorkersWorld {
  readonly threads: number
  readonly files: readonly DocumentFile[]
  readonly env: Io['env']
  readonly otlp: Otlp | undefined
  readonly clock: Clock
  readonly ledger: Ledger
  readonly log: Log
  /** A worker died as soon as it was started. */
  readonly lost: () => void
  readonly spawn?: (start: WorkerStart) => Worker
}

const WANTS_MS = 100 // how soon workers hear that somebody wants whole Outcomes, or no longer does
const LIVES_MS_MIN = 10_000 // one that dies sooner after its start would do so again

/** How many threads shall serve. Channels and a candidate live in one thread, so that with them it is one. */
export const threadsOf = ({ workers, callback }: Sections, hasCandidate: boolean, warn: Log['warn']): number => {
  const wanted = workers.threads === 'auto' ? availableParallelism() : Number(workers.threads)
  const reason = callback.enable ? 'callback.enable' : hasCandidate ? '--candidate' : undefined
  if (wanted === 1 || reason === undefined) return wanted
  warn(`${reason} works in one thread only: workers.threads is taken as 1`)
  return 1
}

const spawned = (start: WorkerStart): Worker =>
  new Worker(new URL('./serveWorker.ts', import.meta.url), { workerData: start, name: `sluice-${start.number}` })

interface Thread {
  readonly number: number
  readonly worker: Worker
  readonly afar: Afar
  readonly startedAt: number
  seen: Seen | undefined
  isReady: boolean
}

/** Starts the workers, the first one alone, so that what is in the way is said once. Rejects with an Error. */
export const openWorkers = async (world: WorkersWorld): Promise<Workers> => {
  const { threads, clock, ledger, log } = world
  const limits = limitTable()
  const secret = randomBytes(32)
  const chance = Math.random()
  const running = new Map<number, Thread>()
  const answers = new Map<number, (answer: FromWorker & { readonly is: 'answer' }) => void>()
  const stopped = new Map<Thread, () => void>()
  const hearing = Array.from({ length: threads }, () => hearingOf(ledger, clock))
  let files = world.files
  let own: readonly Address[] = []
  let addresses: readonly (Address | null)[] | undefined
  let isStopping = false
  let asked = 0

  const tell = (thread: Thread, order: ToWorker) => thread.worker.postMessage(order)
  const ask = (thread: Thread, order: { readonly is: 'look' } | { readonly is: 'prepare'; files: typeof files }) =>
    new Promise<FromWorker & { readonly is: 'answer' }>((resolve) => {
      const id = ++asked
      const gone = () => answers.get(id)?.({ is: 'answer', id })
      answers.set(id, (answer) => {
        answers.delete(id)
        thread.worker.off('exit', gone)
        resolve(answer)
      })
      thread.worker.once('exit', gone)
      tell(thread, { ...order, id })
    })
  const begin = (number: number): Promise<Thread> =>
    new Promise((resolve, reject) => {
      const start: WorkerStart = {
        number,
        threads,
        files,
        env: world.env,
        otlp: world.otlp,
        limits,
        secret,
        chance,
        clockBase: clockBase(),
        addresses,
        own,
      }
      const worker = (world.spawn ?? spawned)(start)
      worker.setMaxListeners(0)
      const afar = hearing[number - 1]!
      const thread: Thread = { number, worker, afar, startedAt: clock.now(), seen: undefined, isReady: false }
      running.set(number, thread)
      let fault = 'it ended'
      worker.on('message', (message: FromWorker) => {
        switch (message.is) {
          case 'listening':
            addresses ??= message.addresses
            thread.isReady = true
            return resolve(thread)
          case 'failed':
            fault = message.message
            return void worker.terminate()
          case 'answer':
            return answers.get(message.id)?.(message)
          case 'told':
            return afar.hear(message.told)
          case 'log':
            return log[message.level](message.message)
          case 'stopped':
            return stopped.get(thread)?.()
        }
      })
      worker.on('error', (error) => {
        fault = (error as Error).stack ?? String(error)
      })
      worker.on('exit', () => {
        if (running.get(number) === thread) running.delete(number)
        thread.seen = undefined
        afar.gone()
        stopped.get(thread)?.()
        if (!thread.isReady) return reject(new Error(fault))
        if (!isStopping) replace(thread, fault)
      })
    })
  /** Its connections are lost; those of the others are not. */
  const replace = ({ number, startedAt }: Thread, fault: string) => {
    log.error(`worker ${number} has died, and with it its connections: ${fault}`)
    if (clock.now() - startedAt < LIVES_MS_MIN) return world.lost()
    begin(number).then(
      () => log.warn(`worker ${number} was replaced`),
      (error: Error) => {
        log.error(`worker ${number} cannot be replaced: ${error.message}`)
        world.lost()
      },
    )
  }
  const all = () => [...running.values()].filter(({ isReady }) => isReady)

  let isWanted = true
  const looking = setInterval(() => {
    if (ledger.wantsOutcomes === isWanted) return
    isWanted = !isWanted
    for (const thread of all()) tell(thread, { is: 'wants', outcomes: isWanted })
  }, WANTS_MS).unref()
  const look = async () => {
    await Promise.all(
      all().map(async (thread) => {
        const { seen } = await ask(thread, { is: 'look' })
        if (seen === undefined) return
        thread.seen = seen
        thread.afar.see(seen.totals, seen.lives)
      }),
    )
  }
  ledger.lookBy(look)
  const stop = async (ms: number) => {
    isStopping = true
    clearInterval(looking)
    await Promise.all(
      [...running.values()].map(
        (thread) =>
          new Promise<void>((resolve) => {
            stopped.set(thread, resolve)
            if (thread.isReady) tell(thread, { is: 'stop', ms })
            else void thread.worker.terminate()
          }),
      ),
    )
    await Promise.all([...running.values()].map(({ worker }) => worker.terminate()))
  }
  try {
    await begin(1)
    await Promise.all(Array.from({ length: threads - 1 }, (_, i) => begin(i + 2)))
  } catch (error) {
    await stop(0)
    throw error
  }
  return {
    addresses: () => (addresses ?? []).filter((address) => address !== null),
    prepare: async (next) => {
      const found = await Promise.all(all().map((thread) => ask(thread, { is: 'prepare', files: next })))
      const problem = found.find((answer) => answer.problem !== undefined)?.problem
      if (problem !== undefined) throw new Error(problem)
      return () => {
        files = next
        for (const thread of all()) tell(thread, { is: 'use' })
      }
    },
    own: (more) => {
      own = more
      for (const thread of all()) tell(thread, { is: 'own', addresses: own })
    },
    seen: () => all().flatMap(({ seen }) => seen ?? []),
    stop,
  }
}
