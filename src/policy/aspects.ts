import type { AnyAspect, ValueOf } from './aspects/aspect.ts'
import { balance } from './aspects/balance.ts'
import { deny } from './aspects/deny.ts'
import { detect } from './aspects/detect.ts'
import { http } from './aspects/http.ts'
import { http2 } from './aspects/http2.ts'
import { limits } from './aspects/limits.ts'
import { protocol } from './aspects/protocol.ts'
import { tls, upstreamTls } from './aspects/tls.ts'
import { upstream } from './aspects/upstream.ts'

/** What rules decide, by dotted name. One file and one line each; a file may hold a group of them. */
export const ASPECTS = {
  ...deny,
  ...protocol,
  ...detect,
  ...tls,
  ...upstream,
  ...upstreamTls,
  ...balance,
  ...limits,
  ...http,
  ...http2,
}

export type AspectName = keyof typeof ASPECTS

/** The value an aspect is decided to be. */
export type AspectValue<K extends AspectName> = ValueOf<(typeof ASPECTS)[K]>

/** The table as the compiler of rules sees it: any aspect, values of any type. */
export const ASPECT_TABLE = ASPECTS as unknown as Readonly<Record<string, AnyAspect>>
