import type { Command, Parameter, ParameterType } from './command.ts'
import { failure } from './failure.ts'

/** The arguments of a call, and the names of those that no parameter has. */
export interface Checked {
  readonly args: Readonly<Record<string, unknown>>
  readonly unknown: readonly string[]
}

/**
 * Checks a request body against a command's parameters. Keys that start with `spiff__` carry the caller's own
 * bookkeeping (whole business data, a callback URL): they are dropped here, before anything can log or forward them.
 */
export const checkArguments = (command: Command, body: Readonly<Record<string, unknown>>): Checked => {
  const parameters = [...command.parameters, ...(command.accepts ?? [])]
  const args: Record<string, unknown> = Object.create(null)
  const mistakes: string[] = []
  for (const parameter of parameters) {
    const value = Object.hasOwn(body, parameter.id) ? body[parameter.id] : undefined
    if (value === undefined || value === null) {
      if (parameter.required) mistakes.push(`${parameter.id} is required`)
      continue
    }
    const converted = CONVERT[parameter.type](value)
    if (converted === undefined)
      mistakes.push(`${parameter.id} must be ${SPOKEN[parameter.type]}, not ${kindOf(value)}`)
    else args[parameter.id] = converted
  }
  if (mistakes.length > 0) throw failure('invalid_parameters', `${command.id}: ${mistakes.join('; ')}`)
  return {
    args,
    unknown: Object.keys(body).filter((name) => !name.startsWith('spiff__') && !isNamed(parameters, name)),
  }
}

const isNamed = (parameters: readonly Parameter[], name: string): boolean => parameters.some(({ id }) => id === name)

const SPOKEN: Readonly<Record<ParameterType, string>> = {
  str: 'a string',
  int: 'an integer',
  bool: 'true or false',
  any: 'a value',
}

/** Callers write expressions whose results are often the right value in the neighbouring type: "587" for a port. */
const CONVERT: Readonly<Record<ParameterType, (value: unknown) => unknown>> = {
  str: (value) => (typeof value === 'string' ? value : typeof value === 'number' ? String(value) : undefined),
  int: (value) => {
    const number = typeof value === 'string' && /^-?\d{1,15}$/.test(value) ? Number(value) : value
    return Number.isSafeInteger(number) ? number : undefined
  },
  bool: (value) =>
    value === true || value === 'true' ? true : value === false || value === 'false' ? false : undefined,
  any: (value) => value,
}

const kindOf = (value: unknown): string =>
  Array.isArray(value) ? 'an array' : value === null ? 'null' : `a ${typeof value}`
