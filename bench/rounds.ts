import type { Contender, Start } from './contender.ts'

/** One question put to every contender of a suite. */
export interface Measurement {
  readonly name: string
  /** Which number of the answer counts, what it is, and which way is better. */
  readonly metrics: readonly Metric[]
  /** Runs once against one contender. */
  readonly run: (contender: Contender, scale: number) => Promise<Readonly<Record<string, number>>>
}

/** One number of a measurement. */
export interface Metric {
  readonly key: string
  readonly title: string
  readonly better: 'higher' | 'lower'
}

/** Contenders in the same configuration, and what is asked of each. `prepare` starts what they all share. */
export interface Suite {
  readonly name: string
  readonly contenders: readonly Start[]
  readonly measurements: readonly Measurement[]
  /** Each run is put to a contender that was started for it. */
  readonly fresh?: boolean
  readonly prepare?: () => Promise<() => Promise<void>>
}

/** What one metric came to: one value a round for each contender. */
export interface Result {
  readonly suite: string
  readonly measurement: string
  readonly metric: Metric
  readonly values: Readonly<Record<string, readonly number[]>>
}

/** How long: `scale` 1 is the full length of each run. */
export interface Effort {
  readonly rounds: number
  readonly scale: number
  readonly only: (name: string) => boolean
  readonly say: (text: string) => void
}

/**
 * Starts all contenders, then goes round: each measurement once against each contender, in an order that turns with
 * the round, so that a slow minute of the machine is shared by all. The first round warms up and is not counted, unless contenders are
 * started for each run: then a start is the warming up.
 */
export const runSuite = async (suite: Suite, { rounds, scale, only, say }: Effort): Promise<readonly Result[]> => {
  const measurements = suite.measurements.filter(({ name }) => only(`${suite.name}: ${name}`))
  if (measurements.length === 0) return []
  const release = (await suite.prepare?.()) ?? (async () => {})
  const crew = suite.fresh ? freshCrew(suite.contenders) : await lastingCrew(suite.contenders)
  try {
    const results: Result[] = []
    for (const measurement of measurements) {
      const values: Record<string, Record<string, number[]>> = {}
      // One that is started for each run has nothing to warm up but what starting reads from files.
      if (suite.fresh) for (let one = 0; one < suite.contenders.length; one += 1) await crew.ask(one, async () => ({}))
      for (let round = suite.fresh ? 1 : 0; round <= rounds; round += 1) {
        for (let turn = 0; turn < suite.contenders.length; turn += 1) {
          const one = (turn + round) % suite.contenders.length
          const { name, answer } = await crew.ask(one, (contender) => measurement.run(contender, scale))
          if (round === 0) continue
          for (const { key } of measurement.metrics) ((values[key] ??= {})[name] ??= []).push(answer[key] ?? Number.NaN)
        }
      }
      for (const metric of measurement.metrics) {
        const result = { suite: suite.name, measurement: measurement.name, metric, values: values[metric.key] ?? {} }
        results.push(result)
        say(`${suite.name}: ${measurement.name}: ${metric.title}: ${summary(result)}\n`)
      }
    }
    return results
  } finally {
    await crew.stop()
    await release()
  }
}

type Answer = Readonly<Record<string, number>>

/** The contenders of a suite, by their place in its list. */
interface Crew {
  readonly ask: (
    one: number,
    run: (contender: Contender) => Promise<Answer>,
  ) => Promise<{ name: string; answer: Answer }>
  readonly stop: () => Promise<void>
}

const lastingCrew = async (starts: readonly Start[]): Promise<Crew> => {
  const contenders: Contender[] = []
  const stop = async () => {
    for (const contender of contenders) await contender.stop()
  }
  try {
    for (const start of starts) contenders.push(await start())
  } catch (error) {
    await stop()
    throw error
  }
  return { ask: async (one, run) => ({ name: contenders[one]!.name, answer: await run(contenders[one]!) }), stop }
}

const freshCrew = (starts: readonly Start[]): Crew => ({
  ask: async (one, run) => {
    const contender = await starts[one]!()
    try {
      return { name: contender.name, answer: await run(contender) }
    } finally {
      await contender.stop()
    }
  },
  stop: async () => {},
})

/** The middle value; of an even number, the mean of the two in the middle. */
export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  return sorted.length % 2 === 1 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** How `ours` compares with `theirs`, round by round: the median of the ratios, and the least and the greatest. */
export const ratio = (
  ours: readonly number[],
  theirs: readonly number[],
): { median: number; min: number; max: number } => {
  const ratios = ours.map((value, round) => value / theirs[round]!)
  return { median: median(ratios), min: Math.min(...ratios), max: Math.max(...ratios) }
}

const summary = ({ values }: Result): string => {
  const ours = values.sluice ?? []
  return Object.entries(values)
    .map(([name, theirs]) => {
      const shown = `${name} ${significant(median(theirs))}`
      return name === 'sluice' || ours.length === 0 ? shown : `${shown} (x${ratio(ours, theirs).median.toFixed(2)})`
    })
    .join(', ')
}

/** Three significant digits, without an exponent. */
export const significant = (value: number): string => String(Number(value.toPrecision(3)))
