import { type ListenerOptions, listen } from '../../src/accept/listen.ts'
import type { Address } from '../../src/net/address.ts'
import type { World } from '../../src/proxy.ts'
import type { Outcome, RequestOutcome } from '../../src/telemetry/outcome.ts'
import { listenDirect } from './direct.ts'
import { worldOf } from './world.ts'

/** Sluice on loopback, in front of one destination, with a policy and everything real. */
export interface Front {
  readonly address: Address
  readonly outcomes: Outcome[]
  readonly requests: RequestOutcome[]
  readonly world: World
  close(): void
}

/** Starts one. */
export const front = async (
  destination: Address,
  policy = '',
  changes: Partial<World> = {},
  options: Partial<ListenerOptions> = {},
): Promise<Front> => {
  const world = worldOf(policy, changes)
  const requests: RequestOutcome[] = []
  world.ledger.subscribeRequests((request) => requests.push(request))
  const settings = {
    name: 'test',
    direction: 'outbound',
    address: { host: '127.0.0.1', port: 0 },
    maxConnections: 1000,
  }
  const plain = (options: ListenerOptions) => listen(options, world, undefined)
  const open = listenDirect === undefined || options.serve !== undefined ? plain : listenDirect
  const listening = await open({ ...settings, destination, ...options } as ListenerOptions, world)
  const close = () => {
    listening.close()
    world.http.balancers.close()
    world.http.pool.close()
    for (const life of world.ledger.open) life.close('drained')
  }
  return { address: listening.address, outcomes: world.outcomes, requests, world, close }
}
