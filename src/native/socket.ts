import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { DIRECT_READS, makeDirect } from '../net/direct.ts'
import type { Addon } from './addon.ts'
import { fdOf } from './shim.ts'

/** A socket of Node that owns a connected descriptor, and is read and written directly. */
export const socketOf = (addon: Pick<Addon, 'send'>, fd: number): Socket => {
  const socket = new Socket({ fd, allowHalfOpen: true, readable: true, writable: true, ...DIRECT_READS })
  makeDirect(socket, (first, firstBytes, second) => addon.send(fd, first, firstBytes, second))
  return socket
}

/** The descriptor of a connected socket that has nothing left to write; TLS and all other streams have none here. */
export const plainFd = (stream: Duplex): number | undefined => {
  if (Object.getPrototypeOf(stream) !== Socket.prototype || stream.destroyed) return undefined
  if ((stream as Socket).connecting || stream.writableLength > 0 || stream.writableEnded) return undefined
  return fdOf(stream)
}
