import assert from 'node:assert/strict'
import { test } from 'tap'
import { front } from '../support/front.ts'
import { raw } from '../support/http.ts'
import { upstream } from '../support/peers.ts'

const DIRECTIONS = ['outbound', 'inbound'] as const

test('behaviour 3: bytes that are no HTTP come back exactly, outbound and inbound', async () => {
  for (const direction of DIRECTIONS) {
    const server = await upstream((socket) => void socket.pipe(socket))
    const sluice = await front(server.address, '', {}, { direction })
    const client = await raw(sluice.address)
    const all = Array.from({ length: 256 }, (_, code) => String.fromCharCode(code)).join('')
    client.socket.end(Buffer.from(`\0${all}`, 'latin1'))
    assert.equal(await client.rest(), `\0${all}`, direction)
    sluice.close()
    server.close()
  }
})

test('behaviour 4: a server that speaks first is heard at once, with and without a rule', async () => {
  for (const policy of ['', 'defaults: { protocol: opaque }']) {
    for (const direction of DIRECTIONS) {
      const server = await upstream((socket) => void socket.write('220 ready\r\n'))
      const sluice = await front(server.address, policy, {}, { direction })
      const client = await raw(sluice.address)
      assert.equal(await client.until(/\n/), '220 ready\r\n', `${direction} ${policy}`)
      client.socket.destroy()
      sluice.close()
      server.close()
    }
  }
})

test('behaviour 5: a client that says goodbye is still answered', async () => {
  const server = await upstream((socket) => {
    socket.resume().on('end', () => socket.end('you said goodbye'))
  })
  const sluice = await front(server.address)
  const client = await raw(sluice.address)
  client.socket.end('\0\x01 not a protocol')
  assert.equal(await client.rest(), 'you said goodbye')
  sluice.close()
  server.close()
})
