import { object, oneOrMany, setting } from '../shape.ts'
import { listenAddress } from './listenAddress.ts'
import { section } from './section.ts'

export const admin = section({
  shape: object({
    address: setting(oneOrMany(listenAddress), {
      builtIn: ['127.0.0.1:4191'],
      says: 'where the admin server listens: health, metrics, the live page; an empty list turns it off',
      because: 'what it shows is for those who can reach the pod itself',
    }),
  }),
  says: 'the admin server',
  byName: false,
  onReload: false,
})
