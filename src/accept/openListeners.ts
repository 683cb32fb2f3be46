import type { Pump } from '../native/pump.ts'
import type { Shim } from '../native/shim.ts'
import type { World } from '../proxy.ts'
import { type ListenerOptions, type Listening, listen } from './listen.ts'
import { pumpListener } from './pumpListen.ts'

/** What the listeners of a process share. */
export interface ListenersWorld {
  readonly world: World
  readonly shim: Shim | undefined
  readonly pump: Pump | undefined
  readonly opened: (listening: Listening) => void
  readonly warn: (message: string) => void
}

/** Opens every listener, and tells of each. Rejects with an Error that says what is in the way. */
export const openListeners = async (
  wanted: readonly ListenerOptions[],
  { world, shim, pump, opened, warn }: ListenersWorld,
): Promise<void> => {
  const open = (options: ListenerOptions) => listen(options, world, shim)
  // The pump tells connections apart by addresses, and knows nothing of what others make of them.
  const openPumped = shim && pump ? pumpListener(pump, world, shim) : open
  for (const options of wanted) {
    try {
      opened(await (options.serve === undefined ? openPumped : open)(options))
    } catch (error) {
      // A kernel without IPv6 is no reason to leave IPv4 unserved.
      const { code, message } = error as NodeJS.ErrnoException
      const isMissingFamily =
        code === 'EAFNOSUPPORT' || (code === 'EADDRNOTAVAIL' && options.address.host.includes(':'))
      if (!isMissingFamily) throw error
      warn(message)
    }
  }
}
