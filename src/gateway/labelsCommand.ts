import { readFile } from 'node:fs/promises'
import { type ExposedPort, isWrong, shardLabels } from '../codec/exposedPort.ts'
import { taskHash } from '../codec/taskHash.ts'
import { type Command, type Io, single, UsageError } from '../net/commandLine.ts'
import { readDockerfile } from './dockerfile.ts'
import { portsOfImage, readInspected } from './imagePorts.ts'

/** `sluice labels`: what the build step makes of an image's EXPOSE and LABEL. */
export const labelsCommand: Command = {
  name: 'labels',
  summary: "print the shard labels of an image's exposed ports, and what they mean",
  usage: 'FILE --task NAME [--domain NAME] [--json | --policy]',
  options: {
    task: { value: 'NAME', help: 'the full name of the task, such as acmeCo/in' },
    domain: { value: 'NAME', help: 'the domain of the data plane, for the URLs' },
    json: { help: 'only the labels, as a JSON list of name and value' },
    policy: { help: 'as a task of the section `gateway` of a policy document' },
  },
  examples: [
    'docker inspect ghcr.io/acme/source-in:v1 > image.json && sluice labels image.json --task acmeCo/in',
    'sluice labels Dockerfile --task acmeCo/in --policy',
  ],
  run: async (args, io) => {
    const [path, ...more] = args.positionals
    const task = single(args, 'task')
    if (path === undefined || more.length > 0) throw new UsageError('expected one FILE')
    if (!task) throw new UsageError('--task is missing: the name of the task is what its host name is made of')
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => error)
    if (typeof text !== 'string') return fail(io, path, `it cannot be read (${text.code})`)
    const image = /^\s*[[{]/.test(text) ? readInspected(text) : readDockerfile(text)
    if (isWrong(image)) return fail(io, path, image.wrong)
    const ports = portsOfImage(image)
    if (isWrong(ports)) return fail(io, path, ports.wrong)
    const labels = shardLabels(task, ports)
    if (args.values.json === true) {
      io.out(`${JSON.stringify(labels.map(([name, value]) => ({ name, value })))}\n`)
    } else if (args.values.policy === true) {
      io.out(fragment(task, ports))
    } else {
      const words = ports.map((port) => inWords(task, port, single(args, 'domain') ?? 'DOMAIN'))
      io.out(`${[...labels.map(([name, value]) => `${name}=${value}`), '', ...words].join('\n').trimStart()}\n`)
      if (ports.length === 0) io.out('the image exposes no TCP port: nobody can call this task\n')
    }
    return 0
  },
}

const fail = (io: Io, path: string, wrong: string): number => {
  io.err(`${path}: ${wrong}\n`)
  return 1
}

const inWords = (task: string, { port, isPublic, protocol }: ExposedPort, domain: string): string => {
  const host = `${taskHash(task)}-${port}.${domain}`
  const isHttp = protocol === undefined || protocol === 'http/1.1' || protocol === 'h2'
  const who = isPublic ? 'public: anybody may call it' : 'private: every request needs a token'
  return `port ${port} is ${who}; ALPN ${protocol ?? 'h2 or http/1.1'}; at ${isHttp ? `https://${host}/` : `${host}:443`}`
}

const fragment = (task: string, ports: readonly ExposedPort[]): string => {
  const lines = ports.map(({ port, isPublic, protocol }) => {
    const settings = [...(isPublic ? ['public: true'] : []), ...(protocol ? [`protocol: ${protocol}`] : [])]
    return `        "${port}": {${settings.length > 0 ? ` ${settings.join(', ')} ` : ''}}`
  })
  return `gateway:\n  tasks:\n    ${JSON.stringify(task)}:\n      ports:${lines.length === 0 ? ' {}' : `\n${lines.join('\n')}`}\n`
}
