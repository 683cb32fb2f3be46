import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { getSystemErrorName } from 'node:util'

/** What build/sluice.node exports. Numbers below zero are minus errno. */
export interface Addon {
  readonly originalDestination: (fd: number, level: number) => readonly [string, number] | number
  readonly getOption: (fd: number, level: number, name: number) => number
  readonly setOption: (fd: number, level: number, name: number, value: number) => number
  readonly setLinger: (fd: number, seconds: number) => number
  readonly trimHeap: () => number
  readonly send: (fd: number, first: Buffer, firstBytes: number, second?: Buffer) => number
  readonly pumpStart: (pipesMax: number, ended: () => void) => number
  readonly pumpAdd: (
    clientFd: number,
    upstreamFd: number,
    toClient: Buffer | undefined,
    toUpstream: Buffer | undefined,
    idleMs: number,
    halfClosedMs: number,
  ) => number
  readonly pumpTakeEnded: (rows: Float64Array, hosts: string[] | undefined) => number
  readonly pumpListen: (
    fd: number,
    destinationHost: string,
    destinationPort: number,
    connectionsMax: number,
    isNear: boolean,
  ) => number
  readonly pumpStopListening: (listener: number) => void
  readonly pumpDialOptions: (mark: number, userTimeoutMs: number, keepaliveSeconds: number) => void
  readonly pumpTakeAccepted: (rows: Float64Array, hosts: string[]) => number
  readonly pumpTakeRoute: (
    id: number,
    upstreamHost: string,
    upstreamPort: number,
    idleMs: number,
    halfClosedMs: number,
    connectMs: number,
    tag: number,
    goodMs: number,
    isNear: boolean,
  ) => number
  readonly pumpRelease: (id: number) => number
  readonly pumpLeft: (listener: number) => void
  readonly pumpForgetRoutes: () => void
  readonly pumpList: (from: number, rows: Float64Array, hosts: string[]) => number
  readonly pumpCount: (id: number, counts: Float64Array) => void
  readonly pumpTotal: (listener: number, sums: Float64Array) => void
  readonly pumpClose: (id: number) => void
  readonly pumpHold: (hold: boolean) => void
  /** Something to park in, or minus errno. */
  readonly parkOpen: (woken: (fd: number) => void) => object | number
  readonly park: (lot: object, fd: number) => number
  readonly unpark: (lot: object, fd: number) => boolean
  readonly SOL_SOCKET: number
  readonly SO_MARK: number
  readonly SO_KEEPALIVE: number
  readonly IPPROTO_IP: number
  readonly IP_TRANSPARENT: number
  readonly IPPROTO_IPV6: number
  readonly IPV6_TRANSPARENT: number
  readonly IPPROTO_TCP: number
  readonly TCP_NODELAY: number
  readonly TCP_USER_TIMEOUT: number
  readonly TCP_KEEPIDLE: number
  readonly TCP_KEEPINTVL: number
  readonly TCP_KEEPCNT: number
}

/** What loading gave, or what to run to have it. */
export type Loaded<T> =
  | { readonly is: 'ready'; readonly value: T }
  | { readonly is: 'missing'; readonly reason: string }

const ROOT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')
const BUILT = `${ROOT}/build/sluice.node`
// In a checkout people stand in its root; the package of an installation they would have to look for.
const BUILD = ROOT.includes('/node_modules/') ? `npm --prefix ${ROOT} run build:native` : 'npm run build:native'

/** Loads the C part. Never throws: without it Sluice works with fixed destinations and plain streams. */
export const loadAddon = (path: string = BUILT, platform: string = process.platform): Loaded<Addon> => {
  if (platform !== 'linux') return { is: 'missing', reason: `the shim needs Linux, and this is ${platform}` }
  try {
    const addon = createRequire(import.meta.url)(path) as Partial<Addon>
    if (addon.pumpTotal === undefined || addon.send === undefined || addon.parkOpen === undefined)
      return { is: 'missing', reason: `${path} was built from an older source. Run: ${BUILD}` }
    return { is: 'ready', value: addon as Addon }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const why = code === 'MODULE_NOT_FOUND' ? 'it is not built' : (message.split('\n')[0] ?? '')
    return { is: 'missing', reason: `cannot load ${path}: ${why}. Run: ${BUILD}` }
  }
}

/** `result`, or the Error that minus errno stands for, with errno's name as its code. */
export const checked = (call: string, result: number): number => {
  if (result < 0) throw systemError(call, result)
  return result
}

/** An Error as Node's own, for minus errno. */
export const systemError = (call: string, result: number): NodeJS.ErrnoException => {
  const code = getSystemErrorName(result)
  return Object.assign(new Error(`${call}: ${code}`), { code, errno: result, syscall: call })
}
