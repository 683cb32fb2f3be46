import { checkShape } from './checkShape.ts'
import { type Diagnostic, formatDiagnostic } from './diagnostic.ts'
import { endpointsByName, type WrittenEndpoints } from './sections/discovery.ts'
import { readSource, type SourceFile } from './source.ts'

/** A file of endpoints, or in words what is wrong with it: `file:line:column: error: …`, all mistakes at once. */
export type EndpointDocument =
  | { readonly is: 'endpoints'; readonly endpoints: WrittenEndpoints }
  | { readonly is: 'mistaken'; readonly problems: readonly string[] }

/** Reads a file of endpoints, in YAML or JSON (which is YAML). An empty file knows no name. */
export const readEndpointDocument = (file: SourceFile): EndpointDocument => {
  const { sources, diagnostics } = readSource(file)
  const all: Diagnostic[] = [...diagnostics]
  const endpoints: Record<string, WrittenEndpoints[string]> = Object.create(null)
  for (const source of sources) {
    const checked = checkShape(endpointsByName, source.value, source, [])
    all.push(...checked.diagnostics)
    Object.assign(endpoints, checked.value)
  }
  if (sources.length > 1)
    all.push({
      severity: 'error',
      code: 'duplicate',
      place: sources[1]!.place([]),
      message: 'a second document; a file of endpoints is one',
    })
  if (all.length > 0) return { is: 'mistaken', problems: all.map(formatDiagnostic) }
  return { is: 'endpoints', endpoints }
}
