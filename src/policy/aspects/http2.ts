import { count, duration, size } from '../shape.ts'
import { aspect } from './aspect.ts'

/** What an HTTP/2 connection may cost, towards clients and towards upstreams. */
export const http2 = {
  'http2.streams': aspect({
    shape: count(1, 100_000),
    builtIn: 100,
    until: 'secured',
    says: 'how many requests a client may have under way on one connection; REFUSED_STREAM',
    because: 'RFC 9113 section 6.5.2 recommends no less, and each costs memory',
  }),
  'http2.window': aspect({
    shape: size('1KiB', '1GiB'),
    builtIn: '64KiB',
    until: 'secured',
    says: 'how much of a body may be sent ahead of its reader, at first',
    because: 'with all streams stalled it still fits into the window of the connection',
  }),
  'http2.windowMax': aspect({
    shape: size('1KiB', '1GiB'),
    builtIn: '1MiB',
    until: 'secured',
    says: 'how far that grows for a reader that keeps up',
    because: '1 MiB in 10 ms is 100 MiB a second for a single stream',
  }),
  'http2.connectionWindow': aspect({
    shape: size('64KiB', '1GiB'),
    builtIn: '8MiB',
    until: 'secured',
    says: 'the same for all streams of a connection together: the most memory its bodies take',
    because: '100 streams stalled at their first window take 6.25 MiB and leave room for the others',
  }),
  'http2.settingsTimeout': aspect({
    shape: duration('100ms', '10m'),
    builtIn: '10s',
    until: 'secured',
    says: 'how long the peer may take to acknowledge our SETTINGS; SETTINGS_TIMEOUT',
    because: 'as long as the head of a request may take',
  }),
  'http2.ping': aspect({
    shape: duration('1s', '24h'),
    builtIn: '30s',
    until: 'secured',
    says: 'after how much silence, with requests under way, a PING asks whether the peer is still there',
    because: 'half of what the load balancers of large clouds give a silent connection',
  }),
  'http2.pingTimeout': aspect({
    shape: duration('100ms', '10m'),
    builtIn: '10s',
    until: 'secured',
    says: 'how long the answer to it may take before the connection is given up',
    because: 'several times what a lost segment costs',
  }),
}
