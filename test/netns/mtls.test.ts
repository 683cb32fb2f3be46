import { chmodSync, copyFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { type Made, openWorkshop } from '../support/certificates.ts'
import { openLab, type RunningProxy, type Space } from '../support/netns.ts'

/** Two Sluices in two namespaces: the applications speak in the clear, the wire between them carries nothing that is. */
const lab = await openLab()
const { pod, peer, directory } = lab
const workshop = openWorkshop()
const root = workshop.make('root', { ca: true, names: [] })
const stranger = workshop.make('stranger', { ca: true, names: [] })

/** Where the proxy, which is another user, can read it. */
const place = ({ certPath, keyPath }: Made, name: string): void => {
  for (const [from, to] of [
    [certPath, `${name}.pem`],
    [keyPath, `${name}.key`],
  ] as const) {
    copyFileSync(from, join(directory, to))
    chmodSync(join(directory, to), 0o644)
  }
}
place(root, 'root')
place(workshop.make('cow', { issuer: root, names: ['URI:spiffe://farm/ns/a/sa/cow'] }), 'cow')
place(workshop.make('pig', { issuer: root, names: ['URI:spiffe://farm/ns/b/sa/pig'] }), 'pig')
place(workshop.make('wolf', { issuer: stranger, names: ['URI:spiffe://farm/ns/a/sa/cow'] }), 'wolf')
workshop.close()

const HTTP = 8080
const ECHO = 7001
const GREETS = 7025
const SECRET = 'a-secret-that-must-not-cross-the-wire'

const identity = (name: string) => `
certificates: { self: { cert: ${directory}/${name}.pem, key: ${directory}/${name}.key } }
trust: { farm: { ca: ${directory}/root.pem } }
mesh: { certificate: self, trust: farm }
`
const calling = (how: string) =>
  `  - { name: to the mesh, when: { direction: outbound }, then: { upstream: { mesh: ${how} } } }\n`
const KNOWN_ONLY = '  - { name: strangers, when: { direction: inbound, identity: none }, then: { deny: true } }\n'

await peer.evaluate(
  async ({ net }, { HTTP, ECHO, GREETS, SECRET }) => {
    const serve = (port: number, talk: (socket: import('node:net').Socket) => void) =>
      new Promise<void>((done) =>
        net.createServer((socket) => talk(socket.on('error', () => {}))).listen({ port, host: '::' }, done),
      )
    await serve(HTTP, (socket) => {
      let heard = ''
      socket.on('data', (bytes) => {
        heard += bytes
        if (!heard.includes('\r\n\r\n')) return
        const identity = /^sluice-identity: (.*)\r$/im.exec(heard)?.[1] ?? 'nobody'
        const body = `${SECRET} for ${identity}`
        heard = ''
        socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body}`)
      })
    })
    await serve(ECHO, (socket) => socket.pipe(socket))
    await serve(GREETS, (socket) => socket.end(`220 ${SECRET}\r\n`))
  },
  { HTTP, ECHO, GREETS, SECRET },
)
await lab.redirect('apply')
await lab.there.redirect('apply')

/** Everything that crossed the cable while `work` ran. */
const wire = async (name: string, work: () => Promise<void>): Promise<Buffer> => {
  const path = join(directory, `${name}.pcap`)
  const tcpdump = pod.start([
    'tcpdump',
    '-i',
    'eth0',
    '-U',
    '--immediate-mode',
    '-s',
    '0',
    '-Z',
    'root',
    '-w',
    path,
    'tcp',
  ])
  await tcpdump.printed(/listening on/)
  await work()
  tcpdump.child.kill('SIGINT')
  await tcpdump.finished
  return readFileSync(path)
}

const curl = async (from: Space, host: string): Promise<string> =>
  (
    await from.run([
      'curl',
      '-sS',
      '-m',
      '10',
      '--noproxy',
      '*',
      '-H',
      'sluice-identity: forged',
      `http://${host}:${HTTP}/${SECRET}`,
    ])
  ).out

/** What a client hears that says the secret, or nothing, and is done. */
const talk = (from: Space, host: string, port: number, say: string): Promise<string> =>
  from.evaluate(
    ({ net }, { host, port, say }) =>
      new Promise<string>((settle) => {
        let heard = ''
        const socket = net.connect({ host, port }, () => say && socket.write(say))
        socket.on('data', (bytes) => {
          heard += bytes
          if (say && heard.length >= say.length) socket.end()
        })
        socket.on('error', (error: NodeJS.ErrnoException) => settle(`${error.code}`))
        socket.on('close', () => settle(heard))
      }),
    { host, port, say },
  )

const restart = async (ours: string, theirs: string | undefined) => {
  await Promise.all(running.map((one) => one.stop()))
  running = [await lab.serve(ours), ...(theirs === undefined ? [] : [await lab.there.serve(theirs)])]
  return running
}
let running: RunningProxy[] = []

test('without a mesh the wire shows everything: the control for what follows', async (t) => {
  await restart('', '')
  const seen = await wire('plain', async () => {
    t.equal(await curl(pod, '10.99.0.1'), `${SECRET} for nobody`)
  })
  t.ok(seen.includes(SECRET))
})

test('two Sluices know each other, for HTTP, opaque TCP and a server that speaks first; the wire shows nothing', async (t) => {
  const [near, far] = await restart(
    `${identity('cow')}rules:\n${calling('require')}`,
    `${identity('pig')}rules:\n${KNOWN_ONLY}`,
  )
  const seen = await wire('mesh', async () => {
    for (const host of ['10.99.0.1', '[fd99::1]']) {
      t.equal(await curl(pod, host), `${SECRET} for spiffe://farm/ns/a/sa/cow`)
      const bare = host.replace(/[[\]]/g, '')
      t.equal(await talk(pod, bare, ECHO, `\x00${SECRET}`), `\x00${SECRET}`)
      const began = performance.now()
      t.equal(await talk(pod, bare, GREETS, ''), `220 ${SECRET}\r\n`)
      t.ok(performance.now() - began < 4_000, 'long before detection would give up')
    }
  })
  t.ok(seen.length > 3_000, `${seen.length} bytes were captured`)
  t.notOk(seen.includes(SECRET), 'not the secret')
  t.notOk(seen.includes('HTTP/1.1'), 'not a word of HTTP')
  t.notOk(seen.includes('spiffe://'), 'not even the names: the certificates are encrypted, too')
  t.match(await near!.outcome(({ destination }) => destination.port === ECHO), {
    upstreamTls: { version: 'TLSv1.3', alpn: 'sluice/1', identity: 'spiffe://farm/ns/b/sa/pig' },
  })
  t.match(await far!.outcome(({ destination }) => destination.port === ECHO), {
    identity: 'spiffe://farm/ns/a/sa/cow',
    reason: 'mesh',
    protocols: ['tls', 'opaque'],
  })
  t.match(await far!.outcome(({ destination }) => destination.port === HTTP), {
    identity: 'spiffe://farm/ns/a/sa/cow',
    protocols: ['tls', 'http1'],
  })
})

test('a Sluice with a certificate of strangers is refused, though it claims the same name', async (t) => {
  const [, far] = await restart(
    `${identity('wolf')}rules:\n${calling('require')}`,
    `${identity('pig')}rules:\n${KNOWN_ONLY}`,
  )
  t.notMatch(await curl(pod, '10.99.0.1'), SECRET)
  t.notMatch(await talk(pod, '10.99.0.1', ECHO, '\x00hello'), 'hello')
  t.match(await far!.outcome(({ ended }) => ended === 'tlsFailed'), { error: { message: /client/ } })
})

test('a peer without a Sluice works where policy prefers the mesh, fails where it requires it, and is refused where a name is demanded', async (t) => {
  await lab.there.redirect('remove')
  await restart(`${identity('cow')}rules:\n${calling('prefer')}${KNOWN_ONLY}`, undefined)
  t.equal(await curl(pod, '10.99.0.1'), `${SECRET} for nobody`)
  t.equal(await talk(pod, '10.99.0.1', ECHO, '\x00hello'), '\x00hello')
  t.equal(await talk(peer, '10.99.0.2', ECHO, '\x00hello'), 'ECONNRESET', 'inbound, nobody is known')

  await restart(`${identity('cow')}rules:\n${calling('require')}`, undefined)
  t.notMatch(await curl(pod, '10.99.0.1'), SECRET)
  t.equal(await talk(pod, '10.99.0.1', ECHO, '\x00hello'), 'ECONNRESET')
})

test('the lab is closed', () => lab.close())
