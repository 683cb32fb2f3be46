import { count, duration, object, setting } from '../shape.ts'
import { section } from './section.ts'

export const sockets = section({
  shape: object({
    mark: setting(count(0, 4_294_967_295), {
      builtIn: 0,
      says:
        'the SO_MARK of every connection the proxy opens, which `sluice redirect --proxy-mark` leaves alone; 0 is none. ' +
        'Needs CAP_NET_ADMIN and the shim',
      because: 'a user of its own tells the proxy apart without any privilege; the mark is for where that cannot be',
    }),
    userTimeout: setting(duration('0ms', '1h'), {
      builtIn: '30s',
      says: 'how long sent bytes may stay unacknowledged before the kernel gives the connection up; 0ms is its own default',
      because: "the kernel's own default keeps connections to a dead node for a quarter of an hour",
    }),
    keepalive: setting(duration('0ms', '2h'), {
      builtIn: '10s',
      says: 'how long a connection is silent before the kernel asks, three times, whether the other side is there; 0ms never asks',
      because:
        'a peer that vanished without a word is noticed within half a minute, and NAT entries on the way stay alive',
    }),
  }),
  says: 'what the kernel is told about every socket, accepted and opened',
  byName: false,
  onReload: false,
})
