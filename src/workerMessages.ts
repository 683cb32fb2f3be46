import type { Otlp } from './command/environment.ts'
import type { HttpState } from './forward/httpState.ts'
import type { Pool } from './forward/pool.ts'
import type { Address } from './net/address.ts'
import type { Io } from './net/commandLine.ts'
import type { Direction } from './net/connection.ts'
import type { DocumentFile } from './net/documents.ts'
import type { LifeFacts, Told } from './telemetry/afar.ts'
import type { Total } from './telemetry/ledger.ts'

/** What a worker is started with. */
export interface WorkerStart {
  /** From 1. */
  readonly number: number
  readonly threads: number
  readonly files: readonly DocumentFile[]
  readonly env: Io['env']
  readonly otlp: Otlp | undefined
  /** What all threads count together, and what makes their ticket keys and their marks the same. */
  readonly limits: SharedArrayBuffer
  readonly secret: Uint8Array
  readonly chance: number
  /** See clockBase. */
  readonly clockBase: number
  /** Where the first worker came to listen, in the order of the document: null where that address family is missing. */
  readonly addresses: readonly (Address | null)[] | undefined
  readonly own: readonly Address[]
}

/** What a worker is told. Those with an id are answered. */
export type ToWorker =
  | { readonly is: 'prepare'; readonly id: number; readonly files: readonly DocumentFile[] }
  | { readonly is: 'use' }
  | { readonly is: 'own'; readonly addresses: readonly Address[] }
  | { readonly is: 'look'; readonly id: number }
  | { readonly is: 'wants'; readonly outcomes: boolean }
  | { readonly is: 'stop'; readonly ms: number }

/** What a worker shows when it is looked at. */
export interface Seen {
  readonly totals: Readonly<Record<Direction, Total>>
  readonly lives: readonly LifeFacts[]
  readonly holds: Pool['holds']
  readonly hits: HttpState['hits']
  readonly handshakes: number
}

/** What a worker says. */
export type FromWorker =
  | { readonly is: 'listening'; readonly addresses: readonly (Address | null)[] }
  | { readonly is: 'failed'; readonly message: string }
  | { readonly is: 'answer'; readonly id: number; readonly problem?: string; readonly seen?: Seen }
  | { readonly is: 'told'; readonly told: Told }
  | { readonly is: 'log'; readonly level: 'info' | 'warn' | 'error'; readonly message: string }
  | { readonly is: 'stopped' }

/** Clocks of threads begin apart: the difference of two threads' bases is that of their clocks. */
export const clockBase = (): number => performance.now() - Number(process.hrtime.bigint()) / 1e6
