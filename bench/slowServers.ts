import { createServer } from 'node:http'

/** Five servers in one process, each of which takes its time: `PUT /takes` says how much, in milliseconds; 0 is a 503. */
let takes: number[] = []
let left = process.argv.length - 2

for (const [n, port] of process.argv.slice(2).entries()) {
  createServer((request, response) => {
    if (request.method === 'PUT') {
      let text = ''
      request.on('data', (chunk: Buffer) => {
        text += chunk.toString()
      })
      request.on('end', () => {
        takes = JSON.parse(text) as number[]
        response.end()
      })
      return
    }
    const ms = takes[n] ?? 1
    if (ms === 0) response.writeHead(503).end('no')
    else setTimeout(() => response.end('ok'), ms)
  }).listen(Number(port), '127.0.0.1', () => {
    left -= 1
    if (left === 0) process.stdout.write('ready\n')
  })
}
