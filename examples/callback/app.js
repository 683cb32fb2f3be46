// An app that listens on no port: it connects to its proxy, and is called over that connection.
import { createServer } from 'node:http'
import { serveOverCallback } from 'sluice/callback'

const server = createServer((request, response) => {
  response.end(`hello from an app without a port: ${request.method} ${request.url}\n`)
})

const callback = serveOverCallback({
  proxy: process.env.PROXY ?? '127.0.0.1:50001',
  appId: 'hello',
  token: process.env.DAPR_API_TOKEN,
  server,
})
callback.on('state', (state) => process.stderr.write(`${JSON.stringify(state)}\n`))
