import type { Duplex } from 'node:stream'
import type { Dial } from '../net/connection.ts'
import { described } from '../net/relay.ts'
import type { Traffic } from '../net/traffic.ts'
import { settled } from '../policy/verdict.ts'
import { useEarly } from './earlyDial.ts'
import { Http1Client, type Http1ClientLimits } from './http1Client.ts'
import { upgradeToHttp2 } from './http2.ts'
import type { Forwarder, Plan } from './plan.ts'
import { Router } from './route.ts'

/** A connection that speaks HTTP/1: each request goes where the policy says. */
export const http1: Forwarder = (stream: Duplex, plan: Plan, dial: Dial): Promise<Traffic> =>
  new Promise((resolve) => {
    const { life, clock } = plan
    const early = useEarly(plan.early, dial)
    const router = new Router(plan, dial, early.dial)
    const over = (traffic: Traffic) => {
      early.discard()
      resolve(traffic)
    }
    const client = new Http1Client(stream, {
      limits: clientLimits(plan),
      clock,
      open: plan.around?.(router.ask) ?? router.ask,
      scheme: life.tls === undefined ? 'http' : 'https',
      chooseUpgrade: router.chooseUpgrade,
      toHttp2: (head, settings, rest) => {
        // What is put back into a stream that flows is not told of until more comes.
        stream.pause()
        if (rest.length > 0) stream.unshift(rest)
        upgradeToHttp2(stream, plan, router, { head, settings }, over)
        stream.resume()
      },
      refused: (error, status) => router.refused(error, status),
      count: life.count,
      ended: (ended, error) => over({ ...life.count, ended, ...(error && { error: described(error) }) }),
    })
    life.closer = (why) => client.close(why)
    life.onDrain = () => client.drain()
    client.start()
  })

const clientLimits = ({ verdict }: Plan): Http1ClientLimits => ({
  headBytesMax: settled(verdict['http.head.maxBytes']),
  fieldsMax: settled(verdict['http.head.maxFields']),
  headMs: settled(verdict['http.head.timeout']),
  idleMs: settled(verdict['http.keepAlive']),
})
