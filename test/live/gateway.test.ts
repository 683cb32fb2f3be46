import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { createServer as createTcp, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { Client, credentials, Server as GrpcServer, Metadata, ServerCredentials } from '@grpc/grpc-js'
import { chromium } from 'playwright-core'
import { test } from 'tap'
import { mint, readTokenKeys } from '../../src/gateway/token.ts'
import { gateway, nameOf, root } from '../support/exposed.ts'
import { up } from '../support/listening.ts'
import { KEYS_TEXT } from '../support/tokenCases.ts'

/** Exposed ports with clients and servers that other people wrote. */
const run = promisify(execFile)
const SECRET = Buffer.from('never told')

const output = async (program: string, args: readonly string[]): Promise<string> => {
  try {
    const { stdout, stderr } = await run(program, args, { timeout: 60_000 })
    return stdout + stderr
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    return stdout + stderr
  }
}

const listening = async <S extends Server>(server: S): Promise<number> => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as { port: number }).port
}

const token = () => mint(readTokenKeys(KEYS_TEXT)[0]!, { task: 'acmeCo/in', ttlMs: 600_000, now: Date.now() })

/** curl to a port of the task; the last line is the version and the status. */
const curl = (to: number, port: number, args: readonly string[]) => {
  const host = `${nameOf(port)}:${to}`
  const known = ['--cacert', root.certPath, '--resolve', `${host}:127.0.0.1`, '-w', '\n%{http_version} %{http_code}']
  return output('curl', ['-sS', ...known, ...args, `https://${host}/`])
}

test('curl and nghttp on a private port, with and without ALPN and token', async () => {
  let heard = 0
  const connector = createHttp((request, response) => {
    heard++
    response.end(`${request.httpVersion} ${request.headers.authorization ?? 'no token'}`)
  })
  const port = await listening(connector)
  const gate = await gateway(`{ acmeCo/in: { ports: { ${port}: {} } } }`, { keys: KEYS_TEXT })
  const to = gate.address.port
  const header = ['-H', `Authorization: Bearer ${await token()}`]
  const bad = await mint(SECRET, { task: 'acmeCo/in', ttlMs: 600_000, now: Date.now() })
  for (const args of [
    [],
    ['--http1.1'],
    ['--no-alpn'],
    ['-X', 'POST', '-d', 'x'],
    ['-H', `Authorization: Bearer ${bad}`],
  ])
    assert.match(await curl(to, port, args), / 401$/)
  const nghttp = (name: string, ...args: string[]) =>
    output('nghttp', ['-v', '--no-verify-peer', '-H', `:authority: ${name}`, ...args, `https://127.0.0.1:${to}/`])
  assert.equal(heard, 0, 'a denied request never reaches the connector')
  assert.equal(await curl(to, port, header), '1.1 no token\n2 200')
  assert.equal(await curl(to, port, [...header, '--http1.1']), '1.1 no token\n1.1 200')
  assert.equal(await curl(to, port, [...header, '--no-alpn']), '1.1 no token\n1.1 200')
  assert.equal(heard, 3)
  assert.match(await nghttp(nameOf(port)), /:status: 401/)
  assert.match(await nghttp(nameOf(1)), /:status: 404/)
  assert.equal(heard, 3)
  assert.match(
    await nghttp(nameOf(port), '-H', `authorization: Bearer ${await token()}`),
    /:status: 200[\s\S]*1\.1 no token/,
  )
  assert.match(await output('curl', ['-sS', '-i', `http://127.0.0.1:${to}/`]), /^HTTP\/1\.1 421 [\s\S]*using TLS/)
  gate.close()
  connector.close()
})

/** A server program on a port of its own, up and listening. */
const started = async (command: (port: number) => readonly [string, ...string[]]) => {
  const reserved = createTcp()
  const port = await listening(reserved)
  await new Promise((done) => reserved.close(done))
  const [program, ...args] = command(port)
  const child = spawn(program, args, { stdio: 'ignore' })
  await up(port)
  return { port, stop: () => child.kill() }
}

test('openssl s_client -alpn ftp: real FTP and SMTP servers behind public ports', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-ftp-'))
  mkdirSync(join(folder, 'empty'))
  chmodSync(folder, 0o755)
  const settings = (port: number) => ({
    listen: 'YES',
    background: 'NO',
    listen_address: '127.0.0.1',
    listen_port: port,
    anonymous_enable: 'YES',
    local_enable: 'NO',
    ftp_username: 'daemon', // one whose home exists
    anon_root: folder,
    secure_chroot_dir: join(folder, 'empty'),
    seccomp_sandbox: 'NO',
    xferlog_enable: 'NO',
    ftpd_banner: 'vsftpd of the connector',
  })
  const ftp = await started((port) => {
    const lines = Object.entries(settings(port)).map(([name, value]) => `${name}=${value}\n`)
    writeFileSync(join(folder, 'conf'), lines.join(''))
    return ['/usr/sbin/vsftpd', join(folder, 'conf')]
  })
  const smtp = await started((port) => ['smtp-sink', '-u', 'nobody', `127.0.0.1:${port}`, '10'])
  const ports = [ftp, smtp].map(({ port }) => `${port}: { public: true, protocol: ftp }`)
  const gate = await gateway(`{ acmeCo/in: { ports: { ${ports.join(', ')} } } }`)
  const sClient = (to: number, said: string, ...args: string[]) =>
    new Promise<string>((done) => {
      const all = ['s_client', '-connect', `127.0.0.1:${gate.address.port}`, '-servername', nameOf(to)]
      const child = spawn('openssl', [...all, '-CAfile', root.certPath, '-ign_eof', '-crlf', ...args])
      let text = ''
      const hear = (chunk: Buffer) => {
        text += chunk
        // The server speaks first, as SMTP and FTP servers do.
        if (/^220 /m.test(text)) child.stdin.end(said)
      }
      child.stdout.on('data', hear)
      child.stderr.on('data', hear)
      child.stdin.on('error', () => {})
      child.on('close', () => done(text))
    })
  const byFtp = await sClient(ftp.port, 'USER anonymous\nPASS me@example.test\nPWD\nQUIT\n', '-alpn', 'ftp')
  assert.match(byFtp, /ALPN protocol: ftp/)
  assert.match(byFtp, /^220 vsftpd of the connector[\s\S]*^331 [\s\S]*^230 [\s\S]*^257 "\/"[\s\S]*^221 /m)
  const bySmtp = await sClient(smtp.port, 'HELO me\nQUIT\n', '-alpn', 'ftp')
  assert.match(bySmtp, /^220 [\s\S]*^250 [\s\S]*^221 /m)
  assert.match(await sClient(smtp.port, 'QUIT\n'), /No ALPN negotiated[\s\S]*^221 /m)
  assert.match(await sClient(ftp.port, '', '-alpn', 'h2'), /no application protocol/)
  gate.close()
  ftp.stop()
  smtp.stop()
  rmSync(folder, { recursive: true, force: true })
})

test('grpc-js on a private port whose label says h2, to a gRPC server in the clear', async () => {
  let heard = 0
  const server = new GrpcServer()
  const same = (bytes: Buffer) => bytes
  const path = '/a.B/c'
  const definition = {
    path,
    requestStream: false,
    responseStream: false,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  }
  server.addService({ c: definition } as never, {
    c: (call: { request: Buffer }, done: (error: null, answer: Buffer) => void) => {
      heard++
      done(null, Buffer.from(`${call.request} too`))
    },
  })
  const port = await new Promise<number>((done, fail) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? fail(error) : done(bound),
    ),
  )
  const gate = await gateway(`{ acmeCo/in: { ports: { ${port}: { protocol: h2 } } } }`, { keys: KEYS_TEXT })
  const client = new Client(`127.0.0.1:${gate.address.port}`, credentials.createSsl(Buffer.from(root.cert)), {
    'grpc.ssl_target_name_override': nameOf(port),
    'grpc.default_authority': nameOf(port),
  })
  const call = (metadata: Metadata) =>
    new Promise<string>((done) =>
      client.makeUnaryRequest(path, same, same, Buffer.from('me'), metadata, (error, answer) =>
        done(error ? `${error.code} ${error.details}` : String(answer)),
      ),
    )
  assert.equal(await call(new Metadata()), '16 missing authorization')
  assert.equal(heard, 0)
  const metadata = new Metadata()
  metadata.set('authorization', `Bearer ${await token()}`)
  assert.equal(await call(metadata), 'me too')
  client.close()
  server.forceShutdown()
  gate.close()
})

test('a browser signs in, and comes back to the page it wanted', async () => {
  let heard = 0
  const connector = createHttp((request, response) => {
    if (request.url?.startsWith('/page')) heard++
    response
      .setHeader('content-type', 'text/html')
      .end(`<h1>${request.url} ${request.headers.cookie ?? 'no cookie'}</h1>`)
  })
  const port = await listening(connector)
  let asked = ''
  const dashboard = createHttp(async (request, response) => {
    asked = request.url ?? ''
    const to = new URL(asked, 'http://x').searchParams.get('orig_url')!
    const back = new URL('/auth-redirect', to)
    back.search = `${new URLSearchParams({ token: await token(), orig_url: to })}`
    response.writeHead(302, { location: back.href }).end()
  })
  const dashPort = await listening(dashboard)
  const gate = await gateway(`{ acmeCo/in: { ports: { ${port}: {} } } }`, {
    keys: KEYS_TEXT,
    settings: `signIn: http://127.0.0.1:${dashPort}/data-plane-auth-req`,
  })
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', `--host-resolver-rules=MAP ${nameOf(port)} 127.0.0.1`],
  })
  const context = await browser.newContext({ ignoreHTTPSErrors: true })
  const page = await context.newPage()
  const wanted = `https://${nameOf(port)}:${gate.address.port}/page?a=b`
  await page.goto(wanted)
  assert.equal(page.url(), wanted)
  assert.equal(await page.textContent('h1'), '/page?a=b no cookie')
  assert.match(asked, /^\/data-plane-auth-req\?orig_url=/)
  assert.equal(heard, 1)
  const [cookie] = await context.cookies()
  assert.deepEqual(
    [cookie?.name, cookie?.httpOnly, cookie?.secure, cookie?.sameSite],
    ['__Host-flow_auth', true, true, 'Lax'],
  )
  asked = ''
  await page.reload()
  assert.equal(await page.textContent('h1'), '/page?a=b no cookie')
  assert.equal(asked, '', 'the cookie was enough')
  await browser.close()
  gate.close()
  connector.close()
  dashboard.close()
})

test('docs/exposed-ports.md: every command does what the page says', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-docs-'))
  const [one, two] = [createTcp(), createTcp()]
  const [connector, gate] = [await listening(one), await listening(two)]
  await Promise.all([one, two].map((server) => new Promise((done) => server.close(done))))
  const page = readFileSync('docs/exposed-ports.md', 'utf8')
    .replaceAll('8080', `${connector}`)
    .replaceAll('8443', `${gate}`)
  const blocks = [...page.matchAll(/```(\w+)\n([\s\S]*?)```/g)].map(([, kind, text]) => ({ kind, text: text! }))
  // By PATH, not as a function of the shell: a job of it would be the shell's child, and the proxy itself not be killed.
  let script = `set -e\nPATH=${resolve('bin')}:$PATH\ntrap 'kill $(jobs -p)' EXIT\n`
  const said: string[] = []
  for (const { kind, text } of blocks) {
    if (kind === 'dockerfile') writeFileSync(join(directory, 'Dockerfile'), text)
    if (kind === 'yaml' && text.startsWith('apiVersion')) writeFileSync(join(directory, 'gateway.yaml'), text)
    if (kind === 'sh') script += text
    if (kind === 'text') said.push(text)
  }
  const { stdout } = await run('bash', ['-c', script], { cwd: directory, timeout: 60_000 })
  assert.equal(stdout, said.join(''))
  rmSync(directory, { recursive: true, force: true })
})
