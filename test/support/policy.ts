import { formatDiagnostic } from '../../src/policy/diagnostic.ts'
import type { Facts, RequestFacts } from '../../src/policy/facts.ts'
import { parsePolicy } from '../../src/policy/parsePolicy.ts'
import type { Policy } from '../../src/policy/policy.ts'

/** The policy of some rules, each an item of a YAML list indented by two, and defaults on one line. */
export const policyOf = (rules: string, defaults = ''): Policy =>
  policyFrom(`apiVersion: sluice/v1\ndefaults: { ${defaults} }\nrules:${rules.trim() === '' ? ' []' : `\n${rules}`}\n`)

/** The policy of a whole document; throws what is wrong with it. */
export const policyFrom = (text: string): Policy => {
  const parsed = parsePolicy([{ path: 'test.yaml', text }])
  if (parsed.is === 'policy') return parsed.policy
  throw new Error(parsed.diagnostics.map(formatDiagnostic).join('\n'))
}

/** An outbound connection to 10.0.0.5:80 of which nothing more is known, but for what is given. */
export const factsOf = (facts: Partial<Facts> = {}): Facts => ({
  direction: 'outbound',
  peer: { host: '10.1.1.1', port: 40_000 },
  destination: { host: '10.0.0.5', port: 80 },
  ...facts,
})

/** A request for GET http://orders/, but for what is given. */
export const requestOf = (
  it: Partial<Omit<RequestFacts, 'header'>> & { readonly headers?: Readonly<Record<string, readonly string[]>> } = {},
): RequestFacts => ({
  method: it.method ?? 'GET',
  authority: it.authority ?? 'orders',
  path: it.path ?? '/',
  header: (name) => it.headers?.[name] ?? [],
})
