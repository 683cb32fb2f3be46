import { constants, type Http2Stream, type OutgoingHttpHeaders, type ServerHttp2Stream } from 'node:http2'

/** Whether the stream ended because it was reset: Node tells 'end' then too. */
export const wasCut = (stream: Http2Stream): boolean =>
  stream.aborted || (stream.rstCode ?? constants.NGHTTP2_NO_ERROR) !== constants.NGHTTP2_NO_ERROR

/**
 * Ends what a stream sends with these trailers. To be called at once after `respond` with `waitForTrailers`, also where
 * there are none: Node ends a stream before it resets it, and only a stream that waits for trailers is then not ended,
 * so that what was cut short does not look whole.
 */
export const endWith = (stream: Http2Stream & Sends, trailers: () => OutgoingHttpHeaders): void => {
  stream.on('wantTrailers', () => {
    if (!stream.closed) stream.sendTrailers(trailers())
  })
}

interface Sends {
  sendTrailers(headers: OutgoingHttpHeaders): void
}

/** An answer that is whole before its request: nobody reads the rest (RFC 9113 section 8.1). */
export const endEarly = (stream: ServerHttp2Stream): void => {
  if (stream.readableEnded || stream.destroyed) return
  const close = () => setImmediate(() => stream.destroyed || stream.close(constants.NGHTTP2_NO_ERROR))
  stream.once(stream.listenerCount('wantTrailers') > 0 ? 'wantTrailers' : 'finish', close)
}
