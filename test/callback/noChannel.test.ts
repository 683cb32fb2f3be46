import { type Test, test } from 'tap'
import { type Front, front } from '../support/front.ts'
import { raw } from '../support/http.ts'
import { fetchHttp2, http2Client } from '../support/http2Proxy.ts'
import { readAll, upstream } from '../support/peers.ts'

const TO_APP = 'defaults: { upstream: { channel: orders } }'

/** Sluice without callback channels, in front of a server that nobody may dial. */
const before = async (t: Test): Promise<Front> => {
  const server = await upstream(() => t.fail('the original destination was dialled'))
  const sluice = await front(server.address, TO_APP)
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  return sluice
}

test('where channels are not enabled, what the policy sends to one is refused and nothing is dialled', async (t) => {
  const sluice = await before(t)

  const http1 = await raw(sluice.address)
  http1.send('GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n')
  t.match(await http1.rest(), /^HTTP\/1\.1 503 [\s\S]*sluice-error: noChannel/)

  const client = http2Client(t, sluice.address.port)
  t.match(await fetchHttp2(client, { ':authority': 'shop' }), { status: 503 })
  const call = { ':authority': 'shop', ':method': 'POST', 'content-type': 'application/grpc' }
  t.match(await fetchHttp2(client, call, ''), { status: 200, headers: { 'grpc-status': '14' } })
  t.match(
    sluice.requests.map(({ status, error }) => `${status} ${error}`),
    ['503 noChannel', '503 noChannel', '200 noChannel'],
  )

  const opaque = await raw(sluice.address)
  opaque.send('\x00\x01\x02 this is nothing that we know')
  await t.rejects(readAll(opaque.socket), { code: 'ECONNRESET' })
  t.match(sluice.outcomes.at(-1), { ended: 'connectFailed', error: { code: 'NO_CHANNEL' } })
})
