import * as v from 'valibot'
import {
  count,
  duration,
  flag,
  listOf,
  type Mistake,
  mistake,
  named,
  object,
  oneOf,
  oneOrMany,
  readText,
  setting,
  size,
  text,
} from '../shape.ts'
import { aspect } from './aspect.ts'

const FIELD_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
/** What Sluice derives from the message or speaks for itself: setting it could change where a message ends. */
const OWN_FIELDS = /^(host|content-length|transfer-encoding|connection|upgrade|te|trailer|keep-alive|sluice-.*)$/i

const fieldName = readText('the name of a header', (name): string | Mistake =>
  FIELD_NAME.test(name) && !OWN_FIELDS.test(name)
    ? name
    : mistake(`"${name}" cannot be set or removed: it is not a header name, or one that Sluice derives itself`),
)

const fieldValue = readText('the value of a header', (value): string | Mistake =>
  /[^\t\x20-\x7e\x80-\xff]/.test(value)
    ? mistake('a header value holds no control characters, and none above U+00FF')
    : value,
)

const fieldsToSet = v.pipe(
  named(fieldValue),
  v.rawCheck(({ dataset, addIssue }) => {
    for (const name of dataset.typed ? Object.keys(dataset.value) : []) {
      if (FIELD_NAME.test(name) && !OWN_FIELDS.test(name)) continue
      addIssue({ message: `"${name}" cannot be set: it is not a header name, or one that Sluice derives itself` })
    }
  }),
)

const NEVER = '24d'
const never = 'servers and clients have time limits of their own; one that is set here by default would surprise'

const heads = {
  'http.head.maxBytes': aspect({
    shape: size('256B', '1MiB'),
    builtIn: '64KiB',
    until: 'secured',
    says: 'how large the head of a request or response may be: the first line and all headers; 431, or 414 for the line alone',
    because: 'nginx takes 32 KiB and node 16 KiB: what passes them passes us, also with large cookies and tokens',
  }),
  'http.head.maxFields': aspect({
    shape: count(1, 10_000),
    builtIn: 100,
    until: 'secured',
    says: 'how many headers a request or response may have; 431',
    because: 'Apache takes 100; more is hardly ever meant',
  }),
  'http.head.timeout': aspect({
    shape: duration('100ms', '10m'),
    builtIn: '10s',
    until: 'secured',
    says: 'how long the head of a request may take from its first byte to its last; 408',
    because: 'a head fits into a few segments; slower ones hold a connection and nothing else',
  }),
  'http.keepAlive': aspect({
    shape: duration('10ms', '24h'),
    builtIn: '60s',
    until: 'secured',
    says: 'how long a client may keep its connection between two requests',
    because: 'most clients forget theirs sooner',
  }),
}

const timeouts = {
  'http.timeout': aspect({
    shape: duration('1ms', NEVER),
    builtIn: NEVER,
    until: 'request',
    says: 'how long a request may take until its response is complete, retries included; 504',
    because: never,
  }),
  'http.headTimeout': aspect({
    shape: duration('1ms', NEVER),
    builtIn: NEVER,
    until: 'request',
    says: 'how long the upstream may take to begin its response once it has the request; 504',
    because: never,
  }),
  'http.idleTimeout': aspect({
    shape: duration('1s', NEVER),
    builtIn: '1h',
    until: 'request',
    says: 'how long a request may stay open while nothing moves in either direction; 504',
    because: 'the same as for connections passed as bytes (limits.idle)',
  }),
}

const upgrades = {
  'http.upgrade.h2c': aspect({
    shape: oneOf(['upgrade', 'ignore', 'reject']),
    builtIn: 'upgrade',
    until: 'request',
    says: 'what `Upgrade: h2c` does: go on as HTTP/2, go on as HTTP/1.1, or fail with 500',
    because: 'HTTP/2 is understood, so no policy can be passed by with it',
  }),
  'http.upgrade.allow': aspect({
    shape: listOf(text('the name of a protocol, such as websocket')),
    builtIn: [],
    until: 'request',
    says: 'the protocols that Upgrade, or an extended CONNECT, may change to: then 101 and bytes both ways',
    because: 'a protocol that Sluice does not understand passes by every rule about requests',
  }),
  'http.upgrade.other': aspect({
    shape: oneOf(['reject', 'ignore']),
    builtIn: 'reject',
    until: 'request',
    says: 'what any other Upgrade does: fail with 500, or go on as HTTP/1.1 as if it was not there',
    because: 'a client that asks to change is told that it cannot, and by which rule it could',
  }),
}

const fields = {
  'http.authorization': aspect({
    shape: oneOf(['forward', 'strip']),
    builtIn: 'forward',
    until: 'request',
    says: 'whether the Authorization header goes on to the upstream',
    because: 'without it no application with bearer tokens works; Proxy-Authorization is always removed',
  }),
  'http.via': aspect({
    shape: flag,
    builtIn: false,
    until: 'request',
    says: 'true: add Via to requests and responses',
    because: 'a transparent proxy is not seen',
  }),
  'http.forwarded': aspect({
    shape: oneOf(['none', 'forwarded', 'x-forwarded', 'both']),
    builtIn: 'none',
    until: 'request',
    says: 'how the upstream is told of the client: Forwarded (RFC 7239), X-Forwarded-For, -Host and -Proto, or both; what the client says of itself stays before it',
    because: 'a transparent proxy is not seen',
  }),
  'http.loopMarker': aspect({
    shape: flag,
    builtIn: true,
    until: 'request',
    says: 'true: mark requests with `sluice-hop`, so that one that comes back is answered with 508',
    because: 'a rule that sends requests to a proxy which sends them back would fill the machine',
  }),
  'http.informational': aspect({
    shape: flag,
    builtIn: true,
    until: 'request',
    says: 'true: name the error in `sluice-error` where Sluice answers itself',
    because: 'whoever looks at a 502 wants to know whose it is',
  }),
  'http.request.set': aspect({
    shape: fieldsToSet,
    builtIn: {},
    until: 'request',
    says: 'headers that the request gets, in place of those of the same name',
    because: 'a transparent proxy changes nothing that nobody told it to change',
  }),
  'http.request.remove': aspect({
    shape: oneOrMany(fieldName),
    builtIn: [],
    until: 'request',
    says: 'headers that are taken from the request',
    because: 'a transparent proxy changes nothing that nobody told it to change',
  }),
  'http.response.set': aspect({
    shape: fieldsToSet,
    builtIn: {},
    until: 'request',
    says: 'headers that the response gets, in place of those of the same name',
    because: 'a transparent proxy changes nothing that nobody told it to change',
  }),
  'http.response.remove': aspect({
    shape: oneOrMany(fieldName),
    builtIn: [],
    until: 'request',
    says: 'headers that are taken from the response',
    because: 'a transparent proxy changes nothing that nobody told it to change',
  }),
}

const RETRY_WORDS = ['connect', 'reset', 'headTimeout', '5xx', 'gatewayError', 'grpcUnavailable'] as const

const retries = {
  'http.retry.attempts': aspect({
    shape: count(0, 10),
    builtIn: 0,
    until: 'request',
    says: 'how often a request is sent again, at most',
    because: 'only who knows the application knows whether a request may be repeated',
  }),
  'http.retry.on': aspect({
    shape: oneOrMany(v.union([oneOf(RETRY_WORDS), count(400, 599)])),
    builtIn: ['connect', 'reset', 'gatewayError'],
    until: 'request',
    says: 'what is worth another try: `connect` (no connection), `reset` (the upstream gave up before it answered), `headTimeout` (it did not answer within `http.headTimeout`), `5xx`, `gatewayError` (502, 503, 504), `grpcUnavailable` (grpc-status 14), or a status',
    because: 'these are seldom the fault of the request',
  }),
  'http.retry.methods': aspect({
    shape: oneOf(['idempotent', 'any']),
    builtIn: 'idempotent',
    until: 'request',
    says: 'which requests may be repeated: GET, HEAD, OPTIONS, TRACE, PUT and DELETE, or any',
    because: 'RFC 9110 section 9.2.2',
  }),
  'http.retry.maxBytes': aspect({
    shape: size('0B', '1MiB'),
    builtIn: '64KiB',
    until: 'request',
    says: 'how much of a body is kept so that it can be sent again; a longer one is not repeated',
    because: 'the memory of a proxy is not a place for bodies',
  }),
  'http.retry.budget': aspect({
    shape: object({
      percent: setting(count(0, 1000), { builtIn: 20, says: 'of the requests', because: 'as others do' }),
      minPerSecond: setting(count(0, 100_000), { builtIn: 10, says: 'always allowed', because: 'as others do' }),
    }),
    builtIn: {},
    until: 'request',
    says: 'how many requests may be repeated: this share of those of the last 10 s, and always this many a second; counted for each rule and authority',
    because: 'repeated requests must not double the load on what is failing already',
  }),
}

const answers = {
  'http.deny.status': aspect({
    shape: count(400, 599),
    builtIn: 403,
    until: 'request',
    says: 'the status of the answer to a request that is denied',
    because: 'RFC 9110 section 15.5.4',
  }),
  'http.redirect.to': aspect({
    shape: readText('none, or a URI', (to): string | Mistake =>
      to === 'none' || /^[!-~]+$/.test(to) ? to : mistake(`"${to}" is not a URI`),
    ),
    builtIn: 'none',
    until: 'request',
    says: 'answer with a redirect to this URI, in which {authority} and {target} stand for those of the request',
    because: 'requests go on unless a rule says otherwise',
  }),
  'http.redirect.status': aspect({
    shape: count(300, 399),
    builtIn: 302,
    until: 'request',
    says: 'the status of a redirect',
    because: 'a client asks again the next time',
  }),
  'http.rateLimit': aspect({
    shape: v.union([
      v.literal('none'),
      object({
        requests: count(1, 1_000_000),
        per: v.optional(duration('100ms', '1h'), '1s'),
        for: v.optional(oneOf(['client', 'rule']), 'client'),
      }),
    ]),
    builtIn: 'none',
    until: 'request',
    says: 'how many requests are let through in how long: `{ requests: 100, per: 1s, for: client }`; each client address has its own count, or all that the rule decides share one; 429 with Retry-After',
    because: 'only who knows the application knows how much is too much',
  }),
}

const pool = {
  'http.pool.connections': aspect({
    shape: count(1, 65_535),
    builtIn: 1024,
    until: 'request',
    says: 'how many connections are open to one upstream at a time; further requests wait',
    because: 'the file descriptors of both sides',
  }),
  'http.pool.pending': aspect({
    shape: count(0, 100_000),
    builtIn: 1024,
    until: 'request',
    says: 'how many requests may wait for a connection to one upstream; 503',
    because: 'who waits longer than this is better told at once',
  }),
  'http.pool.idle': aspect({
    shape: duration('10ms', '10m'),
    builtIn: '3s',
    until: 'request',
    says: 'how long a connection to an upstream is kept unused',
    because: 'below the keep-alive of common servers (5 s), so that we are the first to close (linkerd #5211)',
  }),
  'http.pool.maxAge': aspect({
    shape: duration('1s', '24d'),
    builtIn: '5m',
    until: 'request',
    says: 'how long a connection to an upstream takes new requests; then it ends those it has, and another is opened',
    because: 'behind one address there may be others by now, and they would never get a request',
  }),
}

export const http = { ...heads, ...timeouts, ...upgrades, ...fields, ...retries, ...answers, ...pool }
