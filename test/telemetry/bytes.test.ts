import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'tap'
import { FLAG } from '../../src/codec/http2Codes.ts'
import { front } from '../support/front.ts'
import { scripted } from '../support/http.ts'
import { frame, headers, POST, preface, settingsAck } from '../support/http2.ts'

const POLICY = 'rules: [{ name: bytes, when: { destination: 127.0.0.1/32 }, then: { upstream: { protocol: http1 } } }]'
const ANSWER = 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello'

const CHUNKED =
  'POST / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n'
const FRAMED = Buffer.concat([
  preface,
  settingsAck,
  headers(1, POST, FLAG.endHeaders),
  frame(0, 1, 1, Buffer.from('abc')),
])

const SAID = [
  ['http1', Buffer.from(CHUNKED)],
  ['http2', FRAMED],
] as const

for (const [protocol, said] of SAID) {
  test(`${protocol}: a connection counts every byte, heads and frames too; a request counts its bodies`, async (t) => {
    const web = await scripted(ANSWER)
    const proxy = await front(web.address, POLICY)
    t.teardown(() => {
      proxy.close()
      web.close()
    })
    const socket = connect({ ...proxy.address, allowHalfOpen: true })
    socket.resume().write(said)
    const ended = once(socket, 'end')
    await new Promise<void>((resolve) => proxy.world.ledger.subscribeRequests(() => resolve()))
    socket.end()
    await ended
    while (proxy.outcomes.length === 0) await new Promise((resolve) => setImmediate(resolve))
    const [{ protocols, bytes }] = proxy.outcomes as [(typeof proxy.outcomes)[0]]
    assert.deepEqual(protocols, [protocol])
    assert.deepEqual(bytes, { sent: said.length, received: socket.bytesRead })
    assert.deepEqual(proxy.requests[0]?.bytes, { sent: 3, received: 5 })
  })
}
