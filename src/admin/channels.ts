import type { Channels, ChannelView } from '../forward/channels.ts'
import { formatAddress } from '../net/address.ts'
import { decide } from '../policy/decide.ts'
import type { Facts } from '../policy/facts.ts'
import type { Policy } from '../policy/policy.ts'
import { type AdminRoutes, json } from './server.ts'

/** Callback channels for programs and for the page; an empty list where none are enabled. */
export const channelRoutes = (channels: () => Channels | undefined): AdminRoutes => ({
  'GET /channels': () =>
    json(200, {
      enabled: channels() !== undefined,
      channels: (channels()?.views() ?? []).map(({ peer, ...view }) => ({ ...view, peer: formatAddress(peer) })),
    }),
})

/** What the policy says of an app that is called over its channels: for `explain`. Undefined where none is concerned. */
export const channelRules = (policy: Policy, facts: Facts): string | undefined => {
  const { upstream } = decide(policy, facts)
  if (upstream.is !== 'decided' || upstream.value.is !== 'channel') return undefined
  const { enable, pick, wait } = policy.sections.callback
  const { app } = upstream.value
  if (!enable) return `channel: none will ever be open to ${app}: callback.enable is false, so every call ends with 503`
  const which = pick === 'newest' ? 'the newest channel' : 'the channel with the fewest calls'
  return `channel: ${which} of ${app} (callback.pick), or one that opens within ${wait} ms (callback.wait), or else 503`
}

/** The channels of that app now, in the order in which they were opened. */
export const channelsNow = (policy: Policy, facts: Facts, views: readonly ChannelView[]): string => {
  const { upstream } = decide(policy, facts)
  if (upstream.is !== 'decided' || upstream.value.is !== 'channel') return ''
  const { app } = upstream.value
  const mine = views.filter((view) => view.app === app)
  if (mine.length === 0) return `now: ${app} has no open channel\n`
  return mine
    .map(
      ({ name, peer, state, inFlight, isNext }) =>
        `now: ${name} from ${formatAddress(peer)}: ${state}, ${inFlight} in flight${isNext ? '; the next call goes here' : ''}\n`,
    )
    .join('')
}
