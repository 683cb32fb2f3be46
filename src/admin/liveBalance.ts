import { estimated } from '../balance/latency.ts'
import type { Member } from '../balance/member.ts'
import type { BalanceEvent, Balancers, Service } from '../forward/balancers.ts'
import { formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { type EndpointRow, endpointsText, type NameRow } from '../telemetry/endpointsText.ts'
import { labelBudget } from '../telemetry/labelBudget.ts'
import type { Log } from '../telemetry/log.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import { type AdminRoutes, json, text } from './server.ts'

const NAMES_MAX = 200 // names with series of their own

/** Tells the log of circuits and of failing fast, each change once. */
export const tellBalance =
  (log: Pick<Log, 'info' | 'warn'>) =>
  (event: BalanceEvent): void => {
    if (event.is === 'refused') return
    const { name } = event.service
    if (event.is === 'failfast') {
      if (event.isOn) log.warn(`${name}: no endpoint was ready for too long; requests fail fast until one is`)
      else log.info(`${name}: there is a ready endpoint again`)
      return
    }
    const { member, before } = event
    const address = formatAddress(member.endpoint.address)
    if (member.circuit.is !== 'ready') log.warn(`${name}: ${address} is left alone: ${member.circuit.because}`)
    else
      log.info(
        `${name}: ${address} is ready again${before.is === 'ready' ? '' : ` (it was left alone: ${before.because})`}`,
      )
  }

/** Counts endpoints by state, changes of circuits, and who went without. */
export const countBalance = (metrics: Metrics, balancers: Balancers): void => {
  const budget = labelBudget(NAMES_MAX)
  metrics.gauge('balancer_names', {
    help: 'Names, and lists of addresses, whose endpoints are chosen among now.',
    labels: [],
    collect: (gauge) => gauge.set(balancers.size),
  })
  metrics.gauge('balancer_endpoints', {
    help: 'Endpoints by name and state: ready, resting (left alone for a while) or probing (one try decides).',
    labels: ['name', 'state'],
    collect: (gauge) => {
      gauge.reset()
      for (const { name, balancer } of balancers.services)
        for (const { circuit } of balancer.members) gauge.inc({ name: budget(name), state: circuit.is })
    },
  })
  metrics.gauge('balancer_waiting', {
    help: 'Requests and connections that wait for an endpoint to be ready.',
    labels: [],
    collect: (gauge) => {
      let waiting = 0
      for (const { balancer } of balancers.services) waiting += balancer.queued
      gauge.set(waiting)
    },
  })
  metrics.gauge('balancer_failing_fast', {
    help: 'Names without a ready endpoint for longer than balance.failfast.',
    labels: [],
    collect: (gauge) => gauge.set([...balancers.services].filter(({ balancer }) => balancer.isFailfast).length),
  })
  const circuits = metrics.counter('balancer_circuit_changes_total', {
    help: 'Changes of endpoints: to resting with the reason, and back to ready from it.',
    labels: ['name', 'to', 'because'],
  })
  const failfasts = metrics.counter('balancer_failfast_total', {
    help: 'How often a name began to fail fast.',
    labels: ['name'],
  })
  const refused = metrics.counter('balancer_refused_total', {
    help: 'Requests and connections that got no endpoint: failfast, overloaded, absent.',
    labels: ['why'],
  })
  balancers.subscribe((event) => {
    const name = budget(event.service.name)
    if (event.is === 'refused') return refused.inc({ why: event.why })
    if (event.is === 'failfast') return event.isOn ? failfasts.inc({ name }) : undefined
    const { circuit } = event.member
    const other = circuit.is === 'ready' ? event.before : circuit
    circuits.inc({
      name,
      to: circuit.is === 'ready' ? 'ready' : 'resting',
      because: other.is === 'ready' ? '' : other.because,
    })
  })
}

/** `GET /endpoints`: names in use and their endpoints; `?name=` for those that begin so, `?as=text` for people. */
export const balanceRoutes = (balancers: Balancers, clock: Clock): AdminRoutes => ({
  'GET /endpoints': ({ url }) => {
    const wanted = url.searchParams.get('name') ?? ''
    const rows = [...balancers.services]
      .filter(({ name, resolution }) => isMeant(wanted, name, resolution?.is === 'endpoints' ? resolution.name : ''))
      .map((service) => nameRow(service, clock.now()))
    return url.searchParams.get('as') === 'text' ? text(200, endpointsText(rows)) : json(200, rows)
  },
})

/** `orders` means `orders:80` and `orders.farm.svc.cluster.local.`, and not `orders2`. */
const isMeant = (wanted: string, ...names: readonly string[]): boolean =>
  wanted === '' ||
  names.some((name) => name === wanted || name.startsWith(`${wanted}:`) || name.startsWith(`${wanted}.`))

const nameRow = ({ name, balancing, balancer, resolution }: Service, now: number): NameRow => {
  const { algorithm, decayMs } = balancing.settings
  return {
    asked: name,
    algorithm,
    ...(resolution?.is === 'endpoints' && { name: resolution.name }),
    source: resolution?.source ?? (name.includes(',') ? 'the policy' : 'nobody yet'),
    isStale: resolution?.is === 'endpoints' && resolution.isStale,
    ...(resolution?.is === 'absent' && { note: `there is no such name; tried ${resolution.tried.join(', ')}` }),
    isFailfast: balancer.isFailfast,
    waiting: balancer.queued,
    endpoints: [...balancer.members].map((member) => endpointRow(member, decayMs, now)),
  }
}

const endpointRow = (member: Member, decayMs: number, now: number): EndpointRow => {
  const { endpoint, circuit, latency, inFlight, chosen, failed } = member
  const { address, weight, protocol, identity, zone, labels } = endpoint
  const left = circuit.is === 'resting' && Number.isFinite(circuit.until) ? Math.max(0, circuit.until - now) : undefined
  return {
    address: formatAddress(address),
    weight,
    ...(protocol && { protocol }),
    ...(identity !== undefined && { identity }),
    ...(zone !== undefined && { zone }),
    labels,
    latencyMs: Math.round(estimated(latency, now, decayMs) * 100) / 100,
    inFlight,
    chosen,
    failed,
    state: circuit.is,
    ...(circuit.is !== 'ready' && { because: circuit.because }),
    ...(left !== undefined && { leftMs: Math.round(left) }),
  }
}
