import * as v from 'valibot'
import { count, duration, flag, object, oneOf, oneOrMany, setting, size, text } from '../shape.ts'
import { appId } from './appId.ts'
import { listenAddress } from './listenAddress.ts'
import { placed, secret } from './secret.ts'
import { section } from './section.ts'

const tls = object({
  certificate: v.pipe(
    text('the name of a certificate'),
    v.description('the certificate to show, of `certificates`: on the API and on every channel'),
  ),
  clients: v.pipe(
    v.optional(text('the name of trusted roots')),
    v.description('the roots, of `trust`, that the certificate of an app must lead to; without it apps need none'),
  ),
})

const EXCLUDES =
  'callback.enable and callback.appPort exclude each other: an app that listens on a port is called there, one that opens channels has none'

export const callback = section({
  shape: v.pipe(
    object({
      enable: setting(flag, {
        builtIn: false,
        says: 'whether apps may open callback channels towards us, to be called over them',
        because: 'it is one more address to listen on, and of use only to apps that cannot be dialled',
      }),
      address: setting(oneOrMany(listenAddress), {
        builtIn: ['127.0.0.1:50001'],
        says: 'where apps ask for a channel: the API, in gRPC and in HTTP',
        because: 'the port is that of Dapr; an app elsewhere needs another address, and then TLS and a token',
      }),
      port: setting(count(0, 65_535), {
        builtIn: 0,
        says: 'the port that apps then connect their channel to, on the address they asked at; 0: a random one for each',
        because:
          'a port that nobody knows beforehand cannot be taken before; a firewall between app and proxy may need a fixed one',
      }),
      appPort: v.pipe(
        v.optional(count(1, 65_535)),
        v.description(
          'the port the app listens on, if it does; then it needs no channel: together with `enable` it is an error',
        ),
      ),
      appId: setting(appId, {
        builtIn: 'app',
        says: 'the app that asks for a channel without saying which it is',
        because: 'clients written for Dapr have one app beside each proxy and do not say',
      }),
      token: v.pipe(
        v.optional(secret),
        v.description(
          'what apps and callers of the API must send as `dapr-api-token`; without it DAPR_API_TOKEN, where set',
        ),
      ),
      appToken: v.pipe(
        v.optional(secret),
        v.description('what apps are sent as `dapr-api-token` with each call; without it APP_API_TOKEN, where set'),
      ),
      tls: v.pipe(
        v.optional(tls),
        v.description('TLS on the API and on the channels; without it both are in the clear'),
      ),
      nonce: setting(oneOf(['optional', 'required']), {
        builtIn: 'optional',
        says: 'whether a channel must prove that it belongs to whoever asked for it: `optional` asks that of those who can, `required` refuses all others',
        because: 'clients written for Dapr cannot; from them a channel is taken from the address that asked',
      }),
      pick: setting(oneOf(['leastLoaded', 'newest']), {
        builtIn: 'leastLoaded',
        says: 'which channel of an app gets new work: the one with the fewest calls, or the last that was opened',
        because: 'replicas share the work; `newest` is for versions that replace each other',
      }),
      connect: setting(duration('100ms', '5m'), {
        builtIn: '10s',
        says: 'how long an app that asked may take to connect its channel',
        because: 'the number of Dapr',
      }),
      firstPing: setting(duration('100ms', '10m'), {
        builtIn: '30s',
        says: 'how long a new channel may take until its first ping; until then it gets no work',
        because: 'the number of Dapr',
      }),
      ping: setting(duration('100ms', '1h'), {
        builtIn: '5s',
        says: 'how often we ping a channel by HTTP/2; two pings in a row without an answer end it',
        because: 'an app that froze, or a link that was cut, is noticed within three periods',
      }),
      wait: setting(duration('0ms', '5m'), {
        builtIn: '1s',
        says: 'how long a call waits for a channel, where its app has none or all are full',
        because: 'an app that restarts is back within a second; who calls an app that is gone should not wait for long',
      }),
      pending: setting(count(0, 100_000), {
        builtIn: 1_024,
        says: 'calls that may wait so, for each app; one more is refused at once',
        because: 'as for every upstream (`http.pool.pending`)',
      }),
      channels: setting(count(1, 10_000), {
        builtIn: 100,
        says: 'channels of one app open at once; one more is refused, none is taken from another for it',
        because: 'more replicas than most apps have',
      }),
      streams: setting(count(1, 1_000_000), {
        builtIn: 1_000,
        says: 'calls in flight on one channel, if the app allows as many',
        because: 'what our own SDK takes; flow control bounds the memory they cost',
      }),
      maxMessage: setting(size('1KiB', '1GiB'), {
        builtIn: '16MiB',
        says: 'the largest gRPC message, either way; a larger one ends its call with RESOURCE_EXHAUSTED and nothing else',
        because: 'four times what gRPC takes by itself: 10 MiB pass, and no message holds a whole machine',
      }),
    }),
    v.check(({ enable, appPort }) => !enable || appPort === undefined, EXCLUDES),
  ),
  says: 'callback channels: calls apps that listen on no port and cannot be dialled',
  byName: false,
  onReload: false,
  references: ({ tls }) =>
    tls === undefined
      ? []
      : [
          { to: 'certificates', name: tls.certificate, at: ['tls', 'certificate'] },
          ...(tls.clients === undefined ? [] : [{ to: 'trust', name: tls.clients, at: ['tls', 'clients'] }]),
        ],
  resolve: ({ token, appToken, ...rest }, open) => ({
    ...rest,
    ...(token && { token: placed(token, open) }),
    ...(appToken && { appToken: placed(appToken, open) }),
  }),
})
