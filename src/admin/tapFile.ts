import { createWriteStream } from 'node:fs'
import { type IncomingMessage, type RequestOptions, request } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { pcapngTally } from '../codec/pcapngWrite.ts'
import type { Io } from '../net/commandLine.ts'
import { counted } from './counted.ts'

/** Records what `/tap.pcapng` tells into a file, until it ends or the command is stopped. Returns the exit code. */
export const recordTo = async (file: string, asked: RequestOptions, admin: string, io: Io): Promise<number> => {
  const fail = (why: string): number => {
    io.err(`sluice tap: ${why}\n`)
    return 1
  }
  const tally = { packets: 0, dropped: 0 }
  const sending = request(asked)
  try {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      sending.once('response', resolve).once('error', reject).end()
    })
    if (response.statusCode !== 200) {
      let why = ''
      for await (const chunk of response.setEncoding('utf8')) why += chunk
      return fail(why.trim())
    }
    void io.stopped.then(() => response.destroy())
    await pipeline(wholeBlocks(response, tally), createWriteStream(file))
  } catch (error) {
    const { code, syscall, message } = error as NodeJS.ErrnoException
    return fail(syscall === 'connect' ? `the admin server at ${admin} cannot be reached: ${code}` : message)
  } finally {
    sending.destroy()
  }
  const lost = tally.dropped === 0 ? '' : `; ${counted(tally.dropped, 'packet')} did not fit and are missing`
  io.err(`${counted(tally.packets, 'packet')} in ${file}${lost}\n`)
  return 0
}

/** Passes the file on block by block, and counts what is in it: wherever it is stopped, it ends where a block ends. */
async function* wholeBlocks(
  chunks: IncomingMessage,
  tally: { packets: number; dropped: number },
): AsyncGenerator<Uint8Array> {
  let held: Buffer[] = []
  try {
    for await (const chunk of chunks as AsyncIterable<Buffer>) {
      const bytes = held.length === 0 ? chunk : Buffer.concat([...held, chunk])
      const { at, packets, dropped } = pcapngTally(bytes)
      tally.packets += packets
      tally.dropped = dropped ?? tally.dropped
      held = [bytes.subarray(at)]
      if (at > 0) yield bytes.subarray(0, at)
    }
  } catch {
    // The proxy went away, or we were told to stop: what came is a whole file.
  }
}
