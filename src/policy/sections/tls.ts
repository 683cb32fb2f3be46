import * as v from 'valibot'
import { count, duration, object, setting } from '../shape.ts'
import { pemPath } from './pemPath.ts'
import { section } from './section.ts'

export const tlsSettings = section({
  shape: object({
    handshakeTimeout: setting(duration('100ms', '5m'), {
      builtIn: '10s',
      says: 'how long a handshake may take, with clients and with upstreams',
      because: 'a full handshake is two round trips; whoever needs longer holds a place that others need',
    }),
    maxHandshakes: setting(count(1, 100_000), {
      builtIn: 1_000,
      says: 'handshakes with clients under way at once; one more is refused and counted',
      because: 'each costs a core about a millisecond: a thousand are the work of a second',
    }),
    ticketKeyLifetime: setting(duration('1m', '24d'), {
      builtIn: '12h',
      says: 'how long one key seals session tickets; a ticket of an older key costs its client a full handshake',
      because: 'a stolen key opens recorded TLS 1.2 sessions of this long; clients keep tickets for hours',
    }),
    warnBeforeExpiry: setting(duration('1h', '366d'), {
      builtIn: '14d',
      says: 'how long before a certificate ends it is warned of, once a day',
      because: 'two weeks leave time for whoever has to ask somebody else',
    }),
    keyLog: v.pipe(
      v.optional(pemPath),
      v.description(
        'a file to which the secrets of every TLS session are appended, for Wireshark and `sluice replay --keylog`: whoever reads it reads all traffic',
      ),
    ),
  }),
  says: 'limits of TLS in the whole process',
  byName: false,
  onReload: false,
  resolve: (value, open) => (value.keyLog === undefined ? value : { ...value, keyLog: open(value.keyLog) }),
})
