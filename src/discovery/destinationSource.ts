import { encodeTexts } from '../codec/protobuf.ts'
import { type Address, formatAddress } from '../net/address.ts'
import type { Endpoint } from '../net/endpoint.ts'
import { decodeProfile, type Profile } from './destinationMessages.ts'
import { firstKnown } from './firstKnown.ts'
import { type Following, type FollowWorld, followName, repeated, type Said } from './follow.ts'
import { GRPC } from './grpcChannel.ts'
import { type Answer, type Asking, type Question, type Source, type Standing, sooner } from './source.ts'

/** What the policy says of it. */
export interface DestinationSettings {
  readonly address: Address
  readonly api: 'linkerd' | 'conduit'
  readonly token?: string | undefined
  readonly profiles: boolean
}

const APIS = {
  linkerd: { service: '/io.linkerd.proxy.destination.Destination', scheme: '' },
  // The control plane of 2018 asked its back ends by scheme.
  conduit: { service: '/conduit.proxy.destination.Destination', scheme: 'k8s' },
}

/** A control plane with the destination API: streams of endpoints, and profiles that say what is opaque. */
export const destinationSource = (settings: DestinationSettings, world: FollowWorld): Source => {
  const { api, address, token = '', profiles } = settings
  const { service, scheme } = APIS[api]
  const source = `destination ${formatAddress(address)}`
  const hasProfiles = profiles && api === 'linkerd'

  const requestFor = (host: string, port: number): Uint8Array => {
    const bare = host.replace(/\.$/, '')
    // As the clients of each did it: the old one left out the port of HTTP.
    const path = api === 'conduit' && port === 80 ? bare : formatAddress({ host: bare, port })
    return encodeTexts([
      [1, scheme],
      [2, path],
      [3, api === 'linkerd' ? token : ''],
    ])
  }

  const follow = (host: string, port: number, changed: (said: Said) => void): Following =>
    followName(`${service}/Get`, requestFor(host, port), world, changed)

  const followProfile = (host: string, port: number, changed: (profile: Profile) => void): Following =>
    repeated(`${service}/GetProfile`, requestFor(host, port), world, {
      began: () => {},
      message: (bytes) => changed(decodeProfile(bytes)),
      // A control plane that has no profiles will have none tomorrow either.
      ended: ({ code }) =>
        code === GRPC.unimplemented
          ? 'over'
          : code === GRPC.notFound || code === GRPC.invalidArgument
            ? 'answered'
            : 'failed',
    })

  const ask = ({ names, port }: Question, changed: (answer: Answer) => void): Asking => {
    const followings: Following[] = []
    let profiled: { readonly name: string; readonly following: Following } | undefined
    let isOpaque = false
    let said: readonly Said[] = []

    const tell = (): void => {
      const last = said.at(-1)
      const name = names[said.length - 1]
      if (last?.is === 'endpoints' && name !== undefined) {
        const endpoints = isOpaque ? last.endpoints.map(asOpaque) : last.endpoints
        changed({ is: 'endpoints', name, source, endpoints, isStale: last.isStale })
        return
      }
      const forbidden = names.filter(
        (_, at) => said[at]?.is === 'absent' && !(said[at] as { dnsAllowed: boolean }).dnsAllowed,
      )
      changed({ is: 'absent', source, tried: names, forbidden })
    }

    const profileOf = (name: string | undefined): void => {
      if (profiled?.name === name) return
      profiled?.following.stop()
      profiled = undefined
      isOpaque = false
      if (name === undefined || !hasProfiles) return
      const following = followProfile(name, port, (profile) => {
        if (profile.isOpaque === isOpaque) return
        isOpaque = profile.isOpaque
        tell()
      })
      profiled = { name, following }
    }

    const line = firstKnown<Said>({
      count: names.length,
      ask: (index, _, heard) => {
        const following = follow(names[index]!, port, heard)
        followings[index] = following
        return () => {
          following.stop()
          if (followings[index] === following) delete followings[index]
        }
      },
      knows: ({ is }) => is === 'endpoints',
      settled: (all) => {
        said = all
        profileOf(all.at(-1)?.is === 'endpoints' ? names[all.length - 1] : undefined)
        tell()
      },
    })
    return {
      stop: () => {
        line.close()
        profiled?.following.stop()
      },
      standing: () => together(followings.flatMap((it) => it.standing())),
    }
  }

  const askAddress = ({ host, port }: Question, changed: (answer: Answer) => void): Asking => {
    const own: Endpoint = { address: { host, port }, weight: 1, labels: {} }
    const tell = (endpoint: Endpoint): void =>
      changed({ is: 'endpoints', name: host, source, endpoints: [endpoint], isStale: false })
    return followProfile(host, port, ({ isOpaque, endpoint }) => {
      // What is known of the address counts; where it is, it said itself.
      const about: Endpoint = { ...own, ...endpoint, address: own.address }
      tell(isOpaque ? asOpaque(about) : about)
    })
  }

  return { kind: 'destination', ask, ...(hasProfiles && { askAddress }), close: () => world.channel.close() }
}

const asOpaque = (endpoint: Endpoint): Endpoint => ({ ...endpoint, protocol: 'opaque' })

/** How several stand, as one: the first error, the oldest staleness, the next refresh. */
const together = (all: readonly Standing[]): Standing => ({
  error: all.find(({ error }) => error !== undefined)?.error,
  staleSince: all.reduce<number | undefined>((least, { staleSince }) => sooner(least, staleSince), undefined),
  refreshAt: all.reduce<number | undefined>((least, { refreshAt }) => sooner(least, refreshAt), undefined),
})
