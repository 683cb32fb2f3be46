import fc from 'fast-check'
import t from 'tap'
import { captureReader, type Packet } from '../../src/codec/capture.ts'
import { ipText } from '../../src/codec/ipText.ts'
import { pcapngDropped, pcapngHead, pcapngPacket, pcapngSecrets, pcapngTally } from '../../src/codec/pcapngWrite.ts'
import { segmentReader } from '../../src/codec/segment.ts'
import { tcpFrames } from '../../src/codec/tcpFrames.ts'

const AT = 1_700_000_000_123.456
const ENDS = [
  [
    { host: '10.0.0.9', port: 40_000 },
    { host: '10.0.0.5', port: 443 },
  ],
  [
    { host: 'fd00::9', port: 40_000 },
    { host: '2001:db8::5', port: 443 },
  ],
  [
    { host: '10.0.0.9', port: 40_000 },
    { host: '2001:db8::5', port: 443 },
  ],
  [
    { host: '10.0.0.9', port: 40_000 },
    { host: 'orders.example', port: 443 },
  ],
] as const

const read = (file: Buffer, size = file.length): Packet[] => {
  const reader = captureReader()
  const packets: Packet[] = []
  for (let at = 0; at < file.length; at += size) {
    for (const packet of reader.push(file.subarray(at, at + size)))
      packets.push({ ...packet, bytes: packet.bytes.slice() })
  }
  return [...packets, ...reader.end()]
}

t.test('what is written is read back: addresses, times, both streams in order, whatever is between', (t) => {
  const said = fc.array(fc.tuple(fc.constantFrom('client', 'server'), fc.uint8Array({ minLength: 1, maxLength: 40 })))
  fc.assert(
    fc.property(fc.constantFrom(...ENDS), said, fc.boolean(), ([client, server], conversation, inBytes) => {
      const frames = tcpFrames(client, server)
      const packets = [
        ...frames.open(),
        ...conversation.flatMap(([who, bytes]) => frames.data(who, bytes)),
        frames.end('client'),
        frames.end('server'),
        frames.nothing('client'),
      ]
      const file = Buffer.concat([
        pcapngHead('test', 'sluice'),
        ...packets.flatMap((packet, i) => [pcapngPacket(AT + i, packet, i % 2 === 0 ? `number ${i}` : undefined)]),
        pcapngSecrets(Buffer.from('CLIENT_RANDOM 00 11\n')),
        pcapngDropped(AT, 7),
      ])
      const segments = read(file, inBytes ? 1 : file.length).map((packet) => {
        const segment = segmentReader()(packet)
        if (segment === undefined) throw new Error(`packet ${packet.number} is no segment`)
        return segment
      })
      t.equal(segments.length, packets.length)
      t.ok(Math.abs(segments[1]!.time - AT - 1) < 0.001)
      t.equal(segments[0]!.sourcePort, client.port)
      if (client.host.includes('.') && server.host.includes('.') && !/[a-z]/.test(server.host))
        t.equal(ipText(segments[0]!.destination), server.host)
      const next = { client: 1, server: 1 }
      const heard: [string, string][] = []
      for (const { sourcePort, sequence, acknowledgement, payload } of segments.slice(3)) {
        const who = sourcePort === client.port ? 'client' : 'server'
        t.equal(sequence, next[who])
        t.equal(acknowledgement, next[who === 'client' ? 'server' : 'client'])
        next[who] += payload.length
        if (payload.length > 0) heard.push([who, Buffer.from(payload).toString('hex')])
        else next[who] += 1
      }
      t.strictSame(
        heard,
        conversation.map(([who, bytes]) => [who, Buffer.from(bytes).toString('hex')]),
      )
      t.strictSame(pcapngTally(Buffer.concat([file, Buffer.from([6, 0, 0])])), {
        at: file.length,
        packets: packets.length,
        dropped: 7,
      })
    }),
    { numRuns: 50 },
  )
  t.end()
})

t.test('what no packet can hold is several, and a sequence number goes round', (t) => {
  const frames = tcpFrames(ENDS[0][0], ENDS[0][1])
  const packets = frames.data('client', new Uint8Array(100_000))
  t.strictSame(
    packets.map((packet) => packet.length - 40),
    [32_768, 32_768, 32_768, 1_696],
  )
  t.strictSame(
    packets.map((packet) => packet.readUInt32BE(24)),
    [0, 32_768, 65_536, 98_304],
  )
  t.end()
})
