import type * as v from 'valibot'
import { admin } from './sections/admin.ts'
import { callback } from './sections/callback.ts'
import { certificates } from './sections/certificates.ts'
import { commands } from './sections/commands.ts'
import { discovery } from './sections/discovery.ts'
import { gateway } from './sections/gateway.ts'
import { listeners } from './sections/listeners.ts'
import { log } from './sections/log.ts'
import { mesh } from './sections/mesh.ts'
import { processLimits } from './sections/processLimits.ts'
import type { Section } from './sections/section.ts'
import { sockets } from './sections/sockets.ts'
import { tlsSettings } from './sections/tls.ts'
import { traces } from './sections/traces.ts'
import { trust } from './sections/trust.ts'
import { workers } from './sections/workers.ts'
import type { Shape } from './shape.ts'

/** The top-level keys of a document beside apiVersion, defaults and rules. One file and one line each. */
export const SECTIONS = {
  listeners,
  limits: processLimits,
  certificates,
  trust,
  tls: tlsSettings,
  mesh,
  admin,
  gateway,
  callback,
  log,
  traces,
  commands,
  discovery,
  sockets,
  workers,
}

export type SectionName = keyof typeof SECTIONS

/** All sections as read, defaults filled in. */
export type Sections = { readonly [K in SectionName]: v.InferOutput<(typeof SECTIONS)[K]['shape']> }

/** The table as the reader of documents sees it. */
export const SECTION_TABLE = SECTIONS as unknown as Readonly<Record<string, Section<Shape>>>
