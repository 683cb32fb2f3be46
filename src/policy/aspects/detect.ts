import { duration, oneOf, size } from '../shape.ts'
import { aspect } from './aspect.ts'

export const detect = {
  'detect.timeout': aspect({
    shape: duration('10ms', '10m'),
    builtIn: '5s',
    until: 'connection',
    says: 'how long the first bytes may take to say what they are',
    because: 'a first segment that is lost twice still arrives in it, and a person still waits that long',
  }),
  'detect.maxBytes': aspect({
    shape: size('32B', '1MiB'),
    builtIn: '16KiB',
    until: 'connection',
    says: 'how many first bytes are read, at most, to find out',
    because: 'one TLS record is at most 16 KiB, and so is any ClientHello that libraries send',
  }),
  'detect.onTimeout': aspect({
    shape: oneOf(['opaque', 'deny', 'http1']),
    builtIn: 'opaque',
    until: 'connection',
    says: 'what a connection is when the time is up: passed as bytes, refused, or taken for HTTP/1',
    because: 'a slow or silent client is more often a protocol unknown to us than an attack',
  }),
  'detect.serverFirst': aspect({
    shape: oneOf(['auto', 'always', 'never']),
    builtIn: 'auto',
    until: 'connection',
    says: 'whether the upstream is dialled while the client is still silent, so that a server that speaks first is heard: `auto` dials unless a rule that still waits could deny the connection or send it elsewhere, or TLS may be terminated here',
    because: 'MySQL, SMTP, SSH and FTP greet first; without it their clients wait for the timeout',
  }),
}
