import type { Duplex } from 'node:stream'
import type { Reply, Send } from './send.ts'

/** The wire names are Python's, because the first callers were. */
export type ParameterType = 'str' | 'any' | 'int' | 'bool'

/** One parameter of a command, as `/v1/commands` lists it. */
export interface Parameter {
  readonly id: string
  readonly type: ParameterType
  readonly required: boolean
  /** For the OpenAPI document and the NDC schema. */
  readonly summary?: string
}

/** Values by parameter id, checked and converted to the declared types; absent and null are both absent. */
export type Arguments = Readonly<Record<string, unknown>>

/** What a command answers. Without `http_status` it is 200. */
export interface Result {
  readonly body: unknown
  readonly http_status?: number
  /** Present only where the caller asked for it. */
  readonly headers?: Readonly<Record<string, string>>
  readonly error?: { readonly error_code: string; readonly message: string } | null
}

/** What a command is given to work with; all of it goes through the policy and ends with the call. */
export interface Tools {
  /** One HTTP request with its redirects, for the commands that come with Sluice. */
  readonly send: Send
  /** The same as the Fetch standard has it, for modules. */
  readonly fetch: (input: string | URL | Request, init?: RequestInit) => Promise<Response>
  /** A TCP connection to a name or address that the policy allows, for protocols other than HTTP. */
  readonly connect: (host: string, port: number) => Promise<Duplex>
  /** An environment variable that the module declares among its secrets. */
  readonly secret: (name: string) => string
  /** Throws the failure a module wants its caller to see. */
  readonly fail: (code: string, message: string, status?: number) => never
  /** Fires at the total timeout and when the caller hangs up. */
  readonly signal: AbortSignal
  /** Adds a line to the answer's `spiff__logs`. Never write a parameter's value here. */
  readonly log: (line: string) => void
  readonly wait: (ms: number) => Promise<void>
}

/** A command: a name, parameters, and how it is run. */
export interface Command {
  /** `<connector>/<Name>`. */
  readonly id: string
  readonly summary: string
  /** It changes nothing: a function to NDC. The others are procedures. */
  readonly reads: boolean
  readonly parameters: readonly Parameter[]
  /** Accepted but not listed: the lists of the first six commands are a contract others hold us to. */
  readonly accepts?: readonly Parameter[]
  /** Environment variables it may read. */
  readonly secrets?: readonly string[]
  readonly run: (args: Arguments, tools: Tools) => Promise<Result>
}

export type { Reply }
