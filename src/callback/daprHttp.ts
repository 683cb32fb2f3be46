import { create, type DescMessage, fromBinary, type JsonObject, toBinary, toJson } from '@bufbuild/protobuf'
import type { Fields, RequestHead } from '../forward/exchange.ts'
import { fieldOf } from '../forward/fields.ts'
import type { AppAnswer } from './appCall.ts'
import {
  BindingEventRequestSchema,
  BindingEventResponseSchema,
  InvokeServiceRequestSchema,
  ListInputBindingsResponseSchema,
  ListTopicSubscriptionsResponseSchema,
  TopicEventRequestSchema,
  TopicEventResponseSchema,
} from './generated/app_pb.ts'
import { HTTPExtension_Verb, InvokeRequestSchema, InvokeResponseSchema } from './generated/common_pb.ts'
import type { PlainAnswer } from './unary.ts'
import { APP_ID } from './wire.ts'

/** The app and the InvokeRequest in an InvokeServiceRequest; undefined when it is none. */
export const invocationIn = (bytes: Uint8Array): { readonly app: string; readonly message: Uint8Array } | undefined => {
  try {
    const { id, message } = fromBinary(InvokeServiceRequestSchema, bytes)
    return { app: id, message: message === undefined ? NOTHING : toBinary(InvokeRequestSchema, message) }
  } catch {
    return undefined
  }
}

/** A request of the HTTP API, in the words of Dapr's application protocol. */
export interface Asked {
  readonly app: string
  readonly path: string
  readonly message: Uint8Array
  readonly metadata: Fields
  /** The answer of the app in HTTP. */
  readonly answer: (message: Uint8Array, fields: Fields) => PlainAnswer
}

/** What a path and a method stand for: a way to make the request once its body is there, or why there is none. */
export type Route =
  | { readonly is: 'route'; readonly ask: (body: Buffer) => Asked | { readonly wrong: string } }
  | { readonly is: 'refused'; readonly status: number; readonly says: string }

const APP = '/dapr.proto.runtime.v1.AppCallback'
export const ON_INVOKE = `${APP}/OnInvoke`
const NOTHING = new Uint8Array()
const VERBS: Readonly<Record<string, HTTPExtension_Verb>> = {
  GET: HTTPExtension_Verb.GET,
  HEAD: HTTPExtension_Verb.HEAD,
  POST: HTTPExtension_Verb.POST,
  PUT: HTTPExtension_Verb.PUT,
  DELETE: HTTPExtension_Verb.DELETE,
  OPTIONS: HTTPExtension_Verb.OPTIONS,
  TRACE: HTTPExtension_Verb.TRACE,
  PATCH: HTTPExtension_Verb.PATCH,
}

/** Reads the head of a request to the HTTP API. */
export const routeOf = (head: RequestHead): Route => {
  const [path = '', ...rest] = head.target.split('?')
  const query = rest.join('?')
  for (const [pattern, methods, make] of ROUTES) {
    const found = pattern.exec(path)
    if (found === null) continue
    if (methods !== 'any' && !methods.includes(head.method))
      return { is: 'refused', status: 405, says: `${path} takes ${methods.join(' and ')}` }
    const app = unescaped(found[1]!)
    const name = found[2] === undefined ? '' : unescaped(found[2])
    if (app === undefined || name === undefined || !APP_ID.test(app))
      return { is: 'refused', status: 400, says: 'this is not an app id' }
    return { is: 'route', ask: (body) => make({ app, name, query, head, body }) }
  }
  return { is: 'refused', status: 404, says: `there is no ${path} here` }
}

const unescaped = (text: string): string | undefined => {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}

interface Given {
  readonly app: string
  readonly name: string
  readonly query: string
  readonly head: RequestHead
  readonly body: Buffer
}

type Make = (given: Given) => Asked | { readonly wrong: string }

const invoke: Make = ({ app, name, query, head, body }) => {
  const verb = VERBS[head.method]
  if (verb === undefined) return { wrong: `${head.method} cannot be invoked` }
  const contentType = fieldOf(head.fields, 'content-type') ?? ''
  const request = create(InvokeRequestSchema, {
    method: name,
    contentType,
    httpExtension: { verb, querystring: query },
    ...(body.length > 0 && { data: { value: body } }),
  })
  return {
    app,
    path: ON_INVOKE,
    message: toBinary(InvokeRequestSchema, request),
    metadata: passedOn(head.fields),
    answer: (message, fields) => {
      const { data, contentType: type } = fromBinary(InvokeResponseSchema, message)
      const bytes = Buffer.from(data?.value ?? NOTHING)
      return {
        status: bytes.length === 0 ? 204 : 200,
        body: bytes,
        fields: passedOn(fields),
        ...(type !== '' && { type }),
      }
    },
  }
}

const health: Make = ({ app }) => ({
  app,
  path: `${APP}HealthCheck/HealthCheck`,
  message: NOTHING,
  metadata: [],
  answer: () => ({ status: 204 }),
})

const subscriptions: Make = ({ app }) => ({
  app,
  path: `${APP}/ListTopicSubscriptions`,
  message: NOTHING,
  metadata: [],
  answer: (message) => jsonOf(ListTopicSubscriptionsResponseSchema, message),
})

const bindings: Make = ({ app }) => ({
  app,
  path: `${APP}/ListInputBindings`,
  message: NOTHING,
  metadata: [],
  answer: (message) => jsonOf(ListInputBindingsResponseSchema, message),
})

const binding: Make = ({ app, name, query, body }) => {
  const metadata: Record<string, string> = {}
  for (const [key, value] of new URLSearchParams(query))
    if (key.startsWith('metadata.')) metadata[key.slice('metadata.'.length)] = value
  return {
    app,
    path: `${APP}/OnBindingEvent`,
    message: toBinary(BindingEventRequestSchema, create(BindingEventRequestSchema, { name, data: body, metadata })),
    metadata: [],
    answer: (message) => jsonOf(BindingEventResponseSchema, message),
  }
}

/** The attributes of a CloudEvent that have a field of their own; all others are extensions. */
const ATTRIBUTES = new Set(
  'id source type specversion datacontenttype topic pubsubname data data_base64 path'.split(' '),
)

const event: Make = ({ app, query, body }) => {
  const read = objectIn(body)
  if (read === undefined) return { wrong: 'the body is not a CloudEvent in JSON' }
  const text = (name: string): string => (typeof read[name] === 'string' ? read[name] : '')
  const extensions = Object.fromEntries(Object.entries(read).filter(([name]) => !ATTRIBUTES.has(name))) as JsonObject
  const request = create(TopicEventRequestSchema, {
    id: text('id'),
    source: text('source'),
    type: text('type'),
    specVersion: text('specversion'),
    dataContentType: text('datacontenttype'),
    topic: text('topic'),
    pubsubName: text('pubsubname'),
    path: new URLSearchParams(query).get('path') ?? text('path'),
    data: dataOf(read),
    ...(Object.keys(extensions).length > 0 && { extensions }),
  })
  return {
    app,
    path: `${APP}/OnTopicEvent`,
    message: toBinary(TopicEventRequestSchema, request),
    metadata: [],
    answer: (message) => jsonOf(TopicEventResponseSchema, message),
  }
}

const objectIn = (body: Buffer): Readonly<Record<string, unknown>> | undefined => {
  try {
    const read: unknown = JSON.parse(body.toString())
    return typeof read === 'object' && read !== null && !Array.isArray(read)
      ? (read as Record<string, unknown>)
      : undefined
  } catch {
    return undefined
  }
}

/** Text as it is, bytes from base64, and everything else as JSON: as an event of Dapr carries them. */
const dataOf = ({ data, data_base64: encoded }: Readonly<Record<string, unknown>>): Buffer => {
  if (typeof encoded === 'string') return Buffer.from(encoded, 'base64')
  if (data === undefined) return Buffer.alloc(0)
  return Buffer.from(typeof data === 'string' ? data : JSON.stringify(data))
}

const ROUTES: readonly (readonly [path: RegExp, methods: readonly string[] | 'any', make: Make])[] = [
  [/^\/v1\.0\/invoke\/([^/]+)\/method\/(.+)$/, 'any', invoke],
  [/^\/v1\.0\/healthz\/([^/]+)$/, ['GET', 'HEAD'], health],
  [/^\/v1\.0\/subscriptions\/([^/]+)$/, ['GET'], subscriptions],
  [/^\/v1\.0\/events\/([^/]+)$/, ['POST'], event],
  [/^\/v1\.0\/bindings\/([^/]+)$/, ['GET'], bindings],
  [/^\/v1\.0\/bindings\/([^/]+)\/([^/]+)$/, ['POST', 'PUT'], binding],
]

const jsonOf = (schema: DescMessage, message: Uint8Array): PlainAnswer => ({
  status: 200,
  type: 'application/json',
  body: Buffer.from(`${JSON.stringify(toJson(schema, fromBinary(schema, message), { alwaysEmitImplicit: true }))}\n`),
})

/** Fields of one hop, of gRPC itself, and those that say how this very message is written. */
const NOT_PASSED = new Set(
  'host connection te trailer transfer-encoding upgrade keep-alive content-length content-type expect date server dapr-api-token dapr-app-id'.split(
    ' ',
  ),
)

/** Fields as metadata, and back. */
export const passedOn = (fields: Fields): Fields => {
  const passed: Fields = []
  for (let at = 0; at < fields.length; at += 2) {
    const name = fields[at]!.toLowerCase()
    if (!NOT_PASSED.has(name) && !name.startsWith('grpc-') && !name.startsWith('sluice-'))
      passed.push(name, fields[at + 1]!)
  }
  return passed
}

/** As Dapr and gRPC's own gateways map statuses. */
const HTTP_STATUS: Readonly<Record<number, number>> = {
  ...{ 1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 14: 503, 16: 401 },
}

/** What the app said, in HTTP. */
export const answerOf = (asked: Asked, answer: AppAnswer): PlainAnswer => {
  if (answer.is === 'status') {
    const { status, says } = answer
    const body = Buffer.from(`${JSON.stringify({ code: status, message: says })}\n`)
    return { status: HTTP_STATUS[status] ?? 500, type: 'application/json', body, fields: ['grpc-status', `${status}`] }
  }
  try {
    return asked.answer(answer.message, answer.fields)
  } catch {
    const body = Buffer.from(`${JSON.stringify({ code: 13, message: 'the app answered with another message' })}\n`)
    return { status: 502, type: 'application/json', body }
  }
}
