import { duration } from '../shape.ts'
import { aspect } from './aspect.ts'

export const limits = {
  'limits.connect': aspect({
    shape: duration('10ms', '5m'),
    builtIn: '1s',
    until: 'request',
    says: 'how long the upstream may take to accept a connection; a TLS handshake after that has a limit of its own (`tls.handshakeTimeout`)',
    because:
      'as linkerd has it: within a cluster and between regions it takes milliseconds, and who waits longer could have another endpoint; where SYNs get lost, 4s lets two of them',
  }),
  'limits.idle': aspect({
    shape: duration('100ms', '24d'),
    builtIn: '1h',
    until: 'secured',
    says: 'how long a connection passed as bytes may carry nothing in either direction',
    because:
      'longer than any pool keeps a connection unused without keepalives, short enough that forgotten ones go away',
  }),
  'limits.halfClosed': aspect({
    shape: duration('100ms', '24d'),
    builtIn: '60s',
    until: 'secured',
    says: 'how long a connection may carry nothing after one side has said it will send no more',
    because:
      'the kernel forgets such a connection after 60 s (nf_conntrack close_wait), and the other FIN can never come',
  }),
}
