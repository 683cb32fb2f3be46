import { flag } from '../shape.ts'
import { aspect } from './aspect.ts'

export const deny = {
  deny: aspect({
    shape: flag,
    builtIn: false,
    until: 'request',
    says: 'true: refuse, and dial nothing; false: allow, even where a later rule or the defaults deny',
    because: 'a proxy that nobody configured must not break the workload; `defaults: { deny: true }` turns it round',
  }),
}
