import type { Metric, MetricsRegistry } from './registry.ts'

/** One series of a tally: what is observed here is counted by position, without looking up its labels again. */
export interface Series {
  observe(value: number): void
}

/** A histogram for what happens with each request: prom-client's own costs as much as a third of a small request. */
export interface Tally {
  /** Find it once and keep it. */
  series(labels: Readonly<Record<string, string>>): Series
}

class Buckets implements Series {
  readonly labels: Readonly<Record<string, string>>
  readonly bounds: readonly number[]
  readonly counts: number[]
  sum = 0
  count = 0

  constructor(labels: Readonly<Record<string, string>>, bounds: readonly number[]) {
    this.labels = labels
    this.bounds = bounds
    this.counts = bounds.map(() => 0)
  }

  observe(value: number): void {
    this.sum += value
    this.count += 1
    const { bounds } = this
    let at = 0
    while (at < bounds.length && value > bounds[at]!) at += 1
    if (at < bounds.length) this.counts[at]! += 1
  }

  values(name: string) {
    const { labels, bounds, counts, sum, count } = this
    let below = 0
    const values: { labels: Record<string, string | number>; metricName: string; value: number }[] = []
    for (const [at, le] of bounds.entries()) {
      below += counts[at]!
      values.push({ labels: { le, ...labels }, metricName: `${name}_bucket`, value: below })
    }
    values.push({ labels: { le: '+Inf', ...labels }, metricName: `${name}_bucket`, value: count })
    values.push({ labels: { ...labels }, metricName: `${name}_sum`, value: sum })
    values.push({ labels: { ...labels }, metricName: `${name}_count`, value: count })
    return values
  }
}

class Histogram implements Tally, Metric {
  readonly name: string
  readonly help: string
  readonly labelNames: readonly string[]
  readonly #bounds: readonly number[]
  readonly #all: Buckets[] = []

  constructor(name: string, help: string, labelNames: readonly string[], bounds: readonly number[]) {
    this.name = name
    this.help = help
    this.labelNames = labelNames
    this.#bounds = bounds
  }

  series(labels: Readonly<Record<string, string>>): Series {
    const series = new Buckets(labels, this.#bounds)
    this.#all.push(series)
    return series
  }

  get() {
    const { name, help } = this
    return { name, help, type: 'histogram', values: this.#all.flatMap((each) => each.values(name)) }
  }
}

/** Registers one, under its whole name. */
export const createTally = (
  registry: MetricsRegistry,
  name: string,
  help: string,
  labels: readonly string[],
  bounds: readonly number[],
): Tally => {
  const tally = new Histogram(name, help, labels, bounds)
  registry.registerMetric(tally)
  return tally
}
