import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { delimiter, join, resolve } from 'node:path'
import { test } from 'tap'
import { openCallbackPeer } from '../support/callbackPeer.ts'

/** The Node that an app would have: of the machine, not the one of this checkout; that, where there is no other. */
const otherNode = (): string =>
  (process.env.PATH ?? '')
    .split(delimiter)
    .filter((folder) => !folder.includes('node_modules'))
    .map((folder) => join(folder, 'node'))
    .find(existsSync) ?? process.execPath

test('sluice/callback is a package for Node 20 and later, with its types', async (t) => {
  // tap gives its loader to every child, and this one breaks with it.
  const without = ['-u', 'NODE_OPTIONS']
  execFileSync('env', [...without, 'bash', 'scripts/build-sdk.sh'])
  const directory = t.testdir()
  const modules = join(directory, 'node_modules')
  mkdirSync(modules)
  symlinkSync(resolve('.'), join(modules, 'sluice'))
  for (const name of ['@grpc', '@types', 'undici-types'])
    symlinkSync(resolve('node_modules', name), join(modules, name))
  const source = readFileSync('examples/callback/app.ts', 'utf8')
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(directory, 'app.ts'), source)
  writeFileSync(join(directory, 'app.js'), stripTypeScriptTypes(source))
  const flags = [
    '--ignoreConfig',
    '--noEmit',
    '--strict',
    '--target',
    'es2022',
    '--module',
    'nodenext',
    '--types',
    'node',
    'app.ts',
  ]
  execFileSync('env', [...without, resolve('node_modules/.bin/tsc'), ...flags], { cwd: directory, stdio: 'inherit' })

  const peer = await openCallbackPeer()
  t.teardown(peer.close)
  const node = otherNode()
  t.comment(`${node} ${execFileSync(node, ['--version'], { encoding: 'utf8', env: { PATH: '' } })}`)
  const app = spawn('/usr/bin/env', [...without, node, 'app.js', peer.address], {
    cwd: directory,
    stdio: 'inherit',
    env: { PATH: '' },
  })
  const gone = once(app, 'exit')
  while (peer.channels.length < 3) await peer.next()
  for (const { call } of peer.channels) {
    const message = Buffer.alloc(5 + 100_000, 7)
    message.fill(0, 0, 1).writeUInt32BE(100_000, 1)
    const headers = {
      ':path': '/test.Echo/Unary',
      ':method': 'POST',
      'content-type': 'application/grpc',
      te: 'trailers',
    }
    const replies = await Promise.all(Array.from({ length: 20 }, () => call(headers, message)))
    t.ok(replies.every(({ status, body }) => status === 200 && body.equals(message)))
  }
  app.kill('SIGTERM')
  t.same(await gone, [null, 'SIGTERM'], 'drained, it ends by the signal')
})
