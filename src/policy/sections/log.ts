import { object, oneOf, setting } from '../shape.ts'
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
  }),
  says: 'what is logged and how',
  byName: false,
  onReload: true,
})
