import { execFile, execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { test } from 'tap'

const run = promisify(execFile)
const ROOT = join(import.meta.dirname, '../..')

/** Builds test/native/harness.c with the pump alone, in one of several ways. */
const harness = (name: string, ...flags: readonly string[]): string => {
  const output = join(ROOT, `build/harness-${name}`)
  const always = ['-std=gnu11', '-g', '-pthread', '-Wall', '-Wextra', '-Werror', '-fno-sanitize-recover=all']
  const sources = ['test/native/harness.c', 'src/native/pump.c'].map((file) => join(ROOT, file))
  execFileSync('cc', [...always, ...flags, '-o', output, ...sources])
  return output
}

const plain = harness('plain', '-O2')
const address = harness('asan', '-O1', '-fsanitize=address,undefined')
const threads = harness('tsan', '-O1', '-fsanitize=thread')

test('every edge case, clean under ASan with UBSan, under TSan, and under valgrind', { timeout: 120_000 }, async ({
  resolves,
}) => {
  await resolves(run(address, ['cases']))
  await resolves(run(threads, ['cases']))
  await resolves(run('valgrind', ['-q', '--error-exitcode=9', '--leak-check=full', plain, 'cases']))
})

test('a minute of checksummed traffic whose peers are killed at random loses nothing', { timeout: 180_000 }, async ({
  comment,
  end,
}) => {
  const seed = String(Date.now() % 1_000_000)
  comment(`seed ${seed}`)
  const runs = [plain, address, threads].map((program) => run(program, ['stress', '16', seed]))
  for (const { stdout } of await Promise.all(runs)) comment(stdout.trim())
  end()
})

/**
 * What each system call of the pump's thread can answer, and every how many calls it does. EAGAIN is left out of recv,
 * send and splice: a false one, after which no event comes, is nothing a kernel does.
 */
const FAULTS = [
  'recv:EINTR:3',
  'recv:ECONNRESET:200',
  'send:EINTR:3',
  'send:EPIPE:200',
  'send:ENOBUFS:200',
  'splice:EINVAL:3',
  'splice:EINTR:2',
  'pipe2:EMFILE:2',
  'fcntl:EPERM:1',
  'epoll_ctl:ENOSPC:20',
  'epoll_wait:EINTR:3',
  'shutdown:ENOTCONN:10',
  'setsockopt:ENOMEM:2',
  'getsockopt:EINVAL:1',
  'ioctl:EINVAL:1',
  'read:EAGAIN:2',
]

test('whatever system call fails, no byte is wrong and no descriptor is left', { timeout: 180_000 }, async ({
  match,
}) => {
  const library = join(ROOT, 'build/faults.so')
  const source = join(ROOT, 'test/native/faults.c')
  execFileSync('cc', ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-Werror', '-o', library, source])
  for (const fault of FAULTS) {
    const env = { ...process.env, FAULT: fault, LD_PRELOAD: library }
    const { stdout } = await run(plain, ['faults', '1', '3'], { env, timeout: 60_000 })
    match(stdout, /^stress: [1-9]/, fault)
  }
})
