import { count, duration, object, setting } from '../shape.ts'
import { section } from './section.ts'

export const processLimits = section({
  shape: object({
    drain: setting(duration('0ms', '1h'), {
      builtIn: '30s',
      says: 'how long connections may take to end after SIGTERM or SIGINT; what is still open then is closed',
      because: 'the time a Kubernetes pod has to stop, unless it asks for more',
    }),
    connections: setting(count(1, 1_000_000), {
      builtIn: 20_000,
      says: 'connections open at once in the whole process; one more is refused and counted',
      because: 'both listeners at their own default limit',
    }),
  }),
  says: 'limits of the whole process; those of one connection are the aspects `limits.*`',
  byName: false,
  onReload: true,
})
