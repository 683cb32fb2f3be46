import * as v from 'valibot'
import { count, object, text } from '../shape.ts'
import { section } from './section.ts'

export const mesh = section({
  shape: v.pipe(
    object({
      certificate: v.pipe(
        v.optional(text('the name of a certificate')),
        v.description(
          'the certificate by which other Sluices know this one, in either role; without it there is no mesh',
        ),
      ),
      trust: v.pipe(
        v.optional(text('the name of roots in trust')),
        v.description('the roots that the certificates of other Sluices must lead to'),
      ),
      marker: v.pipe(
        v.optional(count(0, 65_535)),
        v.description(
          'the number of a ClientHello extension that marks a connection as `sluice/1` in ALPN does, for clients that are no Sluice',
        ),
      ),
    }),
    v.check(
      (value) => (value.certificate === undefined) === (value.trust === undefined),
      'mesh needs both a certificate and a trust: who this one is, and whom it believes',
    ),
  ),
  says: 'mutual TLS between Sluices: who this one is, and whom it believes',
  byName: false,
  onReload: true,
  references: (value) => [
    ...(value.certificate === undefined ? [] : [{ to: 'certificates', name: value.certificate, at: ['certificate'] }]),
    ...(value.trust === undefined ? [] : [{ to: 'trust', name: value.trust, at: ['trust'] }]),
  ],
})
