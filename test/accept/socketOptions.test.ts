import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { test } from 'tap'
import { tune, tunedOpener } from '../../src/accept/socketOptions.ts'
import { fdOf, loadShim } from '../../src/native/shim.ts'

const loaded = loadShim()
if (loaded.is !== 'ready') throw new Error(loaded.reason)
const shim = loaded.value

const server = createServer((socket) => socket.on('error', () => {})).listen(0, '127.0.0.1')
await once(server, 'listening')
const port = (server.address() as { port: number }).port

const opened = async (options: { mark?: number; userTimeout?: number; keepalive?: number }): Promise<Socket> => {
  const socket = tunedOpener({ mark: 0, userTimeout: 0, keepalive: 0, ...options }, shim)({ host: '127.0.0.1', port })
  await once(socket, 'connect')
  return socket
}

test('a dialled socket has the dead-peer detection that was asked for, and by default none', async (t) => {
  const tuned = await opened({ userTimeout: 30_000, keepalive: 10_000 })
  t.equal(shim.userTimeout(fdOf(tuned)!), 30_000)
  t.same(shim.keepalive(fdOf(tuned)!), { idle: 10, interval: 10, count: 3 })
  const plain = await opened({})
  t.equal(shim.userTimeout(fdOf(plain)!), 0)
  t.equal(shim.keepalive(fdOf(plain)!), undefined)
  for (const each of [tuned, plain]) each.destroy()
})

test('without the shim a socket still gets keepalive', async (t) => {
  const socket = await opened({})
  tune(socket, { mark: 0, userTimeout: 30_000, keepalive: 10_000 }, undefined)
  t.same(shim.keepalive(fdOf(socket)!), { idle: 10, interval: 10, count: 3 })
  t.equal(shim.userTimeout(fdOf(socket)!), 0)
  socket.destroy()
})

test('the mark is on the socket, or the dial fails and says that it may not be set', async (t) => {
  const socket = tunedOpener({ mark: 0x51, userTimeout: 0, keepalive: 0 }, shim)({ host: '127.0.0.1', port })
  const happened = await Promise.race([
    once(socket, 'connect').then(() => shim.mark(fdOf(socket)!)),
    once(socket, 'error').then(([error]) => (error as NodeJS.ErrnoException).code),
  ])
  t.equal(happened, process.getuid?.() === 0 ? 0x51 : 'EPERM')
  socket.destroy()
})

test('the server goes', async () => {
  server.close()
})
