import fc from 'fast-check'
import { test } from 'tap'
import { toHttp1, toHttp2 } from '../../src/sdk/http1Fields.ts'

const HEAD = [':method', 'POST', ':path', '/a?b', ':authority', 'shop', ':scheme', 'http']

test('a request of HTTP/2 in HTTP/1: Host, its cookies in one, its framing', async (t) => {
  const cases: readonly (readonly [string, readonly string[], boolean, unknown])[] = [
    ['no body', [], true, { fields: ['host', 'shop'], body: 'none' }],
    ['a length', ['content-length', '3'], false, { fields: ['host', 'shop', 'content-length', '3'], body: 'length' }],
    ['no length', [], false, { fields: ['host', 'shop', 'transfer-encoding', 'chunked'], body: 'chunked' }],
    [
      'cookies',
      ['cookie', 'a=1', 'x', 'y', 'cookie', 'b=2'],
      true,
      { fields: ['host', 'shop', 'x', 'y', 'cookie', 'a=1; b=2'] },
    ],
    ['two of a name', ['x', '1', 'x', '2'], true, { fields: ['host', 'shop', 'x', '1', 'x', '2'] }],
    ['TE', ['te', 'trailers'], true, { fields: ['host', 'shop', 'te', 'trailers', 'connection', 'TE'] }],
    ['another TE', ['te', 'gzip'], true, { fields: ['host', 'shop'] }],
    [
      'fields of a hop',
      ['connection', 'x', 'transfer-encoding', 'chunked', 'upgrade', 'h2c'],
      true,
      { fields: ['host', 'shop'] },
    ],
    ['Host and :authority', ['host', 'other'], true, { fields: ['host', 'shop'] }],
  ]
  for (const [what, more, isEnded, expected] of cases)
    t.match(
      toHttp1([...HEAD, ...more], isEnded, () => 'KEY'),
      expected,
      what,
    )
  const withHost = toHttp1([':method', 'GET', ':path', '/', 'host', 'other'], true, () => 'KEY')
  t.same(withHost, { method: 'GET', path: '/', fields: ['host', 'other'], body: 'none' })
})

test('an extended CONNECT is an upgrade, of a WebSocket with a key', async (t) => {
  const connect = (protocol: string) =>
    toHttp1([':method', 'CONNECT', ':protocol', protocol, ':path', '/', ':authority', 'shop'], false, () => 'KEY')
  t.same(connect('websocket'), {
    method: 'GET',
    path: '/',
    fields: ['host', 'shop', 'connection', 'Upgrade', 'upgrade', 'websocket', 'sec-websocket-key', 'KEY'],
    body: 'none',
    upgrade: 'websocket',
  })
  t.same(connect('chat').fields, ['host', 'shop', 'connection', 'Upgrade', 'upgrade', 'chat'])
})

test('a response of HTTP/1 in HTTP/2: no field of its connection, nothing twice that may stand once', async (t) => {
  const raw =
    'Date one Connection x-a,Keep-Alive X-A 1 Keep-Alive timeout=5 Set-Cookie a Set-Cookie b Date two Vary v Transfer-Encoding chunked'
  t.same(toHttp2(raw.split(' ')), { date: 'one', 'set-cookie': ['a', 'b'], vary: 'v' })
})

test('whatever the fields: nothing of a connection passes, and everything else does', async () => {
  const name = fc.stringMatching(/^x-[a-z]{1,5}$/)
  const fields = fc.array(fc.tuple(fc.oneof(name, fc.constantFrom('connection', 'keep-alive', 'upgrade')), fc.string()))
  fc.assert(
    fc.property(fields, (pairs) => {
      const kept = toHttp2(pairs.filter(([name]) => name !== 'connection').flat())
      const expected = pairs.filter(([name]) => name.startsWith('x-'))
      const count = Object.values(kept).flat().length
      return Object.keys(kept).every((name) => name.startsWith('x-')) && count === expected.length
    }),
  )
})
