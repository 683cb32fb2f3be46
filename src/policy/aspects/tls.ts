import * as v from 'valibot'
import { flag, listOf, object, oneOf, oneOrMany, text } from '../shape.ts'
import { aspect, type Reference } from './aspect.ts'

const PROTOCOL_BYTES_MAX = 255 // RFC 7301 section 3.1

export const tlsVersion = oneOf(['TLSv1.2', 'TLSv1.3'])

/** A list of application protocols, in the order of preference. */
export const alpnList = v.pipe(
  listOf(
    v.pipe(
      text('an application protocol, such as h2 or http/1.1'),
      v.check((name) => name.length <= PROTOCOL_BYTES_MAX, `a protocol name has at most ${PROTOCOL_BYTES_MAX} bytes`),
    ),
  ),
)

/** Whether to end TLS: never, with whatever certificate covers the server name, or with one of these. */
export type Terminate =
  | { readonly is: 'never' }
  | { readonly is: 'any' }
  | { readonly is: 'named'; readonly names: readonly string[] }

/** `false`, `true`, a name or several. */
const terminate = v.pipe(
  v.union(
    [flag, text('a certificate'), v.array(text('a certificate'))],
    'expected true, false, or names of certificates',
  ),
  v.description('`true`: with the certificate that covers the server name; names: with one of these; `false`: not'),
  v.transform((written): Terminate => {
    if (typeof written === 'boolean') return { is: written ? 'any' : 'never' }
    return { is: 'named', names: [written].flat() }
  }),
)

const clientCertificates = v.pipe(
  v.union(
    [
      v.literal(false),
      object({
        trust: v.pipe(text('the name of roots in trust'), v.description('the roots that clients are verified against')),
        required: v.pipe(
          v.optional(flag, true),
          v.description('false: a client may have no certificate, or none that verifies; it then has no identity'),
        ),
      }),
    ],
    'expected false, or a mapping (trust, required)',
  ),
)

const certificates = (names: readonly string[]): Reference[] => names.map((name) => ({ to: 'certificates', name }))

export const tls = {
  'tls.terminate': aspect({
    shape: terminate,
    builtIn: false,
    until: 'detected',
    says: 'whether TLS of the client ends here: `true` with the certificate that covers the server name (and is passed through where none does), or the names of certificates',
    because: 'what the proxy has no certificate for it can only pass through',
    references: (value) => certificates(value.is === 'named' ? value.names : []),
  }),
  'tls.alpn': aspect({
    shape: v.pipe(
      v.union([v.literal('upstream'), alpnList], 'expected "upstream", or a list of application protocols'),
      v.description(
        'the protocols in the order of preference, or `upstream`: what the upstream answers to the client’s list',
      ),
    ),
    builtIn: ['h2', 'http/1.1'],
    until: 'detected',
    says: 'the application protocols to agree on, the first that the client offers as well; `upstream` asks the upstream first, by TLS, and gives the client its answer',
    because: 'the two that are forwarded by request; any other is passed as bytes',
  }),
  'tls.alpnRequired': aspect({
    shape: flag,
    builtIn: false,
    until: 'detected',
    says: 'true: a client with none of the protocols is refused with the alert no_application_protocol; false: what is inside is found out by looking',
    because: 'many clients offer nothing, and speak HTTP/1 all the same',
  }),
  'tls.minVersion': aspect({
    shape: tlsVersion,
    builtIn: 'TLSv1.2',
    until: 'detected',
    says: 'the oldest version of TLS that clients may speak; older than TLSv1.2 is not possible',
    because: 'RFC 8996 forbids older ones, and there are clients that know nothing newer',
  }),
  'tls.clientCertificates': aspect({
    shape: clientCertificates,
    builtIn: false,
    until: 'detected',
    says: 'whether clients are asked for a certificate, and which roots it must lead to; the name in it is their identity',
    because: 'a browser that is asked for a certificate asks its user',
    references: (value) => (value === false ? [] : [{ to: 'trust', name: value.trust }]),
  }),
  'tls.mesh': aspect({
    shape: oneOf(['accept', 'ignore']),
    builtIn: 'accept',
    until: 'detected',
    says: 'whether a connection with the marker of another Sluice is terminated with the certificate of section mesh; without that section none is',
    because: 'whoever configures the section wants it used',
  }),
}

/** How an upstream is spoken to by TLS; `false` as before, in the clear. */
export const upstreamTls = {
  'upstream.tls': aspect({
    shape: v.union(
      [
        flag,
        object({
          serverName: v.pipe(
            v.optional(text('a host name')),
            v.description(
              'the name to ask for, and that the certificate must be for; else that of the request or of the client’s own TLS, else the address',
            ),
          ),
          verify: v.pipe(
            v.optional(flag, true),
            v.description('false: any certificate will do, which keeps out eavesdroppers and no impostor'),
          ),
          trust: v.pipe(
            v.optional(text('the name of roots in trust')),
            v.description('the roots; else those of the system'),
          ),
          certificate: v.pipe(
            v.optional(text('the name of a certificate')),
            v.description('what to show an upstream that asks for a certificate'),
          ),
          alpn: v.pipe(
            v.optional(alpnList),
            v.description(
              'the application protocols to offer; else the one agreed with the client, or the one that is forwarded',
            ),
          ),
          minVersion: v.pipe(v.optional(tlsVersion, 'TLSv1.2'), v.description('the oldest version to speak')),
        }),
      ],
      'expected true, false, or a mapping (serverName, verify, trust, certificate, alpn, minVersion)',
    ),
    builtIn: false,
    until: 'request',
    says: 'whether the upstream is spoken to by TLS, and how it is verified; whatever comes from the client, plain bytes as well, then travels inside',
    because: 'the destination of a transparent proxy expects what the client would have sent',
    references: (value) =>
      typeof value === 'boolean'
        ? []
        : [
            ...(value.trust === undefined ? [] : [{ to: 'trust', name: value.trust }]),
            ...certificates(value.certificate === undefined ? [] : [value.certificate]),
          ],
  }),
  'upstream.mesh': aspect({
    shape: oneOf(['never', 'prefer', 'require']),
    builtIn: 'never',
    until: 'request',
    says: 'mutual TLS to the Sluice in front of the upstream: `require` fails where there is none, `prefer` goes on in the clear and remembers it for a minute',
    because: 'it needs section mesh on both sides',
  }),
  'upstream.identity': aspect({
    shape: oneOrMany(text('a name or URI, such as spiffe://cluster.local/ns/shop/**')),
    builtIn: [],
    until: 'request',
    says: 'whom the upstream must prove to be, by `upstream.mesh` or by `upstream.tls` (then in place of the server name): patterns as in `when.identity`',
    because: 'with no pattern, anybody whom the roots vouch for will do for mesh, and the server name for TLS',
  }),
}
