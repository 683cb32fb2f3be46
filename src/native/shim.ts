import { getSystemErrorName } from 'node:util'
import { type Address, unmapped } from '../net/address.ts'
import { type Addon, checked, type Loaded, loadAddon, systemError } from './addon.ts'

/** Dead-peer detection of the kernel, in seconds. */
export interface Keepalive {
  readonly idle: number
  readonly interval: number
  readonly count: number
}

/** The socket calls Node does not offer. All but the first throw an Error whose `code` is errno's name. */
export interface Shim {
  /**
   * Where a connection redirected by iptables was going; undefined when it was not redirected.
   * `family` is that of the address the client used: 4 also for an IPv4 client of a dual-stack listener.
   */
  originalDestination(fd: number, family: 4 | 6): Address | undefined
  /** SO_MARK: what routing and iptables rules see. Setting it needs CAP_NET_ADMIN. */
  mark(fd: number): number
  setMark(fd: number, mark: number): void
  /** IP_TRANSPARENT, IPV6_TRANSPARENT: bind to, and be reached at, addresses of others. Needs CAP_NET_ADMIN. */
  transparent(fd: number, family: 4 | 6): boolean
  setTransparent(fd: number, family: 4 | 6, on: boolean): void
  /** TCP_NODELAY: small writes leave at once. */
  setNoDelay(fd: number): void
  /** TCP_USER_TIMEOUT in milliseconds: how long sent bytes may stay unacknowledged; 0 is the system's default. */
  userTimeout(fd: number): number
  setUserTimeout(fd: number, ms: number): void
  keepalive(fd: number): Keepalive | undefined
  setKeepalive(fd: number, keepalive: Keepalive | undefined): void
  /** The next close() sends RST instead of FIN and drops what was not sent yet. */
  setAbortiveClose(fd: number, on: boolean): void
  /** Gives the system back what malloc has and nobody uses. */
  trimHeap(): void
  /** How many bytes of `first`, up to `firstBytes`, and then of `second` the system took at once; minus errno if none. */
  send(fd: number, first: Buffer, firstBytes: number, second?: Buffer): number
}

/** The shim, or what to run to have it. Never throws. */
export const loadShim = (path?: string, platform?: string): Loaded<Shim> => {
  const loaded = loadAddon(path, platform)
  return loaded.is === 'ready' ? { is: 'ready', value: shimOf(loaded.value) } : loaded
}

/** The descriptor of a connected or accepted socket; undefined once it is closed, or when it is no system socket. */
export const fdOf = (socket: object): number | undefined => {
  // Node has no public way to the descriptor of an accepted socket. This is the only place that looks inside one.
  const fd = (socket as { _handle?: { fd?: number } | null })._handle?.fd
  return fd !== undefined && fd >= 0 ? fd : undefined
}

/** The typed face of a loaded addon. */
export const shimOf = (addon: Addon): Shim => {
  const get = (fd: number, level: number, name: number): number =>
    checked('getsockopt', addon.getOption(fd, level, name))
  const set = (fd: number, level: number, name: number, value: number): void => {
    checked('setsockopt', addon.setOption(fd, level, name, value))
  }
  const { SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP } = addon
  const transparency = (family: 4 | 6): readonly [number, number] =>
    family === 4 ? [IPPROTO_IP, addon.IP_TRANSPARENT] : [IPPROTO_IPV6, addon.IPV6_TRANSPARENT]

  return {
    originalDestination: (fd, family) => {
      const found = addon.originalDestination(fd, family === 4 ? IPPROTO_IP : IPPROTO_IPV6)
      if (typeof found !== 'number') return { host: unmapped(found[0]), port: found[1] }
      if (NOT_REDIRECTED.has(getSystemErrorName(found))) return undefined
      throw systemError('getsockopt', found)
    },
    mark: (fd) => get(fd, SOL_SOCKET, addon.SO_MARK),
    setMark: (fd, mark) => set(fd, SOL_SOCKET, addon.SO_MARK, mark),
    transparent: (fd, family) => get(fd, ...transparency(family)) !== 0,
    setTransparent: (fd, family, on) => set(fd, ...transparency(family), Number(on)),
    setNoDelay: (fd) => set(fd, IPPROTO_TCP, addon.TCP_NODELAY, 1),
    userTimeout: (fd) => get(fd, IPPROTO_TCP, addon.TCP_USER_TIMEOUT),
    setUserTimeout: (fd, ms) => set(fd, IPPROTO_TCP, addon.TCP_USER_TIMEOUT, ms),
    keepalive: (fd) => {
      if (get(fd, SOL_SOCKET, addon.SO_KEEPALIVE) === 0) return undefined
      return {
        idle: get(fd, IPPROTO_TCP, addon.TCP_KEEPIDLE),
        interval: get(fd, IPPROTO_TCP, addon.TCP_KEEPINTVL),
        count: get(fd, IPPROTO_TCP, addon.TCP_KEEPCNT),
      }
    },
    setKeepalive: (fd, keepalive) => {
      if (keepalive !== undefined) {
        set(fd, IPPROTO_TCP, addon.TCP_KEEPIDLE, keepalive.idle)
        set(fd, IPPROTO_TCP, addon.TCP_KEEPINTVL, keepalive.interval)
        set(fd, IPPROTO_TCP, addon.TCP_KEEPCNT, keepalive.count)
      }
      set(fd, SOL_SOCKET, addon.SO_KEEPALIVE, Number(keepalive !== undefined))
    },
    setAbortiveClose: (fd, on) => {
      checked('setsockopt', addon.setLinger(fd, on ? 0 : -1))
    },
    trimHeap: addon.trimHeap,
    send: addon.send,
  }
}

// No entry in conntrack, no conntrack at all, or a socket that is no longer connected.
const NOT_REDIRECTED = new Set(['ENOENT', 'ENOPROTOOPT', 'ENOTCONN'])
