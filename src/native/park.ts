import { fail } from 'node:assert'
import type { Clock } from '../net/clock.ts'
import { directOf } from '../net/direct.ts'
import { type Guest, PARKED, type Park } from '../net/park.ts'
import { type Addon, loadAddon } from './addon.ts'
import { plainFd, socketOf } from './socket.ts'

/** How often it is looked for guests whose time is over: they wait for seconds at least. */
const LOOK_MS = 1_000

/** Opens the park of this thread; undefined without the shim, and where the system has no descriptor for it. */
export const loadPark = (clock: Clock, path?: string): Park | undefined => {
  const loaded = loadAddon(path)
  return loaded.is === 'ready' ? openPark(loaded.value, clock) : undefined
}

const openPark = (
  addon: Pick<Addon, 'send' | 'parkOpen' | 'park' | 'unpark'>,
  { now, after }: Clock,
): Park | undefined => {
  const guests = new Map<number, Guest>()
  const woken = (fd: number, isLate: boolean) => {
    const guest = guests.get(fd) ?? fail(`nobody has parked ${fd}`)
    guests.delete(fd)
    const socket = socketOf(addon, fd)
    // A stream without an error listener kills the process.
    socket.on('error', () => {})
    guest.connection.stream = socket
    guest.woken(socket, isLate)
  }
  const lot = addon.parkOpen((fd) => woken(fd, false))
  if (typeof lot === 'number') return undefined
  const wake = (fd: number, isLate: boolean) => {
    if (!addon.unpark(lot, fd)) fail(`${fd} is not parked`)
    woken(fd, isLate)
  }
  const look = () => {
    const late: number[] = []
    for (const [fd, { until }] of guests) if (until <= now()) late.push(fd)
    // Waking one may wake others.
    for (const fd of late) if ((guests.get(fd)?.until ?? Number.POSITIVE_INFINITY) <= now()) wake(fd, true)
    if (guests.size > 0) after(LOOK_MS, look)
  }
  return {
    leave: (stream, guest, forMs) => {
      const fd = plainFd(stream)
      if (fd === undefined || directOf(stream) === undefined || stream !== guest.connection.stream) return false
      if (stream.readableLength > 0 || stream.readableEnded) return false
      const own = addon.park(lot, fd)
      if (own < 0) return false
      guest.place = own
      guest.until = now() + forMs
      if (guests.size === 0) after(LOOK_MS, look)
      guests.set(own, guest)
      // Ends nothing: the park has a duplicate.
      stream.destroy()
      guest.connection.stream = PARKED
      return true
    },
    wake: ({ place }) => wake(place, false),
  }
}
