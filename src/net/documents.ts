import { readdir, readFile, realpath, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** A file and its text; the path is as the operator would write it. */
export interface DocumentFile {
  readonly path: string
  readonly text: string
}

/** What could be read, and in words what could not. */
export interface Documents {
  readonly files: readonly DocumentFile[]
  readonly problems: readonly string[]
}

// A ConfigMap is swapped while we read it about never; twice in a row says that something else is wrong.
const ATTEMPTS_MAX = 5

/**
 * Reads files, and of directories every .yaml and .yml file in lexical order, symbolic links followed. When links
 * change while they are read (Kubernetes swaps `..data` of a ConfigMap), all is read again: never a half of each.
 */
export const readDocumentsAt = async (paths: readonly string[]): Promise<Documents> => {
  for (let attempt = 1; ; attempt++) {
    const problems: string[] = []
    const listed = (await Promise.all(paths.map((path) => list(path, problems)))).flat()
    const before = await targets(listed)
    const files = await Promise.all(listed.map((path) => read(path, problems)))
    const isSteady = (await targets(listed)).join('\n') === before.join('\n')
    if (isSteady || attempt === ATTEMPTS_MAX)
      return { files: files.filter((file) => file !== undefined), problems: [...new Set(problems)] }
  }
}

const list = async (path: string, problems: string[]): Promise<string[]> => {
  try {
    if (!(await stat(path)).isDirectory()) return [path]
    const names = (await readdir(path)).filter((name) => /\.ya?ml$/.test(name) && !name.startsWith('.')).sort()
    if (names.length === 0) problems.push(`${path}: no .yaml file in this directory`)
    return names.map((name) => join(path, name))
  } catch (error) {
    problems.push(unreadable(path, error))
    return []
  }
}

const read = async (path: string, problems: string[]): Promise<DocumentFile | undefined> => {
  try {
    return { path, text: await readFile(path, 'utf8') }
  } catch (error) {
    problems.push(unreadable(path, error))
    return undefined
  }
}

const SAYS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or directory',
  EACCES: 'it may not be read (permission denied)',
  EISDIR: 'it is a directory',
}

const unreadable = (path: string, error: unknown): string => {
  const { code = '', message } = error as NodeJS.ErrnoException
  return `${path}: ${SAYS[code] ?? message}`
}

// Where each path leads and which file that is: the inode changes with a rename-save, the link with a swap.
const targets = (paths: readonly string[]): Promise<string[]> =>
  Promise.all(
    paths.map(async (path) => {
      const found = await stat(path).catch(() => undefined)
      return `${await realpath(path).catch(() => '')} ${found?.ino} ${found?.mtimeMs} ${found?.size}`
    }),
  )
