import manifest from '../package.json' with { type: 'json' }
import type { ListenerOptions, Listening } from './accept/listen.ts'
import { openListeners } from './accept/openListeners.ts'
import { ownAddresses } from './accept/ownAddresses.ts'
import { ownDials } from './accept/ownDials.ts'
import { tunedOpener } from './accept/socketOptions.ts'
import type { Otlp } from './command/environment.ts'
import { gatewayOf } from './config.ts'
import { loadPark } from './native/park.ts'
import { loadPump, type Pump } from './native/pump.ts'
import { loadShim, type Shim } from './native/shim.ts'
import type { Address } from './net/address.ts'
import { systemClock } from './net/clock.ts'
import type { Io } from './net/commandLine.ts'
import { tcpDialer } from './net/dial.ts'
import type { Park } from './net/park.ts'
import { relay } from './net/relay.ts'
import type { Sections } from './policy/sections.ts'
import type { World } from './proxy.ts'
import type { Log } from './telemetry/log.ts'
import { openTraces, type Traces } from './telemetry/traces.ts'

/** The part of serving that each thread does for itself: its sockets, its pump, and the world its connections live in. */
export interface Serving {
  readonly world: World
  readonly listening: readonly Listening[]
  /** Opens listeners. Rejects with an Error that says what is in the way. */
  readonly listen: (wanted: readonly ListenerOptions[]) => Promise<void>
  readonly close: () => void
}

/** What the shim gives a thread; without it opaque connections cost more, and nothing can be redirected. */
export interface Native {
  readonly shim: Shim | undefined
  readonly pump: Pump | undefined
  readonly park: Park | undefined
}

/** Loads the shim, and starts the pump of this thread if it is to serve. */
export const openNative = (warn: Log['warn'], serves = true): Native => {
  const shim = loadShim()
  if (shim.is === 'missing') {
    warn(`${shim.reason}\nWithout it only listeners with a fixed destination can work.`)
    return { shim: undefined, pump: undefined, park: undefined }
  }
  if (!serves) return { shim: shim.value, pump: undefined, park: undefined }
  const pump = loadPump(relay)
  if (pump.is === 'missing') warn(`${pump.reason}\nWithout the pump opaque connections cost more CPU.`)
  return { shim: shim.value, pump: pump.is === 'ready' ? pump.value : undefined, park: loadPark(systemClock) }
}

/** `given` is what the world is made of; `more` are addresses of ours that others listen on. */
export const openServing = (
  given: Omit<World, 'dial' | 'relay' | 'park' | 'isOwn' | 'random'>,
  { shim, pump, park }: Native,
  warn: Log['warn'],
  more: () => readonly Address[],
): Serving => {
  const dials = ownDials(given.clock.now)
  const listening: Listening[] = []
  const own = () => [...listening.map(({ address }) => address), ...more()]
  // Some of what is given says something else later on, so it must not be read now.
  const world: World = Object.defineProperties(
    {
      dial: tcpDialer(tunedOpener(given.policy().sections.sockets, shim, dials)),
      relay: pump?.relay ?? relay,
      park,
      random: Math.random,
      isOwn: ownAddresses(own, given.clock.now),
    },
    Object.getOwnPropertyDescriptors(given),
  ) as World
  world.http.balancers.askBy(world.dial)
  return {
    world,
    listening,
    listen: async (wanted) => {
      const opened = (it: Listening) => void listening.push(it)
      const options = wanted.map((it) => ({ ...it, ownDials: dials }))
      await openListeners(options, { world, shim, pump, opened, warn: (message) => warn(message) })
    },
    close: () => {
      for (const each of listening) each.close()
    },
  }
}

export const FLUSH_MS_MAX = 2_000 // the last spans are worth a moment, and a collector that is down no more than that

/** What the environment says of traces, over what the document says: pods are configured by variables. */
export const tracesOf = async (section: Sections['traces'], otlp: Otlp | undefined): Promise<Traces | undefined> => {
  const endpoint = otlp?.endpoint ?? section.endpoint
  if (endpoint === undefined) return undefined
  return openTraces({ ...section, ...otlp, endpoint, version: manifest.version })
}

/** The gateway's listeners, and the keys it holds. What only it needs is loaded only where it listens. */
export const gatewayFor = async (
  world: World,
  env: Io['env'],
  log: Pick<Log, 'error'>,
): Promise<{ readonly listeners: readonly ListenerOptions[]; readonly close: () => void }> => {
  const options = gatewayOf(world.policy().sections)
  if (options.length === 0) return { listeners: [], close: () => {} }
  const { createGateway } = await import('./gateway/gateway.ts')
  const { keepTokenKeys } = await import('./gateway/tokenKeys.ts')
  const keys = await keepTokenKeys(() => world.policy().sections.gateway, env, systemClock, log.error)
  const serve = createGateway(keys.verifier)
  return { listeners: options.map((it) => ({ ...it, serve })), close: keys.close }
}
