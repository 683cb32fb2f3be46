import { duration, object, setting } from '../shape.ts'
import { section } from './section.ts'

export const processLimits = section({
  shape: object({
    drain: setting(duration('0ms', '1h'), {
      builtIn: '30s',
      says: 'how long connections may take to end after SIGTERM or SIGINT; what is still open then is closed',
      because: 'the time a Kubernetes pod has to stop, unless it asks for more',
    }),
  }),
  says: 'limits of the whole process; those of one connection are the aspects `limits.*`',
  byName: false,
  onReload: true,
})
