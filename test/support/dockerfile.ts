/** One instruction of a Dockerfile, its continuation lines joined, its stage by number from 0 (-1 before the first). */
export interface Instruction {
  readonly name: string
  readonly text: string
  readonly stage: number
}

/** Reads a Dockerfile into instructions: comments dropped, lines that end in a backslash joined. */
export const readDockerfile = (text: string): Instruction[] => {
  let stage = -1
  return text
    .split('\n')
    .filter((line) => !/^\s*#/.test(line))
    .join('\n')
    .replace(/\\\n\s*/g, ' ')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [, name = '', rest = ''] = /^(\S+)\s*(.*)$/.exec(line.trim()) ?? []
      if (name === 'FROM') stage++
      return { name, text: rest.trim(), stage }
    })
}

const INSTRUCTIONS = [
  'ARG',
  'CMD',
  'COPY',
  'ENTRYPOINT',
  'ENV',
  'EXPOSE',
  'FROM',
  'HEALTHCHECK',
  'LABEL',
  'RUN',
  'USER',
  'WORKDIR',
]

/** What is wrong with a Dockerfile by the rules we hold ours to; empty when nothing is. */
export const dockerfileMistakes = (text: string, exists: (path: string) => boolean): string[] => {
  const instructions = readDockerfile(text)
  const stages = instructions.filter(({ name }) => name === 'FROM').map((from) => / AS (\S+)$/.exec(from.text)?.[1])
  const check = ({ name, text: it }: Instruction): string[] => [
    ...(INSTRUCTIONS.includes(name) ? [] : [`${name} is not an instruction we use`]),
    ...(name === 'FROM' && !/:[\w.${}-]+( AS \w+)?$|^\$\{\w+\}/.test(it) ? [`FROM ${it} has no version`] : []),
    ...(name === 'FROM' && /:latest|--platform/.test(it) ? [`FROM ${it} is not the same everywhere`] : []),
    ...(name === 'RUN' && /\bsudo\b|curl[^|]*\|\s*(ba)?sh|apt-get (?:upgrade|dist-upgrade)/.test(it)
      ? [`RUN ${it}`]
      : []),
    ...(name === 'RUN' &&
    /apt-get install/.test(it) &&
    !(/--no-install-recommends/.test(it) && /rm -rf \/var\/lib\/apt\/lists/.test(it) && /apt-get update/.test(it))
      ? ['apt-get install without update, --no-install-recommends and cleaning up']
      : []),
    ...(name === 'RUN' && /npm (?:i|install)\b/.test(it) ? ['npm install instead of npm ci'] : []),
    ...(['CMD', 'ENTRYPOINT'].includes(name) && !Array.isArray(safeJson(it))
      ? [`${name} is not in exec form: a shell would keep signals to itself`]
      : []),
    ...(name === 'HEALTHCHECK' && !/CMD \[/.test(it) ? ['HEALTHCHECK is not in exec form'] : []),
    ...(name === 'WORKDIR' && !it.startsWith('/') ? [`WORKDIR ${it} is not absolute`] : []),
    ...(name === 'ENV' && /(SECRET|TOKEN|PASSWORD|KEY)=/.test(it) ? [`ENV ${it} holds a secret`] : []),
    ...(name === 'COPY' ? copyMistakes(it, stages, exists) : []),
  ]
  return instructions.flatMap(check)
}

const copyMistakes = (
  text: string,
  stages: readonly (string | undefined)[],
  exists: (path: string) => boolean,
): string[] => {
  const words = text.split(/\s+/)
  const from = words.find((word) => word.startsWith('--from='))?.slice(7)
  if (from !== undefined) return stages.includes(from) ? [] : [`COPY --from=${from}: there is no such stage`]
  return words
    .filter((word) => !word.startsWith('--'))
    .slice(0, -1)
    .filter((path) => !exists(path))
    .map((path) => `COPY ${path}: not there, or kept out by .dockerignore`)
}

const safeJson = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** What the image runs with: the last value of each instruction of its last stage. */
export const imageOf = (text: string): Readonly<Record<string, string>> => {
  const instructions = readDockerfile(text)
  const last = Math.max(...instructions.map(({ stage }) => stage))
  return Object.fromEntries(
    instructions.filter(({ stage }) => stage === last).map(({ name, text: value }) => [name, value]),
  )
}
