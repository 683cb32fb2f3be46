import { aspectReference, type KeyReference, sectionReference } from './reference.ts'
import { written } from './written.ts'

/** Everything that is built in, as a document that changes nothing: each value with what it does and why. */
export const defaultsText = (): string => {
  const lines = [
    '# Everything that is built in. This document changes nothing; keep of it what you want to change.',
    'apiVersion: sluice/v1',
  ]
  const aspects = aspectReference().map((it) => ({ ...it, key: `defaults.${it.key}` }))
  for (const keys of [aspects, ...sectionReference().map((section) => section.keys)]) lines.push('', ...tree(keys))
  return `${lines.join('\n').replace(/\n{3,}/g, '\n\n')}\n`
}

/** The same, as data. */
export const defaultsValue = (): Record<string, unknown> => {
  const document: Record<string, unknown> = { apiVersion: 'sluice/v1' }
  const aspects = aspectReference().map((it) => ({ ...it, key: `defaults.${it.key}` }))
  for (const { key, builtIn } of [...aspects, ...sectionReference().flatMap((section) => section.keys)]) {
    if (builtIn === undefined) continue
    const path = key.split('.')
    let branch = document
    for (const step of path.slice(0, -1)) branch = (branch[step] ??= {}) as Record<string, unknown>
    branch[path.at(-1)!] = builtIn
  }
  return document
}

const tree = (keys: readonly KeyReference[]): string[] => {
  const lines: string[] = []
  let at: readonly string[] = []
  for (const { key, accepts, says, builtIn, because } of keys) {
    if (builtIn === undefined) continue
    const path = key.split('.')
    const shared = path.findIndex((step, i) => step !== at[i] || i === path.length - 1)
    lines.push(...path.slice(shared, -1).map((step, i) => `${'  '.repeat(shared + i)}${step}:`))
    const indent = '  '.repeat(path.length - 1)
    lines.push(...wrapped(`${says} (${accepts})`, `${indent}# `))
    if (because) lines.push(...wrapped(`Why: ${because}`, `${indent}# `))
    lines.push(`${indent}${path.at(-1)}: ${written(builtIn)}`)
    at = path.slice(0, -1)
  }
  return lines
}

const wrapped = (text: string, indent: string): string[] => {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && indent.length + line.length + word.length + 1 > 110) {
      lines.push(indent + line)
      line = ''
    }
    line += line === '' ? word : ` ${word}`
  }
  return [...lines, indent + line]
}
