import { BlockList, isIP } from 'node:net'
import { unmapped } from '../net/address.ts'

/** Address ranges that commands do not reach unless a rule of the policy opens them, with the reason we give. */
export const CLOSED_RANGES: readonly (readonly [range: string, what: string])[] = [
  ['0.0.0.0/8', 'this host'],
  ['10.0.0.0/8', 'private'],
  ['100.64.0.0/10', 'carrier-grade NAT'],
  ['127.0.0.0/8', 'loopback'],
  ['168.63.129.16/32', 'cloud metadata'], // Azure's wire server, the one metadata address in public space.
  ['169.254.0.0/16', 'link-local and cloud metadata'],
  ['172.16.0.0/12', 'private'],
  ['192.0.0.0/24', 'protocol assignments and cloud metadata'],
  ['192.0.2.0/24', 'documentation'],
  ['192.88.99.0/24', '6to4 relay'],
  ['192.168.0.0/16', 'private'],
  ['198.18.0.0/15', 'benchmarking'],
  ['198.51.100.0/24', 'documentation'],
  ['203.0.113.0/24', 'documentation'],
  ['224.0.0.0/4', 'multicast'],
  ['240.0.0.0/4', 'reserved and broadcast'],
  ['::/96', 'unspecified, loopback and IPv4-compatible'],
  ['64:ff9b:1::/48', 'local NAT64'],
  ['100::/64', 'discard'],
  ['2001::/32', 'Teredo'],
  ['2001:db8::/32', 'documentation'],
  ['2002::/16', '6to4'],
  ['3fff::/20', 'documentation'],
  ['fc00::/7', 'unique local and cloud metadata'],
  ['fe80::/10', 'link-local'],
  ['fec0::/10', 'site-local'],
  ['ff00::/8', 'multicast'],
]

const LISTS = CLOSED_RANGES.map(([range, what]) => {
  const [network = '', prefix = ''] = range.split('/')
  const list = new BlockList()
  list.addSubnet(network, Number(prefix), isIP(network) === 6 ? 'ipv6' : 'ipv4')
  return { list, range, what }
})

/** The closed range an address is in, in words; undefined for a public address. What is no address is closed too. */
export const closedRange = (address: string): string | undefined => {
  const host = embedded(unmapped(address.replace(/%.*$/, '')))
  const family = isIP(host)
  if (family === 0) return 'not an IP address'
  const found = LISTS.find(({ list }) => list.check(host, family === 6 ? 'ipv6' : 'ipv4'))
  return found === undefined ? undefined : `${found.what} (${found.range})`
}

/** The IPv4 address inside a NAT64 address (RFC 6052, 64:ff9b::/96): the gateway will turn it back into one. */
const embedded = (host: string): string => {
  if (isIP(host) !== 6) return host
  const groups = expand(host)
  const [a, b, c, d, e, f, high = 0, low = 0] = groups
  const isMapped = a === 0 && b === 0 && c === 0 && d === 0 && e === 0 && f === 0xffff
  const isNat64 = a === 0x64 && b === 0xff9b && c === 0 && d === 0 && e === 0 && f === 0
  return isMapped || isNat64 ? `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}` : host
}

/** The eight groups of an IPv6 address that node has already found valid. */
const expand = (host: string): number[] => {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(host)
  const text =
    dotted === null
      ? host
      : `${dotted[1]}${(Number(dotted[2]) * 256 + Number(dotted[3])).toString(16)}:${(Number(dotted[4]) * 256 + Number(dotted[5])).toString(16)}`
  const [head = '', tail] = text.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : 8 - left.length - right.length
  return [...left, ...Array<string>(zeros).fill('0'), ...right].map((group) => Number.parseInt(group, 16))
}
