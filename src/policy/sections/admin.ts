import * as v from 'valibot'
import { flag, object, oneOrMany, setting } from '../shape.ts'
import { listenAddress } from './listenAddress.ts'
import { placed, secret } from './secret.ts'
import { section } from './section.ts'

export const admin = section({
  shape: object({
    address: setting(oneOrMany(listenAddress), {
      builtIn: ['127.0.0.1:4191'],
      says: 'where the admin server listens: health, metrics, the live page; an empty list turns it off',
      because: 'what it shows is for those who can reach the pod itself',
    }),
    token: v.pipe(
      v.optional(secret),
      v.description('what callers from other hosts must send as `Authorization: Bearer`; without it they are refused'),
    ),
    shutdown: setting(flag, {
      builtIn: false,
      says: 'whether POST /shutdown begins an orderly stop',
      because: 'whoever can reach the page could stop the pod; jobs that need it switch it on',
    }),
    captures: setting(flag, {
      builtIn: false,
      says: 'whether `sluice tap --pcapng` may record what passes, byte by byte',
      because: 'a recording holds the tokens, cookies and data of everybody; nobody gets one who was not meant to',
    }),
  }),
  says: 'the admin server',
  byName: false,
  onReload: false,
  resolve: ({ token, ...rest }, open) => ({ ...rest, ...(token && { token: placed(token, open) }) }),
})
