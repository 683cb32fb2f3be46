/** What a peer did wrong. `code` is stable and may be matched on; the message tells a person what was seen. */
export class ProtocolError extends Error {
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.name = 'ProtocolError'
    this.code = code
  }
}
