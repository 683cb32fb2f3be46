import * as v from 'valibot'
import { type Address, parseAddress } from '../../net/address.ts'
import { ipWords } from '../ip.ts'
import { type Mistake, mistake, oneOrMany, readText } from '../shape.ts'

const fixed = readText('"original" or address:port', (text): Address | 'original' | Mistake => {
  if (text === 'original') return text
  const found = parseAddress(text)
  if (found !== undefined && found.port > 0 && ipWords(found.host) !== undefined) return found
  return mistake(`"${text}" is not "original" or an IP address and port, such as 10.0.0.5:8080 or "[fd00::5]:8080"`)
})

/** `upstream.address`: the original destination, or fixed addresses to choose from. */
export const address = v.pipe(
  oneOrMany(fixed),
  v.nonEmpty('expected at least one address'),
  v.check(
    (all) => all.length === 1 || !all.includes('original'),
    'the original destination cannot be one of several; write it alone',
  ),
  v.description('`original`, the destination the client asked for, or one or several fixed `address:port`'),
  v.transform((all) =>
    all.includes('original')
      ? ({ is: 'original' } as const)
      : ({ is: 'addresses', addresses: all as readonly Address[] } as const),
  ),
)
