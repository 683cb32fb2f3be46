import { type Address, formatAddress } from '../../net/address.ts'
import { networkCovers, networkHas, rememberingWords } from '../ip.ts'
import { oneOrMany } from '../shape.ts'
import { condition, eachCovered } from './condition.ts'
import { addressIndex, type Endpoints, endpoints } from './network.ts'

const takes = (wide: Endpoints, narrow: Endpoints): boolean =>
  networkCovers(wide, narrow) && (wide.port === undefined || wide.port === narrow.port)

const wordsOf = rememberingWords()

export const destination = condition({
  shape: oneOrMany(endpoints),
  from: 'connection',
  says: 'where the client meant to go, before the redirect: addresses, networks, or address:port',
  example: '[169.254.169.254/32, "10.0.0.5:5432"]',
  fact: (facts) => facts.destination,
  matcher: (value) => (fact: Address) => {
    const words = wordsOf(fact)
    return (
      words !== null && value.some((it) => networkHas(it, words) && (it.port === undefined || it.port === fact.port))
    )
  },
  index: addressIndex(wordsOf),
  covers: (wide, narrow) => eachCovered<Endpoints>(wide, narrow, takes),
  show: formatAddress,
})
