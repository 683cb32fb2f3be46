import type { Clock } from '../clock.ts'
import { type Certificate, CertificateError, readCertificate, readTrust, type Trust } from './certificate.ts'
import { mostSpecific } from './names.ts'
import type { CertificateSource, Material } from './source.ts'

const DAY_MS = 86_400_000
const LOOK_AT_EXPIRY_MS = 3_600_000 // a warning an hour late is no later for a person

/** What is loaded under one name: what works, and what is wrong with the newest file, if it could not be taken. */
export interface Loaded {
  readonly name: string
  readonly certificate?: Certificate
  readonly trust?: Trust
  readonly problem?: string
}

/** What the operator is told, once when it happens. */
export type CertificateEvent =
  | {
      readonly is: 'loaded' | 'replaced'
      readonly name: string
      readonly notAfter: number
      readonly warnings: readonly string[]
    }
  | { readonly is: 'problem'; readonly name: string; readonly problem: string; readonly kept: boolean }
  | { readonly is: 'expiring'; readonly name: string; readonly notAfter: number; readonly days: number }

/** The certificates in use. What it returns is a fact of this moment: ask again for each connection. */
export interface CertificateStore {
  readonly certificate: (name: string) => Certificate | undefined
  readonly trust: (name: string) => Trust | undefined
  /** The certificates that cover a server name most specifically, one per kind of key; none when nothing covers it. */
  readonly forServer: (serverName: string) => readonly Certificate[]
  readonly loaded: () => readonly Loaded[]
  /** Reads the source again, and resolves when what it has is in use. */
  readonly refresh: () => Promise<void>
  /**
   * Reads another source, and gives what puts it in the place of the first, at once: so that a policy and its
   * certificates change in the same turn. What is gone from it is still found by its name until the next such change.
   */
  readonly prepare: (next: CertificateSource) => Promise<() => void>
  readonly close: () => void
}

export interface StoreOptions {
  readonly clock: Clock
  readonly warnMs: number
  readonly report: (event: CertificateEvent) => void
}

/** Opens a store and waits for the first reading. A bad file does not fail it: it is reported, and listed. */
export const openCertificates = async (source: CertificateSource, options: StoreOptions): Promise<CertificateStore> => {
  let current = source
  let loaded: ReadonlyMap<string, Loaded> = new Map()
  // What the last change of the source took away: a connection that began under the old policy may still ask for it.
  let retired: ReadonlyMap<string, Loaded> = new Map()
  let turn: Promise<void> = Promise.resolve()
  const warned = new Set<string>()

  const accept = (materials: ReadonlyMap<string, Material>): void => {
    const next = new Map(
      [...materials].map(([name, one]) => [name, take(name, one, loaded.get(name), options)] as const),
    )
    for (const [name, one] of next) tell(loaded.get(name), one, options)
    loaded = next
    warnOfExpiry(loaded, warned, options)
  }
  const read = async (): Promise<void> => {
    const from = current
    const materials = await from.read()
    if (from === current) accept(materials) // else the answer of a source that was replaced meanwhile
  }
  // One reading at a time, in order: two at once could put the older answer last.
  const refresh = (): Promise<void> => (turn = turn.then(read, read))
  const changed = (): void => void refresh().catch((error: Error) => options.report(unread(error)))

  let unwatch = current.watch(changed)
  let stopWarning = options.clock.after(LOOK_AT_EXPIRY_MS, function look() {
    warnOfExpiry(loaded, warned, options)
    stopWarning = options.clock.after(LOOK_AT_EXPIRY_MS, look)
  })
  await refresh()

  const prepare = async (next: CertificateSource): Promise<() => void> => {
    const materials = await next.read()
    return () => {
      unwatch()
      current = next
      unwatch = next.watch(changed)
      retired = loaded
      accept(materials)
      changed() // what was written between the reading and the watch
    }
  }

  return {
    certificate: (name) => (loaded.get(name) ?? retired.get(name))?.certificate,
    trust: (name) => (loaded.get(name) ?? retired.get(name))?.trust,
    forServer: (serverName) =>
      mostSpecific(
        [...loaded.values()].flatMap(({ certificate }) => certificate ?? []),
        serverName,
      ),
    loaded: () => [...loaded.values()],
    refresh,
    prepare,
    close: () => {
      unwatch()
      stopWarning()
    },
  }
}

const unread = (error: Error): CertificateEvent => ({ is: 'problem', name: '*', problem: error.message, kept: true })

/** The new material where it is good; else the old one stays, with the problem beside it. */
const take = (name: string, material: Material, before: Loaded | undefined, { clock }: StoreOptions): Loaded => {
  try {
    if ('unreadable' in material) throw new CertificateError(material.unreadable)
    if ('trust' in material) return { name, trust: readTrust(name, material.trust) }
    const certificate = readCertificate(name, material.cert, material.key)
    const problem = before?.certificate && worse(before.certificate, certificate, clock.time())
    return problem ? { ...before, problem } : { name, certificate }
  } catch (error) {
    if (!(error instanceof CertificateError)) throw error
    return { name, ...before, problem: error.message }
  }
}

/** A replacement that is not valid today must not push out one that is. */
const worse = (before: Certificate, after: Certificate, today: number): string | undefined => {
  if (before.notAfter <= today) return undefined
  if (after.notAfter <= today) return `the new certificate expired on ${day(after.notAfter)}`
  if (after.notBefore > today) return `the new certificate is not valid before ${day(after.notBefore)}`
  return undefined
}

const day = (time: number): string => new Date(time).toISOString().slice(0, 10)

const tell = (before: Loaded | undefined, after: Loaded, { report }: StoreOptions): void => {
  const held = after.certificate ?? after.trust
  if (after.problem !== undefined) {
    if (after.problem !== before?.problem)
      report({ is: 'problem', name: after.name, problem: after.problem, kept: held !== undefined })
    return
  }
  const old = before?.certificate ?? before?.trust
  if (!held || (old?.fingerprint === held.fingerprint && before?.problem === undefined)) return
  report({
    is: old ? 'replaced' : 'loaded',
    name: after.name,
    notAfter: held.notAfter,
    warnings: after.certificate?.warnings ?? [],
  })
}

/** Once a day for each certificate. */
const warnOfExpiry = (loaded: ReadonlyMap<string, Loaded>, warned: Set<string>, options: StoreOptions): void => {
  const today = options.clock.time()
  for (const { name, certificate, trust } of loaded.values()) {
    const held = certificate ?? trust
    if (!held || held.notAfter - today > options.warnMs) continue
    const days = Math.floor((held.notAfter - today) / DAY_MS)
    const key = `${name} ${held.fingerprint} ${days}`
    if (warned.has(key)) continue
    warned.add(key)
    options.report({ is: 'expiring', name, notAfter: held.notAfter, days })
  }
}
