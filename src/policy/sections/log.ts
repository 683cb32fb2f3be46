import { count, object, oneOf, setting } from '../shape.ts'
import { section } from './section.ts'

export const log = section({
  shape: object({
    format: setting(oneOf(['text', 'json', 'common', 'combined']), {
      builtIn: 'text',
      says: 'how a line is written: for people, as JSON, or as web servers do',
      because: 'a person reads the first logs; collectors ask for json',
    }),
    level: setting(oneOf(['debug', 'info', 'warn', 'error', 'silent']), {
      builtIn: 'info',
      says: 'the least important thing that is logged; each connection is one line at info',
      because: 'one line a connection is what explains a connection',
    }),
    sample: setting(count(1, 1_000_000), {
      builtIn: 1,
      says: 'one of so many connections and requests that went well is logged; what failed or was denied always is',
      because: 'nothing is left out that nobody asked to leave out',
    }),
    requestId: setting(oneOf(['pass', 'generate']), {
      builtIn: 'pass',
      says: 'whether a request that comes without x-request-id is given one, which goes on to the upstream and is logged',
      because: 'a transparent proxy adds nothing to requests unless it is told to',
    }),
  }),
  says: 'what is logged and how',
  byName: false,
  onReload: true,
})
