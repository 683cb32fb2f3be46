import { labelBudget, OVERFLOW } from '../telemetry/labelBudget.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { ChannelState } from './channel.ts'
import type { Door, DoorEvents } from './door.ts'
import type { Registry } from './registry.ts'

const APPS_MAX = 100 // apps with series of their own: what an app calls itself is its own choice
const STATES: readonly ChannelState[] = ['opening', 'up', 'leaving']

/** Counts callback channels. `watch` is called once they exist. */
export const countCallback = (metrics: Metrics) => {
  const app = labelBudget(APPS_MAX)
  const seen = new Set<string>()
  let watched: { readonly door: Door; readonly registry: Registry } | undefined
  const connects = metrics.counter('callback_connects_total', {
    help: 'Apps that asked for a callback channel or connected where one was expected, by what became of it.',
    labels: ['app', 'result'],
  })
  const ends = metrics.counter('callback_ends_total', {
    help: 'Callback channels that took calls and have ended, by why.',
    labels: ['app', 'why'],
  })
  const missed = metrics.counter('callback_pings_missed_total', {
    help: 'HTTP/2 PINGs to apps that were not answered within their period.',
    labels: ['app'],
  })
  metrics.gauge('callback_channels', {
    help: 'Callback channels now, by state: opening has not pinged yet, leaving takes no new calls.',
    labels: ['app', 'state'],
    collect: (gauge) => {
      gauge.reset()
      for (const label of seen) for (const state of STATES) gauge.set({ app: label, state }, 0)
      for (const { peer, state } of watched?.door.channels() ?? []) gauge.inc({ app: app(peer.app), state })
    },
  })
  metrics.gauge('callback_calls_in_flight', {
    help: 'Calls in flight over callback channels.',
    labels: ['app'],
    collect: (gauge) => {
      gauge.reset()
      for (const label of seen) gauge.set({ app: label }, 0)
      for (const { peer, load } of watched?.door.channels() ?? []) gauge.inc({ app: app(peer.app) }, load)
    },
  })
  metrics.gauge('callback_calls_waiting', {
    help: 'Calls that wait for a callback channel with room.',
    labels: ['app'],
    collect: (gauge) => {
      gauge.reset()
      for (const [name, waiting] of watched?.registry.allWaiting() ?? []) gauge.inc({ app: app(name) }, waiting)
    },
  })
  const events: DoorEvents = {
    connected: (name, result) => {
      // Who may not ask does not use up the names of those who may.
      if (result === 'unauthenticated' && !seen.has(name)) return connects.inc({ app: OVERFLOW, result })
      seen.add(app(name))
      connects.inc({ app: app(name), result })
    },
    ended: ({ peer }, why) => ends.inc({ app: app(peer.app), why }),
    pingMissed: ({ peer }) => missed.inc({ app: app(peer.app) }),
  }
  return {
    events,
    watch: (callback: { readonly door: Door; readonly registry: Registry }): void => {
      watched = callback
    },
  }
}
