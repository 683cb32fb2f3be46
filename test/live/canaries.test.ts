import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { type Test, test } from 'tap'
import { checkCommand } from '../../src/admin/checkCommand.ts'
import { explainCommand } from '../../src/admin/explainCommand.ts'
import { learnCommand } from '../../src/learnCommand.ts'
import { createLog, type LogFormat } from '../../src/telemetry/log.ts'
import type { Outcome, RequestOutcome } from '../../src/telemetry/outcome.ts'
import { ask, scripted } from '../support/http.ts'
import { readAll } from '../support/peers.ts'
import { runCommand } from '../support/runCommand.ts'
import { selfSigned } from '../support/selfSigned.ts'

/** Where secrets are. Each place has a word of its own, so that a leak names it. */
const canary = (place: string): string => `CANARY${place}x9`

const head = (line: string, ...fields: string[]): string =>
  [line, 'Host: shop.example', 'Connection: close', ...fields, '', ''].join('\r\n')

/** What clients send: the place, the bytes, and whether the upstream must have got the word, so that it was there to leak. */
const SENT: readonly (readonly [place: string, bytes: string, isForwarded: boolean])[] = [
  ['Authorization', head('GET / HTTP/1.1', `Authorization: Bearer ${canary('Authorization')}`), true],
  ['Basic', head('GET / HTTP/1.1', `Authorization: Basic ${canary('Basic')}`), true],
  ['Cookie', head('GET / HTTP/1.1', `Cookie: ${canary('Cookie')}`), true],
  ['ProxyAuthorization', head('GET / HTTP/1.1', `Proxy-Authorization: Basic ${canary('ProxyAuthorization')}`), false],
  ['ApiKey', head('GET / HTTP/1.1', `X-Api-Key: ${canary('ApiKey')}`), true],
  ['SetCookie', head(`GET /set-cookie HTTP/1.1`), false],
  ['Query', head(`GET /a?access_token=${canary('Query')}&b=c HTTP/1.1`), true],
  ['Code', head(`GET /cb?code=${canary('Code')} HTTP/1.1`), true],
  ['Escaped', head(`GET /a?%74oken=${canary('Escaped')} HTTP/1.1`), true],
  ['Semicolon', head(`GET /a?x=1;password=${canary('Semicolon')} HTTP/1.1`), true],
  ['Userinfo', head(`GET http://user:${canary('Userinfo')}@shop.example/ HTTP/1.1`), false],
  ['Referer', head('GET / HTTP/1.1', `Referer: http://a.example/?session=${canary('Referer')}`), true],
  ['RefererUser', head('GET / HTTP/1.1', `Referer: http://u:${canary('RefererUser')}@a.example/`), true],
  ['Denied', head(`GET /admin?token=${canary('Denied')} HTTP/1.1`, `Cookie: ${canary('Denied')}`), false],
  ['Upgrade', head(`GET /?sig=${canary('Upgrade')} HTTP/1.1`, 'Upgrade: foo', 'Connection: upgrade'), false],
  [
    'Malformed',
    `GET /?key=${canary('Malformed')} HTTP/1.1\r\nHost: a b\r\nAuthorization: ${canary('Malformed')}\r\n\r\n`,
    false,
  ],
  [
    'Body',
    `${head('POST /login HTTP/1.1', 'Content-Length: 11').replace('11', String(9 + canary('Body').length))}password=${canary('Body')}`,
    true,
  ],
  [
    'Trace',
    head(
      'GET / HTTP/1.1',
      `traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`,
      `baggage: key=${canary('Trace')}`,
    ),
    true,
  ],
  ['Redis', `*2\r\n$4\r\nAUTH\r\n$${canary('Redis').length}\r\n${canary('Redis')}\r\n`, true],
  ['Ftp', `PASS ${canary('Ftp')}\r\n\x00`, true],
]

/** What the operator keeps: in the environment, in files, and, though it should not be there, in the document. */
const KEPT = ['AdminToken', 'CommandKey', 'TlsKey', 'HeaderSet', 'HeaderWhen', 'Inline', 'InlineCandidate'] as const

const policyText = (ports: { web: number; collector: number }): string => `apiVersion: sluice/v1
listeners:
  outbound: { address: "127.0.0.1:0", destination: "127.0.0.1:${ports.web}" }
  inbound: { address: [] }
admin: { address: "127.0.0.1:0", token: { env: ADMIN_TOKEN } }
commands: { apiKey: { file: key.txt } }
certificates: { shop: { cert: shop.pem, key: shop.key } }
traces: { endpoint: "http://127.0.0.1:${ports.collector}", protocol: http/protobuf }
log: { format: json }
rules:
  - { name: no admin, when: { path: /admin }, then: { deny: true } }
  - { name: known caller, when: { header: { authorization: { equals: "Bearer ${canary('HeaderWhen')}" } } }, then: { http: { timeout: 9s } } }
  - name: own key
    when: { path: "/**" }
    then:
      http:
        request: { set: { X-Auth-Token: ${canary('HeaderSet')} } }
`

/** A real sluice, started with all that is kept, and everything that it says to anybody. */
const scene = async (t: Test) => {
  const web = await scripted(`HTTP/1.1 200 OK\r\nSet-Cookie: id=${canary('SetCookie')}\r\nContent-Length: 2\r\n\r\nok`)
  const traced: Buffer[] = []
  const collector = createServer((asked, answer) => {
    asked.on('data', (bytes) => traced.push(bytes))
    asked.on('end', () => answer.end())
  }).listen(0, '127.0.0.1')
  await once(collector, 'listening')
  const { key, cert } = selfSigned('shop.example')
  const directory = t.testdir({ 'shop.pem': cert, 'shop.key': key, 'key.txt': canary('CommandKey') })
  const policy = `${directory}/policy.yaml`
  const { port } = collector.address() as { port: number }
  writeFileSync(policy, policyText({ web: web.address.port, collector: port }))
  const env = { ...process.env, ADMIN_TOKEN: canary('AdminToken'), SECRET: canary('Env'), NODE_OPTIONS: '' }
  const sluice = spawn('bin/sluice', ['serve', '--config', policy], { stdio: ['ignore', 'pipe', 'pipe'], env })
  t.teardown(() => {
    sluice.kill('SIGKILL')
    web.close()
    collector.close()
    collector.closeAllConnections()
  })
  let logged = ''
  for (const stream of [sluice.stdout, sluice.stderr]) stream.on('data', (bytes) => (logged += bytes))
  const says = async (what: RegExp): Promise<RegExpExecArray> => {
    for (;;) {
      assert.equal(sluice.exitCode, null, logged)
      const found = what.exec(logged)
      if (found !== null) return found
      await Promise.race([once(sluice.stdout, 'data'), once(sluice.stderr, 'data'), once(sluice, 'close')])
    }
  }
  const [, proxy = '', admin = ''] = await says(/listening on 127\.0\.0\.1:(\d+); admin on ([\d.:]+)/)
  return {
    sluice,
    policy,
    keyText: key,
    web,
    traced,
    says,
    proxy: Number(proxy),
    admin: `http://${admin}`,
    log: () => logged,
  }
}

const ROUTES = [
  '/',
  '/live',
  '/ready',
  '/metrics',
  '/connections',
  '/config',
  '/candidate',
  '/page/policy.json',
  '/log-level',
  '/tap.pcapng',
  '/nothing?token=x',
] as const

test('a secret is nowhere but where it belongs, whatever is asked', { timeout: 60_000 }, async (t) => {
  const { sluice, policy, keyText, web, traced, says, proxy, admin, log } = await scene(t)
  const told: Record<string, string> = {}
  const listen = async (path: string) => {
    const response = await fetch(`${admin}${path}`)
    told[path] = ''
    const decoder = new TextDecoder()
    void (async () => {
      for await (const chunk of response.body!) told[path] += decoder.decode(chunk as Uint8Array)
    })().catch(() => {})
  }
  await listen('/tap')
  await listen('/page/events')

  // A connection that stays open while /connections is asked.
  const open = connect(proxy, '127.0.0.1')
  open.on('error', () => {})
  open.write(`GET /?token=${canary('Query')} HTTP/1.1\r\nHost: shop.example\r\nCookie: ${canary('Cookie')}\r\n\r\n`)
  await once(open, 'data')

  for (const [, bytes] of SENT) {
    if (/^[A-Z]+ \S+ HTTP/.test(bytes)) await ask({ host: '127.0.0.1', port: proxy }, bytes)
    else {
      const raw = connect({ port: proxy, host: '127.0.0.1', allowHalfOpen: true })
      raw.on('error', () => {})
      raw.end(bytes)
      await readAll(raw)
    }
  }
  await fetch(`${admin}/candidate`, {
    method: 'PUT',
    body: `apiVersion: sluice/v1\nrules: [{ name: other, then: { http: { request: { set: { Authorization: "${canary('HeaderSet')}" } } } } }]`,
  })
  await ask({ host: '127.0.0.1', port: proxy }, SENT[0]![1])
  const refused = await fetch(`${admin}/candidate`, {
    method: 'PUT',
    body: `apiVersion: sluice/v1\nadmin: { token: ${canary('InlineCandidate')} }`,
  })
  assert.equal(refused.status, 400)
  told['PUT /candidate'] = await refused.text()
  for (const path of ROUTES) {
    const answer = await fetch(`${admin}${path}`)
    told[path] = `${[...answer.headers].join(' ')}\n${await answer.text()}`
  }
  const openMetrics = await fetch(`${admin}/metrics`, { headers: { accept: 'application/openmetrics-text' } })
  told.openMetrics = await openMetrics.text()
  const explained = await fetch(
    `${admin}/page/explain?destination=10.0.0.1:80&authority=a&path=/x&header=${encodeURIComponent('authorization: x')}`,
  )
  told['/page/explain'] = await explained.text()
  // A policy that is refused is described in the log, with the line at fault.
  const good = readFileSync(policy, 'utf8')
  writeFileSync(policy, good.replace('token: { env: ADMIN_TOKEN }', `token: ${canary('Inline')}`))
  sluice.kill('SIGHUP')
  await says(/the policy was not replaced/)
  const checked = await Promise.all(
    ['text', 'json', 'sarif', 'github'].map((format) => runCommand(checkCommand, [policy, `--format=${format}`])),
  )
  told.check = JSON.stringify(checked)
  writeFileSync(policy, good)
  open.destroy()
  sluice.kill('SIGTERM')
  await once(sluice, 'exit')

  told.log = log()
  told.traces = Buffer.concat(traced).toString('latin1')
  assert.match(told.traces, /url\.path/)
  const lines = told['/tap']!.split('\n').filter((line) => line.startsWith('{'))
  assert.ok(lines.length >= SENT.length, 'the tap saw too little')
  for (const format of ['text', 'json', 'common', 'combined'] satisfies LogFormat[]) {
    told[`log as ${format}`] = ''
    const write = (_: number, line: string) => void (told[`log as ${format}`] += line)
    const formatted = createLog({ format, level: 'info', write })
    for (const line of lines.map((text) => JSON.parse(text)) as (Outcome & RequestOutcome & { is: string })[])
      if (line.is === 'request') formatted.request(line, line, 0)
      else formatted.outcome(line)
    assert.ok(told[`log as ${format}`]!.split('\n').length > 10)
  }
  writeFileSync(`${t.testdirName}/log.json`, told.log)
  told.learn = JSON.stringify(await runCommand(learnCommand, [`${t.testdirName}/log.json`]))
  const asked = ['--config', policy, '--destination=10.0.0.1:80', '--authority=a', '--path=/x']
  for (const more of [[], ['--json']])
    told.explain = JSON.stringify(await runCommand(explainCommand, [...asked, ...more]))

  const upstream = web.received.join('')
  for (const [place, , isForwarded] of SENT)
    assert.equal(upstream.includes(canary(place)), isForwarded, `${place}: what the upstream got`)
  assert.ok(upstream.includes(canary('HeaderSet')))
  const key = keyText.split('\n')[1]!
  const leaks = Object.entries(told).flatMap(([where, text]) =>
    [...SENT.map(([place]) => place), ...KEPT, 'Env']
      .filter((place) => text.includes(place === 'TlsKey' ? key : canary(place)))
      .map((place) => `${place} is in ${where}`),
  )
  assert.deepEqual(leaks, [])
})
