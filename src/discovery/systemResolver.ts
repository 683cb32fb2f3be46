import { readFile } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import type { Clock } from '../net/clock.ts'
import { type HostsOrder, parseHosts, parseNsswitch, parseResolvConf, type ResolvConf } from './resolvConf.ts'

/** How this host looks up names. */
export interface SystemResolver {
  readonly conf: ResolvConf
  readonly hosts: ReadonlyMap<string, readonly string[]>
  readonly order: HostsOrder
  /** Of which families it has an address that is more than its own. */
  readonly families: { readonly ipv4: boolean; readonly ipv6: boolean }
}

/** Where it is written. */
export interface SystemPaths {
  readonly resolvConf: string
  readonly hosts: string
  readonly nsswitch: string
}

const PATHS: SystemPaths = { resolvConf: '/etc/resolv.conf', hosts: '/etc/hosts', nsswitch: '/etc/nsswitch.conf' }

/** How old what we know of these files may be: they change when a laptop changes its network, or a VPN comes up. */
export const SYSTEM_MS = 5_000

const FILE_BYTES_MAX = 4 * 2 ** 20 // block lists of a hundred thousand names have this size; whatever is larger is none

/** Reads the files of the host again when what is known of them is too old. A file that is not there says nothing. */
export const readSystem = (clock: Clock, paths: SystemPaths = PATHS): (() => Promise<SystemResolver>) => {
  let known: Promise<SystemResolver> | undefined
  let at = 0
  return () => {
    if (known === undefined || clock.now() - at >= SYSTEM_MS) {
      at = clock.now()
      known = read(paths)
    }
    return known
  }
}

const read = async ({ resolvConf, hosts, nsswitch }: SystemPaths): Promise<SystemResolver> => {
  const [conf, names, order] = await Promise.all([resolvConf, hosts, nsswitch].map(textOf))
  return {
    conf: parseResolvConf(conf!),
    hosts: parseHosts(names!),
    order: parseNsswitch(order!),
    families: familiesOf(),
  }
}

const textOf = async (path: string): Promise<string> => {
  try {
    const text = await readFile(path, 'utf8')
    return text.length > FILE_BYTES_MAX ? text.slice(0, FILE_BYTES_MAX) : text
  } catch {
    return ''
  }
}

const familiesOf = (): SystemResolver['families'] => {
  const all = Object.values(networkInterfaces()).flatMap((each) => each ?? [])
  const isUseful = ({ internal, address }: (typeof all)[number]) => !internal && !/^(fe80|169\.254\.)/i.test(address)
  const has = (family: string) => all.some((each) => each.family === family && isUseful(each))
  const families = { ipv4: has('IPv4'), ipv6: has('IPv6') }
  // A host that has nothing but loopback asks for both, as it would without this rule.
  return families.ipv4 || families.ipv6 ? families : { ipv4: true, ipv6: true }
}
