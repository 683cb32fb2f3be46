import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import t from 'tap'
import { captureReader, type Packet } from '../../src/codec/capture.ts'
import { ipText } from '../../src/codec/ipText.ts'
import { type Segment, segmentReader } from '../../src/codec/segment.ts'
import { etherType, frame, ip, packet, pcap, pcapng, tcp, type Wire, type Written } from '../support/capture.ts'

const V4: Wire = {
  from: '10.0.0.1:40000',
  to: '10.0.0.2:80',
  sequence: 7,
  acknowledgement: 9,
  flags: 24,
  payload: 'hello',
}
const V6: Wire = { ...V4, from: 'fd00::1:40000', to: '2001:db8::2:0:1:80' }
const AT = 1_700_000_000_123.456

const packetsOf = (bytes: Uint8Array, size = bytes.length): Packet[] => {
  const reader = captureReader()
  const packets: Packet[] = []
  for (let at = 0; at < bytes.length; at += size) packets.push(...reader.push(bytes.subarray(at, at + size)))
  return [...packets, ...reader.end()]
}

/** What a segment says, in words that can be compared. */
const words = (segment: Segment | undefined): string | undefined =>
  segment &&
  [
    `${ipText(segment.source)} ${segment.sourcePort} > ${ipText(segment.destination)} ${segment.destinationPort}`,
    `${segment.sequence} ${segment.acknowledgement} ${segment.flags} ${segment.length}`,
    Buffer.from(segment.payload).toString('latin1'),
  ].join(' ')
const SAID = '10.0.0.1 40000 > 10.0.0.2 80 7 9 24 5 hello'
const SAID6 = 'fd00::1 40000 > 2001:db8::2:0:1 80 7 9 24 5 hello'

const two: Written[] = [
  { time: AT, bytes: frame(packet(V4)) },
  { time: AT + 1_500, bytes: frame(packet(V6)), length: 2_000 },
]

const FILES: readonly (readonly [string, Buffer])[] = [
  ...[true, false].flatMap((little) =>
    [true, false].map((nano): [string, Buffer] => [
      `pcap, ${little ? 'little' : 'big'} endian, ${nano ? 'nano' : 'micro'}seconds`,
      pcap(two, { little, nano }),
    ]),
  ),
  ...[true, false].map((little): [string, Buffer] => [
    `pcapng, ${little ? 'little' : 'big'} endian`,
    pcapng(
      [{ linkType: 1 }],
      two.map((each) => ({ ...each, on: 0 })),
      little,
    ),
  ]),
  ...[3, 6, 9, 128 + 20].map((resolution): [string, Buffer] => [
    `pcapng, timestamps of resolution ${resolution}, with an offset`,
    pcapng(
      [{ linkType: 113 }, { linkType: 1, resolution, offset: 1_000_000 }],
      two.map((each) => ({ ...each, on: 1 })),
    ),
  ]),
]

for (const [name, bytes] of FILES) {
  t.test(`${name} is read, whole and byte by byte`, async (t) => {
    const segmentOf = segmentReader()
    for (const size of [bytes.length, 1, 17]) {
      const packets = packetsOf(bytes, size)
      t.same(
        packets.map(({ number, linkType }) => [number, linkType]),
        [
          [1, 1],
          [2, 1],
        ],
      )
      const precision = name.includes('resolution 3') ? 1 : 0.01
      t.ok(
        packets.every(({ time }, at) => Math.abs(time - two[at]!.time) < precision),
        packets.map(({ time }) => time).join(),
      )
      t.equal(packets[1]!.length, 2_000)
      t.same(
        packets.map((each) => words(segmentOf(each))),
        [SAID, SAID6],
      )
    }
  })
}

t.test('a section of the other byte order may follow, with interfaces of its own', async (t) => {
  const each = two.map((one) => ({ ...one, on: 0 }))
  const packets = packetsOf(Buffer.concat([pcapng([{ linkType: 1 }], each), pcapng([{ linkType: 113 }], each, false)]))
  t.same(
    packets.map(({ number, linkType }) => [number, linkType]),
    [
      [1, 1],
      [2, 1],
      [3, 113],
      [4, 113],
    ],
  )
})

t.test('damage is told with the number of the packet, after the packets in front of it', async (t) => {
  const whole = pcap([two[0]!, two[0]!, two[0]!])
  const each = (whole.length - 24) / 3
  const damaged = Buffer.from(whole)
  damaged.writeUInt32LE(0x7fffffff, 24 + each * 2 + 8)
  const ng = pcapng(
    [{ linkType: 1 }],
    [two[0]!, two[0]!, two[0]!].map((one) => ({ ...one, on: 0 })),
  )
  const unknownInterface = Buffer.from(ng)
  unknownInterface.writeUInt32LE(7, ng.length - 32 - 60 + 8)
  for (const [bytes, code, message] of [
    [unknownInterface, 'CAPTURE_DAMAGED', /^packet 3: an interface that was not described/],
    [damaged, 'CAPTURE_DAMAGED', /^packet 3: a length of 2147483647 bytes/],
    [whole.subarray(0, -1), 'CAPTURE_CUT', /^packet 3: the file ends \d+ bytes into it/],
  ] as const) {
    for (const size of [bytes.length, 1]) {
      const reader = captureReader()
      const packets: Packet[] = []
      const read = () => {
        for (let at = 0; at < bytes.length; at += size) packets.push(...reader.push(bytes.subarray(at, at + size)))
        reader.end()
      }
      t.throws(read, { code, message })
      t.equal(packets.length, 2)
    }
  }
})

t.test('what is no capture says so', async (t) => {
  for (const [bytes, message] of [
    ['', /empty/],
    ['GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n', /neither pcap nor pcapng/],
    ['\x0a\x0d\x0d\x0a\x1c\0\0\0\0\0\0\0\0\0\0\0', /no byte order/],
  ] as const)
    t.throws(() => packetsOf(Buffer.from(bytes, 'latin1')), { code: 'CAPTURE_DAMAGED', message })
})

const uint16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255])
const inside = packet(V4)
const udp = (port: number, payload: Buffer): Buffer =>
  Buffer.concat([uint16(50_000), uint16(port), uint16(8 + payload.length), uint16(0), payload])
const outer = { from: '192.168.0.1:0', to: '192.168.0.2:0' }
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')

/** Link type, bytes, and whether the segment inside is the one of IPv6. */
const LAYERS: readonly (readonly [string, number, Buffer])[] = [
  ['ethernet', 1, frame(inside)],
  ['ethernet with padding behind the packet', 1, Buffer.concat([frame(inside), Buffer.alloc(6)])],
  ['VLAN', 1, frame(inside, [0x8100])],
  ['QinQ', 1, frame(inside, [0x88a8, 0x8100])],
  [
    'IEEE 802.3 with SNAP',
    1,
    Buffer.concat([Buffer.alloc(12), uint16(60), hex('aaaa03 000000'), uint16(0x0800), inside]),
  ],
  ['MPLS, two labels', 1, Buffer.concat([Buffer.alloc(12), uint16(0x8847), hex('00010040 00020140'), inside])],
  ['PPPoE', 1, Buffer.concat([Buffer.alloc(12), uint16(0x8864), hex('1100 0001 0030 0021'), inside])],
  ['BSD null, little endian', 0, Buffer.concat([hex('02000000'), inside])],
  ['BSD null, big endian', 0, Buffer.concat([hex('00000002'), inside])],
  ['OpenBSD loopback', 108, Buffer.concat([hex('00000002'), inside])],
  ['PPP', 9, Buffer.concat([hex('ff03 0021'), inside])],
  ['raw IP', 101, inside],
  ['raw IP, 12', 12, inside],
  ['raw IPv4', 228, inside],
  ['Linux cooked', 113, Buffer.concat([Buffer.alloc(14), uint16(0x0800), inside])],
  ['Linux cooked with a VLAN tag', 113, Buffer.concat([Buffer.alloc(14), uint16(0x8100), hex('0007 0800'), inside])],
  ['Linux cooked, version 2', 276, Buffer.concat([uint16(0x0800), Buffer.alloc(18), inside])],
  ['IP in IP', 101, ip(outer, inside, { protocol: 4 })],
  ['GRE', 101, ip(outer, Buffer.concat([hex('0000 0800'), inside]), { protocol: 47 })],
  [
    'GRE with a key, around ethernet',
    101,
    ip(outer, Buffer.concat([hex('2000 6558 00000001'), frame(inside)]), { protocol: 47 }),
  ],
  ['VXLAN', 101, ip(outer, udp(4_789, Buffer.concat([hex('08000000 00000100'), frame(inside)])), { protocol: 17 })],
  [
    'GENEVE with an option',
    101,
    ip(outer, udp(6_081, Buffer.concat([hex('0100 0800 00000100 01020304'), inside])), { protocol: 17 }),
  ],
  ['L2TP', 101, ip(outer, udp(1_701, Buffer.concat([hex('0202 0001 0002 0000 ff03 0021'), inside])), { protocol: 17 })],
]

for (const [name, linkType, bytes] of LAYERS) {
  t.test(`TCP is found in ${name}, and nothing in any part of it`, async (t) => {
    const segmentOf = segmentReader()
    const read = (part: Buffer) => segmentOf({ number: 1, time: 0, linkType, bytes: part, length: bytes.length })
    t.equal(words(read(bytes)), SAID)
    for (let end = 0; end < bytes.length - 11; end++) {
      const found = read(bytes.subarray(0, end))
      if (found !== undefined && found.payload.length > 5) t.fail(`${end} bytes: ${words(found)}`)
    }
  })
}

t.test('IPv6 is found behind its extension headers', async (t) => {
  const segmentOf = segmentReader()
  const v6 = packet(V6)
  const withHeaders = (first: number, headers: string): Buffer => {
    const all = Buffer.concat([v6.subarray(0, 40), hex(headers), v6.subarray(40)])
    all[6] = first
    all.writeUInt16BE(all.length - 40, 4)
    return all
  }
  const read = (bytes: Buffer) => words(segmentOf({ number: 1, time: 0, linkType: 101, bytes, length: bytes.length }))
  t.equal(read(v6), SAID6)
  t.equal(read(withHeaders(0, '06 00 0104 00000000')), SAID6, 'hop-by-hop')
  t.equal(read(withHeaders(43, '3c 00 0000 00000000  06 01 0104 00000000 0000000000000000')), SAID6, 'routing, options')
  t.equal(read(withHeaders(51, '06 01 0000 00000001 00000001')), SAID6, 'authentication')
  t.equal(read(withHeaders(44, '06 00 0000 00000001')), SAID6, 'a fragment that is the whole')
  t.equal(read(withHeaders(50, '00 00 0000 00000001')), undefined, 'encrypted')
  t.equal(etherType(v6), 0x86dd)
})

t.test('fragments are put together in any order, once all are there', async (t) => {
  const bytes = tcp({ ...V4, payload: 'x'.repeat(100) })
  const cut = (from: number, to: number, id = 1): Buffer =>
    ip(V4, bytes.subarray(from, to), { fragment: from / 8 + (to < bytes.length ? 0x2000 : 0), id })
  const parts = [cut(0, 40), cut(40, 80), cut(80, bytes.length)]
  for (const order of [
    [0, 1, 2],
    [2, 1, 0],
    [1, 0, 2],
    [0, 0, 2, 1],
  ]) {
    const segmentOf = segmentReader()
    const found = order.map((at) => segmentOf({ number: 1, time: 0, linkType: 101, bytes: parts[at]!, length: 0 }))
    t.same(
      found.slice(0, -1).filter((each) => each !== undefined),
      [],
    )
    t.equal(found.at(-1)?.length, 100)
  }
  const segmentOf = segmentReader()
  segmentOf({ number: 1, time: 0, linkType: 101, bytes: parts[0]!, length: 0 })
  for (let id = 2; id < 70; id++) segmentOf({ number: 1, time: 0, linkType: 101, bytes: cut(0, 40, id), length: 0 })
  const late = [1, 2].map((at) => segmentOf({ number: 1, time: 0, linkType: 101, bytes: parts[at]!, length: 0 }))
  t.same(late, [undefined, undefined], 'what waited longest made room')
})

t.test('a packet that the capture cut says how long it was', async (t) => {
  const segmentOf = segmentReader()
  const bytes = frame(packet(V4)).subarray(0, -2)
  const segment = segmentOf({ number: 1, time: 0, linkType: 1, bytes, length: bytes.length + 2 })
  t.equal(segment?.length, 5)
  t.equal(Buffer.from(segment!.payload).toString(), 'hel')
})

t.test('addresses are written as RFC 5952 asks', async (t) => {
  for (const [groups, text] of [
    ['2001 0db8 0000 0000 0000 0000 0000 0001', '2001:db8::1'],
    ['2001 0db8 0000 0001 0001 0001 0001 0001', '2001:db8:0:1:1:1:1:1'],
    ['2001 0000 0000 0001 0000 0000 0000 0001', '2001:0:0:1::1'],
    ['0000 0000 0000 0000 0000 0000 0000 0000', '::'],
    ['0000 0000 0000 0000 0000 ffff 0a00 0001', '10.0.0.1'],
    ['fe80 0000 0000 0000 0000 0000 0000 0000', 'fe80::'],
  ] as const)
    t.equal(ipText(hex(groups)), text)
})

const FIXTURES = new URL('../fixtures/pcap/', import.meta.url)

t.test('no bytes make the readers throw anything but what a peer did wrong', async (t) => {
  const files = [
    ...FILES.map(([, bytes]) => bytes),
    readFileSync(new URL('OISF-suricata-verify__tests__tcp-fastopen-05__tfo.pcap', FIXTURES)),
  ]
  const links = LAYERS.map(([, linkType]) => linkType)
  fc.assert(
    fc.property(
      fc.constantFrom(...files),
      fc.array(fc.tuple(fc.nat(2_000), fc.nat(255)), { maxLength: 6 }),
      fc.constantFrom(...links),
      fc.integer({ min: 1, max: 400 }),
      (file, changes, linkType, size) => {
        const bytes = Buffer.from(file)
        for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
        const segmentOf = segmentReader()
        try {
          for (const each of packetsOf(bytes, size)) {
            segmentOf(each)
            segmentOf({ ...each, linkType })
          }
        } catch (error) {
          t.match((error as { code: string }).code, /^CAPTURE_/)
        }
      },
    ),
    { numRuns: 400 },
  )
})
