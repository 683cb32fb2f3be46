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
