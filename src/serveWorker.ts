import { parentPort, workerData } from 'node:worker_threads'
import type { ListenerOptions } from './accept/listen.ts'
import { tellBalance } from './admin/liveBalance.ts'
import { keepDiscovery } from './admin/liveDiscovery.ts'
import { listenersOf } from './config.ts'
import { createHttpState } from './forward/httpState.ts'
import { limitsIn } from './forward/limitTable.ts'
import { openTls } from './forward/tlsWorld.ts'
import type { Address } from './net/address.ts'
import { systemClock } from './net/clock.ts'
import type { DocumentFile } from './net/documents.ts'
import { tellFaults } from './net/fault.ts'
import { giveBackWhenQuiet } from './net/giveBack.ts'
import { parsePolicy } from './policy/parsePolicy.ts'
import type { Policy } from './policy/policy.ts'
import type { Sections } from './policy/sections.ts'
import { FLUSH_MS_MAX, gatewayFor, openNative, openServing, tracesOf } from './serving.ts'
import { factsOf, tellingOf } from './telemetry/afar.ts'
import { createLedger } from './telemetry/ledger.ts'
import { clockBase, type FromWorker, type Seen, type ToWorker, type WorkerStart } from './workerMessages.ts'

/**
 * One thread of `sluice serve` where `workers.threads` says more than one. It serves as the only thread would, but has
 * its log, its metrics and its page elsewhere: the main thread is told what happens, and says when something changes.
 */
const run = async (start: WorkerStart, say: (message: FromWorker) => void): Promise<(order: ToWorker) => void> => {
  const { number, threads, env } = start
  const shift = start.clockBase - clockBase()
  const clock = { ...systemClock, now: () => systemClock.now() + shift }
  const saying = (level: 'info' | 'warn' | 'error') => (message: string) =>
    say({ is: 'log', level, message: `worker ${number}: ${message}` })
  const log = { info: saying('info'), warn: saying('warn'), error: saying('error') }
  tellFaults(log.error)
  const quiet = { warn: () => {} } // the main thread has the same to say
  let policy = policyOf(start.files)
  const { sections } = policy
  const mine = (sections: Sections): Sections => ({
    ...sections,
    tls: { ...sections.tls, maxHandshakes: Math.ceil(sections.tls.maxHandshakes / threads) },
  })
  const ledger = createLedger(clock, `${number}-`)
  const telling = tellingOf(ledger, clock, (told) => say({ is: 'told', told }))
  const tls = await openTls(mine(sections), clock, () => {}, start.secret)
  const discovery = await keepDiscovery(sections, clock, Math.random, quiet)
  const traces = await tracesOf(sections.traces, start.otlp)
  const native = openNative(number === 1 ? log.warn : quiet.warn)
  const http = createHttpState(clock, () => start.chance, traces, limitsIn(start.limits, clock.now))
  http.balancers.subscribe(tellBalance(log))
  let own: readonly Address[] = start.own
  const given = {
    policy: () => policy,
    clock,
    http,
    ledger,
    tls,
    get discovery() {
      return discovery.current()
    },
  }
  const serving = openServing(given, native, log.warn, () => own)
  const exposed = await gatewayFor(serving.world, env, log)

  const wanted = [...listenersOf(sections), ...exposed.listeners].map((options) => ({
    ...options,
    maxConnections: Math.ceil(options.maxConnections / threads),
    reusePort: true,
  }))
  say({ is: 'listening', addresses: await listenAll(wanted, start.addresses, serving) })
  giveBackWhenQuiet(clock.after, native.shim?.trimHeap)

  const seen = (): Seen => ({
    totals: ledger.totals(),
    lives: [...ledger.open].slice(-LIVES_MAX).map((life) => factsOf(life, clock)),
    holds: http.pool.holds,
    hits: http.hits,
    handshakes: tls.terminator.active(),
  })
  let use = () => {}
  const prepare = async (files: readonly DocumentFile[]): Promise<void> => {
    const next = policyOf(files)
    const useTls = await tls.prepare(mine(next.sections))
    const useDiscovery = await discovery.prepare(next.sections)
    use = () => {
      useTls()
      useDiscovery()
      policy = next
      native.pump?.forgetRoutes()
      ledger.recheck()
    }
  }
  const stop = async (ms: number): Promise<void> => {
    serving.close()
    await ledger.drain(ms)
    await traces?.close(FLUSH_MS_MAX)
    telling.flush()
    for (const each of [tls, discovery, exposed]) each.close()
    say({ is: 'stopped' })
  }
  return (order) => {
    switch (order.is) {
      case 'prepare':
        return void prepare(order.files).then(
          () => say({ is: 'answer', id: order.id }),
          (error: Error) => say({ is: 'answer', id: order.id, problem: error.message }),
        )
      case 'use':
        return use()
      case 'own':
        own = order.addresses
        return
      case 'look':
        telling.flush() // What has ended is told before what is open.
        return say({ is: 'answer', id: order.id, seen: seen() })
      case 'wants':
        return telling.wants(order.outcomes)
      case 'stop':
        return void stop(order.ms)
    }
  }
}

const LIVES_MAX = 5_000 // of those that are open, to be looked at; all are counted

const policyOf = (files: readonly DocumentFile[]): Policy => {
  const parsed = parsePolicy(files)
  if (parsed.is === 'mistaken') throw new Error('the main thread sent a policy with mistakes')
  return parsed.policy
}

/** Opens the listeners, where the first worker did if that says so; tells where each came to be. */
const listenAll = async (
  wanted: readonly ListenerOptions[],
  at: readonly (Address | null)[] | undefined,
  serving: ReturnType<typeof openServing>,
): Promise<(Address | null)[]> => {
  const addresses: (Address | null)[] = []
  for (const [i, options] of wanted.entries()) {
    const address = at === undefined ? options.address : at[i]
    const before = serving.listening.length
    if (address) await serving.listen([{ ...options, address }])
    addresses.push(serving.listening[before]?.address ?? null)
  }
  return addresses
}

const port = parentPort
if (port !== null) {
  const say = (message: FromWorker) => port.postMessage(message)
  const early: ToWorker[] = []
  let obey = (order: ToWorker): void => void early.push(order)
  port.on('message', (order: ToWorker) => obey(order))
  run(workerData as WorkerStart, say).then(
    (ready) => {
      obey = ready
      early.forEach(ready)
    },
    (error: Error) => say({ is: 'failed', message: error.message }),
  )
}
