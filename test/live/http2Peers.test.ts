import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http2'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Test, test } from 'tap'
import { FRAME } from '../../src/codec/http2Codes.ts'
import { heard } from '../support/heard.ts'
import { frame, preface, settingsAck } from '../support/http2.ts'
import { type Case, cases } from '../support/http2Cases.ts'
import { listening } from '../support/http2Proxy.ts'
import { freePort, up } from '../support/listening.ts'

/**
 * The table of HTTP/2 cases is our reading of the RFCs. Here it is held to that of others: four servers that nobody of
 * this project wrote get the same bytes, and at least one of them has to do what the table wants, or the RFC says it in
 * words that stand here.
 */

/** None of the four keeps to these: all take the whole connection down, or let it pass. */
const SAID_BY_THE_RFC: Readonly<Record<string, string>> = {
  'half closed (remote): HEADERS':
    'RFC 9113 5.1: "it MUST respond with a stream error (Section 5.4.2) of type STREAM_CLOSED"',
  'closed: HEADERS after RST_STREAM': 'RFC 9113 5.1: after RST_STREAM it is a stream error of type STREAM_CLOSED',
  'HEADERS that depends on itself': 'RFC 7540 5.3.1: "MUST treat this as a stream error of type PROTOCOL_ERROR"',
  'PRIORITY of an open stream that depends on itself': 'RFC 7540 5.3.1, as above',
  'PRIORITY of four bytes on an open stream':
    'RFC 9113 6.3: "MUST be treated as a stream error (Section 5.4.2) of type FRAME_SIZE_ERROR"',
  'a request with a :path with octets above 127':
    'RFC 9113 8.3.1: ":path" is a path-absolute of RFC 3986, which has ASCII only; haproxy refuses them in HTTP/1',
  'a request with Host that differs from :authority':
    'RFC 9113 8.3.1: "a server SHOULD treat a request as malformed if it contains a Host header field that identifies an entity that differs"',
}

const PING = frame(FRAME.ping, 0, 0, Buffer.from('the last'))

/** How it ends, in one word or two: the connection with a code, a stream with one, or all is fine. */
const endOf = (lines: readonly string[], isOver = false): string => {
  const goodbye = lines.find((line) => /^goaway (?!NO_ERROR)/.test(line))
  if (goodbye !== undefined) return `the connection ends with ${goodbye.slice('goaway '.length)}`
  const reset = lines.find((line) => /^rstStream \d+ (?!NO_ERROR)/.test(line))
  if (reset !== undefined) return `a stream ends with ${reset.split(' ')[2]}`
  return isOver ? 'the connection is closed without a word' : 'all is fine'
}

const told = async (port: number, { send }: Case): Promise<string> => {
  const socket = connect(port, '127.0.0.1')
  const { until, isOver } = heard(socket)
  socket.write(Buffer.concat([preface, settingsAck, ...send, PING]))
  // A server may answer the last PING before it has told what became of a stream.
  const isAnswered = (all: readonly string[]) => all.filter((line) => line === 'ping ack').length > pingsIn(send)
  const lines = await until((all) => endOf(all) !== 'all is fine' || isAnswered(all))
  const end = endOf(lines, isOver())
  socket.destroy()
  return end
}

const pingsIn = (send: readonly Buffer[]): number =>
  send.filter((bytes) => bytes[3] === FRAME.ping && bytes[4] !== 1 && bytes.readUIntBE(0, 3) === 8).length

const configs = (ports: { nginx: number; haproxy: number }, folder: string) => ({
  nginx: `daemon off; master_process off; user root; pid ${folder}/pid; error_log stderr crit;
events {}
http { access_log off; server { listen 127.0.0.1:${ports.nginx} http2; location / { return 200 "hello world"; } } }
`,
  haproxy: `global
  nbthread 1
defaults
  mode http
  timeout client 60s
  timeout connect 5s
  timeout server 5s
frontend f
  bind 127.0.0.1:${ports.haproxy} proto h2
  http-request return status 200 content-type text/plain string "hello world"
`,
})

/** nghttpd, nginx, haproxy and node:http2; the ports they listen on. */
const startPeers = async (t: Test): Promise<Readonly<Record<string, number>>> => {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-'))
  const node = createServer((request, response) => {
    request.on('error', () => {}).resume()
    response.on('error', () => {}).end('hello world')
  })
  node.on('sessionError', () => {})
  const ports = { nghttpd: await freePort(), nginx: await freePort(), haproxy: await freePort() }
  const { nginx, haproxy } = configs(ports, folder)
  await writeFile(join(folder, 'index.html'), 'hello world')
  await writeFile(join(folder, 'nginx.conf'), nginx)
  await writeFile(join(folder, 'haproxy.cfg'), haproxy)
  const children = [
    spawn('nghttpd', ['--no-tls', '-d', folder, String(ports.nghttpd)], { stdio: 'ignore' }),
    spawn('nginx', ['-p', folder, '-c', join(folder, 'nginx.conf')], { stdio: 'ignore' }),
    spawn('haproxy', ['-db', '-f', join(folder, 'haproxy.cfg')], { stdio: 'ignore' }),
  ]
  t.teardown(async () => {
    for (const child of children) {
      if (child.kill()) await once(child, 'exit')
    }
    await rm(folder, { recursive: true })
  })
  await Promise.all(Object.values(ports).map(up))
  return { ...ports, 'node:http2': await listening(t, node) }
}

test('what the table of HTTP/2 cases wants is what another server does, or what the RFC says in words', async (t) => {
  const peers = await startPeers(t)
  const here = cases.filter(({ limits }) => limits === undefined)
  t.ok(here.length > 150)
  let agreed = 0
  for (const one of here) {
    const wanted = endOf(one.want)
    const ends = await Promise.all(Object.values(peers).map((port) => told(port, one)))
    if (ends.includes(wanted)) agreed += 1
    else {
      const others = Object.keys(peers).map((name, nth) => `${name}: ${ends[nth]}`)
      t.ok(SAID_BY_THE_RFC[one.title], `${one.section}, ${one.title}: ${wanted}; ${others.join('; ')}`)
    }
  }
  t.ok(agreed >= here.length - Object.keys(SAID_BY_THE_RFC).length, `${agreed} of ${here.length} cases`)
})
