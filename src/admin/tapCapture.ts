import type { ServerResponse } from 'node:http'
import type { Recorder } from '../telemetry/recording.ts'
import { type AdminRoutes, text } from './server.ts'
import { type TapQuery, tapQuery } from './tap.ts'

/** `GET /tap.pcapng`: connections that begin from now on, as a capture, for as long as the reader stays. */
export const captureRoutes = (recorder: Recorder, isAllowed: boolean, version: string): AdminRoutes => ({
  'GET /tap.pcapng': ({ url }) => {
    if (!isAllowed) return text(403, 'admin.captures is not switched on in the configuration\n')
    const query = tapQuery(url)
    if (typeof query === 'string') return text(400, query)
    return (response) => stream(response, recorder, query, version)
  },
})

const stream = (response: ServerResponse, recorder: Recorder, query: TapQuery, version: string): void => {
  response.writeHead(200, { 'content-type': 'application/x-pcapng' })
  const recording = recorder.record({
    ...query,
    application: `sluice ${version}`,
    write: (bytes) => response.write(bytes),
    over: () => {
      recording.resumed()
      response.end()
    },
  })
  response.on('drain', recording.resumed)
  response.on('close', recording.stop)
}
