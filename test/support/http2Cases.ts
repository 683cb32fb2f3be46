import { FLAG, FRAME, SETTING } from '../../src/codec/http2Codes.ts'
import { sendData, sendResponse } from '../../src/codec/http2Send.ts'
import type { Http2Limits } from '../../src/codec/http2State.ts'
import { block, frame, headers, POST, REQUEST, type Recorded, record, settings, uint32 } from './http2.ts'

/**
 * RFC 9113 and RFC 7541, section by section, both roles. A case is what the peer sends after the handshake and what has
 * to come of it: the connection ends with GOAWAY and that code, a stream is reset, or all goes on as if nothing happened.
 */
export interface Case {
  readonly section: string
  readonly title: string
  readonly send: readonly Buffer[]
  /** `connection CODE`, `stream ID CODE`, or frames that have to come out, in order, others between them. */
  readonly want: readonly string[]
  readonly limits?: Partial<Http2Limits>
}

export const { data, priority, rstStream, ping, goaway, windowUpdate, continuation, pushPromise } = FRAME
export const END = FLAG.endStream
export const WHOLE = FLAG.endStream | FLAG.endHeaders
export const OPEN = FLAG.endHeaders
export const big = (bytes: number): Buffer => Buffer.alloc(bytes, 97)
export const pingFrame = frame(ping, 0, 0, Buffer.from('12345678'))
export const dependency = (on: number, weight = 15): Buffer => Buffer.concat([uint32(on), Buffer.from([weight])])
export const request = headers(1)
export const open = headers(1, POST, OPEN)
/** Requests with this header block, malformed or not. */
export const asked = (fields: readonly string[], flags = WHOLE): Buffer => headers(1, fields, flags)
export const replaced = (at: number, ...by: string[]): string[] => {
  const fields: string[] = [...REQUEST]
  fields.splice(at, 1, ...by)
  return fields
}
export const raw = (bytes: string, flags = WHOLE): Buffer =>
  frame(FRAME.headers, flags, 1, Buffer.from(bytes.replaceAll(' ', ''), 'hex'))

export const ANSWERED = ['headers 1', 'data 1 11 end']
export const alive = ['ping ack']
export const connection = (code: string): string[] => [`goaway ${code}`]
export const stream = (id: number, code: string): string[] => [`rstStream ${id} ${code}`, 'ping ack']

export const cases: readonly Case[] = [
  // 3 and 4: the beginning, frames
  { section: '3.4', title: 'a request after the preface', send: [request], want: ANSWERED },
  { section: '4.1', title: 'a frame of unknown type', send: [frame(22, 0, 0, big(8)), pingFrame], want: alive },
  { section: '4.1', title: 'a flag that is not defined', send: [frame(ping, 0x16, 0, big(8))], want: ['ping ack'] },
  {
    section: '4.1',
    title: 'the reserved bit of the stream',
    send: [frame(ping, 0, 2 ** 31, big(8))],
    want: ['ping ack'],
  },
  { section: '4.2', title: 'DATA of 16384 bytes', send: [open, frame(data, END, 1, big(16_384))], want: ANSWERED },
  {
    section: '4.2',
    title: 'DATA of 16385 bytes',
    send: [open, frame(data, END, 1, big(16_385))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  {
    section: '4.2',
    title: 'HEADERS of more than 16384 bytes',
    send: [
      frame(
        FRAME.headers,
        WHOLE,
        1,
        Buffer.concat([block(...REQUEST), ...Array.from({ length: 5 }, () => block(`x: ${'a'.repeat(4000)}`))]),
      ),
    ],
    want: connection('FRAME_SIZE_ERROR'),
  },
  { section: '4.3', title: 'a header block that is none', send: [raw('40')], want: connection('COMPRESSION_ERROR') },
  {
    section: '4.3',
    title: 'PRIORITY inside a header block',
    send: [headers(1, REQUEST, END), frame(priority, 0, 1, dependency(0))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '4.3',
    title: 'HEADERS of another stream inside a block',
    send: [headers(1, REQUEST, END), headers(3)],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '4.3',
    title: 'a block on a closed stream still changes the tables',
    send: [request, open, headers(3)],
    want: connection('STREAM_CLOSED'),
  },
  // 5.1: states
  { section: '5.1', title: 'idle: DATA', send: [frame(data, END, 1, big(4))], want: connection('PROTOCOL_ERROR') },
  {
    section: '5.1',
    title: 'idle: RST_STREAM',
    send: [frame(rstStream, 0, 1, uint32(8))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '5.1',
    title: 'idle: WINDOW_UPDATE',
    send: [frame(windowUpdate, 0, 1, uint32(100))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '5.1',
    title: 'idle: CONTINUATION',
    send: [frame(continuation, FLAG.endHeaders, 1, block(...REQUEST))],
    want: connection('PROTOCOL_ERROR'),
  },
  { section: '5.1', title: 'idle: PRIORITY', send: [frame(priority, 0, 1, dependency(0)), request], want: ANSWERED },
  ...(
    [
      ['DATA', frame(data, END, 1, big(4)), stream(1, 'STREAM_CLOSED')],
      ['HEADERS', request, stream(1, 'STREAM_CLOSED')],
      ['CONTINUATION', frame(continuation, 4, 1, block('a: b')), connection('PROTOCOL_ERROR')],
      ['WINDOW_UPDATE', frame(windowUpdate, 0, 1, uint32(11)), ANSWERED],
      ['PRIORITY', frame(priority, 0, 1, dependency(0)), alive],
      ['RST_STREAM', frame(rstStream, 0, 1, uint32(8)), alive],
    ] as const
  ).map(([what, bytes, want]) => ({
    section: '5.1',
    title: `half closed (remote): ${what}`,
    send: [
      settings([SETTING.initialWindowSize, 0]),
      request,
      bytes,
      ...(want[0]?.startsWith('goaway') ? [] : [pingFrame]),
    ],
    want,
  })),
  {
    section: '5.1',
    title: 'closed: DATA after RST_STREAM',
    send: [open, frame(rstStream, 0, 1, uint32(8)), frame(data, END, 1, big(4)), pingFrame],
    want: stream(1, 'STREAM_CLOSED'),
  },
  {
    section: '5.1',
    title: 'closed: HEADERS after RST_STREAM',
    send: [open, frame(rstStream, 0, 1, uint32(8)), request, pingFrame],
    want: stream(1, 'STREAM_CLOSED'),
  },
  {
    section: '5.1',
    title: 'closed: CONTINUATION after RST_STREAM',
    send: [open, frame(rstStream, 0, 1, uint32(8)), frame(continuation, 4, 1, block('a: b'))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '5.1',
    title: 'closed: DATA after END_STREAM',
    send: [request, frame(data, END, 1, big(4))],
    want: connection('STREAM_CLOSED'),
  },
  {
    section: '5.1',
    title: 'closed: HEADERS after END_STREAM',
    send: [request, request],
    want: connection('STREAM_CLOSED'),
  },
  {
    section: '5.1',
    title: 'closed: CONTINUATION after END_STREAM',
    send: [request, frame(continuation, 4, 1, block('a: b'))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '5.1',
    title: 'closed: PRIORITY',
    send: [request, frame(priority, 0, 1, dependency(0)), pingFrame],
    want: alive,
  },
  {
    section: '5.1',
    title: 'closed: WINDOW_UPDATE',
    send: [request, frame(windowUpdate, 0, 1, uint32(1)), pingFrame],
    want: alive,
  },
  {
    section: '5.1',
    title: 'closed: RST_STREAM',
    send: [request, frame(rstStream, 0, 1, uint32(8)), pingFrame],
    want: alive,
  },
  { section: '5.1.1', title: 'an even stream', send: [headers(2)], want: connection('PROTOCOL_ERROR') },
  {
    section: '5.1.1',
    title: 'a stream below one that was opened',
    send: [headers(5), headers(3)],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '5.1.1',
    title: 'streams that were left out',
    send: [headers(7), headers(9)],
    want: ['headers 7', 'headers 9'],
  },
  {
    section: '5.1.2',
    title: 'one stream more than allowed',
    send: [headers(1, POST, OPEN), headers(3, POST, OPEN), headers(5, POST, OPEN), pingFrame],
    want: stream(5, 'REFUSED_STREAM'),
    limits: { streamsMax: 2 },
  },
  {
    section: '5.3.1',
    title: 'HEADERS that depends on itself',
    send: [
      frame(FRAME.headers, WHOLE | FLAG.priority, 1, Buffer.concat([dependency(1), block(...REQUEST)])),
      pingFrame,
    ],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '5.3.1',
    title: 'PRIORITY that depends on itself',
    send: [frame(priority, 0, 1, dependency(1))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '5.3.1',
    title: 'PRIORITY of an open stream that depends on itself',
    send: [open, frame(priority, 0, 1, dependency(1)), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '5.3.2',
    title: 'PRIORITY of every sort',
    send: [frame(priority, 0, 3, dependency(1, 255)), frame(priority, 0, 5, dependency(2 ** 31 + 3, 0)), request],
    want: ANSWERED,
  },
  {
    section: '5.4.1',
    title: 'frames after a connection error',
    send: [frame(ping, 0, 0, big(6)), request],
    want: connection('FRAME_SIZE_ERROR'),
  },
  {
    section: '5.5',
    title: 'an unknown frame inside a header block',
    send: [headers(1, REQUEST, END), frame(22, 0, 1, big(4))],
    want: connection('PROTOCOL_ERROR'),
  },
  // 6.1 DATA
  { section: '6.1', title: 'DATA in one frame', send: [open, frame(data, END, 1, big(4))], want: ANSWERED },
  {
    section: '6.1',
    title: 'DATA in many frames',
    send: [open, frame(data, 0, 1, big(4)), frame(data, 0, 1, big(4)), frame(data, END, 1)],
    want: ANSWERED,
  },
  {
    section: '6.1',
    title: 'DATA with padding',
    send: [open, frame(data, END | FLAG.padded, 1, Buffer.concat([Buffer.from([5]), big(10)]))],
    want: ANSWERED,
  },
  {
    section: '6.1',
    title: 'DATA of padding only',
    send: [open, frame(data, END | FLAG.padded, 1, Buffer.from([3, 0, 0, 0]))],
    want: ANSWERED,
  },
  {
    section: '6.1',
    title: 'DATA of nothing but a padding length of 0',
    send: [open, frame(data, END | FLAG.padded, 1, Buffer.from([0]))],
    want: ANSWERED,
  },
  {
    section: '6.1',
    title: 'DATA on stream 0',
    send: [open, frame(data, END, 0, big(4))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.1',
    title: 'DATA with padding as long as the frame',
    send: [open, frame(data, END | FLAG.padded, 1, Buffer.from([4, 0, 0, 0]))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.1',
    title: 'padded DATA without a byte',
    send: [open, frame(data, END | FLAG.padded, 1)],
    want: connection('FRAME_SIZE_ERROR'),
  },
  // 6.2 HEADERS
  {
    section: '6.2',
    title: 'HEADERS with padding',
    send: [frame(FRAME.headers, WHOLE | FLAG.padded, 1, Buffer.concat([Buffer.from([3]), block(...REQUEST), big(3)]))],
    want: ANSWERED,
  },
  {
    section: '6.2',
    title: 'HEADERS with priority',
    send: [frame(FRAME.headers, WHOLE | FLAG.priority, 1, Buffer.concat([dependency(0), block(...REQUEST)]))],
    want: ANSWERED,
  },
  {
    section: '6.2',
    title: 'HEADERS with padding and priority',
    send: [
      frame(
        FRAME.headers,
        WHOLE | FLAG.priority | FLAG.padded,
        1,
        Buffer.concat([Buffer.from([1]), dependency(0), block(...REQUEST), big(1)]),
      ),
    ],
    want: ANSWERED,
  },
  { section: '6.2', title: 'HEADERS on stream 0', send: [headers(0)], want: connection('PROTOCOL_ERROR') },
  {
    section: '6.2',
    title: 'HEADERS with padding longer than the frame',
    send: [frame(FRAME.headers, WHOLE | FLAG.padded, 1, Buffer.concat([Buffer.from([200]), block(...REQUEST)]))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.2',
    title: 'HEADERS too short for priority',
    send: [frame(FRAME.headers, WHOLE | FLAG.priority, 1, big(4))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  // 6.3, 6.4
  {
    section: '6.3',
    title: 'PRIORITY on stream 0',
    send: [frame(priority, 0, 0, dependency(1))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.3',
    title: 'PRIORITY of four bytes on an open stream',
    send: [open, frame(priority, 0, 1, big(4)), pingFrame],
    want: stream(1, 'FRAME_SIZE_ERROR'),
  },
  {
    section: '6.3',
    title: 'PRIORITY of four bytes on an idle stream',
    send: [frame(priority, 0, 1, big(4))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  { section: '6.4', title: 'RST_STREAM', send: [open, frame(rstStream, 0, 1, uint32(8)), pingFrame], want: alive },
  {
    section: '6.4',
    title: 'RST_STREAM on stream 0',
    send: [frame(rstStream, 0, 0, uint32(8))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.4',
    title: 'RST_STREAM of three bytes',
    send: [open, frame(rstStream, 0, 1, big(3))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  // 6.5 SETTINGS
  { section: '6.5', title: 'SETTINGS', send: [settings([SETTING.maxConcurrentStreams, 100])], want: ['settings ack'] },
  {
    section: '6.5',
    title: 'acknowledged SETTINGS with a payload',
    send: [frame(FRAME.settings, FLAG.ack, 0, big(1))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  {
    section: '6.5',
    title: 'SETTINGS on a stream',
    send: [frame(FRAME.settings, 0, 1)],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.5',
    title: 'SETTINGS of five bytes',
    send: [frame(FRAME.settings, 0, 0, big(5))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  {
    section: '6.5.2',
    title: 'ENABLE_PUSH 2',
    send: [settings([SETTING.enablePush, 2])],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.5.2',
    title: 'INITIAL_WINDOW_SIZE 2^31',
    send: [settings([SETTING.initialWindowSize, 2 ** 31])],
    want: connection('FLOW_CONTROL_ERROR'),
  },
  {
    section: '6.5.2',
    title: 'MAX_FRAME_SIZE 16383',
    send: [settings([SETTING.maxFrameSize, 16_383])],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.5.2',
    title: 'MAX_FRAME_SIZE 2^24',
    send: [settings([SETTING.maxFrameSize, 2 ** 24])],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.5.2',
    title: 'an unknown setting',
    send: [settings([0xff, 1]), pingFrame],
    want: ['settings ack', 'ping ack'],
  },
  {
    section: '8441 3',
    title: 'ENABLE_CONNECT_PROTOCOL 2',
    send: [settings([SETTING.enableConnectProtocol, 2])],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.5.3',
    title: 'the last of two values counts',
    send: [settings([SETTING.initialWindowSize, 100], [SETTING.initialWindowSize, 1]), request],
    want: ['settings ack', 'headers 1', 'data 1 1'],
  },
  // 6.6 to 6.8
  {
    section: '6.6',
    title: 'PUSH_PROMISE from a client',
    send: [frame(pushPromise, FLAG.endHeaders, 1, Buffer.concat([uint32(2), block(...REQUEST)]))],
    want: connection('PROTOCOL_ERROR'),
  },
  { section: '6.7', title: 'PING', send: [pingFrame], want: ['ping ack'] },
  { section: '6.7', title: 'PING on a stream', send: [frame(ping, 0, 1, big(8))], want: connection('PROTOCOL_ERROR') },
  {
    section: '6.7',
    title: 'PING of six bytes',
    send: [frame(ping, 0, 0, big(6))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  { section: '6.8', title: 'GOAWAY', send: [frame(goaway, 0, 0, uint32(0, 0)), pingFrame], want: alive },
  {
    section: '6.8',
    title: 'GOAWAY on a stream',
    send: [frame(goaway, 0, 1, uint32(0, 0))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.8',
    title: 'GOAWAY of seven bytes',
    send: [frame(goaway, 0, 0, big(7))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  {
    section: '7',
    title: 'GOAWAY with an unknown code',
    send: [frame(goaway, 0, 0, uint32(0, 255)), pingFrame],
    want: alive,
  },
  {
    section: '7',
    title: 'RST_STREAM with an unknown code',
    send: [open, frame(rstStream, 0, 1, uint32(255)), pingFrame],
    want: alive,
  },
  // 6.9 WINDOW_UPDATE
  {
    section: '6.9',
    title: 'WINDOW_UPDATE of the connection and of a stream',
    send: [open, frame(windowUpdate, 0, 0, uint32(1)), frame(windowUpdate, 0, 1, uint32(1)), frame(data, END, 1)],
    want: ANSWERED,
  },
  {
    section: '6.9',
    title: 'an increment of 0 on the connection',
    send: [frame(windowUpdate, 0, 0, uint32(0))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.9',
    title: 'an increment of 0 on a stream',
    send: [open, frame(windowUpdate, 0, 1, uint32(0)), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '6.9',
    title: 'WINDOW_UPDATE of three bytes',
    send: [frame(windowUpdate, 0, 0, big(3))],
    want: connection('FRAME_SIZE_ERROR'),
  },
  {
    section: '6.9.1',
    title: 'a window of one byte',
    send: [settings([SETTING.initialWindowSize, 1]), request],
    want: ['headers 1', 'data 1 1'],
  },
  {
    section: '6.9.1',
    title: 'the connection over 2^31-1',
    send: [frame(windowUpdate, 0, 0, uint32(2 ** 31 - 1)), frame(windowUpdate, 0, 0, uint32(2 ** 31 - 1))],
    want: connection('FLOW_CONTROL_ERROR'),
  },
  {
    section: '6.9.1',
    title: 'a stream over 2^31-1',
    send: [open, frame(windowUpdate, 0, 1, uint32(2 ** 31 - 1)), pingFrame],
    want: stream(1, 'FLOW_CONTROL_ERROR'),
  },
  {
    section: '6.9.1',
    title: 'more DATA than the stream may send',
    send: [open, ...Array.from({ length: 5 }, () => frame(data, 0, 1, big(16_384))), pingFrame],
    want: stream(1, 'FLOW_CONTROL_ERROR'),
    limits: { windowBytes: 40_000 },
  },
  {
    section: '6.9.1',
    title: 'more DATA than the connection may send',
    send: [open, ...Array.from({ length: 5 }, () => frame(data, 0, 1, big(16_384)))],
    want: connection('FLOW_CONTROL_ERROR'),
    limits: { windowBytes: 1_000_000, connectionWindowBytes: 65_535 },
  },
  {
    section: '6.9.2',
    title: 'a window that opens later',
    send: [settings([SETTING.initialWindowSize, 0]), request, settings([SETTING.initialWindowSize, 1])],
    want: ['headers 1', 'settings ack', 'data 1 1'],
  },
  {
    section: '6.9.2',
    title: 'a window below zero that opens later',
    send: [
      settings([SETTING.initialWindowSize, 3]),
      request,
      settings([SETTING.initialWindowSize, 2]),
      frame(windowUpdate, 0, 1, uint32(2)),
    ],
    want: ['data 1 3', 'settings ack', 'data 1 1'],
  },
  {
    section: '6.9.2',
    title: 'a setting that carries a stream over 2^31-1',
    send: [
      open,
      frame(windowUpdate, 0, 1, uint32(2 ** 31 - 1 - 65_535)),
      settings([SETTING.initialWindowSize, 65_536]),
    ],
    want: connection('FLOW_CONTROL_ERROR'),
  },
  // 6.10 CONTINUATION
  {
    section: '6.10',
    title: 'a block in three frames',
    send: [
      frame(FRAME.headers, END, 1, block(...REQUEST.slice(0, 2))),
      frame(continuation, 0, 1, block(...REQUEST.slice(2))),
      frame(continuation, FLAG.endHeaders, 1, block('a: b')),
    ],
    want: ANSWERED,
  },
  {
    section: '6.10',
    title: 'a block cut inside a field',
    send: [
      frame(FRAME.headers, END, 1, block(...REQUEST).subarray(0, 7)),
      frame(continuation, FLAG.endHeaders, 1, block(...REQUEST).subarray(7)),
    ],
    want: ANSWERED,
  },
  {
    section: '6.10',
    title: 'DATA inside a block',
    send: [headers(1, REQUEST, 0), frame(data, END, 1, big(4))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.10',
    title: 'CONTINUATION on stream 0',
    send: [headers(1, REQUEST, END), frame(continuation, 4, 0, block('a: b'))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.10',
    title: 'CONTINUATION after END_HEADERS',
    send: [open, frame(continuation, 4, 1, block('a: b'))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.10',
    title: 'CONTINUATION after a CONTINUATION with END_HEADERS',
    send: [headers(1, POST, 0), frame(continuation, 4, 1, block('a: b')), frame(continuation, 4, 1, block('a: b'))],
    want: connection('PROTOCOL_ERROR'),
  },
  {
    section: '6.10',
    title: 'CONTINUATION after DATA',
    send: [open, frame(data, 0, 1, big(4)), frame(continuation, 4, 1, block('a: b'))],
    want: connection('PROTOCOL_ERROR'),
  },
  // 8: messages
  {
    section: '8.1',
    title: 'a POST with trailers',
    send: [open, frame(data, 0, 1, big(4)), headers(1, ['x: y'])],
    want: ANSWERED,
  },
  { section: '8.1', title: 'HEAD', send: [asked(replaced(0, ':method: HEAD'))], want: ['headers 1'] },
  {
    section: '8.1',
    title: 'a second HEADERS without END_STREAM',
    send: [open, headers(1, ['x: y'], OPEN), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '8.1.1',
    title: 'content-length over the DATA',
    send: [headers(1, [...POST, 'content-length: 5'], OPEN), frame(data, END, 1, big(4)), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '8.1.1',
    title: 'content-length under the DATA',
    send: [headers(1, [...POST, 'content-length: 3'], OPEN), frame(data, END, 1, big(4)), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '8.1.1',
    title: 'content-length under several DATA',
    send: [
      headers(1, [...POST, 'content-length: 7'], OPEN),
      frame(data, 0, 1, big(4)),
      frame(data, END, 1, big(4)),
      pingFrame,
    ],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '8.1.1',
    title: 'content-length without DATA',
    send: [headers(1, [...POST, 'content-length: 7']), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '8.1.1',
    title: 'content-length and trailers too early',
    send: [headers(1, [...POST, 'content-length: 7'], OPEN), headers(1, ['x: y']), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  {
    section: '8.1.1',
    title: 'content-length that fits',
    send: [headers(1, [...POST, 'content-length: 4'], OPEN), frame(data, 0, 1, big(4)), frame(data, END, 1)],
    want: ANSWERED,
  },
  {
    section: '8.1.1',
    title: 'content-length 0 and an empty DATA',
    send: [headers(1, [...POST, 'content-length: 0'], OPEN), frame(data, END, 1)],
    want: ANSWERED,
  },
  ...[
    'content-length: 5, 5',
    'content-length: +5',
    'content-length: -1',
    'content-length: 0x5',
    'content-length: 1e1',
  ].map((field) => ({
    section: '8.1.1',
    title: field,
    send: [headers(1, [...POST, field], OPEN), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  })),
  {
    section: '8.1.1',
    title: 'content-length twice',
    send: [headers(1, [...POST, 'content-length: 5', 'content-length: 5'], OPEN), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  ...(
    [
      ['8.2.1', 'a name in upper case', [...REQUEST, 'X-TEST: ok']],
      ['8.2.1', 'a name with a space', [...REQUEST, 'x test: ok']],
      ['8.2.1', 'a value with a line feed', [...REQUEST, 'x: a\nb']],
      ['8.2.1', 'a value with a carriage return', [...REQUEST, 'x: a\r\nhost: b']],
      ['8.2.1', 'a value with NUL', [...REQUEST, 'x: a\0b']],
      ['8.2.1', 'a value with a space in front', [...REQUEST, 'x:  a']],
      ['8.2.1', 'a value with a space behind', [...REQUEST, 'x: a ']],
      ['8.2.2', 'connection', [...REQUEST, 'connection: keep-alive']],
      ['8.2.2', 'keep-alive', [...REQUEST, 'keep-alive: 1']],
      ['8.2.2', 'proxy-connection', [...REQUEST, 'proxy-connection: close']],
      ['8.2.2', 'transfer-encoding', [...REQUEST, 'transfer-encoding: chunked']],
      ['8.2.2', 'upgrade', [...REQUEST, 'upgrade: websocket']],
      ['8.2.2', 'te other than trailers', [...REQUEST, 'te: trailers, deflate']],
      ['8.3', 'an unknown pseudo-header field', [':test: ok', ...REQUEST]],
      ['8.3', 'a pseudo-header field of responses', [':status: 200', ...REQUEST]],
      ['8.3', 'a pseudo-header field behind a regular one', ['x: y', ...REQUEST]],
      ['8.3.1', 'an empty :path', replaced(2, ':path: ')],
      ['8.3.1', 'a :path without a slash', replaced(2, ':path: a')],
      ['8.3.1', 'a :path in absolute form', replaced(2, ':path: http://other/')],
      ['8.3.1', 'a :path with a space', replaced(2, ':path: / HTTP/1.1')],
      ['8.3.1', 'a :path of * without OPTIONS', replaced(2, ':path: *')],
      ['8.3.1', 'a :path with octets above 127', replaced(2, ':path: /\xc3\xa9')],
      ['8.3.1', 'a :path with a fragment', replaced(2, ':path: /open#/../closed')],
      ['8.3.1', 'a :method with a space', replaced(0, ':method: GET /')],
      ['8.3.1', 'an empty :method', replaced(0, ':method: ')],
      ['8.3.1', 'an empty :scheme', replaced(1, ':scheme: ')],
      ['8.3.1', 'no :method', replaced(0)],
      ['8.3.1', 'no :scheme', replaced(1)],
      ['8.3.1', 'no :path', replaced(2)],
      ['8.3.1', ':method twice', [...REQUEST.slice(0, 1), ...REQUEST]],
      ['8.3.1', ':scheme twice', [':scheme: http', ...REQUEST]],
      ['8.3.1', ':path twice', [':path: /', ...REQUEST]],
      ['8.3.1', ':authority twice', [':authority: example.com', ...REQUEST]],
      ['8.3.1', 'Host that differs from :authority', [...REQUEST, 'host: other']],
      ['8.5', 'CONNECT with :path and :scheme', replaced(0, ':method: CONNECT')],
      ['8.5', 'CONNECT without :authority', [':method: CONNECT']],
      ['8441 4', ':protocol without CONNECT', [':protocol: websocket', ...REQUEST]],
      [
        '8441 4',
        'extended CONNECT without :path',
        [':protocol: websocket', ...replaced(0, ':method: CONNECT').filter((field) => !field.startsWith(':path'))],
      ],
    ] as const
  ).map(([section, title, fields]) => ({
    section,
    title: `a request with ${title}`,
    send: [asked(fields), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  })),
  {
    section: '8.3',
    title: 'a pseudo-header field in trailers',
    send: [open, headers(1, [':method: GET']), pingFrame],
    want: stream(1, 'PROTOCOL_ERROR'),
  },
  { section: '8.2.2', title: 'te: trailers', send: [asked([...REQUEST, 'te: trailers'])], want: ANSWERED },
  {
    section: '8.3.1',
    title: 'OPTIONS *',
    send: [asked([':method: OPTIONS', ':scheme: http', ':path: *', ':authority: a'])],
    want: ANSWERED,
  },
  // RFC 7541 through frames
  {
    section: '7541 2.3.3',
    title: 'an index beyond the tables',
    send: [raw('82 86 84 c6')],
    want: connection('COMPRESSION_ERROR'),
  },
  {
    section: '7541 2.3.3',
    title: 'a literal with a name index beyond the tables',
    send: [raw('82 86 84 7f 20 01 61')],
    want: connection('COMPRESSION_ERROR'),
  },
  {
    section: '7541 4.2',
    title: 'a size update at the end of the block',
    send: [raw('82 86 84 41 01 61 3f e1 1f')],
    want: connection('COMPRESSION_ERROR'),
  },
  {
    section: '7541 4.2',
    title: 'a size update at the beginning',
    send: [raw('3f e1 1f 82 86 84 41 01 61')],
    want: ANSWERED,
  },
  {
    section: '7541 5.2',
    title: 'padding of more than seven bits',
    send: [raw('82 86 84 41 01 61 00 82 1f ff 01 61')],
    want: connection('COMPRESSION_ERROR'),
  },
  {
    section: '7541 5.2',
    title: 'padding with zeros',
    send: [raw('82 86 84 41 01 61 00 81 18 01 61')],
    want: connection('COMPRESSION_ERROR'),
  },
  {
    section: '7541 5.2',
    title: 'the end of string symbol',
    send: [raw('82 86 84 41 01 61 00 84 ff ff ff fc 01 61')],
    want: connection('COMPRESSION_ERROR'),
  },
  { section: '7541 6.1', title: 'index 0', send: [raw('80 82 86 84')], want: connection('COMPRESSION_ERROR') },
  {
    section: '7541 6.3',
    title: 'a size update larger than the setting',
    send: [raw('3f e2 1f 82 86 84')],
    want: connection('COMPRESSION_ERROR'),
  },
  ...(
    [
      '82 86 84 41 01 61',
      '82 86 84 01 01 61',
      '82 86 84 11 01 61',
      '82 86 84 41 81 1f',
      '82 86 84 41 01 61 40 01 62 01 63',
      '82 86 84 41 01 61 00 01 62 01 63',
      '82 86 84 41 01 61 10 01 62 01 63',
      '82 86 84 41 01 61 40 81 8f 81 8f',
    ] as const
  ).map((bytes) => ({ section: '7541 6', title: `the representation ${bytes}`, send: [raw(bytes)], want: ANSWERED })),
]

/** Frames a server would write for `hello world`, once the request is whole. */
export const answering = (
  limits: Partial<Http2Limits> = {},
  role: 'server' | 'client' = 'server',
  consumes = true,
): Recorded<undefined> => {
  const answer: Recorded<undefined> = record<undefined>(role, {
    limits,
    consumes,
    handler: {
      requestRead(stream, { method }, last) {
        if (last) hello(stream, method)
      },
      dataRead(stream, _, last) {
        if (last) hello(stream, 'POST')
      },
      trailersRead: (stream) => hello(stream, 'POST'),
    },
  })
  const hello = (stream: Parameters<typeof sendResponse>[1], method: string): void => {
    const isHead = method === 'HEAD'
    sendResponse(answer.h2, stream, 200, ['content-length', '11'], isHead)
    if (!isHead) sendData(answer.h2, stream, Buffer.from('hello world'), true)
  }
  return answer
}

export const inOrder = (found: readonly string[], want: readonly string[]): boolean => {
  let at = 0
  for (const line of found) if (at < want.length && line.startsWith(want[at]!)) at += 1
  return at === want.length
}

/** What a server does wrong towards us as its client, after we asked on stream 1 (POST, open) and 3 (HEAD). */
export const OK = [':status: 200']
export const clientCases: readonly { section: string; title: string; send: readonly Buffer[]; want: string }[] = [
  {
    section: '8.1',
    title: 'a response',
    send: [headers(1, OK, OPEN), frame(data, END, 1, big(3))],
    want: 'data 1 aaa end',
  },
  {
    section: '8.1',
    title: 'a response with trailers',
    send: [headers(1, OK, OPEN), headers(1, ['grpc-status: 0'])],
    want: 'trailers 1 grpc-status|0',
  },
  {
    section: '8.1',
    title: 'trailers without END_STREAM',
    send: [headers(1, OK, OPEN), headers(1, ['a: b'], OPEN)],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.1',
    title: 'an interim response',
    send: [headers(1, [':status: 103', 'link: x'], OPEN), headers(1, OK)],
    want: 'response 1 200  end',
  },
  {
    section: '8.1',
    title: 'an interim response that ends the stream',
    send: [headers(1, [':status: 103'])],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  { section: '8.6', title: '101', send: [headers(1, [':status: 101'], OPEN)], want: 'reset 1 PROTOCOL_ERROR' },
  {
    section: '8.1',
    title: 'DATA before the head',
    send: [frame(data, END, 1, big(3))],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  { section: '8.3.2', title: 'no :status', send: [headers(1, ['a: b'])], want: 'reset 1 PROTOCOL_ERROR' },
  {
    section: '8.3.2',
    title: ':status twice',
    send: [headers(1, [':status: 200', ':status: 200'])],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.3.2',
    title: ':status that is no number',
    send: [headers(1, [':status: 2oo'])],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.3.2',
    title: ':status of four digits',
    send: [headers(1, [':status: 2000'])],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.3',
    title: ':path in a response',
    send: [headers(1, [':status: 200', ':path: /'])],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.2.1',
    title: 'a name in upper case',
    send: [headers(1, [':status: 200', 'A: b'])],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.2.2',
    title: 'connection',
    send: [headers(1, [':status: 200', 'connection: close'])],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.1.1',
    title: 'content-length that differs',
    send: [headers(1, [':status: 200', 'content-length: 5'], OPEN), frame(data, END, 1, big(3))],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.1.1',
    title: 'content-length without a body',
    send: [headers(1, [':status: 200', 'content-length: 5'])],
    want: 'reset 1 PROTOCOL_ERROR',
  },
  {
    section: '8.1.1',
    title: 'content-length in an answer to HEAD',
    send: [headers(3, [':status: 200', 'content-length: 5'])],
    want: 'response 3 200 content-length|5 end',
  },
  {
    section: '8.1.1',
    title: 'a body in an answer to HEAD',
    send: [headers(3, OK, OPEN), frame(data, END, 3, big(3))],
    want: 'reset 3 PROTOCOL_ERROR',
  },
  {
    section: '8.1.1',
    title: 'content-length in 304',
    send: [headers(1, [':status: 304', 'content-length: 5'])],
    want: 'response 1 304 content-length|5 end',
  },
  {
    section: '6.4',
    title: 'RST_STREAM',
    send: [frame(rstStream, 0, 1, uint32(11))],
    want: 'reset 1 ENHANCE_YOUR_CALM',
  },
  {
    section: '6.8',
    title: 'GOAWAY below an open stream',
    send: [frame(goaway, 0, 0, uint32(1, 0))],
    want: 'reset 3 REFUSED_STREAM',
  },
  { section: '5.1', title: 'HEADERS on an idle stream', send: [headers(5, OK)], want: 'failed HTTP2_PROTOCOL_ERROR' },
  { section: '5.1', title: 'HEADERS on a pushed stream', send: [headers(2, OK)], want: 'failed HTTP2_PROTOCOL_ERROR' },
  {
    section: '5.1',
    title: 'DATA on an idle stream',
    send: [frame(data, 0, 5, big(3))],
    want: 'failed HTTP2_PROTOCOL_ERROR',
  },
  {
    section: '5.1',
    title: 'DATA after END_STREAM',
    send: [headers(3, OK), frame(data, 0, 3, big(3))],
    want: 'failed HTTP2_STREAM_CLOSED',
  },
  {
    section: '6.5.2',
    title: 'ENABLE_PUSH 1 from a server',
    send: [settings([SETTING.enablePush, 1])],
    want: 'failed HTTP2_PROTOCOL_ERROR',
  },
  {
    section: '6.6',
    title: 'PUSH_PROMISE',
    send: [frame(pushPromise, FLAG.endHeaders, 1, Buffer.concat([uint32(2), block(...REQUEST)]))],
    want: 'failed HTTP2_PROTOCOL_ERROR',
  },
  {
    section: '8.1',
    title: 'a head over the limits',
    send: [headers(1, [':status: 200', ...Array.from({ length: 101 }, (_, at) => `x-${at}: y`)])],
    want: 'reset 1 ENHANCE_YOUR_CALM',
  },
]
