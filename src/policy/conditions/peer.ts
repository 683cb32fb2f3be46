import { type Address, formatAddress } from '../../net/address.ts'
import { addressWords, type Network, networkCovers, networkHas } from '../ip.ts'
import { oneOrMany } from '../shape.ts'
import { condition, eachCovered } from './condition.ts'
import { network } from './network.ts'

export const peer = condition({
  shape: oneOrMany(network),
  from: 'connection',
  says: 'the address of whoever opened the connection: addresses or networks',
  example: '[10.0.0.0/8, "fd00::/8"]',
  fact: (facts) => facts.peer,
  matcher: (value) => (fact: Address) => {
    const words = addressWords(fact)
    return words !== null && value.some((it) => networkHas(it, words))
  },
  covers: (wide, narrow) => eachCovered<Network>(wide, narrow, networkCovers),
  show: formatAddress,
})
