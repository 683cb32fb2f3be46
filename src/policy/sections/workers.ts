import { count, either, object, oneOf, setting } from '../shape.ts'
import { section } from './section.ts'

const WORKERS_MAX = 64
const some = count(1, WORKERS_MAX)
const auto = oneOf(['auto'])

export const workers = section({
  shape: object({
    threads: setting(
      either([some, auto], (input) => (typeof input === 'string' ? auto : some)),
      {
        builtIn: 1,
        says:
          'how many threads serve connections, each with its own listeners (SO_REUSEPORT), its own pump and its own ' +
          'connections to upstreams; auto: one for each core that the process may use',
        because: 'a pod seldom has more than one core to spare, and each thread beside the main one takes some 25 MiB',
      },
    ),
  }),
  says: 'threads; see docs/performance.md for what they share',
  byName: false,
  onReload: false,
})
