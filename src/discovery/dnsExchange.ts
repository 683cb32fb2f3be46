import { randomInt } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { connect, isIPv6 } from 'node:net'
import { type DnsMessage, decodeMessage, encodeQuestion, type QuestionType, TYPE } from '../codec/dnsMessage.ts'
import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'

/** One question to one server. */
export interface Exchange {
  readonly server: Address
  readonly name: string
  readonly type: QuestionType
  readonly timeoutMs: number
  readonly useTcp: boolean
  readonly withEdns: boolean
}

/** Asks one server once: by UDP, and by TCP when the answer did not fit. Rejects in words when none comes. */
export const exchange = async (asked: Exchange, clock: Clock): Promise<DnsMessage> => {
  if (asked.useTcp) return byTcp(asked, clock)
  const message = await byUdp(asked, clock)
  return message.isTruncated ? byTcp(asked, clock) : message
}

/**
 * A message that is the answer to this question. Whatever else comes is no answer: it may be a late one, or a forged
 * one, and the true one may still be on its way (RFC 5452).
 */
const answerIn = (bytes: Uint8Array, id: number, { name, type }: Exchange): DnsMessage | undefined => {
  const message = decodeMessage(bytes)
  const { question, isResponse } = message
  const isOurs =
    isResponse &&
    message.id === id &&
    (question === undefined || (question.name === name && question.type === TYPE[type]))
  // Only a server that did not understand the question may leave it out.
  return isOurs && (question !== undefined || message.code !== 0) ? message : undefined
}

// A new port and a new number for each question: both are what a forger has to guess.
const newId = (): number => randomInt(65_536)

const byUdp = (asked: Exchange, clock: Clock): Promise<DnsMessage> =>
  new Promise((resolve, reject) => {
    const { server, name, type, timeoutMs, withEdns } = asked
    const id = newId()
    const question = encodeQuestion(id, name, type, withEdns)
    const socket = createSocket(isIPv6(server.host) ? 'udp6' : 'udp4')
    let malformed: Error | undefined
    let isEnded = false
    const end = (act: () => void): void => {
      if (isEnded) return
      isEnded = true
      cancel()
      socket.removeAllListeners()
      socket.on('error', () => {})
      socket.close()
      act()
    }
    const cancel = clock.after(timeoutMs, () => end(() => reject(malformed ?? timedOut(server, timeoutMs))))
    socket.on('error', (error) => end(() => reject(failed(server, error))))
    socket.on('message', (bytes) => {
      try {
        const message = answerIn(bytes, id, asked)
        if (message !== undefined) end(() => resolve(message))
      } catch (error) {
        malformed = failed(server, error as Error)
      }
    })
    // Connected, it hears nobody but the server, and hears at once when nobody listens there.
    socket.connect(server.port, server.host, (error?: Error) => {
      if (error) end(() => reject(failed(server, error)))
      else if (!isEnded) socket.send(question)
    })
  })

const byTcp = (asked: Exchange, clock: Clock): Promise<DnsMessage> =>
  new Promise((resolve, reject) => {
    const { server, name, type, timeoutMs, withEdns } = asked
    const id = newId()
    const question = encodeQuestion(id, name, type, withEdns)
    const socket = connect({ host: server.host, port: server.port, noDelay: true })
    let received = Buffer.alloc(0)
    const end = (act: () => void): void => {
      cancel()
      socket.destroy()
      act()
    }
    const cancel = clock.after(timeoutMs, () => end(() => reject(timedOut(server, timeoutMs))))
    socket.on('error', (error) => end(() => reject(failed(server, error))))
    socket.on('close', () => end(() => reject(failed(server, new Error('it closed the connection')))))
    socket.on('data', (bytes: Buffer) => {
      received = Buffer.concat([received, bytes])
      // RFC 1035 section 4.2.2: two bytes of length go before the message.
      if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return
      try {
        const message = answerIn(received.subarray(2, 2 + received.readUInt16BE(0)), id, asked)
        end(() =>
          message === undefined ? reject(failed(server, new Error('it answered something else'))) : resolve(message),
        )
      } catch (error) {
        end(() => reject(failed(server, error as Error)))
      }
    })
    const prefix = Uint8Array.of(question.length >> 8, question.length & 255)
    socket.write(Buffer.concat([prefix, question]))
  })

const timedOut = (server: Address, ms: number): Error =>
  new Error(`${formatAddress(server)} did not answer within ${ms} ms`)

const failed = (server: Address, error: Error): Error => new Error(`${formatAddress(server)}: ${error.message}`)
