import type { Command, Parameter } from './command.ts'

/** The commands there are, by id and by the name NDC knows them under. */
export interface Registry {
  readonly list: readonly Command[]
  readonly get: (id: string) => Command | undefined
  readonly named: (ndcName: string) => Command | undefined
}

/** `http/GetRequest` is `http_GetRequest` to NDC, whose names become GraphQL names. */
export const ndcName = (id: string): string => id.replace(/[^A-Za-z0-9_]/g, '_')

/** One registry of all commands; two with one id, or with one NDC name, are an error that names both places. */
export const createRegistry = (commands: readonly Command[]): Registry => {
  const byId = new Map<string, Command>()
  const byName = new Map<string, Command>()
  for (const command of commands) {
    const other = byId.get(command.id) ?? byName.get(ndcName(command.id))
    if (other !== undefined)
      throw new Error(`two commands have the name ${ndcName(command.id)}: ${other.id} and ${command.id}`)
    byId.set(command.id, command)
    byName.set(ndcName(command.id), command)
  }
  return { list: [...byId.values()], get: (id) => byId.get(id), named: (name) => byName.get(name) }
}

/** A command as `/v1/commands` shows it. */
export interface Listed {
  readonly id: string
  readonly parameters: readonly Pick<Parameter, 'id' | 'type' | 'required'>[]
}

/** The answer of `/v1/commands`: exactly three keys a parameter, because callers show them as they are. */
export const listed = (registry: Registry): readonly Listed[] =>
  registry.list.map(({ id, parameters }) => ({
    id,
    parameters: parameters.map(({ id: name, type, required }) => ({ id: name, type, required })),
  }))
