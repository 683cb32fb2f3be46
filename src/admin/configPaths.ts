import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Arguments, type Io, repeated } from '../net/commandLine.ts'

const PACKAGED_POLICY = fileURLToPath(new URL('../../policy/default.yaml', import.meta.url))

const CONTRACT_DIRECTORY = '/etc/connector'

/** What `--config` says, or the directory of the connector contract, or the policy that comes with Sluice. */
export const configPaths = (args: Arguments, { env }: Io): readonly string[] => {
  const given = repeated(args, 'config')
  if (given.length > 0) return given
  // A directory that was named and is not there is a mistake; the one of the contract may be absent.
  if (env.HASURA_CONFIGURATION_DIRECTORY) return [env.HASURA_CONFIGURATION_DIRECTORY]
  return existsSync(CONTRACT_DIRECTORY) ? [CONTRACT_DIRECTORY] : [PACKAGED_POLICY]
}
