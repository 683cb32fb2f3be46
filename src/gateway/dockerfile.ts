import { readPort, type Wrong } from '../codec/exposedPort.ts'
import type { ImageConfig } from './imagePorts.ts'

/** What a stage of a Dockerfile has said so far. */
interface Stage {
  readonly exposed: string[]
  readonly labels: Record<string, string>
  readonly variables: Record<string, string>
}

class DockerfileError extends Error {}

/** Reads EXPOSE and LABEL of the last stage of a Dockerfile, and of the stages it is FROM; other images are not known. */
export const readDockerfile = (text: string): ImageConfig | Wrong => {
  const stages = new Map<string, Stage>()
  const globals: Record<string, string> = {}
  let stage: Stage | undefined
  let count = 0
  try {
    for (const { word, rest } of instructions(text)) {
      if (word === 'FROM') {
        const [, image = '', name] = /^(?:--\S+\s+)*(\S+)(?:\s+as\s+(\S+))?/i.exec(substituted(rest, globals)) ?? []
        stage = copyOf(stages.get(image.toLowerCase()))
        stages.set(`${count++}`, stage)
        if (name !== undefined) stages.set(name.toLowerCase(), stage)
      } else if (word === 'ARG') {
        for (const pair of words(rest)) setArgument(pair, stage?.variables ?? globals, globals)
      } else if (stage !== undefined) say(word, rest, stage)
    }
  } catch (error) {
    if (!(error instanceof DockerfileError)) throw error
    return { wrong: error.message }
  }
  if (stage === undefined)
    return { wrong: 'it is neither what `docker inspect` prints nor a Dockerfile: no FROM in it' }
  return { exposed: [...new Set(stage.exposed)], labels: stage.labels }
}

const copyOf = (from: Stage | undefined): Stage => ({
  exposed: [...(from?.exposed ?? [])],
  labels: { ...from?.labels },
  variables: { ...from?.variables },
})

const setArgument = (pair: string, into: Record<string, string>, globals: Readonly<Record<string, string>>) => {
  const [, name = '', value] = /^([^=]*)(?:=(.*))?$/s.exec(pair) ?? []
  const known = value === undefined ? globals[name] : unquoted(value, into)
  if (known !== undefined) into[name] = known
}

const say = (word: string, rest: string, stage: Stage) => {
  if (word === 'EXPOSE') for (const one of words(rest)) stage.exposed.push(...portKeys(unquoted(one, stage.variables)))
  if (word === 'ENV') Object.assign(stage.variables, pairs(rest, stage.variables))
  if (word === 'LABEL') Object.assign(stage.labels, pairs(rest, stage.variables))
}

/** `8080`, `53/udp`, `7000-7010/tcp`: the keys that the image will have. */
const portKeys = (written: string): string[] => {
  const [, first = '', last = first, protocol = 'tcp'] = /^(\d+)(?:-(\d+))?(?:\/(\w+))?$/.exec(written) ?? []
  const [from, to] = [readPort(first), readPort(last)]
  const kind = protocol.toLowerCase()
  if (from === undefined || to === undefined || to < from || (kind !== 'tcp' && kind !== 'udp'))
    throw new DockerfileError(`EXPOSE ${written}: it is not a port from 1 to 65535, or a range of them`)
  return Array.from({ length: to - from + 1 }, (_, i) => `${from + i}/${kind}`)
}

/** `name=value name="a value"`, or the old way, one name and the rest of the line. */
const pairs = (rest: string, variables: Readonly<Record<string, string>>): Record<string, string> => {
  const found = words(rest)
  if (found.length > 0 && !/^(?:"[^"]*"|'[^']*'|[^="'])+=/.test(found[0]!)) {
    const [, name = '', value = ''] = /^(\S+)\s+(.*)$/s.exec(rest.trim()) ?? []
    if (name === '') throw new DockerfileError(`${rest.trim()}: expected name=value`)
    return { [unquoted(name, variables)]: unquoted(value, variables) }
  }
  return Object.fromEntries(
    found.map((pair) => {
      const [, name, value] = /^((?:"[^"]*"|'[^']*'|[^="'])+)=(.*)$/s.exec(pair) ?? []
      if (name === undefined || value === undefined) throw new DockerfileError(`${pair}: expected name=value`)
      return [unquoted(name, variables), unquoted(value, variables)]
    }),
  )
}

/** Splits at blanks outside of quotes. */
const words = (text: string): string[] => text.match(/(?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s"'\\])+/gs) ?? []

/** Quotes away, and variables in; within single quotes everything stands for itself. */
const unquoted = (text: string, variables: Readonly<Record<string, string>>): string =>
  text.replace(
    /'([^']*)'|"((?:[^"\\]|\\.)*)"|((?:[^'"\\]|\\.)+)/gs,
    (_, single?: string, double?: string, bare = '') =>
      single ?? substituted(double ?? bare, variables).replace(/\\(.)/gs, '$1'),
  )

/** `$NAME`, `${NAME}`, `${NAME:-otherwise}` and `${NAME:+instead}`. */
const substituted = (text: string, variables: Readonly<Record<string, string>>): string =>
  text.replace(
    /\\\$|\$(?:(\w+)|\{(\w+)(?:(:[-+])([^}]*))?\})/g,
    (all: string, bare?: string, braced?: string, how?: string, word = '') => {
      if (all === '\\$') return all
      const value = variables[bare ?? braced ?? '']
      if (how === ':+') return value ? word : ''
      if (value) return value
      if (how === ':-') return word
      if (value === undefined) throw new DockerfileError(`${all}: the Dockerfile gives this variable no value`)
      return value
    },
  )

/** The instructions with their continuation lines joined; comments within them and here-documents left out. */
const instructions = (text: string): { word: string; rest: string }[] => {
  const lines = text.replace(/^\uFEFF/, '').split(/\r?\n/)
  const continuation = /^#\s*escape\s*=\s*`/im.test(lines.slice(0, 3).join('\n')) ? '`' : '\\'
  const found: { word: string; rest: string }[] = []
  for (let i = 0; i < lines.length; i++) {
    let joined = ''
    for (; i < lines.length; i++) {
      const line = lines[i]!
      if (/^\s*#/.test(line) || (joined !== '' && line.trim() === '')) continue
      const isContinued = line.trimEnd().endsWith(continuation)
      joined += isContinued ? `${line.trimEnd().slice(0, -1)} ` : line
      if (!isContinued) break
    }
    const [, word = '', rest = ''] = /^\s*(\w+)\s*(.*)$/s.exec(joined) ?? []
    if (/^(?:RUN|COPY|ADD)$/i.test(word)) i = afterHereDocuments(rest, lines, i)
    if (word !== '') found.push({ word: word.toUpperCase(), rest })
  }
  return found
}

const afterHereDocuments = (rest: string, lines: readonly string[], at: number): number => {
  let i = at
  for (const [, , end] of rest.matchAll(/<<-?(["']?)(\w+)\1/g)) {
    const found = lines.findIndex((line, n) => n > i && line.trim() === end)
    if (found !== -1) i = found
  }
  return i
}
