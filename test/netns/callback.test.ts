import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'tap'
import { openLab, type Running } from '../support/netns.ts'

/**
 * Apps that nobody can dial: in a network namespace whose iptables drop every SYN that comes in. They open callback
 * channels to a proxy in the other namespace, and are called over them. What goes wrong there is real: processes are
 * killed and stopped, packets lost, the link cut.
 */
const lab = await openLab()
const { pod, peer: apps } = lab
const API = `${pod.addresses[4]}:50001`
const TOKEN = 'a token of the test'
const PING_MS = 700
const BACK_MS = 10_000 // the requirement is one second, on a machine that does nothing else

writeFileSync(join(lab.directory, 'token'), TOKEN)
const POLICY = `
callback: { enable: true, address: "${API}", ping: ${PING_MS}ms, wait: 0ms, token: { file: ${join(lab.directory, 'token')} } }
listeners:
  outbound: { address: [] }
  inbound: { address: "127.0.0.1:8000", destination: "192.0.2.1:80" }
rules:
  - { name: tcp, when: { protocol: opaque }, then: { upstream: { channel: http } } }
${['http', 'http2', 'grpc', 'python'].map((app) => `  - { name: ${app}, when: { authority: ${app} }, then: { upstream: { channel: ${app} } } }`).join('\n')}
`
const ENV = { DAPR_API_TOKEN: TOKEN }
const startApp = (kind: string): Running =>
  apps.start([process.execPath, resolve('test/support/callbackApp.ts'), kind, API, kind], { env: ENV })
const isUp = (app: Running) => app.printed(/"is":"up"/)
const sh = async (where: typeof apps, ...command: string[]): Promise<string> => {
  const { code, out, err } = await where.run(command)
  if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}: ${err}`)
  return out
}

interface Answer {
  readonly status: number
  readonly body: string
  readonly ms: number
}

/** One call through the proxy; status 0 where there was no answer. Never longer than twenty seconds. */
const call = (app: string, path: string, bytes = 0): Promise<Answer> =>
  pod.evaluate(
    ({ http }, { app, path, bytes }) =>
      new Promise<Answer>((settle) => {
        const begun = performance.now()
        const done = (status: number, body: string) => settle({ status, body, ms: performance.now() - begun })
        const request = http.request(
          {
            port: 8000,
            path,
            agent: false,
            headers: { host: app },
            method: bytes > 0 ? 'POST' : 'GET',
            timeout: 20_000,
          },
          (response) => {
            let body = ''
            response.on('data', (chunk) => {
              body += chunk
            })
            response.on('error', () => done(0, body))
            response.on('end', () => done(response.statusCode!, body))
          },
        )
        request.on('timeout', () => request.destroy(new Error('it hangs')))
        request.on('error', (error) => done(0, error.message))
        request.end(Buffer.alloc(bytes))
      }),
    { app, path, bytes },
  )

/** Calls until it is answered with 200; how long that took. */
const back = async (app: string): Promise<number> => {
  const begun = performance.now()
  for (;;) {
    const { status } = await call(app, '/')
    const ms = performance.now() - begun
    if (status === 200) return ms
    if (ms > 2 * BACK_MS) throw new Error(`${app} is not back after ${ms} ms: ${status}`)
  }
}

await sh(apps, 'iptables', '-A', 'INPUT', '-p', 'tcp', '--syn', '!', '-i', 'lo', '-j', 'DROP')
let proxy = await lab.serve(POLICY)
const python = apps.start(['python3', '-u', '-m', 'http.server', '3000', '--bind', '127.0.0.1'])
const sidecar = apps.start(
  [resolve('bin/sluice'), 'callback', '--proxy', API, '--app-id', 'python', '--app-port', '3000', '--json'],
  { env: ENV },
)
const running: Record<string, Running> = {
  http: startApp('http'),
  http2: startApp('http2'),
  grpc: startApp('grpc'),
  python: sidecar,
}
await Promise.all([...Object.values(running).map(isUp), python.printed(/Serving HTTP/)])

/** A unary gRPC call by HTTP/2 with prior knowledge; its grpc-status and how many bytes of message came back. */
const grpcCall = (bytes: number): Promise<readonly [string, number]> =>
  pod.evaluate(
    ({ http2 }, bytes) =>
      new Promise<readonly [string, number]>((settle, reject) => {
        const session = http2.connect('http://127.0.0.1:8000')
        session.on('error', reject)
        const stream = session.request({
          ':authority': 'grpc',
          ':path': '/test.Echo/Unary',
          ':method': 'POST',
          'content-type': 'application/grpc',
          te: 'trailers',
        })
        let received = 0
        let status = ''
        stream.on('response', (headers) => {
          status = `${headers['grpc-status'] ?? ''}`
        })
        stream.on('trailers', (trailers) => {
          status = `${trailers['grpc-status']}`
        })
        stream.on('data', (chunk: Buffer) => {
          received += chunk.length
        })
        stream.on('error', reject)
        stream.on('close', () => {
          session.close()
          settle([status, received - 5])
        })
        const prefix = Buffer.alloc(5)
        prefix.writeUInt32BE(bytes, 1)
        stream.end(Buffer.concat([prefix, Buffer.alloc(bytes)]))
      }),
    bytes,
  )

test('apps of four kinds are called, though no SYN gets in and the apps listen nowhere', async (t) => {
  t.match(await call('http', '/a'), { status: 200, body: 'http GET /a 0' })
  t.match(await call('http', '/a', 100_000), { status: 200, body: 'http POST /a 100000' })
  t.match(await call('http2', '/b', 10), { status: 200, body: 'http2 POST /b 10' })
  t.match(await call('python', '/'), { status: 200, body: /Directory listing/ })
  t.same(await grpcCall(10 * 2 ** 20), ['0', 10 * 2 ** 20], '10 MiB there and back')
  t.same(await grpcCall(0), ['0', 0])

  const said = await pod.evaluate(
    ({ net }) =>
      new Promise<string>((settle, reject) => {
        let text = ''
        const socket = net.connect({ port: 8000, allowHalfOpen: true }, () => socket.end('\u0000no HTTP, nor TLS'))
        socket.on('data', (chunk: Buffer) => {
          text += chunk
        })
        socket.on('error', reject)
        socket.on('end', () => settle(text))
      }),
    null,
  )
  t.equal(
    said,
    'for 192.0.2.1:80: \u0000no HTTP, nor TLS',
    'opaque TCP, as CONNECT; its half-close goes there and back',
  )

  const listening = (await sh(apps, 'ss', '-ltnH')).trim().split('\n')
  t.equal(listening.length, 1)
  t.match(listening[0], /127\.0\.0\.1:3000/, 'the Python server on its loopback, and nothing else')
  const dropped = await sh(apps, 'iptables', '-nvxL', 'INPUT')
  t.match(dropped, /\n +0 +0 DROP/, 'nobody even tried to dial in')
})

test('kill -9 of an app: its call fails at once, and a new one is called as soon as it is there', async (t) => {
  const slow = call('http', '/slow', 1)
  await call('http', '/') // the slow one is on its way before
  running.http!.child.kill('SIGKILL')
  t.match(await slow, { status: 502 }, 'it was no safe one, and is not tried again')
  t.match(await call('http', '/'), { status: 503 }, 'nobody is there')
  running.http = startApp('http')
  await isUp(running.http)
  t.match(await call('http', '/'), { status: 200 })
})

test('kill -9 of the proxy: every app is back after it', async (t) => {
  proxy.running.child.kill('SIGKILL')
  await proxy.running.finished
  proxy = await lab.serve(POLICY)
  const took = await Promise.all(['http', 'http2', 'python'].map(back))
  t.ok(Math.max(...took) < BACK_MS)
  t.comment(`back after ${took.map(Math.round)} ms`)
  await running.grpc!.printed(/"up"[\s\S]*"up"/)
  t.same(await grpcCall(1), ['0', 1])
})

test('packet loss: calls take longer, and none fails', async (t) => {
  const lose = ['-i', 'eth0', '-m', 'statistic', '--mode', 'random', '--probability', '0.05', '-j', 'DROP']
  await Promise.all([sh(apps, 'iptables', '-I', 'INPUT', ...lose), sh(pod, 'iptables', '-I', 'INPUT', ...lose)])
  const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => call('http', `/${i}`, 5_000)))
  t.same(
    answers.filter(({ status }) => status !== 200),
    [],
  )
  await Promise.all([sh(apps, 'iptables', '-D', 'INPUT', ...lose), sh(pod, 'iptables', '-D', 'INPUT', ...lose)])
})

test('SIGSTOP of an app, and at the same time a cut link: no call hangs, and all are back when it ends', async (t) => {
  await Promise.all(['http', 'http2', 'python'].map(back))
  running.http2!.child.kill('SIGSTOP')
  const stopped = call('http2', '/', 1)
  t.match(await stopped, { status: 502 }, 'the frozen app is given up')
  t.ok((await stopped).ms < BACK_MS)
  const cut = ['INPUT', '-i', 'eth0', '-j', 'DROP']
  await sh(apps, 'iptables', '-I', ...cut)
  t.match(await call('http', '/', 1), { status: 502 }, 'the app behind the cut link is given up')
  await running.http!.printed(/"is":"lost"/)
  await sh(apps, 'iptables', '-D', ...cut)
  running.http2!.child.kill('SIGCONT')
  const took = await Promise.all(['http', 'http2', 'python'].map(back))
  t.ok(Math.max(...took) < BACK_MS)
  t.comment(`back after ${took.map(Math.round)} ms`)
})

test('a rolling restart of two replicas under load fails no safe request', async (t) => {
  let replicas = [running.http!, startApp('http')]
  await isUp(replicas[1]!)
  await pod.evaluate(({ http, here }) => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 8 })
    here.load = { isOver: false, answered: 0, failed: [] }
    const one = () =>
      new Promise<void>((settle) => {
        const request = http.get({ port: 8000, path: '/load', agent, headers: { host: 'http' } }, (response) => {
          if (response.statusCode === 200) here.load.answered++
          else here.load.failed.push(response.statusCode)
          response.resume().on('close', settle)
        })
        request.on('error', (error) => {
          here.load.failed.push(error.message)
          settle()
        })
      })
    here.load.ended = Promise.all(
      Array.from({ length: 8 }, async () => {
        while (!here.load.isOver) await one()
      }),
    )
  }, null)
  for (const old of [...replicas]) {
    const next = startApp('http')
    await isUp(next)
    old.child.kill('SIGTERM')
    const { code } = await old.finished
    t.equal(code, null, 'drained, it ends by its signal')
    replicas = [...replicas.filter((each) => each !== old), next]
  }
  const { answered, failed } = await pod.evaluate(async ({ here }) => {
    here.load.isOver = true
    await here.load.ended
    return { answered: here.load.answered as number, failed: here.load.failed as unknown[] }
  }, null)
  t.same(failed, [])
  t.ok(answered > 100)
  t.comment(`${answered} answered`)
})

test('the proxy and the apps end in good order', async (t) => {
  running.python!.child.kill('SIGTERM')
  t.equal((await running.python!.finished).code, 0)
  t.equal((await proxy.stop()).code, 0)
})

test('docs/apps-behind-a-firewall.md: the walk-through does what the page says', async (t) => {
  execFileSync('env', ['-u', 'NODE_OPTIONS', 'bash', 'scripts/build-sdk.sh'])
  const page = readFileSync('docs/apps-behind-a-firewall.md', 'utf8')
  const walk = page.slice(page.indexOf('## In two terminals'), page.indexOf('## In your app'))
  const terminals = (number: number) =>
    [...walk.matchAll(new RegExp(`\\n\`\`\`sh terminal ${number}\\n([\\s\\S]*?)\`\`\``, 'g'))].map(([, text]) => text!)
  const [proxyCommand] = terminals(1)
  const [appCommand, pythonCommand] = terminals(2)
  const start = (command: string | undefined) => pod.start(['bash', '-c', command!])
  const stop = async (program: Running) => {
    program.child.kill('SIGINT') // Ctrl-C
    await program.finished
  }
  const asked = [...walk.matchAll(/```sh\n(curl [^\n]*)\n```\s+```text\n([\s\S]*?)```/g)]
  t.equal(asked.length, 2)
  const answers = async ([, command, said]: RegExpExecArray | RegExpMatchArray) => {
    const retry = '--retry 20 --retry-delay 0 --retry-max-time 30 --retry-all-errors --fail'
    const { out } = await pod.run(['bash', '-c', command!.replace('curl', `curl ${retry}`)])
    t.equal(out, said)
  }

  let terminal1 = start(proxyCommand)
  let terminal2 = start(appCommand)
  await isUp(terminal2)
  await answers(asked[0]!)
  await stop(terminal2)
  terminal2 = start(appCommand)
  await isUp(terminal2)
  await answers(asked[0]!)
  await stop(terminal1)
  terminal1 = start(proxyCommand)
  await answers(asked[0]!)
  await stop(terminal2)
  terminal2 = start(pythonCommand)
  await terminal2.printed(/is up/)
  await answers(asked[1]!)
})

test('the lab is closed', () => lab.close())
