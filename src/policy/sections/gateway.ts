import * as v from 'valibot'
import { type ExposedPort, isWrong, type Label, portProblem, portsOfLabels, readPort } from '../../codec/exposedPort.ts'
import { readName } from '../aspects/upstreamAuthority.ts'
import { ipWords } from '../ip.ts'
import {
  count,
  duration,
  flag,
  listOf,
  type Mistake,
  mistake,
  named,
  object,
  oneOrMany,
  readText,
  setting,
  text,
} from '../shape.ts'
import { listenAddress } from './listenAddress.ts'
import { placed, secret } from './secret.ts'
import { type Need, section } from './section.ts'

const lowerName = (what: string) =>
  readText(what, (written): string | Mistake =>
    /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/.test(written)
      ? written
      : mistake(`"${written}" is not a host name in lower case, such as dp.example.com`),
  )

const httpsUrl = readText('an https:// URL', (written): string | Mistake => {
  const url = URL.parse(written)
  if (
    url?.protocol === 'https:' ||
    (url?.protocol === 'http:' && /^(localhost|127\.0\.0\.1|\[::1\])$/.test(url.hostname))
  )
    return written
  return mistake(`"${written}" is not an https:// URL`)
})

const origin = readText('an origin such as https://app.example.com, or *', (written): string | Mistake =>
  written === '*' || URL.parse(written)?.origin === written
    ? written
    : mistake(`"${written}" is not an origin such as https://app.example.com, nor *`),
)

const host = readText('an IP address', (written): string | Mistake =>
  ipWords(written) === undefined ? mistake(`"${written}" is not an IP address`) : written,
)

const keyRange = readText('eight hexadecimal digits', (written): string | Mistake =>
  /^[0-9a-f]{8}$/.test(written) ? written : mistake(`"${written}" is not eight hexadecimal digits in lower case`),
)

const authority = readText('a name, without a port', (written): string | Mistake => {
  if (ipWords(written) !== undefined) return mistake(`"${written}" is an address, not a name; write it under host`)
  const found = readName(written)
  if ('mistake' in found) return mistake(`"${written}" is not a name such as acme-in.farm.svc.cluster.local`)
  if (found.port !== undefined)
    return mistake(`"${written}" has a port; the one that is exposed counts, so write ${found.name}`)
  return found.name
})

const AUTHORITY = 'a name, which the sources of `discovery` turn into the endpoints it runs at'

const shard = v.pipe(
  object({
    keyBegin: v.pipe(keyRange, v.description('where its range of keys begins')),
    rClockBegin: v.pipe(keyRange, v.description('where its range of clocks begins')),
    host: v.pipe(v.optional(host), v.description('the address it runs at')),
    authority: v.pipe(v.optional(authority), v.description(`instead of \`host\`: ${AUTHORITY}`)),
  }),
  v.check(
    ({ host, authority }) => (host === undefined) !== (authority === undefined),
    'expected either `host` or `authority`',
  ),
)

const port = object({
  public: v.pipe(
    v.optional(flag, false),
    v.description(
      'whether anybody may call it, with any protocol and no token; only where `true`: what is not said to be public is not',
    ),
  ),
  protocol: v.pipe(
    v.optional(text('an ALPN protocol id')),
    v.description('the one ALPN protocol id to agree on; without it h2 and http/1.1 are offered'),
  ),
})

const task = v.pipe(
  object({
    ports: v.pipe(v.optional(named(port)), v.description('its ports by number')),
    labels: v.pipe(
      v.optional(named(oneOrMany(text('the value of a label')))),
      v.description('its shard labels, instead of `ports`: a value, or a list of them, by name'),
    ),
    host: v.pipe(
      v.optional(host),
      v.description('the address the task runs at; 127.0.0.1 when not given: Sluice runs beside its workload'),
    ),
    authority: v.pipe(v.optional(authority), v.description(`instead of \`host\`: ${AUTHORITY}, in other pods`)),
    shards: v.pipe(
      v.optional(listOf(shard), []),
      v.description('where it runs in several shards: the address of each by its key range'),
    ),
    id: v.pipe(
      v.optional(
        readText('the beginning of a shard id', (written): string | Mistake =>
          /^(capture|derivation|materialize)\/.+\/[0-9a-f]{16}\/$/.test(written)
            ? written
            : mistake(`"${written}" is not like capture/acmeCo/in/0011223344556677/`),
        ),
      ),
      v.description('its shard id up to the publication, for tokens that exclude some'),
    ),
    connections: v.pipe(
      v.optional(count(1, 1_000_000), 1_000),
      v.description(
        'connections open at once to each of its ports; one more is refused and counted; 1,000 when not given: one task that everybody calls must leave room for the others',
      ),
    ),
    requests: v.pipe(
      v.optional(count(1, 1_000_000), 1_000),
      v.description(
        'requests under way at once to each of its ports; one more gets 503; 1,000 when not given: ten connections of HTTP/2 at their limit of streams',
      ),
    ),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return
    const { value: input } = dataset
    const { authority: value, host, shards } = input
    if (value === undefined || (host === undefined && shards.length === 0)) return
    addIssue({
      message: `${host === undefined ? 'shards' : 'host'} already says where it runs; keep one of the two`,
      path: [{ type: 'object', origin: 'value', input, key: 'authority', value }],
    })
  }),
)

type TaskInput = v.InferOutput<typeof task>

/** A task with its ports, however they were written. */
export interface ExposedTask extends Omit<TaskInput, 'ports' | 'labels'> {
  readonly ports: readonly ExposedPort[]
}

const tableOf = (name: string, { ports, labels }: TaskInput): readonly ExposedPort[] | Mistake => {
  if ((ports === undefined) === (labels === undefined))
    return mistake(`${name}: expected either \`ports\` or \`labels\``)
  if (labels !== undefined) {
    const flat = Object.entries(labels).flatMap(([key, values]) => values.map((value): Label => [key, value]))
    const found = portsOfLabels(name, flat)
    return isWrong(found) ? mistake(`${name}: ${found.wrong}`) : found
  }
  const found: ExposedPort[] = []
  for (const [written, { public: isPublic, protocol }] of Object.entries(ports!)) {
    const number = readPort(written)
    if (number === undefined) return mistake(`${name}: "${written}" is not a port from 1 to 65535`)
    const one = { port: number, isPublic, ...(protocol && { protocol }) }
    const problem = portProblem(one, { protocol: `the protocol of port ${number}`, makePublic: 'public: true' })
    if (problem !== undefined) return mistake(`${name}: ${problem}`)
    found.push(one)
  }
  return found
}

const tasks = v.pipe(
  named(task),
  v.rawTransform(({ dataset, addIssue, NEVER }): Readonly<Record<string, ExposedTask>> => {
    const found: Record<string, ExposedTask> = {}
    for (const [name, one] of Object.entries(dataset.value)) {
      const ports = tableOf(name, one)
      if ('mistake' in ports) {
        addIssue({ message: ports.mistake })
        return NEVER
      }
      const { ports: _, labels: __, ...rest } = one
      found[name] = { ...rest, ports }
    }
    return found
  }),
)

const needed = (name: string, at: readonly string[]): Need => ({
  list: ['discovery', 'sources'],
  at,
  says: `nobody knows where ${name} is: write \`discovery: { sources: [{ dns: {} }] }\`, or other sources`,
})

export const gateway = section({
  shape: object({
    address: setting(oneOrMany(listenAddress), {
      builtIn: [],
      says: 'where the gateway listens, always by TLS; an empty list is no gateway',
      because: 'a port is exposed only where somebody says so',
    }),
    maxConnections: setting(count(1, 1_000_000), {
      builtIn: 10_000,
      says: 'connections open at once; one more is refused and counted',
      because: 'as for every listener',
    }),
    domain: v.pipe(
      v.optional(lowerName('the domain of the data plane')),
      v.description('the domain below which each port has its name, `<hash>-<port>.<domain>`'),
    ),
    certificate: v.pipe(
      v.optional(oneOrMany(text('the name of a certificate')), []),
      v.description('the certificates to show, of `certificates`; they cover `*.<domain>`'),
    ),
    keys: v.pipe(
      v.optional(secret),
      v.description('base64 keys for HS256 and HS384: the first signs, any of them verifies'),
    ),
    jwks: v.pipe(
      v.optional(
        object({
          file: v.optional(text('the path of a JWKS file')),
          url: v.optional(httpsUrl),
        }),
      ),
      v.description('public keys for EdDSA and ES256: `file`, or `url`'),
    ),
    signIn: v.pipe(v.optional(httpsUrl), v.description('the page that browsers without a token are sent to')),
    cors: v.pipe(
      v.optional(oneOrMany(origin), []),
      v.description('the origins whose pages may call private ports; `*` is all of them'),
    ),
    hsts: setting(flag, {
      builtIn: true,
      says: 'whether browsers are told to use nothing but https for these names',
      because: 'the gateway has no other way in',
    }),
    handshakeTimeout: setting(duration('100ms', '5m'), {
      builtIn: '10s',
      says: 'how long a client may take to begin TLS',
      because: 'as for every handshake',
    }),
    tasks: v.pipe(v.optional(tasks, {}), v.description('the tasks whose ports are exposed, by name')),
  }),
  says: 'exposed ports: lets the world call into connectors',
  byName: false,
  onReload: true,
  references: ({ certificate }) =>
    certificate.map((name, i) => ({ to: 'certificates', name, at: ['certificate', `${i}`] })),
  needs: ({ tasks }) =>
    Object.entries(tasks).flatMap(([name, { authority, shards }]) => [
      ...(authority === undefined ? [] : [needed(authority, ['tasks', name, 'authority'])]),
      ...shards.flatMap((one, i) =>
        one.authority === undefined ? [] : [needed(one.authority, ['tasks', name, 'shards', `${i}`, 'authority'])],
      ),
    ]),
  resolve: ({ keys, jwks, ...rest }, open) => ({
    ...rest,
    ...(keys && { keys: placed(keys, open) }),
    ...(jwks && { jwks: jwks.file === undefined ? jwks : { file: open(jwks.file) } }),
  }),
})
