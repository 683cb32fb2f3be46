import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import t, { type Test, test } from 'tap'
import { CHANNEL_MAGIC } from '../../src/callback/wire.ts'
import { mint, readTokenKeys } from '../../src/gateway/token.ts'
import { apiSession, ask, serveApp } from '../support/callback.ts'
import { asked, closeWorkshop, DOMAIN, type Gateway, gate, nameOf, TASK } from '../support/exposed.ts'
import { scripted } from '../support/http.ts'
import { fetchHttp2 } from '../support/http2Proxy.ts'

/** Canaries where the world calls in: exposed ports and callback channels. canaries.test.ts has the redirected traffic. */
const canary = (place: string): string => `CANARY${place}x9`

t.teardown(closeWorkshop)

const KEY = Buffer.from(canary('GatewayKey').padEnd(33, '-')).toString('base64')
const JWK = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })

/** A token that opens every port of the task, and the part of it without which it opens none. */
const token = async (place: string) => {
  const minting = { task: TASK, ttlMs: 600_000, now: Date.now(), subject: place }
  const whole = await mint(readTokenKeys(KEY)[0]!, minting)
  return { whole, secret: whole.split('.')[2]! }
}

interface Sent {
  readonly place: string
  readonly secret: string
  readonly isPublic?: boolean
  readonly line?: string
  readonly fields: readonly string[]
  readonly status: number
  /** Whether the connector must have got it, so that it was there to leak. */
  readonly isForwarded?: boolean
}

/** What clients of the gateway send. */
const sentTo = async (privatePort: number): Promise<readonly Sent[]> => {
  const [header, cookie, query] = await Promise.all(['header', 'cookie', 'query'].map(token))
  const back = (to: string) => encodeURIComponent(`https://${nameOf(privatePort)}${to}`)
  const bad = (place: string, line: string, ...fields: string[]): Sent => ({
    ...{ place, secret: canary(place), line, fields, status: 401 },
  })
  const open = `Authorization: Bearer ${header!.whole}`
  const opened = (place: string, line: string, ...fields: string[]): Sent => ({
    ...{ place, secret: canary(place), line, fields: [open, ...fields], status: 200, isForwarded: true },
  })
  const signIn = `GET /auth-redirect?token=${query!.whole}&orig_url=`
  return [
    { place: 'GoodHeader', secret: header!.secret, fields: [open], status: 200 },
    { place: 'GoodCookie', secret: cookie!.secret, fields: [`Cookie: __Host-flow_auth=${cookie!.whole}`], status: 200 },
    { place: 'GoodQuery', secret: query!.secret, line: `${signIn}${back('/')} HTTP/1.1`, fields: [], status: 307 },
    bad('BadHeader', 'GET / HTTP/1.1', `Authorization: Bearer ${canary('BadHeader')}`),
    bad('BadScheme', 'GET / HTTP/1.1', `Authorization: Basic ${canary('BadScheme')}`),
    bad('BadCookie', 'GET / HTTP/1.1', `Cookie: __Host-flow_auth=${canary('BadCookie')}`),
    bad('BadQuery', `GET /auth-redirect?token=${canary('BadQuery')}&orig_url=${back('/')} HTTP/1.1`),
    {
      ...bad('SignIn', `GET /?token=${canary('SignIn')} HTTP/1.1`, 'Accept: text/html'),
      ...{ status: 307, fields: ['Accept: text/html', `Cookie: __Host-flow_auth=${canary('SignIn')}`] },
    },
    { ...bad('Back', `${signIn}${back(`/?api_key=${canary('Back')}`)} HTTP/1.1`), status: 307 },
    { ...bad('Elsewhere', `${signIn}https://u:${canary('Elsewhere')}@a.example HTTP/1.1`), status: 400 },
    opened('OtherCookie', 'GET / HTTP/1.1', `Cookie: id=${canary('OtherCookie')}`),
    opened('Path', `GET /a;jsessionid=${canary('Path')}/b HTTP/1.1`),
    opened('Nested', `GET /in?to=${encodeURIComponent(`/?code=${canary('Nested')}`)} HTTP/1.1`),
    opened('Referer', 'GET / HTTP/1.1', `Referer: https://a.example/?to=%2F%3Ftoken%3D${canary('Referer')}`),
    {
      ...{ place: 'Public', secret: canary('Public'), isPublic: true, status: 200, isForwarded: true },
      fields: [`Authorization: Bearer ${canary('Public')}`],
    },
  ]
}

const policyText = (files: { keys: string; jwks: string }, ports: { private: number; public: number }) => `
apiVersion: sluice/v1
listeners: { outbound: { address: [] }, inbound: { address: [] } }
admin: { address: "127.0.0.1:0" }
log: { format: text }
certificates: { gate: { cert: ${gate.certPath}, key: ${gate.keyPath} } }
gateway:
  address: 127.0.0.1:0
  domain: ${DOMAIN}
  certificate: gate
  signIn: https://user:${canary('UrlUser')}@sign-in.example/
  keys: { file: ${files.keys} }
  jwks: { file: ${files.jwks} }
  tasks: { ${TASK}: { ports: { ${ports.private}: {}, ${ports.public}: { public: true } } } }
callback: { enable: true, address: "127.0.0.1:0", appId: orders }
`

/** A real sluice with a gateway and callback channels. */
const scene = async (t: Test) => {
  const web = { private: await scripted(OK), public: await scripted(OK) }
  const directory = t.testdir({ keys: `${KEY}\n`, 'jwks.json': JSON.stringify({ keys: [{ ...JWK, alg: 'EdDSA' }] }) })
  const policy = `${directory}/policy.yaml`
  const ports = { private: web.private.address.port, public: web.public.address.port }
  writeFileSync(policy, policyText({ keys: `${directory}/keys`, jwks: `${directory}/jwks.json` }, ports))
  const kept = { DAPR_API_TOKEN: canary('DaprToken'), APP_API_TOKEN: canary('AppToken') }
  const env = { ...process.env, ...kept, NODE_OPTIONS: '' }
  const sluice = spawn('bin/sluice', ['serve', '--config', policy], { stdio: ['ignore', 'pipe', 'pipe'], env })
  t.teardown(() => {
    sluice.kill('SIGKILL')
    for (const each of Object.values(web)) each.close()
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
  const [, gateway, api, admin] = await says(/listening on 127\.0\.0\.1:(\d+), 127\.0\.0\.1:(\d+); admin on ([\d.:]+)/)
  const at = (port: string | undefined) => ({ host: '127.0.0.1', port: Number(port) })
  return {
    sluice,
    policy,
    web,
    ports,
    says,
    gateway: at(gateway),
    api: at(api),
    admin: `http://${admin}`,
    log: () => logged,
  }
}

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const ROUTES = ['/metrics', '/connections', '/config', '/candidate', '/channels', '/endpoints', '/page/policy.json']

test('what lets callers and apps in is nowhere but where it belongs', { timeout: 60_000 }, async (t) => {
  const { sluice, policy, web, ports, says, gateway, api, admin, log } = await scene(t)
  const told: Record<string, string> = {}
  for (const path of ['/tap', '/page/events']) {
    const response = await fetch(`${admin}${path}`)
    told[path] = ''
    const decoder = new TextDecoder()
    void (async () => {
      for await (const chunk of response.body!) told[path] += decoder.decode(chunk as Uint8Array)
    })().catch(() => {})
  }

  // Apps: one that proves itself, one that has the wrong token, one that speaks no HTTP/2, one without the nonce.
  const session = apiSession(t, api)
  const right = { 'dapr-api-token': canary('DaprToken'), 'sluice-callback': '1' }
  const stranger = await ask(session, { ...right, 'dapr-api-token': canary('WrongToken') })
  assert.equal(stranger.status, 16)
  const nonces: Buffer[] = []
  const guest = async (first: Buffer | undefined, then: string) => {
    const { port, nonce } = await ask(session, right)
    nonces.push(nonce!)
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => {})
    socket.write(Buffer.concat([CHANNEL_MAGIC, first ?? nonce!, Buffer.from(then)]))
    socket.resume()
    await once(socket, 'close')
  }
  await guest(undefined, `PASS ${canary('Garbage')}\r\n\r\n${canary('Garbage')}`)
  await guest(Buffer.from(canary('WrongNonce').padEnd(32, '-')), '')
  const { port, nonce } = await ask(session, right)
  nonces.push(nonce!)
  const heard: string[] = []
  await serveApp(
    t,
    port,
    (stream, headers) => {
      heard.push(JSON.stringify(headers))
      stream.respond({ ':status': 200, 'grpc-status': '0', 'content-type': 'application/grpc' }, { endStream: true })
    },
    { nonce },
  )
  for (;;) if (/"state": *"up"/.test(await (await fetch(`${admin}/channels`)).text())) break
  const called = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers', ...right }
  const meta = { 'dapr-app-id': 'orders', authorization: `Bearer ${canary('Metadata')}` }
  await fetchHttp2(session, { ...called, ':path': '/a.B/C', ...meta }, Buffer.alloc(5))
  const invoke = { ':method': 'GET', ':path': `/v1.0/invoke/orders/method/x?token=${canary('Invoke')}` }
  await fetchHttp2(session, { ...invoke, ...right })
  await fetchHttp2(session, { ...invoke, 'dapr-api-token': canary('WrongToken') })

  // Clients of the gateway, in each format of the log that is for people or for other programs.
  const sent = await sentTo(ports.private)
  for (const format of ['text', 'common', 'combined']) {
    const from = log().length
    if (format !== 'text') {
      writeFileSync(
        policy,
        policyText({ keys: `${t.testdirName}/keys`, jwks: `${t.testdirName}/jwks.json` }, ports).replace(
          'format: text',
          `format: ${format}`,
        ),
      )
      sluice.kill('SIGHUP')
      await says(new RegExp(`(the policy was replaced[^]*){${format === 'common' ? 1 : 2}}`))
    }
    for (const { place, isPublic, line, fields, status } of sent) {
      const name = nameOf(isPublic ? ports.public : ports.private)
      const answer = await asked({ address: gateway } as Gateway, name, fields, line)
      assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `), place)
    }
    for (const path of ROUTES) told[`${path} with ${format}`] = await (await fetch(`${admin}${path}`)).text()
    await asked({ address: gateway } as Gateway, nameOf(ports.private), [], `GET /last-${format} HTTP/1.1`)
    await says(new RegExp(`/last-${format}`))
    told[`log as ${format}`] = log().slice(from)
    assert.ok(told[`log as ${format}`]!.split('\n').length > sent.length)
  }
  while (!told['/tap']!.includes('/last-combined')) await new Promise((resolve) => setTimeout(resolve, 2))
  sluice.kill('SIGTERM')
  session.destroy()
  await once(sluice, 'exit')
  told.log = log()

  for (const { place, secret, isPublic, isForwarded = false } of sent)
    assert.equal(web[isPublic ? 'public' : 'private'].received.join('').includes(secret), isForwarded, place)
  for (const place of ['AppToken', 'Metadata']) assert.match(heard.join(), new RegExp(canary(place)), 'the app got it')
  const words = [
    'DaprToken',
    'AppToken',
    'WrongToken',
    'Garbage',
    'WrongNonce',
    'Metadata',
    'Invoke',
    'GatewayKey',
    'UrlUser',
  ]
  const secrets: readonly (readonly [place: string, secret: string])[] = [
    ...sent.map(({ place, secret }) => [place, secret] as const),
    ...words.map((place) => [place, canary(place)] as const),
    ...nonces.flatMap((it) =>
      (['hex', 'base64', 'base64url'] as const).map((as) => ['Nonce', it.toString(as)] as const),
    ),
    ['GatewayKey', KEY],
    ['Jwk', JWK.d!],
  ]
  const leaks = Object.entries(told).flatMap(([where, text]) =>
    secrets.filter(([, secret]) => text.includes(secret)).map(([place]) => `${place} is in ${where}`),
  )
  assert.deepEqual(leaks, [])
})
