import { type Address, parseAddress } from '../../net/address.ts'
import { ipWords } from '../ip.ts'
import { type Mistake, mistake, readText } from '../shape.ts'

/** An IP address and port to listen on; port 0 takes any free one. */
export const listenAddress = readText('an address and port to listen on', (text): Address | Mistake => {
  const found = parseAddress(text)
  if (found !== undefined && ipWords(found.host) !== undefined) return found
  return mistake(`"${text}" is not an IP address and port, such as 127.0.0.1:4140 or "[::1]:4140"`)
})

/** An IP address and port to go to. */
export const fixedAddress = readText('an IP address and port', (text): Address | Mistake => {
  const found = parseAddress(text)
  if (found !== undefined && found.port > 0 && ipWords(found.host) !== undefined) return found
  return mistake(`"${text}" is not an IP address and port, such as 10.0.0.5:8080 or "[fd00::5]:8080"`)
})

/** An IP address whose port matters little. */
export const peerAddress = readText('an IP address', (text): Address | Mistake => {
  const found = parseAddress(text) ?? { host: text, port: 0 }
  return ipWords(found.host) === undefined ? mistake(`"${text}" is not an IP address`) : found
})
