import { isIP } from 'node:net'
import type { Arguments, Command, Result, Tools } from './command.ts'
import { CommandFailure, failure, failureOf } from './failure.ts'

/** SMTP over TLS from the first byte (RFC 8314). */
const SUBMISSIONS_PORT = 465

/** `smtp/SendEmail`: one message through a mail server, which the policy judges by address and port as any destination. */
export const SEND_EMAIL: Command = {
  id: 'smtp/SendEmail',
  summary: 'Sends an e-mail through an SMTP server',
  reads: false,
  parameters: [
    { id: 'smtp_host', type: 'str', required: true, summary: 'Name or address of the mail server' },
    { id: 'smtp_port', type: 'int', required: true, summary: '25, 587, or 465 for TLS from the first byte' },
    { id: 'email_subject', type: 'str', required: true },
    { id: 'email_body', type: 'str', required: true, summary: 'Plain text' },
    { id: 'email_to', type: 'str', required: true, summary: 'One or more addresses, separated by commas' },
    { id: 'email_from', type: 'str', required: true },
    { id: 'smtp_user', type: 'str', required: false },
    { id: 'smtp_password', type: 'str', required: false },
    {
      id: 'smtp_starttls',
      type: 'bool',
      required: false,
      summary: 'true: TLS or nothing. false: never. Absent: where the server offers it',
    },
  ],
  run: async (args, tools) => {
    const port = Number(args.smtp_port)
    if (port < 1 || port > 65_535) throw failure('invalid_parameters', 'smtp_port is a number from 1 to 65535')
    const socket = await tools.connect(String(args.smtp_host), port)
    const stop = (): unknown => socket.destroy()
    tools.signal.addEventListener('abort', stop)
    try {
      return await deliver(args, port, socket, tools)
    } catch (thrown) {
      throw mailFailure(thrown)
    } finally {
      tools.signal.removeEventListener('abort', stop)
      socket.destroy()
    }
  },
}

const deliver = async (args: Arguments, port: number, socket: unknown, tools: Tools): Promise<Result> => {
  const { createTransport } = await import('nodemailer')
  const transport = createTransport({
    ...connectionOptions(args, port),
    getSocket: (_options: unknown, done: (error: Error | null, found: object) => void) =>
      done(null, { connection: socket }),
    // A message is text from its caller: it never makes us read a file or call a URL.
    disableFileAccess: true,
    disableUrlAccess: true,
  } as object)
  const sent = (await transport.sendMail({
    from: String(args.email_from),
    to: String(args.email_to),
    subject: String(args.email_subject),
    text: String(args.email_body),
  })) as { messageId: string; accepted: unknown[]; rejected: unknown[]; response: string }
  tools.log(`accepted for ${sent.accepted.length}, refused for ${sent.rejected.length} recipients`)
  return {
    body: { message_id: sent.messageId, accepted: sent.accepted, rejected: sent.rejected, response: sent.response },
    ...(sent.rejected.length === 0
      ? {}
      : { error: { error_code: 'mail_rejected', message: `refused for: ${sent.rejected.join(', ')}` } }),
  }
}

/** A password is only ever given to a server whose certificate holds, unless the caller said no TLS. */
const connectionOptions = (args: Arguments, port: number): object => {
  const host = String(args.smtp_host)
  const { smtp_user: user, smtp_password: pass, smtp_starttls: starttls } = args
  const hasLogin = typeof user === 'string' && user !== '' && typeof pass === 'string' && pass !== ''
  const isVerified = hasLogin || starttls === true || port === SUBMISSIONS_PORT
  return {
    host,
    port,
    secure: port === SUBMISSIONS_PORT,
    requireTLS: starttls === true,
    ignoreTLS: starttls === false,
    // Unverified encryption is still better than none (RFC 7435), where nothing secret is sent.
    tls: { rejectUnauthorized: isVerified, ...(isIP(host) === 0 ? { servername: host } : {}) },
    ...(hasLogin ? { auth: { user, pass } } : {}),
  }
}

const mailFailure = (thrown: unknown): CommandFailure => {
  if (thrown instanceof CommandFailure) return thrown
  const { code, message } = thrown as { code?: string; message: string }
  if (code === 'EAUTH' || code === 'EENVELOPE' || code === 'EMESSAGE' || code === 'EPROTOCOL')
    return failure('mail_rejected', message)
  if (code === 'ETLS') return failure('tls_failed', message)
  if (code === 'ETIMEDOUT') return failure('timeout', message)
  if (code === 'ESOCKET' || code === 'ECONNECTION')
    return /TLS|certificate|SSL/i.test(message) ? failure('tls_failed', message) : failure('connection_reset', message)
  return failureOf(thrown)
}
