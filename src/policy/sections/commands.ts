import * as v from 'valibot'
import { count, duration, listOf, mistake, object, oneOf, readText, setting, size, text } from '../shape.ts'
import { placed, secret } from './secret.ts'
import { section } from './section.ts'

const origin = readText('the origin of a web page', (written) => {
  const url = URL.parse(written)
  if (written === '*' || (url !== null && /^https?:$/.test(url.protocol) && url.origin === written)) return written
  return mistake(`"${written}" is not an origin, such as https://flows.example, nor "*"`)
})

export const commands = section({
  shape: object({
    enabled: setting(oneOf(['auto', 'always', 'never']), {
      builtIn: 'auto',
      says: 'whether `sluice serve` serves commands too; auto: where HASURA_CONNECTOR_PORT is set, as it is in our image',
      because: 'a proxy beside a workload must not take port 8080 from it, and a connector must listen there',
    }),
    builtIn: setting(listOf(oneOf(['http', 'smtp'])), {
      builtIn: ['http', 'smtp'],
      says: 'which of the connectors that come with Sluice are offered; an empty list offers only your own modules',
      because: 'they are what process engines ask for, and the policy holds what they may reach',
    }),
    modules: setting(text('the path of a folder'), {
      builtIn: 'commands',
      says: 'the folder of your own commands, relative to the configuration directory',
      because: 'it lies beside the policy, so one mount brings both',
    }),
    apiKey: v.pipe(
      v.optional(secret),
      v.description('the key that callers of commands must send; without it CONNECTOR_PROXY_API_KEY, where set'),
    ),
    cors: setting(listOf(origin), {
      builtIn: [],
      says: 'origins whose web pages may run commands; "*" is every page',
      because: 'commands are for programs; a page that may run them can reach whatever they can reach',
    }),
    timeout: setting(duration('100ms', '1h'), {
      builtIn: '40s',
      says: 'how long a command may take in all, redirects and repeats included',
      because: 'process engines wait 45 s: an error of ours says more than their own timeout',
    }),
    connectTimeout: setting(duration('10ms', '5m'), {
      builtIn: '5s',
      says: 'how long resolving a name, connecting and the TLS handshake may take',
      because: 'what has not answered by then will not, and the rest of the time is for the answer',
    }),
    maxRequest: setting(size('1KiB', '1GiB'), {
      builtIn: '30MiB',
      says: 'the largest request body',
      because: 'process engines send all data of a task with every call, and NDC callers up to 30 MiB',
    }),
    maxResponse: setting(size('1KiB', '1GiB'), {
      builtIn: '10MiB',
      says: 'the largest answer a command reads, decompressed',
      because: 'an answer is held whole to be parsed, and its caller stores it in a database',
    }),
    maxMemory: setting(size('1MiB', '64GiB'), {
      builtIn: '256MiB',
      says: 'what all answers being read may hold together; past it a command fails with `busy`',
      because: 'two dozen of the largest, and far more of the usual ones',
    }),
    maxInFlight: setting(count(1, 100_000), {
      builtIn: 256,
      says: 'commands that run at once; one more fails with `busy`',
      because: 'each holds a connection on both sides',
    }),
    maxConnections: setting(count(1, 100_000), {
      builtIn: 1_000,
      says: 'connections of callers open at once',
      because: 'callers keep connections open between calls',
    }),
  }),
  says: 'the connector: commands over HTTP, and the NDC endpoints',
  byName: false,
  onReload: false,
  resolve: ({ apiKey, ...rest }, open) => ({ ...rest, ...(apiKey && { apiKey: placed(apiKey, open) }) }),
})
