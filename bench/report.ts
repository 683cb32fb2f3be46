import { cpus, loadavg, release, totalmem } from 'node:os'
import { median, type Result, ratio, significant } from './rounds.ts'

/** What ran, where: a number without it means nothing. */
export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  readonly kernel: string
  readonly node: string
  readonly date: string
  /** Programs that wanted to run, over the minute before. */
  readonly load: number
}

/** This machine, now. */
export const thisMachine = (): Machine => ({
  cpu: cpus()[0]?.model ?? 'unknown',
  cores: cpus().length,
  memoryGiB: Math.round(totalmem() / 2 ** 30),
  kernel: release(),
  node: process.version,
  date: new Date().toISOString().slice(0, 10),
  load: loadavg()[0] ?? Number.NaN,
})

/** One Markdown table a suite: medians, and how Sluice compares with each of the others, round by round. */
export const markdown = (results: readonly Result[], machine: Machine, command: string): string => {
  const { cpu, cores, memoryGiB, kernel, node, date, load } = machine
  const where = `${cores} cores of ${cpu}, ${memoryGiB} GiB, Linux ${kernel}, Node ${node}, load ${load.toFixed(1)} before`
  const parts = [`Measured ${date} by \`${command}\`: ${where}.\n`]
  for (const suite of new Set(results.map((result) => result.suite))) {
    parts.push(`\n### ${suite}\n\n${table(results.filter((result) => result.suite === suite))}`)
  }
  return parts.join('')
}

const table = (results: readonly Result[]): string => {
  const names = [...new Set(results.flatMap(({ values }) => Object.keys(values)))]
  const others = names.filter((name) => !name.startsWith('sluice'))
  const head = ['measurement', 'unit', ...names, ...others.map((name) => `sluice : ${name}`)]
  const rows = results.map(({ measurement, metric, values }) => [
    measurement,
    `${metric.title} (${metric.better} is better)`,
    ...names.map((name) => significant(median(values[name] ?? []))),
    ...others.map((name) => compared(values.sluice ?? [], values[name] ?? [])),
  ])
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |\n`).join('')
}

const compared = (ours: readonly number[], theirs: readonly number[]): string => {
  if (ours.length === 0 || theirs.length === 0) return ''
  const { median: middle, min, max } = ratio(ours, theirs)
  return `**${middle.toFixed(2)}** (${min.toFixed(2)} to ${max.toFixed(2)})`
}
