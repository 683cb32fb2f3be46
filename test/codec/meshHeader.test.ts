import fc from 'fast-check'
import { test } from 'tap'
import { type MeshHeader, readMeshHeader, writeMeshHeader } from '../../src/codec/meshHeader.ts'

const CASES: readonly [string, MeshHeader, string][] = [
  ['a port alone', { port: 80 }, '0004 0102 0050'],
  ['a port and HTTP/2', { port: 443, protocol: 'http2' }, '0007 0102 01bb 0201 02'],
  ['opaque bytes for a host', { port: 25, protocol: 'opaque', host: 'mx.a' }, '000d 0102 0019 0201 04 0304 6d782e61'],
]

for (const [name, header, hex] of CASES) {
  const bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex')
  test(`${name} is written and read, whole, byte by byte and with bytes behind it`, async (t) => {
    t.same(writeMeshHeader(header), bytes)
    for (let cut = 0; cut < bytes.length; cut++) t.same(readMeshHeader(bytes.subarray(0, cut)), { is: 'more' })
    const expected = { is: 'yes', value: { header, end: bytes.length } }
    t.same(readMeshHeader(bytes), expected)
    t.same(readMeshHeader(Buffer.concat([bytes, Buffer.from('GET / HTTP/1.1')])), expected)
  })
}

const WRONG: readonly [string, string, string][] = [
  ['no port', '0003 0201 01', 'MESH_HEADER_NO_PORT'],
  ['port 0', '0004 0102 0000', 'MESH_HEADER_NO_PORT'],
  ['a port of three bytes', '0005 0103 000050', 'MESH_HEADER_NO_PORT'],
  ['a field longer than the header', '0004 0109 0050', 'MESH_HEADER_CUT'],
  ['a field without a size', '0005 0102 0050 02', 'MESH_HEADER_CUT'],
  ['64 KiB announced', 'ffff', 'MESH_HEADER_TOO_LARGE'],
  ['a host with a blank', '0009 0102 0050 0303 612062', 'MESH_HEADER_BAD_HOST'],
  ['an unknown field that must be understood', '0006 0102 0050 8000', 'MESH_HEADER_UNKNOWN'],
]

for (const [name, hex, code] of WRONG)
  test(`${name} is refused`, async (t) => {
    t.throws(() => readMeshHeader(Buffer.from(hex.replaceAll(' ', ''), 'hex')), { code })
  })

test('an unknown field that may be skipped is, and an unknown protocol means look yourself', async (t) => {
  const read = readMeshHeader(Buffer.from('000b 0102 0050 0702 ffff 0201 63'.replaceAll(' ', ''), 'hex'))
  t.same(read, { is: 'yes', value: { header: { port: 80 }, end: 13 } })
})

test('any bytes are read, asked for more of, or refused with a code; never more than 1 KiB is asked for', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1_100 }), (bytes) => {
      try {
        const read = readMeshHeader(Buffer.from(bytes))
        if (read.is === 'more') return bytes.length < 1_024
        return read.is === 'yes' && read.value.end <= bytes.length
      } catch (error) {
        return String((error as { code?: string }).code).startsWith('MESH_HEADER_')
      }
    }),
  )
})
