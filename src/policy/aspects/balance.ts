import * as v from 'valibot'
import { count, duration, type Mistake, mistake, object, oneOf, readText, setting, text } from '../shape.ts'
import { aspect } from './aspect.ts'

/** How one of several endpoints is chosen, and when one is left alone. Counts where there is more than one address to go to. */
const choice = {
  'balance.algorithm': aspect({
    shape: oneOf(['p2c', 'roundRobin', 'leastRequest', 'hash']),
    builtIn: 'p2c',
    until: 'request',
    says: 'how an endpoint is chosen among those of the same weight: `p2c` takes the better of two, by latency times requests under way; `roundRobin` each in turn; `leastRequest` whoever has least under way; `hash` always the same for the same `balance.hash`',
    because: 'it needs no tuning, and an endpoint that becomes slow gets less at once',
  }),
  'balance.hash': aspect({
    shape: v.union([
      oneOf(['source']),
      object({ header: text('the name of a header') }),
      object({ cookie: text('the name of a cookie') }),
    ]),
    builtIn: 'source',
    until: 'request',
    says: 'with `hash`, what makes requests go to the same endpoint: `source` is the address of the client, or `{ header: x-user }`, or `{ cookie: session }`; a request without it goes anywhere',
    because: 'every connection has one',
  }),
  'balance.zone': aspect({
    shape: object({
      name: setting(text('the name of a zone, or none'), {
        builtIn: 'none',
        says: 'the zone that this proxy is in: endpoints there come first',
        because: 'only the operator knows where it runs',
      }),
      minPercent: setting(count(1, 100), {
        builtIn: 70,
        says: 'with fewer than this share of its endpoints ready, the zone is preferred no more',
        because: 'the few that are left would have to bear everything',
      }),
    }),
    builtIn: {},
    until: 'request',
    says: 'which endpoints are near: `{ name: eu-1a }`',
    because: 'only the operator knows where it runs',
  }),
  'balance.latency': aspect({
    shape: object({
      default: setting(duration('1ms', '1m'), {
        builtIn: '30ms',
        says: 'the latency expected of an endpoint that was never asked',
        because: 'as linkerd has it: an unknown one is neither avoided nor overrun',
      }),
      decay: setting(duration('100ms', '10m'), {
        builtIn: '10s',
        says: 'how long it takes until a measured latency counts for a third',
        because: 'as linkerd has it: longer than a pause for garbage, shorter than a deployment',
      }),
    }),
    builtIn: {},
    until: 'request',
    says: 'how latencies are estimated',
    because: 'these are settings of linkerd, which many have used',
  }),
}

const bounds = {
  'balance.inFlight': aspect({
    shape: count(1, 1_000_000),
    builtIn: 10_000,
    until: 'request',
    says: 'how many requests, or connections passed as bytes, may be under way at one endpoint',
    because: 'a bound against disaster; what an endpoint can bear only its owner knows',
  }),
  'balance.queue': aspect({
    shape: count(0, 100_000),
    builtIn: 1024,
    until: 'request',
    says: 'how many may wait until an endpoint is ready; 503 `overloaded`',
    because: 'who waits behind a thousand is better told at once',
  }),
  'balance.failfast': aspect({
    shape: duration('10ms', '5m'),
    builtIn: '3s',
    until: 'request',
    says: 'after so long without a ready endpoint nobody waits any more: 504 `failfast`, at once, until one is ready',
    because: 'as linkerd has it: a restart of one endpoint is bridged, an outage is told',
  }),
  'balance.otherwise': aspect({
    shape: oneOf(['failfast', 'notFound', 'original']),
    builtIn: 'failfast',
    until: 'request',
    says: 'what becomes of a name without endpoints: wait for one and fail fast; or for one that does not exist 404 `noRoute` at once; or go to the original destination',
    because: 'what was meant for a name must not silently go elsewhere',
  }),
}

const pauses = {
  'balance.backoff': aspect({
    shape: object({
      min: setting(duration('10ms', '1m'), {
        builtIn: '100ms',
        says: 'how long an endpoint is left alone after a failed connect; each further one doubles it',
        because: 'as linkerd has it',
      }),
      max: setting(duration('10ms', '1h'), {
        builtIn: '60s',
        says: 'how far that grows; one second while no other endpoint is ready',
        because: 'as linkerd has it',
      }),
    }),
    builtIn: {},
    until: 'request',
    says: 'how long an endpoint is left alone after a failed connect',
    because: 'an endpoint that is gone need not be asked by every request',
  }),
  'balance.outlier': aspect({
    shape: object({
      failures: setting(count(0, 1000), {
        builtIn: 7,
        says: 'so many failures in a row eject an endpoint: no answer, 5xx but 501, grpc-status 2, 4, 8, 13, 14 and 15; 0 is never',
        because: 'as linkerd has it: too many for chance, too few for an outage',
      }),
      successPercent: setting(count(0, 100), {
        builtIn: 50,
        says: 'fewer good answers than this ejects an endpoint; 0 is never',
        because: 'one that fails every other time is no help, though it never fails seven times in a row',
      }),
      minRequests: setting(count(1, 100_000), {
        builtIn: 20,
        says: 'fewer answers than this within the window say nothing about the share of good ones',
        because: 'of two answers one may well be bad',
      }),
      window: setting(duration('1s', '10m'), {
        builtIn: '10s',
        says: 'how long answers are counted together',
        because: 'long enough for twenty answers, short enough to forget a bad minute',
      }),
      ejection: setting(duration('10ms', '10m'), {
        builtIn: '1s',
        says: 'how long an ejected endpoint is left alone, less up to half by chance; then one request decides, and each further time doubles it',
        because: 'as linkerd has it',
      }),
      maxEjection: setting(duration('10ms', '1h'), {
        builtIn: '60s',
        says: 'how far that grows',
        because: 'as linkerd has it',
      }),
      maxPercent: setting(count(0, 100), {
        builtIn: 50,
        says: 'no more than this share of the endpoints is ejected at a time, and never the last',
        because: 'if most fail it is hardly their own fault, and the others would have to bear everything',
      }),
    }),
    builtIn: {},
    until: 'request',
    says: 'which endpoints are left alone for how they answer',
    because: 'clients should not find out one by one',
  }),
}

const checked = readText('none, tcp or a path', (written): string | Mistake =>
  written === 'none' || written === 'tcp' || /^\/[!-~]*$/.test(written)
    ? written
    : mistake(`"${written}" is not none, tcp or a path such as /healthz`),
)

const health = {
  'balance.health': aspect({
    shape: object({
      check: setting(checked, {
        builtIn: 'none',
        says: 'asks each endpoint whether it is well: `tcp` connects, a path such as `/healthz` is asked for by HTTP/1.1 without TLS and 200 to 399 is well',
        because: 'requests tell as much, and cost nothing more',
      }),
      interval: setting(duration('100ms', '1h'), {
        builtIn: '5s',
        says: 'the time from one check to the next',
        because: 'each proxy asks each endpoint',
      }),
      timeout: setting(duration('10ms', '1m'), {
        builtIn: '1s',
        says: 'how long an endpoint may take to answer a check',
        because: 'as for a connect',
      }),
      failures: setting(count(1, 100), {
        builtIn: 2,
        says: 'so many failed checks in a row take an endpoint out; the first good one brings it back',
        because: 'one may be lost',
      }),
    }),
    builtIn: {},
    until: 'request',
    says: 'how endpoints are asked whether they are well',
    because: 'requests tell as much, and cost nothing more',
  }),
}

export const balance = { ...choice, ...bounds, ...pauses, ...health }
