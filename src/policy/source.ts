import {
  type Document,
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type Pair,
  parseAllDocuments,
  Scalar,
  visit,
} from 'yaml'
import type { Diagnostic, MistakeCode, Place } from './diagnostic.ts'

/** A file as it was read. */
export interface SourceFile {
  readonly path: string
  readonly text: string
}

/** Keys and indexes from the top of a document. */
export type Path = readonly (string | number)[]

/** One YAML document of a file: its value, and where each part of it stands. */
export interface Source {
  readonly file: string
  readonly value: unknown
  /** The place of the value at a path, or of its key; of the nearest part above it when there is no such part. */
  readonly place: (path: Path, part?: 'key' | 'value') => Place
}

/** The documents of a file, or what is wrong with its YAML. Documents that are empty are left out. */
export const readSource = (file: SourceFile): { readonly sources: Source[]; readonly diagnostics: Diagnostic[] } => {
  const lines = new LineCounter()
  const documents = parseAllDocuments(file.text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true })
  const place = placeIn(file, lines)
  const diagnostics: Diagnostic[] = []
  const sources: Source[] = []
  for (const document of Array.isArray(documents) ? documents : []) {
    const broken = document.errors.some((error) => error.code !== 'DUPLICATE_KEY')
    for (const error of document.errors)
      diagnostics.push(problem('syntax', place(error.pos[0], error.pos[1]), syntaxMessage(error.code, error.message)))
    if (broken) continue
    diagnostics.push(...mendAliases(document, place))
    if (document.contents === null || (isScalar(document.contents) && document.contents.value === null)) continue
    sources.push({ file: file.path, value: plainValue(document, place, diagnostics), place: locator(document, place) })
  }
  return { sources, diagnostics }
}

type PlaceOf = (start: number, end: number) => Place

const placeIn = (file: SourceFile, lines: LineCounter): PlaceOf => {
  const texts = file.text.split(/\r?\n/)
  return (start, end) => {
    const { line, col } = lines.linePos(Math.min(start, file.text.length))
    const text = texts[Math.max(1, line) - 1] ?? ''
    return {
      file: file.path,
      line: Math.max(1, line),
      column: Math.max(1, col),
      length: Math.max(1, end - start),
      text,
    }
  }
}

const problem = (code: MistakeCode, place: Place, message: string): Diagnostic => ({
  severity: 'error',
  code,
  place,
  message,
})

const syntaxMessage = (code: string, message: string): string => {
  if (code === 'DUPLICATE_KEY') return 'this key is written twice; the second would replace the first'
  if (code === 'TAB_AS_INDENT') return 'a tab indents this line; YAML takes spaces only'
  return message.replace(/\s+at line \d+, column \d+:?\s*[\s\S]*$/, '')
}

// `sni: *.shop.example` without quotes is an alias to YAML. It is the mistake that operators make most.
const mendAliases = (document: Document, place: PlaceOf): Diagnostic[] => {
  const found: Diagnostic[] = []
  visit(document, {
    Alias: (_, node) => {
      if (node.resolve(document) !== undefined) return undefined
      const [start = 0, end = 0] = node.range ?? []
      const hint = `a text that begins with * needs quotes: "*${node.source}"`
      found.push(problem('syntax', place(start, end), hint))
      const text = new Scalar(`*${node.source}`)
      text.range = node.range ?? null
      return text
    },
  })
  return found
}

const plainValue = (document: Document, place: PlaceOf, diagnostics: Diagnostic[]): unknown => {
  try {
    return document.toJS({ maxAliasCount: 100 })
  } catch (error) {
    // The library's guard against documents that unfold to gigabytes throws.
    diagnostics.push(problem('syntax', place(0, 1), (error as Error).message))
    return undefined
  }
}

const locator =
  (document: Document, place: PlaceOf): Source['place'] =>
  (path, part = 'value') => {
    let node = document.contents as Node | null
    let key: Node | null = null
    for (const step of path) {
      const inside = isAlias(node) ? ((node.resolve(document) as Node | undefined) ?? null) : node
      const pair = isMap(inside) ? inside.items.find((item) => keyOf(item) === String(step)) : undefined
      const next = pair?.value ?? (isSeq(inside) ? inside.get(Number(step), true) : undefined)
      if (pair === undefined && !isNode(next)) return spot(key ?? node, place)
      key = pair === undefined ? null : (pair.key as Node)
      node = isNode(next) ? next : null
    }
    return spot(part === 'key' ? (key ?? node) : (node ?? key), place)
  }

const keyOf = (pair: Pair): string => String(isScalar(pair.key) ? pair.key.value : pair.key)

const spot = (node: Node | null, place: PlaceOf): Place => {
  const [start = 0, end = 1] = node?.range ?? []
  return place(start, end)
}
