import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { test } from 'tap'

/**
 * design.md section 3: a file imports its own folder and lower lines; neighbours never import each other. One thing is
 * told apart which the design puts on one line: native answers with the words of net, so it stands above it.
 */
const LINES = [
  ['main.ts'],
  ['diffCommand.ts', 'learnCommand.ts'], // use what replayCommand.ts makes of a capture
  ['serveCommand.ts', 'replayCommand.ts', 'tokenCommand.ts'], // what main.ts would be without its table of commands: it introduces the accepters to each other
  ['workers.ts', 'serveWorker.ts'], // the two ends of `workers.threads`
  ['serveMetrics.ts', 'serveReload.ts'], // parts of serveCommand.ts
  ['serving.ts', 'workerMessages.ts'],
  ['config.ts'],
  ['sdk'], // the app's end of a callback channel, a program of its own; its words are callback's
  ['accept', 'gateway', 'callback', 'command', 'admin'],
  ['proxy.ts'],
  ['forward'],
  ['detect', 'policy', 'balance', 'discovery', 'telemetry'],
  ['codec'],
  ['native'],
  ['net'],
]
const LINES_OF_A_FILE_MAX = 500 // style.md asks from 300 on; here nobody can say "it grew"

/** What must not occur in files whose answer may depend on nothing but their arguments. */
const PURE = ['codec/', 'policy/', 'balance/', 'detect/detect.ts']
const IMPURE: readonly (readonly [what: string, pattern: RegExp])[] = [
  ['a clock', /\bDate\.now\b|\bnew Date\(\)|\bDate\(\)|\bperformance\b|\bhrtime\b|\bTemporal\.Now\b/],
  ['a timer', /\bset(?:Timeout|Interval|Immediate)\b|\bqueueMicrotask\b/],
  ['dice', /\bMath\.random\b|\brandom(?:Bytes|Int|UUID|Fill)\b|\bgetRandomValues\b/],
  ['the process', /\bprocess\.|\bconsole\./],
]
const IMPURE_MODULES =
  /^node:(?:net|tls|https?|http2|dgram|dns|quic|fs|child_process|worker_threads|cluster|timers|process|os)(?:\/|$)/
const PURE_OF_NET = /^\{\s*(?:(?:isIP|isIPv4|isIPv6|BlockList|SocketAddress)(?:,\s*)?)+\s*\}$/ // functions of their arguments
const VAGUE = /(?:^|\/)(?:utils?|helpers?|manager|common|index|misc|shared)\.ts$/i

const root = resolve(import.meta.dirname, '../src')
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .sort()

const folder = (file: string): string => file.split('/')[0]!
const line = (file: string): number => LINES.findIndex((names) => names.includes(folder(file)))

/** The code without comments and without the text of strings, so that words are words of the program. */
const bare = (code: string): string =>
  code.replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/g, (found) =>
    found.startsWith('/') ? '' : "''",
  )

interface Import {
  readonly names: string
  readonly from: string
  readonly isType: boolean
}

const imports = (code: string): Import[] => [
  ...[
    ...code.matchAll(
      /^(?:import|export)\s+(type\s+)?((?:[\w$*]+(?:\s+as\s+\w+)?,?\s*)?(?:\{[^}]*\})?)\s*from\s+['"]([^'"]+)['"]/gm,
    ),
  ].map((found) => ({ isType: found[1] !== undefined, names: found[2]!.trim(), from: found[3]! })),
  ...[...code.matchAll(/(?:^import|\bimport\()\s*['"]([^'"]+)['"]/gm)].map((found) => ({
    isType: false,
    names: '',
    from: found[1]!,
  })),
]

/** What is wrong with one file's imports, in words. */
export const wrongImports = (file: string, code: string): string[] =>
  imports(code)
    .filter(({ from }) => from.startsWith('.'))
    .map(({ from }) => relative(root, resolve(root, dirname(file), from)))
    .filter((target) => !target.startsWith('..') && folder(target) !== folder(file))
    .filter((target) => line(target) <= line(file))
    .map((target) => `${file} imports ${target}, which is ${line(target) === line(file) ? 'a neighbour' : 'above it'}`)

/** What a pure file does that depends on more than its arguments. */
export const impureWords = (file: string, code: string): string[] => {
  const text = bare(code)
  const words = IMPURE.flatMap(([what, pattern]) => {
    const found = pattern.exec(text)
    return found === null ? [] : [`${file} uses ${what}: ${found[0]}`]
  })
  const modules = imports(code)
    .filter(
      ({ from, names, isType }) =>
        !isType && IMPURE_MODULES.test(from) && !(from === 'node:net' && PURE_OF_NET.test(names)),
    )
    .map(({ from, names }) => `${file} imports ${names} from ${from}`)
  return [...words, ...modules]
}

const source = (file: string): string => readFileSync(join(root, file), 'utf8')

test('every file of src stands in a folder that the design names', async (t) => {
  t.same(
    files.filter((file) => line(file) < 0),
    [],
  )
})

test('a file imports only its own folder and the lines below it', async (t) => {
  t.same(
    files.flatMap((file) => wrongImports(file, source(file))),
    [],
  )
})

test('codecs, policy, balance and detection depend on nothing but their arguments', async (t) => {
  const pure = files.filter((file) => PURE.some((start) => file.startsWith(start)))
  t.same(
    pure.flatMap((file) => impureWords(file, source(file))),
    [],
  )
})

test('no file has a name that says nothing, and none has outgrown its idea', async (t) => {
  t.same(
    files.filter((file) => VAGUE.test(file)),
    [],
  )
  const long = files.filter(
    (file) => !file.includes('generated') && source(file).split('\n').length > LINES_OF_A_FILE_MAX,
  )
  t.same(long, [])
})

test('the checks above find what they look for', async (t) => {
  const wrong: readonly (readonly [file: string, code: string])[] = [
    ['codec/a.ts', "import { b } from '../policy/b.ts'"],
    ['policy/a.ts', "import type { B } from '../detect/b.ts'"],
    ['forward/a.ts', "export { serve } from '../proxy.ts'"],
    ['net/a.ts', "import { b } from '../native/b.ts'"],
    ['admin/a.ts', "const b = await import('../gateway/b.ts')"],
    ['detect/a.ts', "import {\n  b,\n} from '../forward/b.ts'"],
  ]
  for (const [file, code] of wrong) t.equal(wrongImports(file, code).length, 1, `${file}: ${code}`)
  t.same(
    wrongImports('forward/a.ts', "import { b } from '../codec/b.ts'\nimport { c } from './c.ts'\nimport 'pino'"),
    [],
  )

  const impure = [
    'const now = Date.now()',
    'const now = new Date()',
    'const start = performance.now()',
    'const dice = Math.random()',
    'const path = process.env.PATH',
    'setTimeout(run, 5)',
    "import { connect } from 'node:net'",
    "import net from 'node:net'",
    "import { readFile } from 'node:fs/promises'",
  ]
  for (const code of impure) t.equal(impureWords('codec/a.ts', code).length, 1, code)
  const pure = [
    '// Date.now() would be wrong here, and process.env too',
    "const text = 'process.env, Math.random()'",
    "import { isIP, BlockList } from 'node:net'",
    "import type { Socket } from 'node:net'",
    'const day = new Date(milliseconds)',
    "import { Buffer } from 'node:buffer'",
  ]
  for (const code of pure) t.same(impureWords('codec/a.ts', code), [], code)
})

test('the life of a connection in the README names files that exist', async (t) => {
  const readme = readFileSync(resolve(root, '../README.md'), 'utf8')
  const [, picture = ''] = /## The life of a connection\n([\s\S]*?)\n## /.exec(readme) ?? []
  const named = [...picture.matchAll(/(?:src|scripts)\/[\w./]*\w/g)].map(([path]) => path)
  t.ok(named.length > 12)
  t.same(
    named.filter((path) => !existsSync(resolve(root, '..', path))),
    [],
  )
})
