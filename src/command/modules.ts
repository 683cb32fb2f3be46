import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Command } from './command.ts'
import { isRecord } from './exactJson.ts'

const IS_MODULE = /\.(js|mjs|ts|mts)$/
const IS_LEFT_OUT = /^[._]|\.test\.|\.d\.m?ts$/
const COMMAND_ID = /^[A-Za-z][\w-]*\/[A-Za-z][\w-]*$/
const PARAMETER_ID = /^[A-Za-z_]\w*$/
const PARAMETER_TYPES = ['str', 'any', 'int', 'bool']
const VARIABLE = /^[A-Za-z_]\w*$/

/**
 * The commands of a folder of modules: each file exports `commands`, a list. Files whose names begin with a dot or an
 * underscore, tests and declarations are left out; folders are not entered (a module may import from them).
 * A folder that is not there holds no commands. All mistakes of all files come as one error.
 */
export const loadModules = async (folder: string): Promise<readonly Command[]> => {
  const commands: Command[] = []
  const mistakes: string[] = []
  for (const name of await moduleFiles(folder)) {
    const file = join(folder, name)
    const exported = await importModule(file)
    if ('mistake' in exported) mistakes.push(exported.mistake)
    else if (!Array.isArray(exported.commands)) mistakes.push(`${file}: exports no list named 'commands'`)
    else
      for (const [index, given] of exported.commands.entries()) {
        const found = commandMistakes(given).map((mistake) => `${file}: commands[${index}]${mistake}`)
        if (found.length === 0) commands.push(normal(given as Command))
        mistakes.push(...found)
      }
  }
  if (mistakes.length > 0) throw new Error(mistakes.join('\n'))
  return commands
}

const moduleFiles = async (folder: string): Promise<string[]> => {
  try {
    const entries = await readdir(folder, { withFileTypes: true })
    // A ConfigMap's files are symbolic links.
    const files = entries.filter(
      (entry) => !entry.isDirectory() && IS_MODULE.test(entry.name) && !IS_LEFT_OUT.test(entry.name),
    )
    return files.map(({ name }) => name).sort()
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw thrown
  }
}

const importModule = async (file: string): Promise<{ commands: unknown } | { mistake: string }> => {
  try {
    const module: { commands?: unknown } = await import(pathToFileURL(file).href)
    return { commands: module.commands }
  } catch (thrown) {
    return { mistake: `${file}: ${thrown instanceof Error ? thrown.message : String(thrown)}` }
  }
}

const normal = (given: Command): Command => ({
  ...given,
  parameters: given.parameters.map((parameter) => ({ ...parameter, required: parameter.required === true })),
  reads: given.reads === true,
  summary: given.summary ?? given.id,
})

const commandMistakes = (given: unknown): string[] => {
  if (!isRecord(given)) return [' is not an object']
  const mistakes: string[] = []
  const must = (is: boolean, where: string, what: string): void => {
    if (!is) mistakes.push(`.${where} must be ${what}`)
  }
  must(typeof given.id === 'string' && COMMAND_ID.test(given.id), 'id', "like 'weather/Today'")
  must(typeof given.run === 'function', 'run', 'a function')
  must(given.summary === undefined || typeof given.summary === 'string', 'summary', 'a string')
  must(given.reads === undefined || typeof given.reads === 'boolean', 'reads', 'true or false')
  must(Array.isArray(given.parameters), 'parameters', 'a list')
  if (Array.isArray(given.parameters)) mistakes.push(...parameterMistakes(given.parameters))
  must(
    given.secrets === undefined || Array.isArray(given.secrets),
    'secrets',
    'a list of names of environment variables',
  )
  for (const name of Array.isArray(given.secrets) ? given.secrets : [])
    must(
      typeof name === 'string' && VARIABLE.test(name) && !name.startsWith('HASURA_'),
      'secrets',
      `names of environment variables that do not begin with HASURA_, which are reserved, not '${String(name)}'`,
    )
  return mistakes
}

const parameterMistakes = (parameters: readonly unknown[]): string[] => {
  const mistakes: string[] = []
  const seen = new Set<string>()
  for (const [index, parameter] of parameters.entries()) {
    const where = `.parameters[${index}]`
    if (!isRecord(parameter)) {
      mistakes.push(`${where} is not an object`)
      continue
    }
    const { id, type, required } = parameter
    if (typeof id !== 'string' || !PARAMETER_ID.test(id) || id.startsWith('spiff__'))
      mistakes.push(`${where}.id must be a name that does not begin with spiff__`)
    else if (seen.has(id)) mistakes.push(`${where}.id: '${id}' is there twice`)
    else seen.add(id)
    if (!PARAMETER_TYPES.includes(type as string))
      mistakes.push(`${where}.type must be one of ${PARAMETER_TYPES.join(', ')}`)
    if (required !== undefined && typeof required !== 'boolean')
      mistakes.push(`${where}.required must be true or false`)
  }
  return mistakes
}
