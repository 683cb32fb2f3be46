import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'tap'
import { fdOf, loadShim } from '../../src/native/shim.ts'

const ROOT = join(import.meta.dirname, '../..')
// The last test runs this file again with the shim built for the sanitizers.
const SANITIZED = process.env.SLUICE_SANITIZED_SHIM
const build = (...args: string[]): void => void execFileSync(join(ROOT, 'scripts/build-native.sh'), args)
if (SANITIZED === undefined) build(join(ROOT, 'build/test-shim.node'))

const loaded = loadShim(SANITIZED ?? join(ROOT, 'build/test-shim.node'))
if (loaded.is === 'missing') throw new Error(loaded.reason)
const shim = loaded.value

const pair = async (host: string): Promise<{ client: Socket; server: Socket; close: () => void }> => {
  const listener = createServer({ allowHalfOpen: true }).listen(0, host)
  await once(listener, 'listening')
  const address = listener.address() as { port: number }
  const client = connect(address.port, host === '::' ? '127.0.0.1' : host)
  client.on('error', () => {})
  const [server] = (await once(listener, 'connection')) as [Socket]
  server.on('error', () => {})
  const close = (): void => {
    client.destroy()
    server.destroy()
    listener.close()
  }
  return { client, server, close }
}

test('socket options read back what was set', async ({ equal, same }) => {
  const { server, close } = await pair('127.0.0.1')
  const fd = fdOf(server)!

  equal(shim.userTimeout(fd), 0)
  shim.setUserTimeout(fd, 30_000)
  equal(shim.userTimeout(fd), 30_000)

  equal(shim.keepalive(fd), undefined)
  shim.setKeepalive(fd, { idle: 60, interval: 10, count: 3 })
  same(shim.keepalive(fd), { idle: 60, interval: 10, count: 3 })
  shim.setKeepalive(fd, undefined)
  equal(shim.keepalive(fd), undefined)
  close()
})

test('mark and transparent read back what was set, or say EPERM to those who may not', async ({ equal, throws }) => {
  for (const [host, family] of [
    ['127.0.0.1', 4],
    ['::1', 6],
  ] as const) {
    const { server, close } = await pair(host)
    const fd = fdOf(server)!
    equal(shim.mark(fd), 0)
    equal(shim.transparent(fd, family), false)
    if (process.getuid?.() === 0) {
      shim.setMark(fd, 0xffff_fffe)
      equal(shim.mark(fd), 0xffff_fffe)
      shim.setTransparent(fd, family, true)
      equal(shim.transparent(fd, family), true)
    } else {
      throws(() => shim.setMark(fd, 1), { code: 'EPERM' })
      throws(() => shim.setTransparent(fd, family, true), { code: 'EPERM' })
    }
    close()
  }
})

test('an abortive close reaches the peer as a reset', async ({ equal }) => {
  const { client, server, close } = await pair('127.0.0.1')
  shim.setAbortiveClose(fdOf(server)!, true)
  const failed = once(client, 'error')
  server.destroy()
  equal(((await failed)[0] as NodeJS.ErrnoException).code, 'ECONNRESET')
  close()
})

test('a connection nobody redirected has no original destination, or its own address', async ({ ok }) => {
  for (const [host, family] of [
    ['127.0.0.1', 4],
    ['::1', 6],
    ['::', 4],
  ] as const) {
    const { server, close } = await pair(host)
    // With conntrack watching the connection, the kernel answers with the address it was made to.
    const found = shim.originalDestination(fdOf(server)!, family)
    ok(found === undefined || found.port === server.localPort, JSON.stringify(found))
    close()
  }
})

test("errors carry errno's name", ({ throws, end }) => {
  throws(() => shim.mark(99_999), { code: 'EBADF', syscall: 'getsockopt' })
  throws(() => shim.setUserTimeout(99_999, 1), { code: 'EBADF', syscall: 'setsockopt' })
  throws(() => shim.originalDestination(99_999, 4), { code: 'EBADF' })
  throws(() => shim.setAbortiveClose(0x7fff_ffff, true), { code: 'EBADF' })
  throws(() => shim.setMark('x' as unknown as number, 1), TypeError)
  end()
})

test('a closed socket has no descriptor', async ({ equal }) => {
  const { server, close } = await pair('127.0.0.1')
  equal(typeof fdOf(server), 'number')
  close()
  await once(server, 'close')
  equal(fdOf(server), undefined)
  equal(fdOf({}), undefined)
})

test('where it cannot be loaded, the loader says what to run', ({ match, end }) => {
  match(loadShim(join(tmpdir(), 'no-such.node')), { is: 'missing', reason: /not built\. Run: npm run build:native$/ })
  match(loadShim(join(ROOT, 'package.json.node')), { is: 'missing', reason: /npm run build:native/ })
  match(loadShim(import.meta.filename.replace('.ts', '.c.node'), 'darwin'), { is: 'missing', reason: /Linux.*darwin/ })
  end()
})

test('every call is clean under AddressSanitizer and UBSan', { skip: SANITIZED !== undefined }, ({ equal, end }) => {
  const output = join(ROOT, 'build/test-shim-sanitized.node')
  build(output, '-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all')
  const libasan = execFileSync('cc', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim()
  const run = spawnSync(process.execPath, [import.meta.filename], {
    encoding: 'utf8',
    env: {
      ...process.env,
      SLUICE_SANITIZED_SHIM: output,
      LD_PRELOAD: libasan,
      ASAN_OPTIONS: 'detect_leaks=0', // Node itself leaves memory at exit.
    },
  })
  equal(run.status, 0, `${run.stdout}\n${run.stderr}`)
  end()
})
