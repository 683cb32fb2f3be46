import { readFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { fileURLToPath } from 'node:url'
import type { Channels } from '../forward/channels.ts'
import { parseCommand, UsageError } from '../net/commandLine.ts'
import { hiddenValues } from '../net/secretNames.ts'
import type { Policy } from '../policy/policy.ts'
import type { Ledger } from '../telemetry/ledger.ts'
import type { Life } from '../telemetry/life.ts'
import type { RequestOutcome } from '../telemetry/outcome.ts'
import type { Pulse } from '../telemetry/pulse.ts'
import { feed } from '../telemetry/stream.ts'
import { channelRoutes, channelsNow } from './channels.ts'
import { explainCommand, explanation } from './explainCommand.ts'
import { factsFromFlags } from './explainFacts.ts'
import { type AdminRoutes, json, text, type WholeAnswer } from './server.ts'

/** What the page shows. */
export interface PageWorld {
  readonly ledger: Ledger
  readonly policy: () => Policy
  readonly pulse: Pulse
  /** Milliseconds since 1970. */
  readonly time: () => number
  readonly version: string
  readonly channels?: () => Channels | undefined
}

const FILES: Readonly<Record<string, readonly [file: string, type: string]>> = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/page/page.css': ['page.css', 'text/css'],
  '/page/page.js': ['page.js', 'text/javascript'],
  '/page/candidate.js': ['candidate.js', 'text/javascript'],
  '/page/channels.js': ['channels.js', 'text/javascript'],
  '/page/vendor/uPlot.iife.min.js': ['vendor/uPlot.iife.min.js', 'text/javascript'],
  '/page/vendor/uPlot.min.css': ['vendor/uPlot.min.css', 'text/css'],
}

const TICK_MS = 1000
const LIVE_MAX = 200 // rows of open connections a tick brings up to date; the page holds 500

/** The live page: static files, a stream of events, the policy with hits, and explain as a form. */
export const pageRoutes = (world: PageWorld): AdminRoutes => ({
  ...Object.fromEntries(Object.entries(FILES).map(([path, [file, type]]) => [`GET ${path}`, () => asset(file, type)])),
  ...channelRoutes(() => world.channels?.()),
  'GET /page/events': () => (response) => stream(response, world),
  'GET /page/policy.json': async () => json(200, await documents(world)),
  'GET /page/explain': ({ url }) => {
    const flags = [...url.searchParams].flatMap(([name, value]) => [`--${name}=${value}`])
    try {
      const policy = world.policy()
      const facts = factsFromFlags(parseCommand(explainCommand, flags))
      const now = channelsNow(policy, facts, world.channels?.()?.views() ?? [])
      return text(200, `${explanation(policy, facts)}${now}`)
    } catch (error) {
      if (error instanceof UsageError) return text(400, `${error.message}\n`)
      throw error
    }
  },
})

const asset = async (file: string, type: string): Promise<WholeAnswer> => ({
  status: 200,
  type,
  body: await readFile(fileURLToPath(new URL(`page/${file}`, import.meta.url))),
})

/** Server-sent events for as long as the reader stays; a slow one misses events and never slows the proxy. */
const stream = (response: ServerResponse, { ledger, pulse, time, version }: PageWorld): void => {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  const send = (name: string, value: unknown): boolean =>
    response.write(`event: ${name}\ndata: ${JSON.stringify(value)}\n\n`)
  send('hello', { version, since: pulse.startedAt })
  for (const outcome of pulse.recent()) send('connection', outcome)
  const listener = {
    dropped: 0,
    wants: () => true,
    write: (event: Parameters<Parameters<typeof feed>[1]['write']>[0]) =>
      event.is === 'connection'
        ? send('connection', event.outcome)
        : send('request', requestRow(event.life, event.request, time())),
  }
  const fed = feed(ledger, listener)
  response.on('drain', fed.resumed)
  const tick = async () => {
    if (response.writableNeedDrain) return
    await ledger.look()
    const live = [...ledger.open].slice(-LIVE_MAX).map(liveRow(pulse.now()))
    send('tick', { ...pulse.second(), open: ledger.open.size, live, missed: listener.dropped })
  }
  void tick()
  const timer = setInterval(() => void tick(), TICK_MS)
  response.on('close', () => {
    clearInterval(timer)
    fed.stop()
  })
}

let requests = 0

const requestRow = (life: Life, request: RequestOutcome, endedAt: number): object => {
  requests += 1
  return { ...life.facts(), number: requests, startedAt: endedAt - request.ms, request }
}

const liveRow =
  (now: number) =>
  (life: Life): object => {
    return { ...life.facts(), bytes: { ...life.count }, ms: now - life.started }
  }

/** The documents whose rules are in force, with the number of decisions beside the line of each rule. */
const documents = async ({ policy, pulse }: PageWorld): Promise<object[]> => {
  const files = new Map<string, Record<number, number>>()
  for (const { ref } of policy().rules) {
    const hits = files.get(ref.file) ?? {}
    hits[ref.line] = pulse.hits(ref)
    files.set(ref.file, hits)
  }
  const read = async ([file, hits]: readonly [string, object]) => ({
    file,
    hits,
    text: await readFile(file, 'utf8').then(
      hiddenValues,
      (error: NodeJS.ErrnoException) => `# this file cannot be read now: ${error.code}\n`,
    ),
  })
  return Promise.all([...files].map(read))
}
