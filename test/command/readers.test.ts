import fc from 'fast-check'
import { test } from 'tap'
import { contentType, decodeText } from '../../src/command/decode.ts'
import { parseJson } from '../../src/command/exactJson.ts'
import { CommandFailure } from '../../src/command/failure.ts'
import { versionMistake } from '../../src/command/ndcSchema.ts'
import { readUrl } from '../../src/command/send.ts'

test('JSON is what it was, and integers of any length are what was written', async () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      if (JSON.stringify(parseJson(text)) !== JSON.stringify(JSON.parse(text))) throw new Error(text)
    }),
  )
  fc.assert(
    fc.property(fc.bigInt(), fc.string(), (integer, key) => {
      const text = `{${JSON.stringify(key)}:[${integer}]}`
      if (JSON.stringify(parseJson(text)) !== text) throw new Error(text)
    }),
  )
})

test('whatever a server or a caller writes, reading it ends in a value or in a failure with a code', async () => {
  const charset = fc.oneof(
    fc.string(),
    fc.constantFrom('utf-8', 'latin1', 'utf-16be', 'shift_jis', 'replacement', 'x-user-defined'),
  )
  fc.assert(fc.property(fc.uint8Array(), charset, (bytes, label) => typeof decodeText(bytes, label) === 'string'))
  fc.assert(fc.property(fc.string(), (text) => typeof contentType(text).type === 'string'))
  fc.assert(fc.property(fc.string(), (text) => ['string', 'undefined'].includes(typeof versionMistake(text))))
  const url = fc.oneof(
    fc.string(),
    fc.webUrl(),
    fc.string().map((text) => `http://${text}`),
  )
  fc.assert(
    fc.property(url, (text) => {
      try {
        return /^https?:$/.test(readUrl(text).protocol)
      } catch (thrown) {
        return thrown instanceof CommandFailure && thrown.code === 'invalid_url'
      }
    }),
  )
})
