import { realpath, rename, stat, writeFile } from 'node:fs/promises'
import { type Command, UsageError } from '../net/commandLine.ts'
import { readDocumentsAt } from '../net/documents.ts'
import { formatDocument } from '../policy/format.ts'

/** `sluice fmt`: policy documents in their one form, comments kept. */
export const fmtCommand: Command = {
  name: 'fmt',
  summary: 'write policy documents in their one form; comments stay',
  usage: 'PATH… [--check | --stdout]',
  options: {
    check: { help: 'change nothing; name the files that would change, and exit with 1 if there are any' },
    stdout: { help: 'change nothing; print the result' },
  },
  examples: ['sluice fmt policy/', 'sluice fmt --check /etc/sluice'],
  run: async ({ positionals, values }, io) => {
    if (positionals.length === 0) throw new UsageError('name at least one file or directory')
    const { files, problems } = await readDocumentsAt(positionals)
    for (const problem of problems) io.err(`sluice fmt: ${problem}\n`)
    let isGood = problems.length === 0
    for (const { path, text } of files) {
      const formatted = formatDocument(text)
      if (formatted === undefined) {
        io.err(`sluice fmt: ${path}: this is not YAML; sluice check says where\n`)
        isGood = false
      } else if (values.stdout === true) io.out(formatted)
      else if (formatted !== text) {
        io.out(`${path}\n`)
        if (values.check === true) isGood = false
        else await replace(path, formatted)
      }
    }
    return isGood ? 0 : 1
  },
}

// A proxy that watches the file sees the old text or the new one, never half of it.
const replace = async (path: string, text: string): Promise<void> => {
  const file = await realpath(path)
  await writeFile(`${file}.fmt~`, text, { mode: (await stat(file)).mode })
  await rename(`${file}.fmt~`, file)
}
