import type { Duplex } from 'node:stream'
import type { Dial } from '../net/connection.ts'
import { described } from '../net/relay.ts'
import type { Traffic } from '../net/traffic.ts'
import { discard } from './earlyDial.ts'
import { type Http2Face, serveHttp2, type Upgraded } from './http2Server.ts'
import { http2Limits, http2Times } from './http2Settings.ts'
import type { Forwarder, Plan } from './plan.ts'
import { Router } from './route.ts'

/** A connection that speaks HTTP/2: each request goes where the policy says. */
export const http2: Forwarder = (stream: Duplex, plan: Plan, dial: Dial): Promise<Traffic> => {
  discard(plan.early)
  const later = plan.early === undefined ? plan : { ...plan, early: undefined }
  return new Promise((resolve) => serve(stream, later, new Router(later, dial), resolve))
}

/** The same for an HTTP/1.1 connection that was upgraded: its first request is stream 1 (RFC 7540 section 3.2). */
export const upgradeToHttp2 = (
  stream: Duplex,
  plan: Plan,
  router: Router,
  upgraded: Upgraded,
  done: (traffic: Traffic) => void,
): void => {
  stream.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n')
  router.wasUpgraded = true
  plan.life.protocols.push('http2')
  serve(stream, plan, router, done, upgraded)
}

const serve = (
  stream: Duplex,
  plan: Plan,
  router: Router,
  done: (traffic: Traffic) => void,
  upgraded?: Upgraded,
): void => {
  const { life, clock } = plan
  const face: Http2Face = {
    open: plan.around?.(router.ask) ?? router.ask,
    refuse: router.refuse,
    refused: (error) => router.refused(error, 0, '2'),
    limits: http2Limits(plan),
    times: http2Times(plan),
    clock,
    count: life.count,
    parking: plan.park && { park: plan.park, connection: plan.connection, rests: () => router.rest() },
    ended: (ended, error, stream) => {
      const told = () => done({ ...life.count, ended, ...(error && { error: described(error) }) })
      // A GOAWAY is on its way: closing with bytes of the client unread would reset the connection, and overtake it.
      if (stream.writableEnded && !stream.destroyed && !stream.readableEnded) stream.once('close', told)
      else told()
    },
  }
  const serving = serveHttp2(stream, face, upgraded)
  life.closer = (why) => serving.close(why)
  life.onDrain = () => serving.drain()
}
