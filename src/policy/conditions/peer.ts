import { type Address, formatAddress } from '../../net/address.ts'
import { type Network, networkCovers, networkHas, rememberingWords } from '../ip.ts'
import { oneOrMany } from '../shape.ts'
import { condition, eachCovered } from './condition.ts'
import { addressIndex, network } from './network.ts'

const wordsOf = rememberingWords()

export const peer = condition({
  shape: oneOrMany(network),
  from: 'connection',
  says: 'the address of whoever opened the connection: addresses or networks',
  example: '[10.0.0.0/8, "fd00::/8"]',
  fact: (facts) => facts.peer,
  matcher: (value) => (fact: Address) => {
    const words = wordsOf(fact)
    return words !== null && value.some((it) => networkHas(it, words))
  },
  index: addressIndex(wordsOf),
  covers: (wide, narrow) => eachCovered<Network>(wide, narrow, networkCovers),
  show: formatAddress,
})
