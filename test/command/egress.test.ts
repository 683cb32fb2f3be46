import fc from 'fast-check'
import { test } from 'tap'
import { CLOSED_RANGES, closedRange } from '../../src/command/closedRanges.ts'
import type { Address } from '../../src/net/address.ts'
import { OPEN_LOOPBACK, startTestConnector } from '../support/connector.ts'
import { answer, startRawUpstream } from '../support/rawUpstream.ts'

const never = async (to: Address): Promise<never> => {
  throw new Error(`dialled ${to.host}`)
}

const OPEN_NOTHING = '- { name: nothing, when: { authority: nobody.example }, then: { deny: true } }'

/** Names whose answers a hostile DNS server would give. */
const HOSTILE: Readonly<Record<string, readonly string[]>> = {
  'loopback.example': ['127.0.0.1'],
  'v6loopback.example': ['::1'],
  'mapped.example': ['::ffff:127.0.0.1'],
  'metadata.example': ['169.254.169.254'],
  'private.example': ['10.0.0.5'],
  'both.example': ['93.184.216.34', '10.0.0.5'],
  'last.example': ['93.184.216.34', '2606:2800:220:1::1', '::1'],
  'zone.example': ['fe80::1%eth0'],
  'nonsense.example': ['not an address'],
}

const BLOCKED: readonly (readonly [name: string, url: string])[] = [
  ['loopback', 'http://127.0.0.1/'],
  ['another loopback address', 'http://127.9.9.9:8080/'],
  ['localhost by name', 'http://localhost/'],
  ['one number, decimal', 'http://2130706433/'],
  ['octal', 'http://0177.0.0.1/'],
  ['one number, octal', 'http://017700000001/'],
  ['hexadecimal', 'http://0x7f.0.0.1/'],
  ['one number, hexadecimal', 'http://0x7f000001/'],
  ['mixed bases', 'http://0x7f.0.0.01/'],
  ['short form', 'http://127.1/'],
  ['zero', 'http://0/'],
  ['this host', 'http://0.0.0.0:4191/'],
  ['full-width digits', 'http://１２７.0.0.1/'],
  ['circled digits', 'http://①②⑦.⓪.⓪.①/'],
  ['ideographic full stops', 'http://127。0。0。1/'],
  ['percent-encoded', 'http://%31%32%37.0.0.1/'],
  ['a trailing dot', 'http://127.0.0.1./'],
  ['a user name that looks like a host', 'http://93.184.216.34@127.0.0.1/'],
  ['a backslash', 'http:\\\\127.0.0.1\\'],
  ['white space and a tab', ' http://127.0.\t0.1/ '],
  ['IPv6 loopback', 'http://[::1]/'],
  ['IPv6 loopback in full', 'http://[0:0:0:0:0:0:0:1]/'],
  ['IPv6 unspecified', 'http://[::]/'],
  ['IPv4-mapped, dotted', 'http://[::ffff:127.0.0.1]/'],
  ['IPv4-mapped, in hexadecimal', 'http://[::ffff:7f00:1]/'],
  ['IPv4-mapped, in full', 'http://[0:0:0:0:0:ffff:a9fe:a9fe]/'],
  ['IPv4-compatible', 'http://[::127.0.0.1]/'],
  ['NAT64 of the metadata service', 'http://[64:ff9b::a9fe:a9fe]/'],
  ['6to4 of a private address', 'http://[2002:a00:1::]/'],
  ['Teredo', 'http://[2001:0:1::1]/'],
  ['unique local', 'http://[fd12::1]/'],
  ['the metadata service of AWS on IPv6', 'http://[fd00:ec2::254]/'],
  ['link-local IPv6', 'http://[fe80::1]/'],
  ['multicast IPv6', 'http://[ff02::1]/'],
  ['the metadata service', 'http://169.254.169.254/latest/meta-data/'],
  ['the metadata service, as a number', 'http://2852039166/'],
  ['the metadata service of Alibaba', 'http://100.100.100.200/'],
  ['the metadata service of Oracle', 'http://192.0.0.192/'],
  ['the wire server of Azure', 'http://168.63.129.16/'],
  ['10/8', 'http://10.255.255.255/'],
  ['172.16/12, last', 'http://172.31.255.255/'],
  ['192.168/16', 'https://192.168.1.1/'],
  ['broadcast', 'http://255.255.255.255/'],
  ['multicast', 'http://224.0.0.1/'],
  ...Object.keys(HOSTILE).map((host) => [`DNS: ${host} is ${HOSTILE[host]}`, `http://${host}/`] as const),
]

test('a command reaches no address that is not public, however it is written', async (t) => {
  const resolve = async (host: string): Promise<readonly string[]> => HOSTILE[host] ?? ['127.0.0.1']
  const { run, dialled, outcomes } = await startTestConnector(t, { dial: never, resolve, rules: OPEN_NOTHING })
  for (const id of ['http/GetRequest', 'http/PostRequestV2'])
    for (const [name, url] of BLOCKED) {
      const { error, command_response } = await run(id, { url })
      t.equal(error?.error_code, 'blocked_by_policy', `${name}: ${error?.message}`)
      t.equal(command_response.http_status, 403)
      t.strictSame(command_response.body, {})
    }
  t.strictSame(dialled, [], 'and nothing was dialled')
  t.equal(outcomes.length, 2 * BLOCKED.length, 'each denial is an Outcome')
  t.strictSame(
    [...new Set(outcomes.map(({ result, ended, listener }) => `${result} ${ended} ${listener}`))],
    ['denied denied command'],
  )
})

test('schemes other than http and https are not called', async (t) => {
  const { run, dialled } = await startTestConnector(t, { dial: never })
  for (const url of [
    'ftp://93.184.216.34/',
    'file:///etc/passwd',
    'gopher://x/',
    'data:text/plain,x',
    'javascript:1',
    'ws://x/',
    'unix:/var/run/docker.sock',
    'http:',
    'http://',
    '//x/',
    '/relative',
    '',
    'http://[::1',
    'http://1.2.3.4.5:99999/',
    'http://256.256.256.256/',
  ])
    t.equal((await run('http/GetRequest', { url })).error?.error_code, 'invalid_url', `${JSON.stringify(url)}`)
  t.strictSame(dialled, [])
})

test('public addresses are dialled, pinned to what was checked', async (t) => {
  const answers = [['93.184.216.34'], ['127.0.0.1'], ['169.254.169.254']]
  let lookups = 0
  const refuse = async (): Promise<never> => {
    throw Object.assign(new Error('refused'), { code: 'ECONNREFUSED' })
  }
  const resolve = async () => answers[lookups++] ?? []
  const { run, dialled, outcomes } = await startTestConnector(t, { dial: refuse, resolve, rules: OPEN_NOTHING })
  const first = await run('http/GetRequest', { url: 'http://rebind.example:8080/a?b=c' })
  t.equal(first.error?.error_code, 'connection_refused')
  t.strictSame(dialled, [{ host: '93.184.216.34', port: 8080 }], 'the address that was checked')
  t.equal(lookups, 1, 'resolved once')
  t.equal((await run('http/GetRequest', { url: 'http://rebind.example:8080/' })).error?.error_code, 'blocked_by_policy')
  t.equal(dialled.length, 1)
  t.match(outcomes[0], { ended: 'connectFailed', http: { target: 'rebind.example:8080/a' } })
})

test('every redirect is asked about anew', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/metadata': 'HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n',
    '/private': 'HTTP/1.1 307 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n',
    '/number': 'HTTP/1.1 308 Found\r\nLocation: //2852039166/\r\nContent-Length: 0\r\n\r\n',
    '/v6': 'HTTP/1.1 303 Found\r\nLocation: http://[::1]/\r\nContent-Length: 0\r\n\r\n',
    '/path': 'HTTP/1.1 302 Found\r\nLocation: /secret/x\r\nContent-Length: 0\r\n\r\n',
    '/name': 'HTTP/1.1 302 Found\r\nLocation: http://inside.example/\r\nContent-Length: 0\r\n\r\n',
  })
  const rules = `- { name: no secrets, when: { path: /secret/** }, then: { deny: true } }\n  ${OPEN_LOOPBACK}`
  const { run, dialled } = await startTestConnector(t, { rules, resolve: async () => ['192.168.0.1'] })
  for (const path of ['/metadata', '/private', '/number', '/v6', '/path', '/name']) {
    const { error } = await run('http/GetRequestV2', { url: upstream.url(path) })
    t.equal(error?.error_code, 'blocked_by_policy', `${path}: ${error?.message}`)
  }
  t.strictSame([...new Set(dialled.map(({ host }) => host))], ['127.0.0.1'])
  t.equal(dialled.length, 6, 'the first hop of each, and no second')
})

test('the policy decides by destination, name, path, method and header, and its rules are named', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/ok': answer(200, 'text/plain', 'ok'),
    '/admin/x': answer(200, 'text/plain', 'no'),
  })
  const rules = `
  - { name: no admin, when: { path: /admin/** }, then: { deny: true } }
  - { name: not that name, when: { authority: evil.example }, then: { deny: true } }
  - { name: only reading, when: { source: command, method: [DELETE] }, then: { deny: true } }
  - { name: not for listeners, when: { source: listener }, then: { deny: true } }
  - { name: outbound traffic is free, when: { direction: outbound, destination: 127.0.0.2 }, then: { deny: false } }
  - { name: commands may, when: { source: command, destination: 127.0.0.1 }, then: { deny: false } }`.trim()
  const resolve = async (host: string) => [host === 'two.example' ? '127.0.0.2' : '127.0.0.1']
  const { run, dialled, outcomes } = await startTestConnector(t, { rules, resolve })
  const at = (host: string, path: string) => `http://${host}:${upstream.port}${path}`
  const cases = [
    { name: 'allowed', id: 'http/GetRequest', url: at('good.example', '/ok'), error: undefined },
    { name: 'by path', id: 'http/GetRequest', url: at('good.example', '/admin/x'), error: 'no admin' },
    {
      name: 'by a path that is written otherwise',
      id: 'http/GetRequest',
      url: at('good.example', '/ok/../admin/x'),
      error: 'no admin',
    },
    {
      name: 'by a path with an encoded letter',
      id: 'http/GetRequest',
      url: at('good.example', '/%61dmin/x'),
      error: 'no admin',
    },
    { name: 'by name', id: 'http/GetRequest', url: at('evil.example', '/ok'), error: 'not that name' },
    { name: 'by method', id: 'http/DeleteRequest', url: at('good.example', '/ok'), error: 'only reading' },
    {
      name: 'a rule that does not speak of commands opens nothing closed',
      id: 'http/GetRequest',
      url: at('two.example', '/ok'),
      error: 'source: command',
    },
  ]
  for (const { name, id, url, error } of cases) {
    const before = dialled.length
    const envelope = await run(id, { url })
    t.equal(
      envelope.error?.error_code,
      error === undefined ? undefined : 'blocked_by_policy',
      `${name}: ${envelope.error?.message}`,
    )
    if (error !== undefined) t.match(envelope.error?.message, error)
    t.equal(dialled.length - before, error === undefined ? 1 : 0, `${name}: dialled`)
  }
  t.match(outcomes[0], {
    result: 'forwarded',
    rules: { deny: { name: 'commands may', file: 'test.yaml' } },
    sni: 'good.example',
  })
  t.match(outcomes[1], { result: 'denied', rules: { deny: { name: 'no admin' } } })
})

test('a Host header cannot lead past the policy', async (t) => {
  const { run, dialled } = await startTestConnector(t, { dial: never })
  const { error } = await run('http/GetRequest', { url: 'http://127.0.0.1:1/', headers: { HOST: 'other.example' } })
  t.equal(error?.error_code, 'invalid_parameters')
  t.strictSame(dialled, [])
})

test('defaults that deny close everything a rule does not open', async (t) => {
  const { policyFrom } = await import('../support/policy.ts')
  const { createJudge } = await import('../../src/command/judge.ts')
  const judge = createJudge(() =>
    policyFrom(
      'apiVersion: sluice/v1\ndefaults: { deny: true }\nrules:\n  - { name: api, when: { source: command, authority: api.example }, then: { deny: false } }\n',
    ),
  )
  const facts = (authority: string) =>
    ({
      direction: 'outbound',
      source: 'command',
      peer: { host: '127.0.0.1', port: 1 },
      destination: { host: '93.184.216.34', port: 443 },
      protocol: 'http1',
      sni: authority,
      alpn: null,
      extensions: null,
      identity: null,
      request: { method: 'GET', authority, path: '/', header: () => [] },
    }) as const
  t.equal(judge(facts('api.example')).is, 'opened')
  t.equal(judge(facts('other.example')).is, 'denied')
})

test('a black hole leaves time for the next address; none left is connect_timeout', async (t) => {
  const upstream = await startRawUpstream(t, { '/': answer(200, 'text/plain', 'ok') })
  const { tcpDialer } = await import('../../src/net/dial.ts')
  const dial = async (to: Address, signal?: AbortSignal) =>
    to.host === '127.0.0.1'
      ? tcpDialer()(to, signal)
      : new Promise<never>((_, reject) => signal?.addEventListener('abort', () => reject(new Error('given up'))))
  const rules = '- { name: tests, when: { source: command, destination: 127.0.0.0/8 }, then: { deny: false } }'
  const resolve = async (host: string) =>
    host === 'half.example' ? ['127.0.0.9', '127.0.0.1'] : ['127.0.0.8', '127.0.0.9']
  const { run, outcomes } = await startTestConnector(t, { dial, resolve, rules, commands: 'connectTimeout: 200ms' })
  t.equal((await run('http/GetRequest', { url: `http://half.example:${upstream.port}/` })).error, null)
  const { error, command_response } = await run('http/GetRequest', { url: 'http://hole.example/' })
  t.strictSame([error?.error_code, command_response.http_status], ['connect_timeout', 504])
  t.equal(outcomes.at(-1)?.ended, 'connectTimeout')
})

test('names that do not resolve', async (t) => {
  const resolve = async (host: string): Promise<readonly string[]> => {
    if (host === 'empty.example') return []
    if (host === 'slow.example') return new Promise(() => {})
    throw Object.assign(new Error(`getaddrinfo ${host}`), {
      code: host === 'again.example' ? 'EAI_AGAIN' : 'ENOTFOUND',
    })
  }
  const { run } = await startTestConnector(t, { resolve, dial: never, commands: 'connectTimeout: 50ms' })
  for (const [host, code] of [
    ['no.example', 'dns_failed'],
    ['again.example', 'dns_failed'],
    ['empty.example', 'dns_failed'],
    ['slow.example', 'connect_timeout'],
  ])
    t.equal((await run('http/GetRequest', { url: `http://${host}/` })).error?.error_code, code, `${host}`)
})

test('errors of dialling have codes', async (t) => {
  let code = ''
  const dial = async (): Promise<never> => {
    throw Object.assign(new Error('no'), { code })
  }
  const { run } = await startTestConnector(t, { dial })
  for (const [system, ours] of [
    ['ECONNREFUSED', 'connection_refused'],
    ['EHOSTUNREACH', 'unreachable'],
    ['ENETUNREACH', 'unreachable'],
    ['ECONNRESET', 'connection_reset'],
    ['ETIMEDOUT', 'connect_timeout'],
    ['EMFILE', 'internal_error'],
  ]) {
    code = system!
    t.equal((await run('http/GetRequest', { url: 'http://127.0.0.1:1/' })).error?.error_code, ours, `${system}`)
  }
})

test('each closed range, at its edges', async (t) => {
  const edges: readonly (readonly [address: string, isClosed: boolean])[] = [
    ['9.255.255.255', false],
    ['10.0.0.0', true],
    ['11.0.0.0', false],
    ['100.63.255.255', false],
    ['100.64.0.0', true],
    ['100.127.255.255', true],
    ['100.128.0.0', false],
    ['126.255.255.255', false],
    ['128.0.0.0', false],
    ['168.63.129.15', false],
    ['168.63.129.17', false],
    ['169.253.255.255', false],
    ['169.254.0.0', true],
    ['169.255.0.0', false],
    ['172.15.255.255', false],
    ['172.16.0.0', true],
    ['172.32.0.0', false],
    ['192.167.255.255', false],
    ['192.169.0.0', false],
    ['223.255.255.255', false],
    ['224.0.0.0', true],
    ['240.0.0.0', true],
    ['1.1.1.1', false],
    ['2606:4700:4700::1111', false],
    ['2001:4860:4860::8888', false],
    ['::ffff:1.1.1.1', false],
    ['64:ff9b::1.1.1.1', false],
    ['64:ff9b::10.0.0.1', true],
    ['64:ff9b:1::1', true],
    ['fbff::1', false],
    ['fc00::', true],
    ['fe00::', false],
    ['fe80::', true],
    ['feff::1', true],
    ['ff00::', true],
    ['::ffff:0:0', true],
    ['::1.2.3.4', true],
    ['', true],
    ['example.com', true],
    ['127.1', true],
  ]
  for (const [address, isClosed] of edges)
    t.equal(closedRange(address) !== undefined, isClosed, `${address}: ${closedRange(address)}`)
  t.ok(CLOSED_RANGES.length > 20)
})

test('an IPv4 address is as closed in every IPv6 form as it is itself', async () => {
  const octet = fc.integer({ min: 0, max: 255 })
  fc.assert(
    fc.property(octet, octet, octet, octet, (a, b, c, d) => {
      const v4 = `${a}.${b}.${c}.${d}`
      const hex = `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`
      const isClosed = closedRange(v4) !== undefined
      for (const form of [
        `::ffff:${v4}`,
        `::ffff:${hex}`,
        `0:0:0:0:0:ffff:${hex}`,
        `64:ff9b::${v4}`,
        `64:ff9b::${hex}`,
      ])
        if ((closedRange(form) !== undefined) !== isClosed) throw new Error(`${form} differs from ${v4}`)
    }),
  )
})
