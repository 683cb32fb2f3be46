/**
 * Runs tap and ends with the line `N passed, N failed`, whatever happens. `--failed=NAME` counts a check that failed
 * before. A test that was skipped, or is a todo, is named; in CI it counts as failed.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const TAIL_BYTES = 4_096 // the closing line of tap is shorter than 100
const CLOSING = /# \{ total: \d+(?:, pass: (\d+))?(?:, fail: (\d+))?(?:, todo: (\d+))?(?:, skip: (\d+))? \}/

const root = fileURLToPath(new URL('..', import.meta.url))
const args = process.argv.slice(2)
const earlier = args.filter((each) => each.startsWith('--failed=')).map((each) => each.slice('--failed='.length))
const wanted = args.filter((each) => !each.startsWith('--failed=') && each !== '')
// The quick check shows what fails; the whole one, which takes minutes, each file as it ends.
const reporter = wanted.length > 0 ? 'terse' : 'base'

const tap = spawn(
  process.execPath,
  [`${root}/node_modules/tap/dist/esm/run.mjs`, `--reporter=${reporter}`, ...wanted],
  {
    cwd: root,
    env: { ...process.env, CI: process.env.CI || 'no terminal' }, // or the reporter redraws its lines
    stdio: ['ignore', 'pipe', 'inherit'],
  },
)
let tail = ''
tap.stdout.on('data', (bytes: Buffer) => {
  process.stdout.write(bytes)
  tail = (tail + bytes.toString('latin1')).slice(-TAIL_BYTES)
})
tap.on('close', (code) => {
  const found = CLOSING.exec(tail)
  const count = (group: number) => Number(found?.[group] ?? 0)
  const skipped = count(3) + count(4)
  const inCi = (process.env.CI ?? '') !== ''
  const broken = found === null || (code !== 0 && count(2) === 0) ? 1 : 0
  const failed = count(2) + earlier.length + broken + (inCi ? skipped : 0)
  for (const check of earlier) console.log(`failed before the tests: ${check}`)
  if (broken > 0) {
    console.log(
      `tap itself failed with exit code ${code}${found ? '' : ' and gave no count: did a process never end?'}`,
    )
  }
  if (skipped > 0) console.log(`${skipped} skipped${inCi ? ', counted as failed: nothing may be skipped in CI' : ''}`)
  console.log(`${count(1)} passed, ${failed} failed`)
  process.exitCode = failed > 0 ? 1 : 0
})
