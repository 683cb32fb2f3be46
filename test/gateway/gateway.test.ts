import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { connect, type TLSSocket } from 'node:tls'
import fc from 'fast-check'
import t, { test } from 'tap'
import { type ClientOptions, WebSocket, WebSocketServer } from 'ws'
import { taskHash } from '../../src/codec/taskHash.ts'
import { targetOf } from '../../src/gateway/exposure.ts'
import { systemClock } from '../../src/net/clock.ts'
import { createLedger } from '../../src/telemetry/ledger.ts'
import { countExposed, createMetrics, type Metrics } from '../../src/telemetry/metrics.ts'
import { asked, closeWorkshop, DOMAIN, dialled, type Gateway, gateway, nameOf, root } from '../support/exposed.ts'
import { scripted } from '../support/http.ts'
import { readAll, upstream } from '../support/peers.ts'
import { forge, JWKS_TEXT, KEYS_TEXT, tokenCases } from '../support/tokenCases.ts'
import { policyOf } from '../support/world.ts'

const HELLO = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n\r\nhello'
const now = () => Math.floor(Date.now() / 1000)
const TASK_LABEL = { include: { labels: [{ name: 'estuary.dev/task-name', value: 'acmeCo/in' }] } }
const token = (changes: object = {}) =>
  forge({ cap: 262_154, iat: now() - 1, exp: now() + 600, sel: TASK_LABEL, ...changes })
const status = (answer: string): number => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0)

const connector = await scripted(HELLO)
const echo = await upstream((socket) => {
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk
  })
  // Only a half-close that arrives here gets this answer out.
  socket.on('end', () => socket.end(`all of ${text}`))
})
const greeter = await upstream((socket) => {
  socket.write('220 hello\r\n')
  socket.on('end', () => socket.end())
})
const stray = await upstream(() => {})
const [PRIVATE, ECHO, GREETER] = [connector.address.port, echo.address.port, greeter.address.port]
const open = await scripted(HELLO)
const PUBLIC = open.address.port

const TASKS = `{ acmeCo/in: { ports: { ${PRIVATE}: {}, ${ECHO}: { public: true, protocol: ftp }, ${GREETER}: { public: true }, ${PUBLIC}: { public: true } } } }`
/** The time of day of the gate, where a test has stopped it. */
let stopped: number | undefined
const gate = await gateway(TASKS, {
  changes: { clock: { ...systemClock, time: () => stopped ?? Date.now() } },
  keys: KEYS_TEXT,
  jwks: JWKS_TEXT,
  settings: 'signIn: https://dash.example/data-plane-auth-req\n  cors: https://app.example',
})

t.teardown(() => {
  gate.close()
  for (const each of [connector, echo, greeter, stray, open]) each.close()
  closeWorkshop()
})

/** Whether the connector heard of what `act` does. */
const reached = async (act: () => Promise<unknown>): Promise<boolean> => {
  const before = [connector.received.join().length, connector.connections.length]
  await act()
  return connector.received.join().length > before[0]! || connector.connections.length > before[1]!
}

/** The end of a connection, a reset too. */
const closed = (socket: TLSSocket) =>
  socket.closed ? undefined : new Promise<void>((resolve) => socket.once('close', () => resolve()))

const bearer = (value: string) => [`Authorization: Bearer ${value}`]

test('each token opens the private port or is refused, and then the connector is not reached', async (t) => {
  stopped = Date.now()
  t.teardown(() => {
    stopped = undefined
  })
  const cases = tokenCases(stopped / 1000)
  t.ok(cases.length >= 40)
  for (const [what, value, expected] of cases) {
    let answer = ''
    const wasReached = await reached(async () => {
      answer = await asked(gate, nameOf(PRIVATE), bearer(value))
    })
    t.same([status(answer), wasReached], [expected === 'opens' ? 200 : expected, expected === 'opens'], what)
    if (expected === 'opens') continue
    t.match(answer, /\r\nwww-authenticate: Bearer/i)
    for (const part of value.split('.').filter((it) => it.length > 3)) t.notOk(answer.includes(part), what)
  }
})

const SESSION = '__Host-flow_auth'
const credentials: readonly (readonly [what: string, fields: () => string[], status: number])[] = [
  ['nothing', () => [], 401],
  ['the cookie', () => [`Cookie: ${SESSION}=${token()}`], 200],
  ['the cookie among others', () => [`Cookie: a=1; ${SESSION}=${token()}; b=2`], 200],
  ['an expired cookie', () => [`Cookie: ${SESSION}=${token({ exp: 1 })}`], 401],
  ['two such cookies', () => [`Cookie: ${SESSION}=${token()}; ${SESSION}=${token()}`], 401],
  ['a cookie whose name only ends so', () => [`Cookie: x${SESSION}=${token()}`], 401],
  ['a good header and a bad cookie', () => [...bearer(token()), `Cookie: ${SESSION}=x`], 200],
  ['a bad header and a good cookie', () => [...bearer('x'), `Cookie: ${SESSION}=${token()}`], 401],
  ['basic, and a good cookie', () => ['Authorization: Basic eDp5', `Cookie: ${SESSION}=${token()}`], 401],
  ['the same header twice', () => [...bearer(token()), ...bearer(token())], 401],
  ['two tokens in one header', () => [`Authorization: Bearer ${token()}, Bearer ${token()}`], 401],
  ['no scheme', () => [`Authorization: ${token()}`], 401],
  ['an empty token', () => ['Authorization: Bearer '], 401],
  ['the scheme in lower case', () => [`authorization: bearer ${token()}`], 200],
  ['a query parameter', () => ['X-Query: ?token='], 401],
]

for (const [what, fields, expected] of credentials) {
  test(`credentials: ${what}`, async (t) => {
    let answer = ''
    const wasReached = await reached(async () => {
      answer = await asked(gate, nameOf(PRIVATE), fields())
    })
    t.same([status(answer), wasReached], [expected, expected === 200])
  })
}

test('the connector sees neither the token nor the session, but all other cookies, and who calls', async (t) => {
  await asked(gate, nameOf(PRIVATE), [...bearer(token()), `Cookie: a=1; ${SESSION}=secret; b=2`, 'Cookie: c=3'])
  const seen = connector.received.at(-1)!
  t.notMatch(seen, /authorization|secret|flow_auth/i)
  t.match(seen, /\r\ncookie: a=1; b=2\r\n/i)
  t.match(seen, /\r\ncookie: c=3\r\n/i)
  t.match(seen, new RegExp(`\\r\\nhost: ${nameOf(PRIVATE)}\\r\\n`, 'i'))
  t.match(seen, /\r\nx-forwarded-for: 127\.0\.0\.1\r\n/i)
})

test('on a public port nothing is asked, and Authorization goes through', async (t) => {
  const answer = await asked(gate, nameOf(PUBLIC), ['Authorization: Basic eDp5'])
  t.equal(status(answer), 200)
  t.match(open.received.at(-1)!, /\r\nAuthorization: Basic eDp5\r\n/)
  t.match(answer, /\r\nstrict-transport-security: max-age=31536000; includeSubDomains\r\n/)
})

test('each request on a connection is judged by itself', async (t) => {
  const socket = await dialled(gate, { servername: nameOf(PRIVATE), ALPNProtocols: ['http/1.1'] })
  const say = async (fields: string[]) => {
    socket.write(`${['GET / HTTP/1.1', `Host: ${nameOf(PRIVATE)}`, ...fields].join('\r\n')}\r\n\r\n`)
    const [chunk] = await once(socket, 'data')
    return status(String(chunk))
  }
  t.equal(await say(bearer(token())), 200)
  t.equal(await reached(async () => t.equal(await say([]), 401)), false)
  t.equal(await say(bearer(token())), 200)
  socket.destroy()
})

test('HTTP/2: the same rules for each stream, and a request for another host is misdirected', async (t) => {
  const session = connectHttp2(`https://${nameOf(PRIVATE)}`, {
    createConnection: () =>
      connect({ ...gate.address, ca: root.cert, servername: nameOf(PRIVATE), ALPNProtocols: ['h2'] }),
  })
  const say = async (fields: Record<string, string>) => {
    const stream = session.request({ ':path': '/', ...fields })
    stream.on('error', () => {})
    stream.end()
    const [head] = await once(stream, 'response')
    stream.resume()
    return head[':status']
  }
  t.equal(await say({ authorization: `Bearer ${token()}` }), 200)
  const denied = async () => {
    t.equal(await say({}), 401)
    t.equal(await say({ authorization: `Bearer ${token({ exp: now() - 10 })}` }), 401)
    t.equal(await say({ ':authority': nameOf(PUBLIC), authorization: `Bearer ${token()}` }), 421)
    t.equal(await say({ ':authority': 'else.example', authorization: `Bearer ${token()}` }), 421)
  }
  t.equal(await reached(denied), false)
  session.destroy()
})

test('gRPC is refused in its own words', async (t) => {
  const session = connectHttp2(`https://${nameOf(PRIVATE)}`, {
    createConnection: () =>
      connect({ ...gate.address, ca: root.cert, servername: nameOf(PRIVATE), ALPNProtocols: ['h2'] }),
  })
  const stream = session.request({ ':method': 'POST', ':path': '/a/b', 'content-type': 'application/grpc' })
  const [head] = await once(stream, 'response')
  t.match(head, { ':status': 200, 'grpc-status': '16', 'grpc-message': 'missing authorization' })
  session.destroy()
})

const HASH = taskHash('acmeCo/in')
const names: readonly (readonly [name: string | undefined, says: RegExp])[] = [
  [undefined, /the client sent no TLS ServerName/],
  [DOMAIN, /is an invalid domain/],
  [`x.${DOMAIN}`, /expected two or four subdomain components, not 1/],
  [`${HASH}-1-2.${DOMAIN}`, /expected two or four subdomain components, not 3/],
  [`${HASH}-port.${DOMAIN}`, /failed to parse subdomain port number: port/],
  [`${HASH}-99999.${DOMAIN}`, /failed to parse subdomain port number: 99999/],
  [`${HASH}-${stray.address.port}.${DOMAIN}`, /does not match a known task and port combination/],
  [`0${HASH}-${PRIVATE}.${DOMAIN}`, /does not match a known task and port combination/],
  [`${HASH}-00000000-80000000-${PRIVATE}.${DOMAIN}`, /does not match a known task and port combination/],
  [`${HASH}-${PRIVATE}.evil.example`, /is an invalid domain/],
  [`a.${HASH}-${PRIVATE}.${DOMAIN}`, /is an invalid domain/],
]

for (const [name, says] of names) {
  test(`the server name ${name} leads to a clear 404 and nowhere else`, async (t) => {
    let answer = ''
    const wasReached = await reached(async () => {
      const options = { rejectUnauthorized: false, ...(name === undefined && { servername: '' }) }
      answer = await asked(gate, name ?? '', ['Host: x', ...bearer(token())], 'GET / HTTP/1.1', options)
    })
    t.match(answer, /^HTTP\/1\.1 404 /)
    t.match(answer, says)
    t.equal(wasReached, false)
    t.equal(stray.connections.length, 0)
  })
}

test('names are found in any case, with a trailing dot, and with the range of keys', async (t) => {
  for (const name of [nameOf(PRIVATE).toUpperCase(), `${HASH}-00000000-00000000-${PRIVATE}.${DOMAIN}`]) {
    const answer = await asked(gate, name, bearer(token()), 'GET / HTTP/1.1', { checkServerIdentity: () => undefined })
    t.equal(status(answer), 200, name)
  }
})

test('any server name is a known port or nothing', async (t) => {
  const { gateway: section } = gate.world.policy().sections
  const known = [PRIVATE, PUBLIC, ECHO, GREETER]
  const piece = fc.constantFrom(HASH, '-', '.', `${PRIVATE}`, '00000000', DOMAIN, 'x', '0', '')
  const name = fc.oneof(
    fc.string(),
    fc.array(piece, { maxLength: 9 }).map((it) => it.join('')),
  )
  fc.assert(
    fc.property(name, (it) => {
      const found = targetOf(it, section)
      if (found.is === 'port') t.ok(known.includes(found.target.port.port) && it.startsWith(HASH))
    }),
    { numRuns: 2000 },
  )
  t.pass('none led elsewhere')
})

test('plain HTTP gets 421 in clear and is closed', async (t) => {
  const socket = connectTcp(gate.address)
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  const answer = await readAll(socket)
  t.match(
    answer,
    /^HTTP\/1\.1 421 Misdirected Request\r\n[\s\S]*Connection: close[\s\S]*may only be accessed using TLS/,
  )
  t.match(gate.outcomes.at(-1), { result: 'refused', error: { code: 'GATEWAY_PLAIN_HTTP' } })
})

test('bytes that are neither TLS nor HTTP are refused', async (t) => {
  const socket = connectTcp(gate.address)
  socket.on('error', () => {})
  socket.write('SSH-2.0-x\r\n')
  await new Promise((resolve) => socket.once('close', resolve))
  t.match(gate.outcomes.at(-1), { result: 'refused', error: { code: 'GATEWAY_NOT_TLS' } })
})

/** What TLS agrees on, or the alert. */
const agreed = async (port: number, ALPNProtocols?: string[]): Promise<string> => {
  const socket = connect({
    ...gate.address,
    ca: root.cert,
    servername: nameOf(port),
    ...(ALPNProtocols && { ALPNProtocols }),
  })
  try {
    await once(socket, 'secureConnect')
    return socket.alpnProtocol || 'none'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code!
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
}

test('ALPN: unset is h2 and http/1.1, set is exactly that, and no list is no obstacle', async (t) => {
  t.equal(await agreed(PRIVATE, ['http/1.1', 'h2']), 'h2')
  t.equal(await agreed(PRIVATE, ['http/1.1']), 'http/1.1')
  t.equal(await agreed(PRIVATE), 'none')
  t.equal(await agreed(PRIVATE, ['ftp']), 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL')
  t.equal(await agreed(ECHO, ['h2', 'ftp']), 'ftp')
  t.equal(await agreed(ECHO, ['h2', 'http/1.1']), 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL')
  t.equal(await agreed(ECHO), 'none')
})

test('a public port takes any protocol, half-close included, and names task and port in its Outcome', async (t) => {
  const socket = await dialled(gate, { servername: nameOf(ECHO), ALPNProtocols: ['ftp'] })
  socket.end('\0\xff bytes')
  t.equal(await readAll(socket), 'all of \0\xc3\xbf bytes')
  socket.destroy()
  const outcome = gate.outcomes.findLast(({ exposed }) => exposed?.port === ECHO && true)
  t.match(outcome, { exposed: { task: 'acmeCo/in', port: ECHO }, sni: nameOf(ECHO) })
})

test('a connector that speaks first is heard at once, by a client without ALPN as well', async (t) => {
  const socket = await dialled(gate, { servername: nameOf(GREETER) })
  const [chunk] = await once(socket, 'data')
  t.equal(String(chunk), '220 hello\r\n')
  socket.destroy()
})

test('on a private port only HTTP goes on, whatever a rule says', async (t) => {
  const rules = `rules:\n  - { name: opaque, when: { port: ${PRIVATE} }, then: { protocol: opaque } }`
  const one = await gateway(TASKS, { keys: KEYS_TEXT, rules })
  const wasReached = await reached(async () => {
    for (const bytes of ['GET / HTTP/1.1\r\nHost: x\r\n\r\n', 'SSH-2.0-x\r\n']) {
      for (const to of [one, gate]) {
        const socket = await dialled(to, { servername: nameOf(PRIVATE) })
        socket.end(bytes)
        await new Promise((resolve) => socket.resume().once('close', resolve))
      }
    }
  })
  t.equal(wasReached, false)
  t.match(one.outcomes.at(-1), { error: { code: 'NOT_HTTP' } })
  one.close()
})

test('a browser without a token is sent to sign in, with the whole address it wanted', async (t) => {
  const answer = await asked(gate, nameOf(PRIVATE), ['Accept: text/html,*/*'], 'GET /a?b=c&d HTTP/1.1')
  t.match(answer, /^HTTP\/1\.1 307 /)
  const to = new URL(/\r\nlocation: (.*)\r\n/i.exec(answer)![1]!)
  t.equal(`${to.origin}${to.pathname}`, 'https://dash.example/data-plane-auth-req')
  t.same(
    [...to.searchParams],
    [
      ['orig_url', `https://${nameOf(PRIVATE)}/a?b=c&d`],
      ['task', 'acmeCo/in'],
      ['prefix', 'acmeCo/in'],
      ['err', 'missing authorization'],
    ],
  )
  const html = 'Accept: text/html'
  t.equal(status(await asked(gate, nameOf(PRIVATE), [html], 'POST / HTTP/1.1')), 401)
  t.equal(status(await asked(gate, nameOf(PRIVATE), ['Accept: */*'])), 401)
  const other = token({ sel: { include: { labels: [{ name: 'id', value: 'capture/other/', prefix: true }] } } })
  t.equal(status(await asked(gate, nameOf(PRIVATE), [html, ...bearer(other)])), 403, 'signing in again would not help')
})

test('/auth-redirect sets the cookie for a good token, and leads nowhere but to its own host', async (t) => {
  const own = `https://${nameOf(PRIVATE)}`
  const call = (parameters: Record<string, string>) =>
    asked(gate, nameOf(PRIVATE), [], `GET /auth-redirect?${new URLSearchParams(parameters)} HTTP/1.1`)
  const good = token()
  let answer = ''
  t.equal(
    await reached(async () => {
      answer = await call({ token: good, orig_url: `${own}/a?b=c` })
    }),
    false,
  )
  t.match(answer, /^HTTP\/1\.1 307 /)
  t.match(answer, new RegExp(`\\r\\nlocation: ${own}/a\\?b=c\\r\\n`, 'i'))
  t.match(
    answer,
    new RegExp(
      `set-cookie: __Host-flow_auth=${good}; Path=/; Max-Age=(599|600); HttpOnly; Secure; SameSite=Lax\\r\\n`,
      'i',
    ),
  )
  t.match(answer, /cache-control: no-store/)
  const wrong = [
    {},
    { token: good },
    { orig_url: own },
    ...[
      'https://evil.example/',
      '//evil.example',
      '/path',
      'http://x',
      `http://${nameOf(PRIVATE)}/`,
      'javascript:alert(1)',
      `https://${nameOf(PUBLIC)}/`,
      `https://x@${nameOf(PRIVATE)}/`,
      `${own}.evil.example/`,
      '\\\\evil',
    ].map((orig_url) => ({ token: good, orig_url })),
  ] as Record<string, string>[]
  for (const parameters of wrong) {
    const refused = await call(parameters)
    t.equal(status(refused), 400, parameters.orig_url ?? 'missing')
    t.notMatch(refused, /set-cookie|location/i)
  }
  const bad = await call({ token: token({ exp: 1 }), orig_url: own })
  t.equal(status(bad), 401)
  t.notMatch(bad, /set-cookie|location/i)
  const foreign = await call({ token: token({ sel: {} }), orig_url: own })
  t.equal(status(foreign), 403)
  t.notMatch(foreign, /set-cookie|location/i)
  t.notOk(
    gate.requests.some(({ target }) => target.includes(good)),
    'the log has no token',
  )
})

test('CORS: a preflight of an allowed origin is answered here, any other needs a token', async (t) => {
  const ask = ['Access-Control-Request-Method: PUT', 'Access-Control-Request-Headers: authorization,x-a']
  const line = 'OPTIONS /x HTTP/1.1'
  let answer = ''
  const wasReached = await reached(async () => {
    answer = await asked(gate, nameOf(PRIVATE), ['Origin: https://app.example', ...ask], line)
    t.equal(status(await asked(gate, nameOf(PRIVATE), ['Origin: https://evil.example', ...ask], line)), 401)
    t.equal(status(await asked(gate, nameOf(PRIVATE), ['Origin: https://app.example'], line)), 401)
  })
  t.equal(wasReached, false)
  t.match(answer, /^HTTP\/1\.1 204 /)
  t.match(answer, /access-control-allow-origin: https:\/\/app\.example\r\n/)
  t.match(answer, /access-control-allow-methods: PUT\r\n/)
  t.match(answer, /access-control-allow-headers: authorization,x-a\r\n/)
  const real = await asked(gate, nameOf(PRIVATE), ['Origin: https://app.example', ...bearer(token())])
  t.match(real, /access-control-allow-origin: https:\/\/app\.example\r\n/)
  t.match(await asked(gate, nameOf(PRIVATE), ['Origin: https://app.example']), /access-control-allow-origin: https/)
})

test('a stream ends when its token does', async (t) => {
  const slow = await scripted('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun')
  const silent = await scripted(() => undefined)
  const [SLOW, SILENT] = [slow.address.port, silent.address.port]
  const one = await gateway(`{ acmeCo/in: { ports: { ${SLOW}: {}, ${SILENT}: {} } } }`, { keys: KEYS_TEXT })
  // It is over when its leeway of five seconds is: in about one second.
  const short = forge({ cap: 262_154, exp: now() - 3, sel: TASK_LABEL })
  const [begun, unanswered] = await Promise.all([
    asked(one, nameOf(SLOW), bearer(short)),
    asked(one, nameOf(SILENT), bearer(short)),
  ])
  t.match(begun, /^HTTP\/1\.1 200 [\s\S]*begun$/)
  t.match(unanswered, /^HTTP\/1\.1 401 [\s\S]*the token has expired/)
  one.close()
  slow.close()
  silent.close()
})

test('a stream ends when its token does: on HTTP/2, and after an upgrade to raw bytes', async (t) => {
  const slow = await scripted((request, socket) => {
    if (/^upgrade:/im.test(request)) {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbegun')
      return undefined
    }
    return 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun'
  })
  const port = slow.address.port
  const one = await gateway(`{ acmeCo/in: { ports: { ${port}: {} } } }`, { keys: KEYS_TEXT })
  const short = forge({ cap: 262_154, exp: now() - 3, sel: TASK_LABEL })
  const long = token()
  const raw = asked(one, nameOf(port), [...bearer(short), 'Connection: Upgrade', 'Upgrade: websocket'])
  const session = connectHttp2(`https://${nameOf(port)}:${one.address.port}`, {
    ca: root.cert,
    lookup: ((_: string, __: object, found: (error: null, all: object[]) => void) =>
      found(null, [{ address: '127.0.0.1', family: 4 }])) as never,
  })
  const got = (bearerOf: string) => {
    const stream = session.request({ ':path': '/', authorization: `Bearer ${bearerOf}` })
    stream.on('error', () => {})
    return stream
  }
  const [ends, lives] = [got(short), got(long)]
  const begun = Promise.all([ends, lives].map((stream) => once(stream, 'data')))
  t.match(String(await begun), /begun,begun/)
  await once(ends, 'close')
  t.equal(ends.rstCode, 8, 'CANCEL')
  t.notOk(lives.destroyed, 'the other stream of the connection goes on')
  t.match(await raw, /^HTTP\/1\.1 101 [\s\S]*begun$/)
  t.same(one.requests.map(({ version, error }) => `${version} ${error}`).sort(), ['1.1 tokenExpired', '2 tokenExpired'])
  session.destroy()
  one.close()
  slow.close()
})

test('websockets need no rule on an exposed port, but a token on a private one; a policy can forbid them', async (t) => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  await once(server, 'listening')
  server.on('connection', (socket) => socket.on('message', (data) => socket.send(`${data} too`)))
  const { port } = server.address() as { port: number }
  const tasks = (more: string) => `{ acmeCo/in: { ports: { ${port}: { ${more} } } } }`
  const called = async (to: Gateway, headers: Record<string, string>) => {
    const socket = new WebSocket(`wss://127.0.0.1:${to.address.port}/`, {
      servername: nameOf(port),
      ca: root.cert,
      headers: { host: nameOf(port), ...headers },
    } as ClientOptions)
    const opened = await new Promise<string>((resolve) => {
      socket.on('open', () => resolve('open')).on('error', ({ message }) => resolve(message))
    })
    if (opened !== 'open') return opened
    socket.send('me')
    const [said] = (await once(socket, 'message')) as [Buffer]
    socket.terminate()
    return `${said}`
  }
  const one = await gateway(tasks(''), { keys: KEYS_TEXT })
  t.match(await called(one, {}), /401/)
  t.equal(server.clients.size, 0)
  t.equal(await called(one, { authorization: `Bearer ${token()}` }), 'me too')
  one.close()
  const everybody = await gateway(tasks('public: true'))
  t.equal(await called(everybody, {}), 'me too')
  everybody.close()
  const none = await gateway(tasks('public: true'), { rules: 'defaults: { http: { upgrade: { allow: [] } } }' })
  t.match(await called(none, {}), /500/)
  none.close()
  for (const client of server.clients) client.terminate()
  server.close()
})

test('a connector that is not there is 503, as clients of such gateways know it', async (t) => {
  const gone = await scripted(HELLO)
  gone.close()
  await once(gone.server, 'close')
  const port = gone.address.port
  const one = await gateway(`{ acmeCo/in: { ports: { ${port}: { public: true } } } }`, {
    rules: 'defaults: { limits: { connect: 50ms } }',
  })
  t.match(await asked(one, nameOf(port)), /^HTTP\/1\.1 503 [\s\S]*sluice-error: connect(Failed|Timeout)\r\n/)
  t.match(one.requests, [{ status: 503 }])
  one.close()
})

test('browsers are told to stay with https, in answers of ours too, unless the policy says not to', async (t) => {
  const told = /\r\nstrict-transport-security: max-age=31536000; includeSubDomains\r\n/
  const answers = async (to: Gateway) =>
    Promise.all([
      asked(to, nameOf(PRIVATE)),
      asked(to, nameOf(PRIVATE), bearer(token())),
      asked(to, nameOf(PUBLIC)),
      asked(to, `x.${DOMAIN}`),
    ])
  const silent = await gateway(TASKS, { keys: KEYS_TEXT, settings: 'hsts: false' })
  const [with_, without] = [await answers(gate), await answers(silent)]
  t.same([with_.map(status), without.map(status)], Array(2).fill([401, 200, 200, 404]))
  for (const answer of with_) t.match(answer, told)
  for (const answer of without) t.notMatch(answer, /strict-transport-security/i)
  // What the connector says of it itself counts.
  const own = await scripted('HTTP/1.1 200 OK\r\nContent-Length: 0\r\nStrict-Transport-Security: max-age=5\r\n\r\n')
  const other = await gateway(`{ acmeCo/in: { ports: { ${own.address.port}: { public: true } } } }`)
  const said = await asked(other, nameOf(own.address.port))
  t.same(said.match(/^strict-transport-security: .*$/gim), ['Strict-Transport-Security: max-age=5'])
  silent.close()
  other.close()
  own.close()
})

test('metrics: a series for each task and port that is there, none for names that are not, and never too many', async (t) => {
  const series = async (metrics: Metrics, name: string) =>
    (await metrics.registry.metrics()).split('\n').filter((line) => line.startsWith(`${name}{`))
  const one = await gateway(TASKS, { keys: KEYS_TEXT })
  const metrics = createMetrics('1.0.0')
  countExposed(metrics, one.world.ledger)
  for (const name of [
    nameOf(PUBLIC),
    nameOf(PRIVATE),
    ...Array.from({ length: 20 }, (_, i) => `${HASH}-${i + 1}.${DOMAIN}`),
  ])
    await asked(one, name)
  while (one.outcomes.length < 22) await new Promise(setImmediate)
  t.same(
    (await series(metrics, 'sluice_exposed_requests_total')).sort(),
    [
      `sluice_exposed_requests_total{task="acmeCo/in",port="${PRIVATE}",class="4xx",cause="unauthorized"} 1`,
      `sluice_exposed_requests_total{task="acmeCo/in",port="${PUBLIC}",class="2xx",cause=""} 1`,
    ].sort(),
  )
  t.equal((await series(metrics, 'sluice_exposed_connections_total')).length, 2)
  one.close()

  const many = createMetrics('1.0.0')
  const ledger = createLedger(systemClock)
  countExposed(many, ledger)
  const nowhere = { host: '10.0.0.1', port: 1 }
  for (let port = 1; port <= 700; port++) {
    const life = ledger.begin({ direction: 'inbound', listener: 'gateway', peer: nowhere, destination: nowhere })
    life.exposed = { task: `acmeCo/task ${port}`, port }
    ledger.end(life, 'forwarded', { sent: 1, received: 2, ended: 'closed' })
  }
  const counted = await series(many, 'sluice_exposed_connections_total')
  t.equal(counted.length, 501)
  t.ok(counted.includes('sluice_exposed_connections_total{task="(other)",port="(other)",result="forwarded"} 200'))
  t.ok(counted.includes('sluice_exposed_connections_total{task="acmeCo/task 500",port="500",result="forwarded"} 1'))
})

test('limits of a port: connections and requests', async (t) => {
  const silent = await scripted(() => undefined)
  const port = silent.address.port
  const tasks = (limits: string) => `{ acmeCo/in: { ${limits}, ports: { ${port}: { public: true } } } }`
  const few = await gateway(tasks('connections: 1'))
  const first = await dialled(few, { servername: nameOf(port) })
  await t.rejects(dialled(few, { servername: nameOf(port) }))
  t.match(few.outcomes.at(-1), { result: 'refused', error: { code: 'LIMIT_PORT_CONNECTIONS' } })
  first.destroy()
  few.close()
  const one = await gateway(tasks('requests: 1'))
  const held = await dialled(one, { servername: nameOf(port) })
  held.write(`GET / HTTP/1.1\r\nHost: ${nameOf(port)}\r\n\r\n`)
  while (silent.received.length === 0) await new Promise(setImmediate)
  t.match(await asked(one, nameOf(port)), /^HTTP\/1\.1 503 [\s\S]*retry-after: 1[\s\S]*too many requests to this port/)
  held.destroy()
  one.close()
  silent.close()
})

test('what a reload withdraws is gone for open connections too', async (t) => {
  const one: Gateway = await gateway(TASKS, { keys: KEYS_TEXT })
  const socket = await dialled(one, { servername: nameOf(PUBLIC), ALPNProtocols: ['http/1.1'] })
  const say = async () => {
    socket.write(`GET / HTTP/1.1\r\nHost: ${nameOf(PUBLIC)}\r\n\r\n`)
    return status(String((await once(socket, 'data'))[0]))
  }
  t.equal(await say(), 200)
  one.use(`{ acmeCo/in: { ports: { ${PUBLIC}: {} } } }`)
  t.equal(await say(), 401, 'the port is private now')
  one.use('{}')
  t.equal(await say(), 404)
  socket.destroy()
  one.close()
})

test('a reload that takes away a port ends connections that carry its bytes, and no others', async (t) => {
  const raw = (port: number, more: string) => `${port}: { public: true, ${more} }`
  const tasks = (...ports: string[]) => `{ acmeCo/in: { ports: { ${ports.join(', ')} } } }`
  const [taken, kept] = [raw(ECHO, 'protocol: ftp'), raw(GREETER, 'protocol: smtp')]
  const one: Gateway = await gateway(tasks(taken, kept), { keys: KEYS_TEXT })
  const ends = await dialled(one, { servername: nameOf(ECHO), ALPNProtocols: ['ftp'] })
  ends.write('half of it')
  const lives = await dialled(one, { servername: nameOf(GREETER), ALPNProtocols: ['smtp'] })
  await once(lives, 'data')
  while (one.world.ledger.open.size < 2) await new Promise(setImmediate)
  one.use(tasks(kept))
  one.world.ledger.recheck()
  await closed(ends)
  t.match(one.outcomes, [{ ended: 'policyChanged', exposed: { port: ECHO } }])
  t.notOk(lives.closed)
  one.use(tasks(raw(GREETER, 'protocol: lmtp')))
  one.world.ledger.recheck()
  await closed(lives)
  t.match(one.outcomes[1], { ended: 'policyChanged', exposed: { port: GREETER } })
  one.close()
})

test('the document: what cannot be served is a mistake that says how to mend it', async (t) => {
  const wrong: [tasks: string, says: RegExp][] = [
    ['{ a: { ports: { 25: { protocol: smtp } } } }', /port 25 is not public.*Add public: true/],
    ['{ a: { ports: { 0: {} } } }', /is not a port from 1 to 65535/],
    ['{ a: {} }', /either `ports` or `labels`/],
    ['{ a: { labels: { estuary.dev/expose-port: "80", estuary.dev/hostname: x } } }', /hostname is 'x'/],
    [
      '{ a: { labels: { estuary.dev/expose-port: "80", estuary.dev/port-public/80: "yes" } } }',
      /either 'true' or 'false'/,
    ],
    ['{ a: { labels: { estuary.dev/expose-port: "80", estuary.dev/port-proto/80: ftp } } }', /port-public\/80=true/],
  ]
  for (const [tasks, says] of wrong) t.throws(() => policyOf(`gateway: { tasks: ${tasks} }`), { message: says })
  const good = policyOf(
    'gateway: { tasks: { a: { labels: { estuary.dev/expose-port: ["80", "81"], estuary.dev/port-public/80: "true" } } } }',
  )
  t.same(good.sections.gateway.tasks.a!.ports, [
    { port: 80, isPublic: true },
    { port: 81, isPublic: false },
  ])
})

t.end()
