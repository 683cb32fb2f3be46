import { type Document, isMap, isScalar, isSeq, type Pair, parseAllDocuments, type YAMLMap } from 'yaml'
import { OWN_KEYS } from './documentShape.ts'
import { SECTION_TABLE } from './sections.ts'
import { padded } from './written.ts'

const TOP = [
  ...Object.keys(OWN_KEYS).filter((key) => key !== 'rules' && key !== 'tests'),
  'rules',
  'tests',
  ...Object.keys(SECTION_TABLE),
]
const RULE = ['name', 'dryRun', 'when', 'then']
const TEST = ['name', 'given', 'expect', 'by']

/**
 * The document in its one form: keys in the order of the reference, two spaces, lines of at most 120 characters.
 * Comments, empty lines between entries, and the choice between block and flow stay the writer's. Undefined when the text is not YAML.
 */
export const formatDocument = (text: string): string | undefined => {
  const documents = parseAllDocuments(text)
  if (!Array.isArray(documents) || documents.some((document) => document.errors.length > 0))
    return documents.length === 0 ? text : undefined
  for (const document of documents as Document[]) arrange(document)
  return documents.map((document) => padded(document).toString({ lineWidth: 120 })).join('')
}

const arrange = (document: Document): void => {
  const { contents } = document
  if (!isMap(contents)) return
  // A comment at the top belongs to the file, whichever key comes first.
  order(contents, TOP)
  for (const [key, keys] of [
    ['rules', RULE],
    ['tests', TEST],
  ] as const) {
    const list = contents.get(key)
    if (isSeq(list)) for (const item of list.items) if (isMap(item)) order(item, keys)
  }
}

const order = (map: YAMLMap, keys: readonly string[]): void => {
  const rank = (pair: Pair): number => {
    const at = keys.indexOf(String(isScalar(pair.key) ? pair.key.value : pair.key))
    return at < 0 ? keys.length : at
  }
  map.items.sort((a, b) => rank(a) - rank(b))
}
