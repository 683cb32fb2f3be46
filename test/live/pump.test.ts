import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { test } from 'tap'

const run = promisify(execFile)
const ROOT = join(import.meta.dirname, '../..')
const BUILD = join(ROOT, 'scripts/build-harness.sh')

/** The pump alone, with test/native/harness.c around it, in each of the ways it is tested. */
const built = (name: 'plain' | 'asan' | 'tsan' | 'faults'): Promise<string> =>
  run(BUILD, [name]).then(({ stdout }) => stdout.trim())
const plain = built('plain')
const address = built('asan')
const threads = built('tsan')
const faults = built('faults')

// All of it at once would only make each part late: the work is waiting, most of the time.
const ATONCE_MAX = 8
let free = ATONCE_MAX
const waiting: (() => void)[] = []
const inTurn = async <T>(work: () => Promise<T>): Promise<T> => {
  if (free > 0) free -= 1
  else await new Promise<void>((resolve) => waiting.push(resolve))
  try {
    return await work()
  } finally {
    const next = waiting.shift()
    if (next === undefined) free += 1
    else next()
  }
}

const seed = String(randomInt(1_000_000))
const stressed = Promise.all(
  [plain, address, threads].map((program) => inTurn(async () => run(await program, ['stress', '4', seed]))),
)
const cased = Promise.all([
  inTurn(async () => run(await address, ['cases'])),
  inTurn(async () => run(await threads, ['cases'])),
  inTurn(async () => run('valgrind', ['-q', '--error-exitcode=9', '--leak-check=full', await plain, 'cases'])),
])

/**
 * What each call of the pump's thread can answer, and every how many calls it does. EAGAIN is left out of recv, send
 * and splice: a false one, after which no event comes, is nothing a kernel does.
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
  'accept4:EMFILE:3',
  'accept4:ECONNABORTED:3',
  'accept4:EINTR:2',
  'socket:EMFILE:3',
  'connect:ECONNREFUSED:3',
  'connect:EADDRNOTAVAIL:3',
  'malloc:ENOMEM:1',
]

/** What starting a pump can fail of. */
const START_FAULTS = [
  'epoll_create1:EMFILE:2',
  'eventfd:EMFILE:2',
  'pthread_create:EAGAIN:2',
  'first epoll_ctl:ENOSPC:2',
]

const faulty = async (fault: string, args: readonly string[]): Promise<{ stdout: string; stderr: string }> => {
  const program = await plain
  const env = { ...process.env, FAULT: fault, LD_PRELOAD: await faults }
  return inTurn(() => run(program, args, { env, timeout: 120_000 }))
}
const failed = Promise.all(FAULTS.map((fault) => faulty(fault, ['faults', '0.3', '3'])))
const refused = Promise.all(START_FAULTS.map((fault) => faulty(fault, ['start'])))
const poor = faulty('calloc:ENOMEM:1', ['memory'])
const deaf = faulty('epoll_ctl:ENOSPC:5', ['deaf'])

for (const each of [stressed, cased, failed, refused, poor, deaf]) each.catch(() => {}) // each test says of its own

test('every edge case, clean under ASan with UBSan, under TSan, and under valgrind', { timeout: 180_000 }, async () => {
  await cased
})

test('checksummed traffic whose peers are killed at random loses nothing, in three builds', {
  timeout: 180_000,
}, async ({ comment }) => {
  comment(`seed ${seed}`)
  for (const { stdout } of await stressed) comment(stdout.trim())
})

test('whatever call fails, no byte is wrong and no descriptor is left', { timeout: 180_000 }, async () => {
  for (const [at, { stdout, stderr }] of (await failed).entries()) {
    assert.match(stdout, /^stress: [1-9]/, `${FAULTS[at]}`)
    assert.match(stderr, /failed \d+ times/, `${FAULTS[at]}`)
  }
})

test('a pump that cannot start says why and leaves nothing behind', { timeout: 180_000 }, async () => {
  for (const { stdout } of await refused) assert.equal(stdout, 'start: 3 refused\n')
})

test('who calls while there is no memory is turned away', { timeout: 180_000 }, async () => {
  const { stdout, stderr } = await poor
  assert.equal(stdout, 'no memory: 3 turned away\n')
  assert.match(stderr, /calloc failed 3 times/)
})

test('a listener that could not be watched at once is heard a moment later', { timeout: 180_000 }, async () => {
  const { stdout, stderr } = await deaf
  assert.equal(stdout, 'deaf: heard all the same\n')
  assert.match(stderr, /epoll_ctl failed [1-9]/)
})
