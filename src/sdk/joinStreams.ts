import { constants, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { endWith, wasCut } from './streamEnd.ts'

/**
 * Bytes both ways between a stream of the channel, which waits for trailers, and a connection. An end is passed on as an
 * end, a reset as a reset.
 */
export const joinStreams = (stream: ServerHttp2Stream, socket: Duplex): void => {
  stream.pipe(socket, { end: false })
  stream.on('end', () => wasCut(stream) || socket.end())
  socket.pipe(stream)
  endWith(stream, () => ({}))
  stream.on('error', () => {}) // 'close' follows
  socket.on('error', () => {
    if (!stream.destroyed) stream.close(constants.NGHTTP2_CONNECT_ERROR)
  })
  socket.on('close', () => {
    if (!socket.readableEnded && !stream.destroyed) stream.close(constants.NGHTTP2_CONNECT_ERROR)
  })
  stream.on('close', () => {
    if (!wasCut(stream) && stream.readableEnded) return void socket.end()
    const { resetAndDestroy } = socket as Partial<Socket>
    if (resetAndDestroy) resetAndDestroy.call(socket)
    else socket.destroy()
  })
}
