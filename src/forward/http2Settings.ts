import type { Http2Limits } from '../codec/http2State.ts'
import { settled } from '../policy/verdict.ts'
import type { Http2UpstreamOptions } from './http2Upstream.ts'
import type { Http2Times } from './http2Wire.ts'
import type { Plan } from './plan.ts'

/** What the policy allows a connection to cost. */
export const http2Limits = ({ verdict }: Plan): Http2Limits => ({
  streamsMax: settled(verdict['http2.streams']),
  headBytesMax: settled(verdict['http.head.maxBytes']),
  fieldsMax: settled(verdict['http.head.maxFields']),
  windowBytes: settled(verdict['http2.window']),
  windowBytesMax: settled(verdict['http2.windowMax']),
  connectionWindowBytes: settled(verdict['http2.connectionWindow']),
  // Whether a request may change its protocol is decided for each; that it may ask is no secret.
  extendedConnect: true,
})

/** The deadlines of a connection to a client. */
export const http2Times = ({ verdict }: Plan): Http2Times => ({
  settingsMs: settled(verdict['http2.settingsTimeout']),
  keepaliveMs: settled(verdict['http2.ping']),
  pingMs: settled(verdict['http2.pingTimeout']),
  idleMs: settled(verdict['http.keepAlive']),
})

/** The same towards an upstream, where `idleMs` is what the pool keeps. */
export const http2UpstreamOptions = (plan: Plan, idleMs: number): Http2UpstreamOptions => ({
  limits: http2Limits(plan),
  times: { ...http2Times(plan), idleMs },
  clock: plan.clock,
})
