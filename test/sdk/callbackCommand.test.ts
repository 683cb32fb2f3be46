import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test } from 'tap'
import { UsageError } from '../../src/net/commandLine.ts'
import { callbackCommand } from '../../src/sdk/callbackCommand.ts'
import { openCallbackPeer, replyOf } from '../support/callbackPeer.ts'
import { openWorkshop } from '../support/certificates.ts'
import { runCommand } from '../support/runCommand.ts'

test('a local app is called, its token comes from a file that may change, and SIGTERM ends it with 0', async (t) => {
  const app = createServer((request, response) => response.end(`called ${request.url}`))
  app.listen(0, '127.0.0.1')
  await once(app, 'listening')
  t.teardown(() => app.close())
  const { port } = app.address() as AddressInfo
  const peer = await openCallbackPeer()
  t.teardown(() => peer.close())
  const file = join(t.testdir(), 'token')
  writeFileSync(file, 'first\n')
  let stop = (_: string): void => {}
  let err = ''
  const argv = ['--proxy', peer.address, '--app-port', `${port}`, '--app-id', 'orders', '--token-file', file]
  const next = peer.next()
  const running = runCommand(callbackCommand, argv, {
    env: { DAPR_API_TOKEN: 'not this one' },
    err: (text) => {
      err += text
      if (text.startsWith('channel 2 is up')) stop('SIGTERM')
    },
    stopped: new Promise((resolve) => {
      stop = resolve
    }),
  })
  const channel = await next
  const reply = await channel.call({ ':path': '/x' })
  t.equal(reply.body.toString(), 'called /x')
  const tunnel = channel.session.request({ ':method': 'CONNECT', ':authority': 'orders' })
  tunnel.end('GET /raw HTTP/1.0\r\n\r\n')
  t.match((await replyOf(tunnel)).body.toString(), /called \/raw/, 'opaque TCP goes to the same port')

  writeFileSync(file, 'second')
  const again = peer.next()
  channel.session.destroy()
  await again
  const { code, out } = await running
  t.same(
    peer.asked.map(({ headers }) => [headers['dapr-api-token'], headers['sluice-app-id']]),
    [
      ['first', 'orders'],
      ['second', 'orders'],
    ],
  )
  t.same([code, out], [0, ''])
  t.match(
    err,
    new RegExp(`^reaching for the proxy at ${peer.address}\nchannel 1 is up: .* calls orders at 127.0.0.1:${port}\n`),
  )
  t.match(err, /channel 1 is lost: [\s\S]*channel 2 is up[\s\S]*draining: [^\n]*\nclosed\n$/)
})

test('what the proxy refuses is said, in words and as JSON', async (t) => {
  const peer = await openCallbackPeer({
    refuse: (stream) => {
      stream.respond({ ':status': 200, 'grpc-status': '16', 'grpc-message': 'wrong token' }, { endStream: true })
      return true
    },
  })
  t.teardown(() => peer.close())
  for (const [flags, expected] of [
    [[], /next try in \d\.\d s: the proxy refuses a channel: UNAUTHENTICATED: wrong token\n/],
    [['--json'], /{"is":"waiting","ms":\d+,"because":"the proxy refuses a channel: UNAUTHENTICATED: wrong token"}\n/],
  ] as const) {
    let err = ''
    await new Promise<void>((done) => {
      let stop = (_: string): void => {}
      const running = runCommand(callbackCommand, ['--proxy', peer.address, '--app-port', '1', ...flags], {
        stopped: new Promise((resolve) => {
          stop = resolve
        }),
        err: (text) => {
          err += text
          if (expected.test(err)) stop('SIGTERM')
        },
      })
      void running.then(() => done())
    })
    t.match(err, expected)
  }
})

test('a mistake names its flag: wrong usage is thrown, a file that cannot be read is exit code 1', async (t) => {
  const good = ['--proxy', '127.0.0.1:1', '--app-port', '3000']
  const wrong: readonly (readonly [argv: readonly string[], says: RegExp])[] = [
    [[], /--proxy is missing/],
    [['--proxy', 'localhost'], /--proxy localhost is not HOST:PORT/],
    [['--proxy', 'a:0', '--app-port', '1'], /--proxy a:0/],
    [['--proxy', 'a:1'], /--app-port is missing/],
    [['--proxy', 'a:1', '--app-port', '65536'], /--app-port 65536 is not a port/],
    [['--proxy', 'a:1', '--app-port', '0x50'], /--app-port 0x50 is not a port/],
    [[...good, '--tcp-port', 'ssh'], /--tcp-port ssh is not a port/],
    [[...good, '--app-protocol', 'https'], /--app-protocol https: expected http, h2c, grpc/],
    [[...good, '--app-id', ''], /--app-id is empty/],
    [[...good, '--ca', 'x'], /--ca says nothing without --tls/],
    [[...good, '--server-name', 'x'], /--server-name says nothing without --tls/],
    [[...good, '--tls', '--cert', 'x'], /--cert and --key belong together/],
    [[...good, 'more'], /'more' is one argument too many/],
    [[...good, '--token', 'x'], /Unknown option '--token'/],
  ]
  for (const [argv, says] of wrong)
    await t.rejects(
      async () => runCommand(callbackCommand, argv),
      { constructor: UsageError, message: says },
      argv.join(' '),
    )
  const unreadable = { code: 1, err: /^sluice callback: --(token-file|ca)[: ].*(ENOENT|empty)/ }
  t.match(await runCommand(callbackCommand, [...good, '--token-file', '/nonexistent']), unreadable)
  t.match(await runCommand(callbackCommand, [...good, '--tls', '--ca', '/nonexistent']), unreadable)
  const empty = join(t.testdir(), 'empty')
  writeFileSync(empty, '\n')
  t.match(await runCommand(callbackCommand, [...good, '--token-file', empty]), unreadable)
})

test('TLS flags become TLS', async (t) => {
  const workshop = openWorkshop()
  t.teardown(workshop.close)
  const { certPath, keyPath } = workshop.make('client')
  const peer = await openCallbackPeer()
  t.teardown(() => peer.close())
  let err = ''
  let stop = (_: string): void => {}
  const { code } = await runCommand(
    callbackCommand,
    [
      '--proxy',
      peer.address,
      '--app-port',
      '1',
      '--tls',
      '--cert',
      certPath,
      '--key',
      keyPath,
      '--server-name',
      'shop',
    ],
    {
      stopped: new Promise((resolve) => {
        stop = resolve
      }),
      err: (text) => {
        err += text
        if (err.includes('TLS to the proxy failed')) stop('SIGTERM')
      },
    },
  )
  t.equal(code, 0)
  t.equal(peer.asked.length, 0, 'nothing is asked in the clear')
})
