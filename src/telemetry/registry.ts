/** What a metric says at a scrape. */
export interface Shown {
  readonly name: string
  readonly help: string
  readonly type: string
  readonly values: readonly {
    readonly labels?: Labels
    readonly value: number
    /** Of a histogram, whose lines have names of their own. */
    readonly metricName?: string
    /** Those that many values of a histogram have in common: they come last. */
    readonly sharedLabels?: Labels
  }[]
}

type Labels = Readonly<Record<string, string | number>>

const NONE: Labels = {}

/** One name in the text of a scrape. Those of prom-client are such, too. */
export interface Metric {
  readonly name: string
  readonly help: string
  readonly labelNames: readonly string[]
  readonly get: () => Shown | Promise<Shown>
}

/**
 * Metrics, and their text. As a registry of prom-client, which may register its own here: its library takes 5 MiB and a
 * third of the time to start, so it is loaded where somebody scrapes, for what it knows of the process.
 */
export class MetricsRegistry {
  readonly contentType = 'text/plain; version=0.0.4; charset=utf-8'
  readonly #metrics = new Map<string, Metric>()
  readonly #more: () => Promise<readonly Metric[]>
  #loaded: Promise<readonly Metric[]> | undefined

  /** `more`: what comes first in the text, loaded for the first one. */
  constructor(more: () => Promise<readonly Metric[]> = async () => []) {
    this.#more = more
  }

  registerMetric(metric: Metric): void {
    if (this.#metrics.has(metric.name)) throw new Error(`there is a metric ${metric.name} already`)
    this.#metrics.set(metric.name, metric)
  }

  getMetricsAsArray(): Metric[] {
    return [...this.#metrics.values()]
  }

  /** The text of a scrape. */
  async metrics(): Promise<string> {
    this.#loaded ??= this.#more()
    const all = [...(await this.#loaded), ...this.#metrics.values()]
    const texts = await Promise.all(all.map(async (metric) => textOf(await metric.get())))
    return `${texts.join('\n\n')}\n`
  }
}

/** A counter or a gauge: one number for each set of labels. */
export class Numbers implements Metric {
  readonly name: string
  readonly help: string
  readonly labelNames: readonly string[]
  readonly type: 'counter' | 'gauge'
  readonly #collect: ((numbers: Numbers) => void) | undefined
  readonly #values = new Map<string, { labels: Labels; value: number }>()

  /** `collect` is called before they are shown. */
  constructor(
    type: 'counter' | 'gauge',
    { name, help, labelNames }: Pick<Metric, 'name' | 'help' | 'labelNames'>,
    collect?: (numbers: Numbers) => void,
  ) {
    this.type = type
    this.name = name
    this.help = help
    this.labelNames = labelNames
    this.#collect = collect
    this.reset()
  }

  /** By one, unless it is said by how much. */
  inc(labels: Labels | number = 1, by = 1): void {
    if (typeof labels === 'number') this.#find(NONE).value += labels
    else this.#find(labels).value += by
  }

  set(labels: Labels | number, value = 0): void {
    if (typeof labels === 'number') this.#find(NONE).value = labels
    else this.#find(labels).value = value
  }

  /** Forgets all values; what has no labels is 0. */
  reset(): void {
    this.#values.clear()
    if (this.labelNames.length === 0) this.#find(NONE)
  }

  get(): Shown {
    this.#collect?.(this)
    const { name, help, type } = this
    return { name, help, type, values: [...this.#values.values()] }
  }

  #find(labels: Labels) {
    let key = ''
    for (const name of this.labelNames) key += `${labels[name]}\0`
    const found = this.#values.get(key)
    if (found !== undefined) return found
    const fresh = { labels, value: 0 }
    this.#values.set(key, fresh)
    return fresh
  }
}

const textOf = ({ name, help, type, values }: Shown): string => {
  const lines = [`# HELP ${name} ${escaped(help)}`, `# TYPE ${name} ${type}`]
  for (const { labels = {}, value, metricName = name, sharedLabels = {} } of values) {
    const pairs = [...pairsOf(labels), ...pairsOf(sharedLabels)].join(',')
    lines.push(`${metricName}${pairs === '' ? '' : `{${pairs}}`} ${numberText(value)}`)
  }
  return lines.join('\n')
}

const pairsOf = (labels: Labels): readonly string[] =>
  Object.entries(labels).map(([name, value]) => `${name}="${escaped(String(value)).replaceAll('"', '\\"')}"`)

const escaped = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')

const numberText = (value: number): string =>
  Number.isFinite(value) ? `${value}` : Number.isNaN(value) ? 'NaN' : value < 0 ? '-Inf' : '+Inf'
