import { statSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Connector, ConnectorOptions } from './connector.ts'

/** What `sluice serve` knows. */
type Known = Omit<ConnectorOptions, 'settings' | 'configurationDirectory'> & {
  /** The file or directory of the configuration, as a whole path. */
  readonly config: string
}

/**
 * The connector, where the configuration asks for it, or leaves it to the environment and that does. Loaded only then:
 * a proxy beside a workload pays nothing for it.
 */
export const openConnector = async ({ config, ...known }: Known): Promise<Connector | undefined> => {
  const settings = known.policy().sections.commands
  const isWanted =
    settings.enabled === 'always' || (settings.enabled === 'auto' && known.environment.port !== undefined)
  if (!isWanted) return undefined
  const { startConnector } = await import('./connector.ts')
  const configurationDirectory = statSync(config).isDirectory() ? config : dirname(config)
  return await startConnector({ ...known, settings, configurationDirectory })
}
