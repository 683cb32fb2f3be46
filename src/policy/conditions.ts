import { alpn } from './conditions/alpn.ts'
import { authority } from './conditions/authority.ts'
import type { Condition } from './conditions/condition.ts'
import { destination } from './conditions/destination.ts'
import { direction } from './conditions/direction.ts'
import { extension } from './conditions/extension.ts'
import { header } from './conditions/header.ts'
import { identity } from './conditions/identity.ts'
import { method } from './conditions/method.ts'
import { path } from './conditions/path.ts'
import { peer } from './conditions/peer.ts'
import { port } from './conditions/port.ts'
import { protocol } from './conditions/protocol.ts'
import { sni } from './conditions/sni.ts'
import { source } from './conditions/source.ts'
import type { Shape } from './shape.ts'

/** The keys of `when`, cheapest to test first. One file and one line each. */
export const CONDITIONS = {
  direction,
  source,
  port,
  protocol,
  destination,
  peer,
  sni,
  alpn,
  extension,
  identity,
  method,
  authority,
  path,
  header,
}

export type ConditionName = keyof typeof CONDITIONS

/** The table as the compiler of rules sees it: any condition, values and facts of any type. */
export const CONDITION_TABLE = CONDITIONS as unknown as Readonly<Record<string, Condition<Shape, unknown>>>
