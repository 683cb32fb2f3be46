import { oneOf } from '../shape.ts'
import { aspect, choice, type ValueOf } from './aspect.ts'
import { address } from './upstreamAddress.ts'
import { authority } from './upstreamAuthority.ts'
import { channel } from './upstreamChannel.ts'

/** The ways to say where a connection or request goes. One file and one line each. */
const TARGETS = { address, authority, channel }

export const upstream = {
  upstream: choice({
    choices: TARGETS,
    builtIn: { address: 'original' },
    until: 'request',
    says: 'where it goes: by one of these keys',
    because: 'a transparent proxy changes no destination that nobody told it to change',
  }),
  'upstream.protocol': aspect({
    shape: oneOf(['auto', 'http1', 'http2']),
    builtIn: 'auto',
    until: 'request',
    says: 'the version of HTTP spoken to the upstream; `auto` is what the client speaks',
    because: 'a server that was asked in one version understands it',
  }),
  'upstream.proxyProtocol': aspect({
    shape: oneOf(['none', 'v1', 'v2']),
    builtIn: 'none',
    until: 'secured',
    says: 'a PROXY protocol header sent to the upstream before the first byte, so that it knows the client; 1 is text, 2 binary',
    because: 'a server that does not expect the header takes it for garbage',
  }),
}

/** Where it goes. Each kind of target has its own `is`. */
export type Target = ValueOf<(typeof upstream)['upstream']>
