import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { toJsonSchema } from '@valibot/to-json-schema'
import { documentShape } from '../src/policy/documentShape.ts'
import { aspectReference, conditionReference, type KeyReference, sectionReference } from '../src/policy/reference.ts'
import { STAGE_SAYS } from '../src/policy/stage.ts'
import { written } from '../src/policy/written.ts'

/** Each file that is made from the tables of src/policy, and what it should hold. `npm run schema` writes them. */
export const generated = (): readonly { readonly file: string; readonly text: string }[] => [
  { file: path('policy/schema.json'), text: policySchema() },
  { file: path('docs/policy.md'), text: policyReference(readFileSync(path('docs/policy.md'), 'utf8')) },
]

const path = (name: string): string => fileURLToPath(new URL(`../${name}`, import.meta.url))

interface Metadata {
  readonly pattern?: string
  readonly builtIn?: unknown
  readonly min?: number
  readonly max?: number
}

/** The JSON Schema of a policy document. */
const policySchema = (): string => {
  const schema = toJsonSchema(documentShape as never, {
    typeMode: 'input',
    errorMode: 'ignore',
    overrideAction: ({ valibotAction, jsonSchema }) => {
      if (valibotAction.type !== 'metadata') return undefined
      const { metadata } = valibotAction as unknown as { metadata: Metadata }
      const kept = Object.fromEntries(Object.entries(jsonSchema).filter(([key]) => !Object.hasOwn(metadata, key)))
      const { pattern, builtIn, min, max } = metadata
      return {
        ...kept,
        ...(pattern !== undefined && { pattern }),
        ...(builtIn !== undefined && { default: builtIn as never }),
        ...(min !== undefined && { type: 'integer' as const, minimum: min }),
        ...(max !== undefined && { maximum: max }),
      }
    },
  })
  return `${JSON.stringify({ ...schema, title: 'Sluice policy' }, null, 2)}\n`
}

/** The reference, its tables renewed between their markers. */
const policyReference = (page: string): string => {
  const tables: Record<string, () => string> = { conditions, aspects, sections }
  return page.replace(/(<!-- generated: (\w+) -->\n)[\s\S]*?(<!-- end -->)/g, (_, begin, name, end) => {
    const table = tables[name]
    if (table === undefined) throw new Error(`docs/policy.md asks for a table "${name}" that there is not`)
    return `${begin}\n${table()}\n${end}`
  })
}

const row = (cells: readonly string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`

const head = (titles: readonly string[]): string => row(titles) + row(titles.map(() => '---'))

const code = (text: string): string => `\`${text}\``

const conditions = (): string =>
  head(['key', 'holds for', 'takes', 'for example', 'known']) +
  conditionReference()
    .map(({ key, says, accepts, example, from }) => row([code(key), says, accepts, code(example), STAGE_SAYS[from]]))
    .join('')

const builtIn = (it: KeyReference): string => (it.builtIn === undefined ? '' : code(written(it.builtIn)))

const aspects = (): string =>
  head(['key', 'what it does', 'takes', 'default', 'why', 'decided at the latest']) +
  aspectReference()
    .map((it) => row([code(it.key), it.says, it.accepts, builtIn(it), it.because ?? '', STAGE_SAYS[it.until]]))
    .join('')

const sections = (): string =>
  sectionReference()
    .map(({ name, says, byName, onReload, keys }) => {
      const files = byName ? 'Several files may each define some.' : 'One file alone has it.'
      const reload = onReload ? 'A change counts when the documents are reloaded.' : 'A change needs a restart.'
      const rows = keys.map((it) => row([code(it.key), it.says, it.accepts, builtIn(it), it.because ?? '']))
      return `### ${code(name)}\n\n${says[0]?.toUpperCase()}${says.slice(1)}. ${files} ${reload}\n\n${head(['key', 'what it does', 'takes', 'default', 'why'])}${rows.join('')}`
    })
    .join('\n')

if (import.meta.main) for (const { file, text } of generated()) writeFileSync(file, text)
