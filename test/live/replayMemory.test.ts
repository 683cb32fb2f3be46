import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, existsSync, readFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { test } from 'tap'
import { connection, frame, packet, pcapHead, pcapPacket, type Wire } from '../support/capture.ts'

// Nothing we know, so that the answer is passed on as it is, whatever it says.
const QUESTION = '\0give me bytes'
const SEGMENT = 'x'.repeat(1_400)

/** Segments of every kind that could pile up: see the names. */
function* wires(): Generator<Wire> {
  // Calls that nobody answers, and connections that nobody closes.
  for (let at = 0; at < 10_000; at++) {
    const [syn] = connection([], { client: `10.9.${at >> 8}.${at & 255}:40000` })
    yield syn!
  }
  for (let at = 0; at < 3_000; at++) {
    yield* connection([['client', 'GET / HT']], { client: `10.8.${at >> 8}.${at & 255}:40000`, close: false })
  }
  // A hole in each of many, and 64 KiB behind it.
  for (let at = 0; at < 300; at++) {
    const talk = connection([['client', 'x']], { client: `10.7.${at >> 8}.${at & 255}:40000`, close: false })
    yield* talk.slice(0, 3)
    for (let piece = 0; piece < 48; piece++) {
      yield { ...talk[3]!, sequence: talk[3]!.sequence + 9 + piece * SEGMENT.length, payload: SEGMENT }
    }
  }
  // Short ones, one after the other, and one that is long.
  for (let at = 0; at < 5_000; at++) {
    yield* connection(
      [
        ['client', QUESTION],
        ['server', SEGMENT],
      ],
      { client: `10.6.${at >> 8}.${at & 255}:40000` },
    )
  }
  const long = connection(
    [
      ['client', QUESTION],
      ['server', SEGMENT],
    ],
    { close: false },
  )
  yield* long
  const last = long.at(-1)!
  for (let at = 1; at < 50_000; at++) yield { ...last, sequence: (last.sequence + at * SEGMENT.length) >>> 0 }
}

function* file(): Generator<Buffer> {
  yield pcapHead({})
  let time = 1_700_000_000_000
  for (const wire of wires()) yield pcapPacket({ time: (time += 0.1), bytes: frame(packet(wire)) }, {})
}

const root = fileURLToPath(new URL('../..', import.meta.url))

test('a capture of 100 MB is replayed in bounded memory', async (t) => {
  const directory = t.testdir({ 'policy.yaml': 'apiVersion: sluice/v1\n' })
  const path = join(directory, 'large.pcap')
  await pipeline(Readable.from(file()), createWriteStream(path))
  const { size } = await stat(path)
  t.ok(size > 100_000_000, `${size} bytes`)

  // A heap that holds what is open (16 KiB for each of 3,300 connections), and by far not the file.
  const argv = ['--max-old-space-size=160', 'src/main.ts', 'replay', '--json', '--config', directory, path]
  const child = spawn(process.execPath, argv, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
  const status = `/proc/${child.pid}/status`
  let peak = 0
  const watch = setInterval(() => {
    if (!existsSync(status)) return
    peak = Math.max(peak, Number(/VmHWM:\s+(\d+)/.exec(readFileSync(status, 'utf8'))?.[1] ?? 0) / 1024)
  }, 20)
  let flows = 0
  let received = 0
  for await (const line of createInterface(child.stdout)) {
    flows++
    received += (JSON.parse(line) as { bytes: { received: number } }).bytes.received
  }
  const [code] = child.exitCode === null ? await once(child, 'exit') : [child.exitCode]
  clearInterval(watch)
  t.equal(code, 0)
  t.equal(flows, 3_000 + 300 + 5_000 + 1)
  t.equal(received, (5_000 + 50_000) * SEGMENT.length)
  t.ok(peak > 0 && peak < 400, `${peak.toFixed(0)} MiB at most`)
  t.comment(`${size} bytes, ${peak.toFixed(0)} MiB at most`)
})
