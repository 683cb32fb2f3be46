import { oneOf } from '../shape.ts'
import { aspect } from './aspect.ts'

export const protocol = {
  protocol: aspect({
    shape: oneOf(['detect', 'opaque', 'tls', 'http1', 'http2']),
    builtIn: 'detect',
    until: 'secured',
    says: '`detect` reads the first bytes; any other value fixes the protocol, and not a byte is read before it counts',
    because: 'detection needs no knowledge of the ports in use',
  }),
}
