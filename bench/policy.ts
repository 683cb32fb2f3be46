import { decide, narrow } from '../src/policy/decide.ts'
import type { Facts, RequestFacts } from '../src/policy/facts.ts'
import { parsePolicy } from '../src/policy/parsePolicy.ts'
import type { Policy } from '../src/policy/policy.ts'

/**
 * What asking the policy costs: `node bench/policy.ts`. Nanoseconds a call, best of several rounds, for the policy of a
 * real pod and for one of 200 rules, of which the request matches the last, or none.
 */
const ROUNDS = 5
const CALLS = 20_000

const head = 'apiVersion: sluice/v1\nrules:\n'
const many = (line: (i: number) => string): string => head + Array.from({ length: 200 }, (_, i) => line(i)).join('')

const POLICIES: Readonly<Record<string, string>> = {
  'one rule for an address': `${head}  - { name: a, when: { direction: outbound, destination: 169.254.169.254 }, then: { deny: true } }\n`,
  '200 rules by authority and path': many(
    (i) =>
      `  - { name: r${i}, when: { direction: outbound, port: 80, authority: service${i}.example, path: /api/** }, then: { limits: { connect: 1s } } }\n`,
  ),
  '200 rules by path': many(
    (i) => `  - { name: r${i}, when: { port: 80, path: /api/${i}/** }, then: { limits: { connect: 1s } } }\n`,
  ),
  '200 rules by destination': many(
    (i) => `  - { name: r${i}, when: { destination: 10.0.${i}.0/24, path: /a }, then: { deny: true } }\n`,
  ),
  '200 rules by authority under a wildcard': many(
    (i) =>
      `  - { name: r${i}, when: { authority: "*.zone${i}.example", method: GET }, then: { limits: { connect: 1s } } }\n`,
  ),
}

const policyOf = (text: string): Policy => {
  const parsed = parsePolicy([{ path: 'bench', text }])
  if (parsed.is === 'policy') return parsed.policy
  throw new Error(JSON.stringify(parsed.diagnostics))
}

const connection = (i: number): Facts => ({
  direction: 'outbound',
  peer: { host: '10.1.1.1', port: 40_000 },
  destination: { host: `10.0.${i % 250}.5`, port: 80 },
  protocol: 'http1',
  sni: null,
  alpn: null,
  extensions: null,
  identity: null,
})

const request = (i: number): RequestFacts => ({
  method: 'GET',
  authority: `service${i % 210}.example`,
  path: `/api/${i % 210}/x`,
  header: () => [],
})

/** The best of several rounds: what the machine can do, not what it was busy with. */
const nanoseconds = (call: (i: number) => unknown): number => {
  let best = Number.POSITIVE_INFINITY
  let kept: unknown
  for (let round = 0; round < ROUNDS; round++) {
    const begun = process.hrtime.bigint()
    for (let i = 0; i < CALLS; i++) kept = call(i)
    best = Math.min(best, Number(process.hrtime.bigint() - begun) / CALLS)
  }
  if (kept === undefined) throw new Error('nothing was decided')
  return Math.round(best)
}

const ROWS: Readonly<Record<string, (policy: Policy) => (i: number) => unknown>> = {
  'decide at accept': (policy) => (i) => decide(policy, { ...connection(i), protocol: undefined as never }),
  'narrow for a connection': (policy) => (i) => narrow(policy, connection(i)),
  'decide for a request, narrowed': (policy) => {
    const narrowed = narrow(policy, connection(7))
    const requests = Array.from({ length: 210 }, (_, i) => ({ ...connection(7), request: request(i) }))
    return (i) => decide(narrowed, requests[i % 210]!)
  },
}

for (const [name, text] of Object.entries(POLICIES)) {
  const policy = policyOf(text)
  const told = Object.entries(ROWS).map(([row, make]) => `${row} ${nanoseconds(make(policy))} ns`)
  process.stdout.write(`${name}: ${told.join(', ')}\n`)
}
