import { type Test, test } from 'tap'
import { receive } from '../../src/codec/http2.ts'
import { FLAG, FRAME, PREFACE } from '../../src/codec/http2Codes.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'
import { type Front, front } from '../support/front.ts'
import { heard } from '../support/heard.ts'
import { raw } from '../support/http.ts'
import { frame, headers, preface, settings, settingsAck } from '../support/http2.ts'
import { answering, cases, clientCases, inOrder } from '../support/http2Cases.ts'
import { type Upstream, upstream } from '../support/peers.ts'

/**
 * The table of RFC sections once more, through the running proxy: what a client gets that breaks them, and what a server
 * gets. No public suite of HTTP/2 cases can be had from the registries that CI reaches; h2spec's are among the table's,
 * and test/live/http2Peers.test.ts holds the table to what other servers do.
 */
const POLICY = 'defaults: { protocol: http2, upstream: { protocol: http2 }, detect: { serverFirst: never } }'

/** A server that answers every request with eleven bytes, by the codec alone. */
const greeter = (): Promise<Upstream> =>
  upstream((socket) => {
    const server = answering()
    socket.on('data', (bytes: Buffer) => {
      try {
        receive(server.h2, bytes, 0)
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
      }
      socket.write(server.taken())
    })
  })

const PING = frame(FRAME.ping, 0, 0, Buffer.from('the last'))

const checkClient = async (t: Test, sluice: Front, { section, title, send, want }: (typeof cases)[number]) => {
  const client = await raw(sluice.address)
  const { until } = heard(client.socket)
  // An answer may be under way still, where the codec alone had given it: then the stream is not closed yet, and only it
  // is lost (RFC 9113 5.1).
  const mayReset = want[0] === 'goaway STREAM_CLOSED'
  const ends = want[0]!.startsWith('goaway')
  const isThere = (found: readonly string[]) =>
    inOrder(found, want) || (mayReset && found.some((one) => /^rstStream \d+ STREAM_CLOSED/.test(one)))
  client.socket.write(Buffer.concat([preface, settingsAck, ...send, ...(ends ? [] : [PING])]))
  const all = await until((found) => isThere(found) && (ends || found.includes('ping ack')))
  t.ok(isThere(all), `${section}: ${title}: ${want.join(', ')} in ${all.join(', ')}`)
  if (!ends) t.ok(all.includes('ping ack'), 'and it goes on')
  client.socket.destroy()
}

test('RFC 9113 and 7541: the face to clients, through the running proxy', async (t) => {
  const server = await greeter()
  const sluice = await front(server.address, POLICY)
  // Limits of their own, and answers that are there before the next frame, are for the codec, which has its own test.
  const here = cases.filter(({ limits, title }) => limits === undefined && !title.endsWith('opens later'))
  t.ok(here.length > 100)
  for (const one of here) await checkClient(t, sluice, one)
  sluice.close()
  server.close()
})

test('RFC 9113: the face to servers, through the running proxy', async (t) => {
  for (const { section, title, send, want } of clientCases) {
    let number = 0
    const dialled = Promise.withResolvers<ReturnType<typeof heard>>()
    const server = await upstream((socket) => {
      const peer = answering()
      const isFirst = number++ === 0
      if (!isFirst) {
        socket.on('data', (bytes: Buffer) => {
          receive(peer.h2, bytes, 0)
          socket.write(peer.taken())
        })
        return
      }
      const toServer = heard(socket, PREFACE.length)
      dialled.resolve(toServer)
      void toServer
        .until((all) => ['headers 1', 'headers 3'].every((one) => all.some((frame) => frame.startsWith(one))))
        .then(() => socket.write(Buffer.concat([settings(), settingsAck, ...send])))
    })
    const sluice = await front(server.address, POLICY)
    const client = await raw(sluice.address)
    const toClient = heard(client.socket)
    const fields = (method: string) => [`:method: ${method}`, ':scheme: http', ':path: /', ':authority: a']
    client.socket.write(
      Buffer.concat([preface, settingsAck, headers(1, fields('POST'), FLAG.endHeaders), headers(3, fields('HEAD'))]),
    )
    const toServer = await dialled.promise
    const [what, id = '', code = ''] = want.split(' ')
    const isByServer = title === 'RST_STREAM' || title.startsWith('GOAWAY')
    if (what === 'failed' || (what === 'reset' && !isByServer)) {
      const told = what === 'failed' ? `goaway ${id.slice('HTTP2_'.length)}` : `rstStream ${id} ${code}`
      const all = await toServer.until((found) => found.includes(told))
      t.ok(all.includes(told), `${section}: ${title}: ${told} in ${all.join(', ')}`)
    } else {
      const stream = what === 'reset' ? `(headers|rstStream) ${id}` : `headers ${id}`
      const all = await toClient.until((found) => found.some((one) => new RegExp(`^${stream}`).test(one)))
      t.ok(
        all.some((one) => new RegExp(`^${stream}`).test(one)),
        `${section}: ${title}: ${stream} in ${all.join(', ')}`,
      )
    }
    // Whatever the server does, no client waits for ever.
    if (what === 'failed') await toClient.until((found) => found.some((one) => /^(headers|rstStream) 1/.test(one)))
    client.socket.destroy()
    sluice.close()
    server.close()
  }
})
