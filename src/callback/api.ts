import type { Answer, Asking, Fields, Open, RequestHead } from '../forward/exchange.ts'
import { fieldOf } from '../forward/fields.ts'
import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { ProtocolError } from '../net/protocolError.ts'
import { isSecret } from '../net/secret.ts'
import type { Life } from '../telemetry/life.ts'
import { type Call, callApp } from './appCall.ts'
import { answerOf, invocationIn, ON_INVOKE, passedOn, routeOf } from './daprHttp.ts'
import type { Door } from './door.ts'
import { isGrpcCall } from './grpcCall.ts'
import { answerGrpc, answerHttp, type Budget, collect } from './unary.ts'
import {
  APP_ID,
  APP_ID_HEADER,
  CALLBACK_HEADER,
  CONNECT_PATHS,
  encodeConnectAnswer,
  grpcMessage,
  TOKEN_HEADER,
  unaryMessage,
} from './wire.ts'

/** What the API is made of. */
export interface Api {
  readonly door: Door
  /** What every request must bring, where there is one. */
  readonly token: string | undefined
  /** The app of those who do not say which they are. */
  readonly appId: string
  /** The largest message, and what all that are being collected may hold together. */
  readonly messageBytesMax: number
  readonly budget: Budget
  /** Somebody who does not bring it asked for a channel, under a name that nobody else has checked. */
  readonly unauthenticated: (app: string, from: Address) => void
}

/** The connection that a request came on. */
export interface ApiCaller {
  readonly peer: Address
  /** The address of ours that it connected to. */
  readonly local: string
  readonly connection: object
  readonly clock: Clock
  readonly life: Life
  /** Calls an app over one of its channels. */
  readonly call: Call
}

/** Which app a gRPC call is for, as clients of Dapr say it. */
export const DAPR_APP_ID_HEADER = 'dapr-app-id'

const REQUEST_BYTES_MAX = 4_101 // ConnectAppCallbackRequest is empty; fields to come may take 4 KiB
const CONNECT: ReadonlySet<string> = new Set(CONNECT_PATHS)

const INVOKE_SERVICE = '/dapr.proto.runtime.v1.Dapr/InvokeService'
const PREFIX_BYTES = 5

const INVALID_ARGUMENT = 3
const RESOURCE_EXHAUSTED = 8
const UNIMPLEMENTED = 12
const INTERNAL = 13
const UNAUTHENTICATED = 16

/** Answers the requests of one connection. */
export const openApi =
  (api: Api, caller: ApiCaller): Open =>
  (head, last, answer) => {
    const told = telling(head, caller, answer)
    const isGrpc = isGrpcCall(head)
    // A page in a browser may reach this address; no program sends Origin.
    if (fieldOf(head.fields, 'origin') !== undefined) return refused(told, head, 403, 7, 'pages may not call this API')
    if (api.token !== undefined && !isSecret(fieldOf(head.fields, TOKEN_HEADER), api.token)) {
      const app = appOf(head, api)
      if (CONNECT.has(head.target)) api.unauthenticated(APP_ID.test(app) ? app : '(not an id)', caller.peer)
      return refused(told, head, 401, UNAUTHENTICATED, `${TOKEN_HEADER} is missing or wrong`)
    }
    if (!isGrpc) return answerPlain(api, caller, head, last, told)
    if (CONNECT.has(head.target)) return connectApp(api, caller, head, last, told)
    if (head.target === INVOKE_SERVICE) return invokeService(api, caller, head, last, told)
    const app = fieldOf(head.fields, DAPR_APP_ID_HEADER)
    if (app !== undefined && APP_ID.test(app)) return caller.call(app, asCallOf(head), last, answer)
    return refused(
      told,
      head,
      404,
      UNIMPLEMENTED,
      `there is no ${head.target} here, and no ${DAPR_APP_ID_HEADER} to go to`,
    )
  }

const appOf = ({ fields }: RequestHead, { appId }: Api): string => fieldOf(fields, APP_ID_HEADER) ?? appId

/** The caller's words to us are not for the app; it gets its own token from the channel. */
const asCallOf = (head: RequestHead): RequestHead => {
  const fields: Fields = []
  for (let at = 0; at < head.fields.length; at += 2)
    if (head.fields[at] !== TOKEN_HEADER) fields.push(head.fields[at]!, head.fields[at + 1]!)
  return { ...head, fields }
}

const plain = (answer: Answer, method: string, status: number, says = ''): void =>
  answerHttp(answer, method, {
    status,
    type: 'text/plain; charset=utf-8',
    body: Buffer.from(says === '' ? '' : `${says}\n`),
  })

/** HTTP: health, and the application protocol of Dapr. */
const answerPlain = (api: Api, caller: ApiCaller, head: RequestHead, last: boolean, answer: Answer): Asking => {
  const { method, target } = head
  const isRead = method === 'GET' || method === 'HEAD'
  if (target === '/v1.0/healthz' && isRead) return later(() => plain(answer, method, 204))
  const route = routeOf(head)
  if (route.is === 'refused') return later(() => plain(answer, method, route.status, route.says))
  let stop = (): void => {}
  const { messageBytesMax: bytesMax, budget } = api
  return collect(
    {
      ...{ answer, bytesMax, budget },
      refused: (why) => {
        if (why === 'tooLarge')
          plain(answer, method, 413, `a body of more than ${bytesMax} bytes (callback.maxMessage)`)
        else plain(answer, method, 503, 'too much is being sent here at the same time')
      },
      gone: () => stop(),
      done: (body, release) => {
        const asked = route.ask(body)
        if ('wrong' in asked) {
          release()
          return plain(answer, method, 400, asked.wrong)
        }
        const cancel = callApp(caller.call, asked, (found) => {
          release()
          answerHttp(answer, method, answerOf(asked, found))
        })
        stop = () => {
          release()
          cancel()
        }
      },
    },
    last,
  )
}

/** Dapr/InvokeService: the same as an invocation by HTTP, for callers that have the message already. */
const invokeService = (api: Api, caller: ApiCaller, head: RequestHead, last: boolean, answer: Answer): Asking => {
  let stop = (): void => {}
  const { messageBytesMax, budget } = api
  return collect(
    {
      ...{ answer, budget, bytesMax: messageBytesMax + PREFIX_BYTES },
      refused: () => answerGrpc(answer, RESOURCE_EXHAUSTED, `at most ${messageBytesMax} bytes are taken`),
      gone: () => stop(),
      done: (body, release) => {
        const wrong = (status: number, says: string): void => {
          release()
          answerGrpc(answer, status, says)
        }
        const isOne =
          body.length >= PREFIX_BYTES && body[0] === 0 && body.readUInt32BE(1) === body.length - PREFIX_BYTES
        if (!isOne) return wrong(INTERNAL, 'the request is not one plain message')
        const read = invocationIn(body.subarray(PREFIX_BYTES))
        if (read === undefined) return wrong(INTERNAL, 'this is no InvokeServiceRequest')
        if (!APP_ID.test(read.app)) return wrong(INVALID_ARGUMENT, 'the id is not an app id')
        const metadata = passedOn(head.fields)
        const cancel = callApp(caller.call, { ...read, path: ON_INVOKE, metadata }, (found) => {
          release()
          if (found.is === 'message') answerGrpc(answer, 0, '', grpcMessage(found.message))
          else answerGrpc(answer, found.status, found.says)
        })
        stop = () => {
          release()
          cancel()
        }
      },
    },
    last,
  )
}

const connectApp = (api: Api, caller: ApiCaller, head: RequestHead, last: boolean, answer: Answer): Asking => {
  const app = appOf(head, api)
  const { peer, local, connection } = caller
  if (!APP_ID.test(app)) return refused(answer, head, 400, INVALID_ARGUMENT, `${APP_ID_HEADER} is not an app id`)
  const isOurs = fieldOf(head.fields, CALLBACK_HEADER) === '1'
  const wrong = (says: string): void => answerGrpc(answer, INTERNAL, says)
  return collect(
    {
      ...{ answer, budget: api.budget, bytesMax: REQUEST_BYTES_MAX },
      refused: () => wrong('the request is larger than it can be'),
      gone: () => {},
      done: (body, release) => {
        release()
        try {
          unaryMessage(body)
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error
          return wrong(error.message)
        }
        void api.door.ask({ app, isOurs, peer, local, connection }).then((asked) => {
          if ('status' in asked) answerGrpc(answer, asked.status, asked.says)
          else answerGrpc(answer, 0, '', grpcMessage(encodeConnectAnswer(asked)))
        })
      },
    },
    last,
  )
}

/** In the words of whoever asked, and not before it can hear it. */
const refused = (answer: Answer, head: RequestHead, status: number, grpc: number, says: string): Asking =>
  later(() => (isGrpcCall(head) ? answerGrpc(answer, grpc, says) : plain(answer, head.method, status, says)))

/** Answers without the body, of which nothing is kept. */
const later = (run: () => void): Asking => {
  let isOver = false
  queueMicrotask(() => isOver || run())
  const abort = (): void => {
    isOver = true
  }
  return { data: () => {}, trailers: () => {}, abort, consumed: () => {} }
}

/** Writes the one Outcome of a request that is answered here. */
const telling = (head: RequestHead, { clock, life }: ApiCaller, answer: Answer): Answer => {
  const started = clock.now()
  const { method, authority, target, version } = head
  let status = 0
  let grpcStatus: string | undefined
  let received = 0
  const end = (): void => {
    if (!life.hearsRequests) return
    life.requested({
      ...{ method, authority, target, version, status, attempts: 0, bytes: { sent: 0, received }, rules: {} },
      ms: clock.now() - started,
      ...(grpcStatus !== undefined && { grpcStatus }),
    })
  }
  return {
    ...{ information: (it) => answer.information(it), consumed: (bytes) => answer.consumed(bytes) },
    head: (response, last) => {
      status = response.status
      answer.head(response, last)
      grpcStatus = fieldOf(response.fields, 'grpc-status')
      if (last) end()
    },
    data: (chunk, last) => {
      received += chunk.length
      answer.data(chunk, last)
      if (last) end()
    },
    trailers: (fields) => {
      grpcStatus = fieldOf(fields, 'grpc-status')
      answer.trailers(fields)
      end()
    },
    abort: (code, why) => {
      answer.abort(code, why)
      end()
    },
  }
}
