import assert from 'node:assert/strict'
import { test } from 'tap'
import { combinedLine, commonLine } from '../../src/telemetry/commonLog.ts'
import { createLog } from '../../src/telemetry/log.ts'
import type { Outcome, RequestOutcome } from '../../src/telemetry/outcome.ts'
import { redactedHead, redactedTarget } from '../../src/telemetry/redact.ts'

const targets = [
  ['/plain', '/plain'],
  ['/a?b=c', '/a?b=c'],
  ['/a?access_token=CANARY&b=c', '/a?access_token=(redacted)&b=c'],
  ['/a?b=c&API-KEY=CANARY', '/a?b=c&API-KEY=(redacted)'],
  ['/a?X-Amz-Signature=CANARY', '/a?X-Amz-Signature=(redacted)'],
  ['/a?to%6ben=CANARY', '/a?to%6ben=(redacted)'],
  ['/a?%zz=x&password=CANARY', '/a?%zz=x&password=(redacted)'],
  ['/a?x=1;password=CANARY', '/a?x=1;password=(redacted)'],
  ['/cb?code=CANARY&state=s', '/cb?code=(redacted)&state=s'],
  ['http://user:CANARY@host/path', 'http://(redacted)@host/path'],
  ['/a?', '/a?'],
  ['/a?b&token=&c=', '/a?b&token=(redacted)&c='],
  ['/a;jsessionid=CANARY/b;v=1?c=d', '/a;jsessionid=(redacted)/b;v=1?c=d'],
  ['/cb#access_token=CANARY&state=s', '/cb#access_token=(redacted)&state=s'],
  ['/cb?a=b#access_token=CANARY', '/cb?a=b#access_token=(redacted)'],
  ['/in?to=https://h/?token=CANARY&b=c', '/in?to=https://h/?token=(redacted)&b=c'],
  ['/in?to=https%3A%2F%2Fh%2F%3Ftoken%3DCANARY&b=c', '/in?to=(redacted)&b=c'],
  ['/in?to=https%253A%252F%252Fh%252F%253Ftoken%253DCANARY', '/in?to=(redacted)'],
  ['/in?to=%zz%3Ftoken%3DCANARY', '/in?to=(redacted)'],
  ['/in?to=ftp%3A%2F%2Fu%3ACANARY%40h%2F', '/in?to=(redacted)'],
  ['/graph?variables=%7B%22password%22%3A%22CANARY%22%7D', '/graph?variables=(redacted)'],
  ['/in?to=https%3A%2F%2Fh%2F%3Fpage%3D2', '/in?to=https%3A%2F%2Fh%2F%3Fpage%3D2'],
] as const

test('values of query parameters that are named like secrets are not logged', async () => {
  for (const [target, shown] of targets) assert.equal(redactedTarget(target), shown)
})

test('a long target costs no more than its length', async () => {
  // Quadratic, it would be a quarter of a minute.
  const long = 'a'.repeat(200_000)
  for (const target of [`/?${long}`, `/?x=${long}`, `/;${long}`, `/?x=${'%25'.repeat(50_000)}`, `/?x=//${long}`])
    assert.equal(redactedTarget(target), target)
})

const heads = [
  ['GET /a?token=CANARY HTTP/1.1', 'GET /a?…'],
  ['GET /a;jsessionid=CANARY HTTP/1.', 'GET /a;…'],
  ['GET / HTTP/1.1\r\nCookie: CANARY', 'GET / HTTP/1.1'],
  ['GET http://u:CANARY@h/ HTTP/1.1', 'GET http://(redacted)@h/ HTTP/1.1'],
  ['GET http://user:CANARYCANARYCANA', 'GET http://…'],
  ['GET http://user:p@CANARYCANARYCA', 'GET http://…'],
  ['*2\r\n$4\r\nAUTH\r\n$6\r\nCANARY\r\n', '*2\r\n$4\r\nAUTH…'],
  ['PASS CANARY\r\n', 'PASS…'],
  ['\x16\x03\x01', '\x16\x03\x01'],
  ['SSH-2.0-OpenSSH', 'SSH-2.0-OpenSSH'],
] as const

test('the first bytes of a connection are shown without what may be a password', async () => {
  for (const [head, shown] of heads) assert.equal(redactedHead(head), shown)
})

const request: RequestOutcome = {
  method: 'GET',
  authority: 'shop.example',
  target: '/a"b\\c\n',
  version: '1.1',
  status: 200,
  attempts: 1,
  bytes: { sent: 0, received: 2326 },
  ms: 12.5,
  rules: {},
  userAgent: 'x"\x1b[31m',
}
const peer = { host: '192.0.2.1', port: 4711 }
const connection = { id: '7', direction: 'inbound', peer, destination: { host: '10.0.0.1', port: 80 } } as const
const time = Date.UTC(2026, 10, 21, 15, 4, 5)

test('access log lines are those of Apache, and nothing a client sends can end a field', async () => {
  const line = '192.0.2.1 - - [21/Nov/2026:15:04:05 +0000] "GET /a\\"b\\\\c\\x0a HTTP/1.1" 200 2326'
  assert.equal(commonLine(request, { peer }, time), line)
  assert.equal(combinedLine(request, { peer }, time), `${line} "-" "x\\"\\x1b[31m"`)
})

const outcome: Outcome = {
  startedAt: time,
  listener: 'inbound',
  ...connection,
  result: 'forwarded',
  protocols: ['http1'],
  rules: {},
  bytes: { sent: 1, received: 2 },
  ms: 3,
  ended: 'closed',
}

test('each format writes what it can say, sampling spares only what went well', async () => {
  const written = (format: 'text' | 'json' | 'common' | 'combined', sample = 1): string[] => {
    const lines: string[] = []
    const log = createLog({ format, level: 'info', sample, write: (to, line) => lines.push(`${to} ${line}`) })
    log.request(request, connection, time)
    log.request({ ...request, status: 503, error: 'connect' }, connection, time)
    log.outcome(outcome)
    log.outcome({ ...outcome, result: 'denied' })
    log.error('trouble')
    return lines
  }
  assert.deepEqual(
    written('common').map((line) => line.slice(0, 14)),
    ['1 192.0.2.1 - ', '1 192.0.2.1 - ', '2 error: troub'],
  )
  assert.equal(written('text').length, 5)
  const json = written('json').map((line) => JSON.parse(line.slice(2)))
  assert.deepEqual(
    json.map(({ msg }) => msg),
    ['request', 'request', 'connection', 'connection', 'trouble'],
  )
  assert.equal(json[0].target, request.target)
  assert.equal(json[0].connection, json[2].id)
  assert.equal(json[1].error, 'connect')
  const sampled = written('json', 1000).map((line) => JSON.parse(line.slice(2)))
  assert.deepEqual(
    sampled.map(({ msg, status, result }) => [msg, status ?? result]),
    [
      ['request', 503],
      ['connection', 'denied'],
      ['trouble', undefined],
    ],
  )
})
