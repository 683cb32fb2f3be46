import type { Facts } from '../facts.ts'
import { nameCovers, nameKey, namePattern, namePatternMistake, wildcardKey } from '../glob.ts'
import { mistake, oneOrMany, readText } from '../shape.ts'
import { condition, eachCovered } from './condition.ts'

/** No name was asked for in a ClientHello there is: a connection that is not TLS has no extensions either. */
export const helloWithout = (facts: Facts): boolean => facts.extensions !== null

const pattern = readText('a server name', (text) => {
  const wrong = text === 'none' ? undefined : namePatternMistake(text)
  return wrong === undefined ? text : mistake(wrong)
})

export const sni = condition({
  shape: oneOrMany(pattern),
  from: 'detected',
  says: 'the server name of the ClientHello: exact, `*.x` for one label more, or `none` for TLS without a name',
  example: '["*.shop.example", none]',
  fact: (facts) => facts.sni,
  matcher: (value) => {
    const tests = value.filter((it) => it !== 'none').map(namePattern)
    return (fact: string) => tests.some((test) => test(fact))
  },
  absent: (value) => (facts) => value.includes('none') && helloWithout(facts),
  index: {
    recurs: true,
    keys: (value) => value.map(nameKey),
    first: nameKey,
    second: wildcardKey,
  },
  covers: (wide, narrow) => eachCovered(wide, narrow, nameCovers),
  show: (fact) => fact,
})
