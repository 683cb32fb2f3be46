import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { type Test, test } from 'tap'
import { Output } from '../../src/forward/output.ts'
import { fdOf } from '../../src/native/shim.ts'
import { DIRECT_READS, directOf, hearBytes, kept, makeDirect } from '../../src/net/direct.ts'
import { builtShim } from '../support/direct.ts'

const shim = builtShim()

/** A direct socket and its peer. `taken`: how many bytes the system takes at each call, of those given. */
const pair = async (t: Test, taken: (bytes: number) => number = () => 0) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true, ...DIRECT_READS })
  const [peer] = (await once(server, 'connection')) as [Socket]
  await once(socket, 'connect')
  const fd = fdOf(socket)!
  makeDirect(socket, (first, firstBytes, second) => {
    const all = Buffer.concat([first.subarray(0, firstBytes), ...(second ? [second] : [])])
    const count = Math.min(all.length, taken(all.length))
    return count === 0 ? -11 : shim.send(fd, all, count)
  })
  t.teardown(() => {
    socket.destroy()
    peer.destroy()
    server.close()
  })
  return { socket, peer }
}

const until = async (isTrue: () => boolean): Promise<void> => {
  while (!isTrue()) await new Promise((resolve) => setImmediate(resolve))
}

test('bytes that were put back are heard first, then those that the socket reads', async (t) => {
  const { socket, peer } = await pair(t)
  peer.write('first ')
  await once(socket, 'readable')
  socket.unshift(socket.read() as Buffer)
  let heard = ''
  const chunks: Buffer[] = []
  hearBytes(socket, (bytes) => {
    heard += bytes.toString()
    chunks.push(bytes)
  })
  await until(() => heard === 'first ')
  peer.write('second ')
  await until(() => heard === 'first second ')
  t.ok(directOf(socket)?.reader, 'the stream is passed by')
  peer.write('third')
  await until(() => heard === 'first second third')
  t.not(kept(chunks[1]!), chunks[1], 'bytes of a direct read are copied to be kept')
  t.equal(kept(chunks[0]!), chunks[0], 'others are not')
  peer.end()
  await once(socket, 'end')
})

test('a stream that nobody hears directly is read like any other, and reads stop while it is paused', async (t) => {
  const { socket, peer } = await pair(t)
  const sum = createHash('sha256')
  const sent = Buffer.alloc(3_000_000, 'abcdefg')
  peer.end(sent)
  let bytes = 0
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    sum.update(chunk)
    socket.pause()
    setImmediate(() => socket.resume())
  })
  await once(socket, 'end')
  t.equal(bytes, sent.length)
  t.equal(sum.digest('hex'), createHash('sha256').update(sent).digest('hex'))
})

test('whatever part of each write the system takes, every byte goes out once and in order', async (t) => {
  let call = 0
  const { socket, peer } = await pair(t, (bytes) => [bytes, 0, 1, 3, bytes - 1, 5000, bytes][call++ % 7]!)
  let written = 0
  const output = new Output(socket, { written: () => written++ })
  let received = ''
  peer.on('data', (bytes: Buffer) => {
    received += bytes.toString('latin1')
  })
  let expected = ''
  for (let i = 0; i < 70; i++) {
    const body = Buffer.alloc(i % 2 === 0 ? 10 : 9000, `${i % 10}`)
    output.text(`head ${i}\r\n`)
    output.bytes(body)
    output.text('\r\n')
    expected += `head ${i}\r\n${body}\r\n`
    if (i % 3 === 0) await until(() => received.length === expected.length)
  }
  await until(() => received.length === expected.length && !output.isBlocked)
  t.equal(received, expected)
  t.equal(output.total, expected.length)
  t.ok(written > 0)
  t.equal(output.isBlocked, false)
})
