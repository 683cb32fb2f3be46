import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import fc from 'fast-check'
import { type Test, test } from 'tap'
import { type Front, front } from '../support/front.ts'
import { upstream } from '../support/peers.ts'
import { parseStrictly } from '../support/strictHttp1.ts'

/** Text that breaks parsers: of known smuggling attacks, of every rule of RFC 9112, and of plain requests. */
const line = fc.constantFrom(
  'GET / HTTP/1.1',
  'POST /a HTTP/1.1',
  'POST / HTTP/1.0',
  'GET http://b.example/ HTTP/1.1',
  'GET  / HTTP/1.1',
  'GET / HTTP/1.1 ',
  'PUT /x?y#z HTTP/1.1',
  'OPTIONS * HTTP/1.1',
  'HEAD / HTTP/1.1',
  'GET / HTTP/1.2',
  '-x /\xe9 HTTP/1.1',
)
const field = fc.constantFrom(
  'Host: a',
  'Host: b',
  'host:a',
  'Host: a, b',
  'Content-Length: 5',
  'Content-Length: 0',
  'Content-Length: 6',
  'content-length:5',
  'Content-Length: +5',
  'Content-Length: 5, 5',
  'Content-Length: 0x5',
  'Content-Length : 5',
  ' Content-Length: 5',
  'Content-Length:\x0b5',
  'Transfer-Encoding: chunked',
  'transfer-encoding: Chunked',
  'Transfer-Encoding: identity',
  'Transfer-Encoding: chunked, identity',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding:\tchunked',
  'Transfer-Encoding: \x0bchunked',
  'Transfer-Encoding: chunked\x00',
  'Transfer-Encoding : chunked',
  'Transfer-Encoding: xchunked',
  'Transfer-Encoding: "chunked"',
  'X: y\r\n folded',
  'X: y\rTransfer-Encoding: chunked',
  'X: y\nTransfer-Encoding: chunked',
  'Connection: close',
  'Connection: content-length',
  'Connection: transfer-encoding, host',
  'Connection: keep-alive',
  'Expect: 100-continue',
  'TE: trailers',
  'Trailer: X',
  'Upgrade: h2c',
  'Accept: */*',
  'Transfer_Encoding: chunked',
  ': x',
  'A',
)
const ends = fc.constantFrom('\r\n', '\r\n', '\r\n', '\r\n', '\r\n', '\n', '\r')
const body = fc.constantFrom(
  '',
  'hello',
  '5\r\nhello\r\n0\r\n\r\n',
  '5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n',
  '0\r\n\r\n',
  '05\r\nhello\r\n0\r\n\r\n',
  '5 \r\nhello\r\n0\r\n\r\n',
  '5\r\nhelloX0\r\n\r\n',
  '-5\r\nhello\r\n0\r\n\r\n',
  '5\r\nhello\r\n0\r\n',
  '0\r\nContent-Length: 9\r\n\r\n',
  '5\nhello\n0\n\n',
  'GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n',
  '0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n',
  'helloGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n',
)

const goodField = fc.constantFrom(
  'Accept: */*',
  'X: y',
  'Cookie: a=b',
  'Connection: keep-alive',
  'Expect: 100-continue',
  'TE: trailers',
  'x-Y: \xe9',
)
const framed = fc.constantFrom(
  ['', ''],
  ['Content-Length: 5\r\n', 'hello'],
  ['content-length: 0\r\n', ''],
  ['Transfer-Encoding: chunked\r\n', '5\r\nhello\r\n0\r\n\r\n'],
  ['Transfer-Encoding: Chunked\r\n', '5;a=b\r\nhello\r\n2\r\n!!\r\n0\r\nX: y\r\n\r\n'],
)
/** As clients write them, one or several on a connection. */
const good = fc
  .array(
    fc.tuple(
      fc.constantFrom('GET / HTTP/1.1', 'POST /a?b HTTP/1.1', 'PUT http://b.example/ HTTP/1.1', 'HEAD / HTTP/1.1'),
      fc.array(goodField, { maxLength: 3 }),
      framed,
    ),
    { minLength: 1, maxLength: 3 },
  )
  .map((all) =>
    all
      .map(
        ([first, fields, [framing, rest]]) =>
          `${first}\r\nHost: a\r\n${fields.map((one) => `${one}\r\n`).join('')}${framing}\r\n${rest}`,
      )
      .join(''),
  )
/** The same with one field of an attack put in before the first Host. */
const spiced = fc
  .tuple(good, field, ends)
  .map(([text, one, end]) => text.replace('Host: a\r\n', () => `${one}${end}Host: a\r\n`))
/** And with everything at random. */
const wild = fc
  .tuple(line, ends, fc.array(fc.tuple(field, ends), { minLength: 0, maxLength: 6 }), ends, body, fc.boolean())
  .map(([first, end, fields, last, rest, hasHost]) =>
    [first, end, hasHost ? 'Host: a\r\n' : '', ...fields.map(([text, after]) => text + after), last, rest].join(''),
  )
const requestText = fc.oneof(
  { weight: 2, arbitrary: good },
  { weight: 2, arbitrary: spiced },
  { weight: 1, arbitrary: wild },
)

/** One byte changed, taken away, or put in: what an attacker would try next. */
const mutated = fc
  .tuple(
    requestText,
    fc.nat(400),
    fc.constantFrom('\0', '\r', '\n', ' ', '\t', ':', '5', 'x', '\xa0', '\x7f', ''),
    fc.nat(2),
  )
  .map(([text, where, what, how]) => {
    const at = where % (text.length + 1)
    if (how === 0) return text
    return text.slice(0, at) + what + text.slice(how === 1 ? at : at + 1)
  })

interface Got {
  readonly bytes: string
  readonly answer: string
}

/** What the upstream received and the client was answered, for one connection that carries these bytes. */
const through = async (sluice: Front, received: string[], text: string): Promise<Got> => {
  const from = received.length
  const socket = connect(sluice.address.port, '127.0.0.1')
  let answer = ''
  socket.on('data', (chunk) => {
    answer += chunk.toString('latin1')
  })
  socket.on('error', () => {})
  socket.end(text, 'latin1')
  await once(socket, 'close')
  return { bytes: received.slice(from).join(''), answer }
}

/** A server that keeps what it gets, and answers each read with as many responses as it holds requests. */
const recorder = async (t: Test): Promise<{ port: number; received: string[] }> => {
  const received: string[] = []
  const server = await upstream((socket) => {
    let mine = ''
    let answered = 0
    socket.on('data', (chunk) => {
      mine += chunk.toString('latin1')
      received.push(chunk.toString('latin1'))
      const { requests } = parseStrictly(mine)
      for (; answered < requests.length; answered++) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
    })
    socket.on('end', () => socket.end())
  })
  t.teardown(() => server.close())
  return { port: server.address.port, received }
}

test('whatever a client sends, the upstream gets requests that two strict parsers read alike, or nothing', async (t) => {
  const node: string[] = []
  const judge = createServer().on('checkContinue', (req, res) => judge.emit('request', req, res))
  judge.on('checkExpectation', (req, res) => judge.emit('request', req, res))
  judge.on('request', (req, res) => {
    let size = 0
    req
      .on('data', (chunk: Buffer) => (size += chunk.length))
      .on('end', () => {
        node.push(`${req.method} ${req.url} ${size}`)
        res.end()
      })
  })
  const faults: string[] = []
  judge.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (error.code !== 'ECONNRESET') faults.push(error.code ?? error.message)
    socket.destroy()
  })
  judge.on('connect', (req, socket) => {
    node.push(`CONNECT ${req.url} 0`)
    socket.destroy()
  })
  judge.listen(0, '127.0.0.1')
  await once(judge, 'listening')
  t.teardown(() => judge.close())
  const judgePort = (judge.address() as { port: number }).port

  const { port, received } = await recorder(t)
  const policy =
    'defaults: { protocol: http1, http: { head: { timeout: 200ms }, timeout: 500ms, pool: { idle: 10ms }, loopMarker: false } }'
  const sluice = await front({ host: '127.0.0.1', port }, policy)
  t.teardown(() => sluice.close())
  let passed = 0
  let refused = 0
  await fc.assert(
    fc.asyncProperty(mutated, async (text) => {
      const { bytes, answer } = await through(sluice, received, text)
      if (bytes === '') {
        refused++
        return
      }
      passed++
      const ours = parseStrictly(bytes)
      // A request whose body the client never completed is cut off; it must not be read as a whole one.
      if (ours.fault !== undefined && ours.fault !== 'incomplete')
        throw new Error(`${ours.fault}: ${JSON.stringify(bytes)}`)
      const statuses = answer.match(/HTTP\/1\.[01] \d+/g) ?? []
      if (ours.requests.length > statuses.length)
        throw new Error(`more requests than answers: ${JSON.stringify([bytes, answer])}`)
      node.length = 0
      faults.length = 0
      await judged(judgePort, bytes)
      // Node knows a list of methods, and refuses the others without reading on.
      if (faults.includes('HPE_INVALID_METHOD')) return
      const theirs = node.filter((_, i) => i < ours.requests.length)
      const summary = ours.requests.map(({ method, target, size }) => `${method} ${target} ${size}`)
      const reads = ours.fault === 'incomplete' ? node.length <= summary.length : node.length === summary.length
      if (!reads || theirs.some((one, i) => one !== summary[i])) {
        throw new Error(`read differently: ${JSON.stringify({ bytes, node, summary, faults })}`)
      }
      if (ours.fault === undefined && faults.length > 0)
        throw new Error(`node refuses it: ${faults} ${JSON.stringify(bytes)}`)
    }),
    { numRuns: Number(process.env.SLUICE_RUNS ?? 2000) },
  )
  t.ok(passed > 50, `${passed} passed`)
  t.ok(refused > 50, `${refused} refused`)
})

const judged = async (port: number, bytes: string): Promise<void> => {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {}).resume()
  socket.end(bytes, 'latin1')
  await once(socket, 'close')
}
