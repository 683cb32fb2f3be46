/** What was asked of one authority: how often each path, by method. The empty path stands for all there are. */
export type Asked = Map<string, Map<string, number>>

/** Paths that were asked for with the same methods, as few globs as a person would write. */
export interface PathGroup {
  readonly methods: readonly string[]
  readonly paths: readonly string[]
  readonly count: number
}

const CHILDREN_MAX = 4 // from so many names in one place on, they are names of things, and not of parts of the program
const GLOBS_MAX = 8 // a rule with more of them nobody reads: then only their beginnings are kept

/** Groups paths into globs: `*` for what counts or names things, `**` where even so there would be too many. */
export const groupPaths = (asked: Asked): PathGroup[] => {
  const globs = globsOf([...new Set([...asked.values()].flatMap((paths) => [...paths.keys()]))])
  const byGlob = new Map<string, { methods: Set<string>; count: number }>()
  for (const [method, paths] of asked)
    for (const [path, count] of paths) {
      const glob = globs.get(path)!
      const found = byGlob.get(glob) ?? { methods: new Set(), count: 0 }
      byGlob.set(glob, found)
      found.methods.add(method)
      found.count += count
    }
  const groups = Map.groupBy(byGlob, ([, { methods }]) => [...methods].sort().join(' '))
  return [...groups].map(([methods, members]) => ({
    methods: methods.split(' '),
    paths: members.map(([glob]) => glob).sort(),
    count: members.reduce((sum, [, { count }]) => sum + count, 0),
  }))
}

interface Node {
  readonly children: Map<string, Node>
  readonly paths: string[]
}

/** The glob of each path. */
const globsOf = (paths: readonly string[]): Map<string, string> => {
  const root: Node = { children: new Map(), paths: [] }
  for (const path of paths) {
    let node = root
    for (const segment of path.split('/').slice(1)) {
      const name = isThing(segment) ? '*' : segment
      const next = node.children.get(name) ?? { children: new Map(), paths: [] }
      node.children.set(name, next)
      node = next
    }
    node.paths.push(path)
  }
  const globs = new Map<string, string>()
  const walk = (node: Node, prefix: string) => {
    for (const path of node.paths) globs.set(path, prefix || '/**')
    for (const [name, child] of gathered(node).children) walk(child, `${prefix}/${name}`)
  }
  walk(root, '')
  if (new Set(globs.values()).size <= GLOBS_MAX) return globs
  return shortened(globs)
}

/** Many names in one place become one `*`, under which all that was under them is. */
const gathered = (node: Node): Node => {
  if (node.children.size <= CHILDREN_MAX) return node
  const all: Node = { children: new Map(), paths: [] }
  const merge = (into: Node, from: Node) => {
    into.paths.push(...from.paths)
    for (const [name, child] of from.children) {
      const known = into.children.get(name) ?? { children: new Map(), paths: [] }
      into.children.set(name, known)
      merge(known, child)
    }
  }
  for (const child of node.children.values()) merge(all, child)
  return { children: new Map([['*', all]]), paths: node.paths }
}

/** Still too many: `**` behind the first two segments, or the first, or behind nothing. */
const shortened = (globs: ReadonlyMap<string, string>): Map<string, string> => {
  for (const depth of [2, 1, 0]) {
    const cut = (glob: string): string => {
      const segments = glob.split('/').slice(1)
      return segments.length <= depth ? glob : `${['', ...segments.slice(0, depth)].join('/')}/**`
    }
    const short = new Map([...globs].map(([path, glob]) => [path, cut(glob)]))
    if (new Set(short.values()).size <= GLOBS_MAX || depth === 0) return short
  }
  return new Map(globs)
}

/** A segment that counts or names a thing: digits, a UUID, a hash, a word longer than programs have them, or no word. */
const isThing = (segment: string): boolean =>
  /^\d+$/.test(segment) ||
  /^[0-9a-f]{8}-[0-9a-f-]{27}$/i.test(segment) ||
  /^(?=.*\d)[0-9a-f]{8,}$/i.test(segment) ||
  /^(?=.*\d)[\w-]{20,}$/.test(segment) ||
  /[^\w.~!$&'()+,;=:@-]/.test(segment)
