import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Arguments, type Io, repeated } from '../net/commandLine.ts'

const PACKAGED_POLICY = fileURLToPath(new URL('../../policy/default.yaml', import.meta.url))

/** What `--config` says, or the directory of the connector contract, or the policy that comes with Sluice. */
export const configPaths = (args: Arguments, { env }: Io): readonly string[] => {
  const given = repeated(args, 'config')
  if (given.length > 0) return given
  const directory = env.HASURA_CONFIGURATION_DIRECTORY ?? '/etc/connector'
  return existsSync(directory) ? [directory] : [PACKAGED_POLICY]
}
