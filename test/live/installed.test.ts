import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { test } from 'tap'

/** node_modules as it is where somebody installed the package: its own files copied, all other packages beside it. */
const install = (directory: string): string => {
  const [pack] = Object.values<{ files: { path: string }[] }>(
    JSON.parse(
      execFileSync('npm', ['pack', '--dry-run', '--json'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
    ),
  )
  const modules = join(directory, 'node_modules')
  for (const { path } of pack?.files ?? []) {
    mkdirSync(dirname(join(modules, 'sluice', path)), { recursive: true })
    cpSync(path, join(modules, 'sluice', path))
  }
  for (const name of readdirSync('node_modules')) symlinkSync(resolve('node_modules', name), join(modules, name))
  return join(modules, 'sluice/bin/sluice')
}

// The test runner's own hooks must not load into the program that is tested.
const UNHOOKED = ['-u', 'NODE_OPTIONS']

const POLICY = `apiVersion: sluice/v1
listeners: { outbound: { address: "127.0.0.1:0" }, inbound: { address: [] } }
admin: { address: "127.0.0.1:0" }
`

test('installed as a package, the command is whole', async (t) => {
  const directory = t.testdir()
  const command = install(directory)
  const sluice = (...args: string[]) => spawnSync('env', [...UNHOOKED, command, ...args], { encoding: 'utf8' })
  const said = (...args: string[]) => {
    const { status, stdout, stderr } = sluice(...args)
    t.match([status, stderr], [0, ''], args.join(' '))
    return stdout
  }
  t.match(said('--help'), /serve.*replay.*tap/s)
  t.match(said('check', 'policy/default.yaml'), /good/)
  t.match(said('explain', '--destination', '10.0.0.5:3306'), /verdict: allowed/)
  t.match(said('replay', 'test/captures/mysql.pcap'), /the server spoke first/)
  t.match(said('redirect', 'print'), /REDIRECT/)

  const policy = join(directory, 'p.yaml')
  writeFileSync(policy, POLICY)
  const serving = spawn('env', [...UNHOOKED, command, 'serve', '--json', '--config', policy])
  const [stdout, stderr] = [serving.stdout, serving.stderr].map((stream) => {
    const text = { all: '' }
    stream.on('data', (bytes: Buffer) => {
      text.all += bytes
      if (!serving.killed && text.all.includes('sluice is ready')) serving.kill('SIGTERM')
    })
    return text
  }) as [{ all: string }, { all: string }]
  const [code] = await once(serving, 'close')
  t.equal(code, 0)
  const lines = (text: string) =>
    text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).msg)
  t.match(lines(stdout.all), [/sluice is ready/, /SIGTERM/, /sluice has stopped/], 'with --json each line is JSON')
  t.match(lines(stderr.all)[0], /run build:native/, 'it is not built yet, and the way to build it is said')
  t.ok(lines(stderr.all)[0].includes(`npm --prefix ${resolve(command, '../..')} run build:native`))
})
