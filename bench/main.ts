import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { balance } from './balance.ts'
import { callback } from './callback.ts'
import { http1, http1Memory, http1Rules } from './http1.ts'
import { http2, http2Memory, http2ToHttp1 } from './http2.ts'
import { markdown, thisMachine } from './report.ts'
import { type Effort, type Result, runSuite, type Suite } from './rounds.ts'
import { atRest, tcp, tcpPipes } from './tcp.ts'
import { telemetry } from './telemetry.ts'
import { tls } from './tls.ts'

// A suite a line: each brings its contenders, in the same configuration, and its measurements.
const SUITES: readonly Suite[] = [
  tcp,
  tcpPipes,
  atRest,
  http1Memory,
  http2Memory,
  http1,
  http1Rules,
  http2,
  http2ToHttp1,
  tls,
  balance,
  ...callback,
  telemetry,
]

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] },
    rounds: { type: 'string' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})

const HELP = `npm run bench -- [--quick] [--only TEXT]... [--rounds N]

Measures Sluice, haproxy, nginx and nghttpx in turn on this machine, and writes bench/results/latest.json and latest.md.
  --quick      short runs, three rounds: minutes; its numbers are rough
  --only TEXT  only measurements whose 'suite: name' contains TEXT
  --rounds N   how often each is measured (default 7, or 3 with --quick)
`

const main = async (): Promise<void> => {
  const effort: Effort = {
    rounds: Number(values.rounds ?? (values.quick ? 3 : 7)),
    scale: values.quick ? 0.25 : 1,
    only: (name) => values.only.length === 0 || values.only.some((text) => name.includes(text)),
    say: (text) => process.stdout.write(text),
  }
  const machine = thisMachine()
  const asked = process.argv.slice(2).map((arg) => (arg.includes(' ') ? `'${arg}'` : arg))
  const command = ['npm run bench', ...(asked.length > 0 ? ['--', ...asked] : [])].join(' ')
  const results: Result[] = []
  const folder = join(import.meta.dirname, 'results')
  mkdirSync(folder, { recursive: true })
  for (const suite of SUITES) {
    try {
      results.push(...(await runSuite(suite, effort)))
    } catch (error) {
      // The others take half an hour and more: they are not lost for it.
      process.exitCode = 1
      process.stderr.write(`bench: ${suite.name}: ${(error as Error).message}\n`)
    }
    writeFileSync(
      join(folder, 'latest.json'),
      `${JSON.stringify({ machine, command, effort, results }, undefined, 1)}\n`,
    )
    writeFileSync(join(folder, 'latest.md'), markdown(results, machine, command))
  }
  process.stdout.write(`\n${markdown(results, machine, command)}`)
}

if (values.help) process.stdout.write(HELP)
else await main()
