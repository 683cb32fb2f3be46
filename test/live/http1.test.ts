import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Test, test } from 'tap'
import { Agent, request as undiciRequest } from 'undici'
import { WebSocket, WebSocketServer } from 'ws'
import type { Address } from '../../src/net/address.ts'
import { type Front, front } from '../support/front.ts'
import { freePort, up } from '../support/listening.ts'

const run = promisify(execFile)

/** What a program prints, whatever its exit code. */
const output = async (program: string, ...args: string[]): Promise<string> => {
  const options = { timeout: 60_000, maxBuffer: 64 * 1024 * 1024 }
  try {
    const { stdout, stderr } = await run(program, args, options)
    return stdout + stderr
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    return stdout + stderr
  }
}

const before = async (t: Test, server: Address, policy = ''): Promise<Front & { readonly url: string }> => {
  const sluice = await front(server, policy)
  t.teardown(() => sluice.close())
  return { ...sluice, url: `http://${sluice.address.host}:${sluice.address.port}` }
}

/** node:http, which echoes bodies and says what it saw. */
const nodeServer = async (t: Test): Promise<Address> => {
  const server = createServer((req, res) => {
    res.setHeader('x-seen', `${req.method} ${req.url} ${req.httpVersion} ${req.headers['transfer-encoding'] ?? '-'}`)
    req.pipe(res)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => void server.close())
  return { host: '127.0.0.1', port: (server.address() as { port: number }).port }
}

const folderOf = async (t: Test): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return folder
}

const program = async (t: Test, port: number, name: string, ...args: string[]): Promise<Address> => {
  const child = spawn(name, args, { stdio: 'ignore' })
  t.teardown(() => void child.kill())
  await up(port)
  return { host: '127.0.0.1', port }
}

const nginx = async (t: Test): Promise<Address> => {
  const [folder, port] = [await folderOf(t), await freePort()]
  await mkdir(join(folder, 'root'))
  await writeFile(join(folder, 'root/big'), Buffer.alloc(5_000_000, 'abc'))
  const config = `daemon off; user root; pid ${folder}/pid; error_log ${folder}/log crit; events {} http { access_log off;
    client_body_temp_path ${folder}/body; server { listen 127.0.0.1:${port}; root ${folder}/root;
    location = /204 { return 204; } location = /moved { return 301 http://elsewhere.example/; } location = /text { return 200 "nginx\\n"; } } }`
  await writeFile(join(folder, 'conf'), config)
  return program(t, port, 'nginx', '-p', folder, '-c', join(folder, 'conf'))
}

const haproxy = async (t: Test, server: Address): Promise<Address> => {
  const [folder, port] = [await folderOf(t), await freePort()]
  const config = `defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 5s
listen l
  bind 127.0.0.1:${port}
  server s ${server.host}:${server.port}
`
  await writeFile(join(folder, 'conf'), config)
  return program(t, port, 'haproxy', '-f', join(folder, 'conf'))
}

test('curl: HTTP/1.1, HTTP/1.0, HEAD, several requests on one connection, an upload in chunks', async (t) => {
  const { url } = await before(t, await nodeServer(t))
  t.match(await output('curl', '-si', `${url}/a?b`), /^HTTP\/1.1 200 OK\r\n[\s\S]*x-seen: GET \/a\?b 1.1 -/)
  t.match(await output('curl', '-si0', `${url}/a`), /^HTTP\/1.0 200 OK\r\n[\s\S]*x-seen: GET \/a 1.0 -/)
  t.match(await output('curl', '-sI', `${url}/a`), /^HTTP\/1.1 200 OK\r\n[\s\S]*x-seen: HEAD/)
  const verbose = await output('curl', '-sv', `${url}/1`, `${url}/2`, '-d', 'hello')
  t.match(verbose, /Re-using existing connection/)
  t.match(verbose, /hellohello|hello[\s\S]*hello/)
  t.match(
    await output('curl', '-si', '-H', 'Transfer-Encoding: chunked', '-d', 'hello', `${url}/c`),
    /x-seen: POST \/c 1.1 chunked\r\n[\s\S]*\r\n\r\nhello$/,
  )
})

test('curl: a large upload with Expect comes back byte for byte', async (t) => {
  const { url } = await before(t, await nodeServer(t))
  const folder = await folderOf(t)
  await writeFile(join(folder, 'body'), Buffer.alloc(20_000_000, 'abcdefg'))
  const said = await output(
    'curl',
    '-sv',
    '-H',
    'Expect: 100-continue',
    '-T',
    `${folder}/body`,
    '-o',
    `${folder}/back`,
    `${url}/up`,
  )
  t.match(said, /HTTP\/1.1 100 Continue/)
  t.equal(await output('cmp', `${folder}/body`, `${folder}/back`), '')
})

test('curl: a forward proxy behind us keeps the absolute form, and CONNECT makes a tunnel through it', async (t) => {
  const origin = await nginx(t)
  const proxy = createServer((req, res) => {
    res.end(`asked for ${req.url}\n`)
  })
  proxy.on('connect', (req, socket) => {
    const [host, port] = (req.url ?? '').split(':')
    const upstream = connect(Number(port), host)
    upstream.once('connect', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      socket.pipe(upstream).pipe(socket)
    })
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  t.teardown(() => void proxy.close())
  const { url } = await before(t, { host: '127.0.0.1', port: (proxy.address() as { port: number }).port })
  t.equal(await output('curl', '-s', '-x', url, 'http://far.example/a'), 'asked for http://far.example/a\n')
  t.equal(await output('curl', '-s', '-p', '-x', url, `http://127.0.0.1:${origin.port}/text`), 'nginx\n')
})

test('nginx: files, 204, redirects, ranges, keep-alive', async (t) => {
  const { url } = await before(t, await nginx(t))
  const folder = await folderOf(t)
  t.equal(await output('curl', '-s', `${url}/text`), 'nginx\n')
  t.match(await output('curl', '-si', `${url}/204`), /^HTTP\/1.1 204 No Content\r\n/)
  t.match(
    await output('curl', '-si', `${url}/moved`),
    /^HTTP\/1.1 301 [\s\S]*Location: http:\/\/elsewhere.example\/\r\n/,
  )
  t.match(await output('curl', '-si', '-r', '0-2', `${url}/big`), /^HTTP\/1.1 206 [\s\S]*\r\n\r\nabc$/)
  await output('curl', '-s', '-o', `${folder}/got`, `${url}/big`)
  t.equal((await output('cksum', `${folder}/got`)).split(' ')[1], '5000000')
})

test('haproxy on either side', async (t) => {
  const behind = await before(t, await haproxy(t, await nginx(t)))
  t.equal(await output('curl', '-s', `${behind.url}/text`), 'nginx\n')
  const inFront = await haproxy(t, behind.address)
  t.equal(await output('curl', '-s', `http://127.0.0.1:${inFront.port}/text`), 'nginx\n')
  t.match(await output('curl', '-si', `http://127.0.0.1:${inFront.port}/204`), /^HTTP\/1.1 204 /)
})

test('ab speaks HTTP/1.0, with and without keep-alive, and not one request fails', async (t) => {
  const { url } = await before(t, await nginx(t))
  for (const more of [[], ['-k']]) {
    const said = await output('ab', '-q', '-n', '500', '-c', '20', ...more, `${url}/text`)
    t.match(said, /Complete requests: +500\n/)
    t.match(said, /Failed requests: +0\n/)
    t.notMatch(said, /Non-2xx/)
  }
})

test('wrk: a thousand requests and more, without a single error', async (t) => {
  const { url } = await before(t, await nginx(t))
  const said = await output('wrk', '-t1', '-c20', '-d1s', `${url}/text`)
  t.match(said, /requests in/)
  t.notMatch(said, /Socket errors|Non-2xx/)
})

test('curl --http2 and nghttp -u upgrade to HTTP/2; with a body the request goes on as HTTP/1.1', async (t) => {
  const { url, requests } = await before(t, await nodeServer(t))
  const said = await output('curl', '-sv', '--http2', `${url}/1`, `${url}/2`)
  t.match(said, /HTTP\/1.1 101 Switching Protocols[\s\S]*< HTTP\/2 200[\s\S]*x-seen: GET \/1 1.1 /)
  t.match(said, /Re-using existing connection[\s\S]*< HTTP\/2 200[\s\S]*x-seen: GET \/2 1.1 /)
  const posted = await output('curl', '-sv', '--http2', '-d', 'hello', `${url}/3`)
  t.match(posted, /^hello[\s\S]*< HTTP\/1.1 200 OK[\s\S]*x-seen: POST \/3 1.1 /)
  t.notMatch(posted, / 101 /)
  t.match(
    await output('nghttp', '-uv', `${url}/4`),
    /HTTP Upgrade success[\s\S]*:status: 200[\s\S]*x-seen: GET \/4 1.1 /,
  )
  t.match(
    requests.map(({ target, version, status }) => `${target} ${version} ${status}`),
    ['/1 1.1 200', '/2 2 200', '/3 1.1 200', '/4 1.1 200'],
  )
})

test('node:http and undici: agents, pipelining, abort', async (t) => {
  const { url, address } = await before(t, await nodeServer(t))
  const body = await new Promise<string>((resolve, reject) => {
    const asking = request({ ...address, method: 'POST', path: '/a' }, (res) => {
      let text = ''
      res.on('data', (chunk) => (text += chunk)).on('end', () => resolve(text))
    })
    asking.on('error', reject)
    asking.end('hello')
  })
  t.equal(body, 'hello')
  const dispatcher = new Agent({ pipelining: 10, connections: 1 })
  const texts = await Promise.all(
    Array.from({ length: 50 }, async (_, i) =>
      (await undiciRequest(`${url}/${i}`, { dispatcher, method: 'PUT', body: `n${i}` })).body.text(),
    ),
  )
  t.same(
    texts,
    Array.from({ length: 50 }, (_, i) => `n${i}`),
  )
  await dispatcher.close()
})

test('websockets, where the policy allows them, and 500 where not', async (t) => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  await once(server, 'listening')
  server.on('connection', (socket) => socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary })))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const policy =
    'rules: [{ name: prices, when: { path: /prices/** }, then: { http: { upgrade: { allow: [websocket] } } } }]'
  const { address, requests } = await before(t, { host: '127.0.0.1', port }, policy)
  const socket = new WebSocket(`ws://127.0.0.1:${address.port}/prices/live`)
  await once(socket, 'open')
  const big = Buffer.alloc(1_000_000, 'x')
  socket.send(big)
  const [echoed] = (await once(socket, 'message')) as [Buffer]
  t.ok(echoed.equals(big), 'a megabyte came back')
  socket.close(1000)
  const [code] = (await once(socket, 'close')) as [number]
  t.equal(code, 1000)
  const refused = new WebSocket(`ws://127.0.0.1:${address.port}/other`)
  const [error] = (await once(refused, 'error')) as [Error]
  t.match(error.message, /500/)
  assert.ok(requests.some(({ upgrade }) => upgrade === 'websocket'))
})
