import * as v from 'valibot'
import { appId } from '../sections/appId.ts'

/** `upstream.channel`: an app that cannot be dialled, over a connection that it opened towards us. */
export const channel = v.pipe(
  appId,
  v.description('the id of an app that opens callback channels (`callback`): it is called over one of them'),
  v.transform((app) => ({ is: 'channel', app }) as const),
)
