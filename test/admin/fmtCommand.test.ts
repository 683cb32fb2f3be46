import { lstatSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { fmtCommand } from '../../src/admin/fmtCommand.ts'
import { formatDocument } from '../../src/policy/format.ts'
import { policyFrom } from '../support/policy.ts'
import { runCommand } from '../support/runCommand.ts'

const WRITTEN = `# what this file is for

log:   {format: json}   # for the collector
rules:
    # why this rule is here
    - when: {port: 80,   direction: outbound}
      then:
          deny: true   # at once
      name: no web

    - then: {deny: false}
      name: the rest
apiVersion: sluice/v1
`

const FORMATTED = `# what this file is for

apiVersion: sluice/v1
rules:
  # why this rule is here
  - name: no web
    when: { port: 80, direction: outbound }
    then:
      deny: true # at once

  - name: the rest
    then: { deny: false }
log: { format: json } # for the collector
`

test('a document in its one form keeps its comments and its meaning, and formatting it again changes nothing', (t) => {
  t.equal(formatDocument(WRITTEN), FORMATTED)
  t.equal(formatDocument(FORMATTED), FORMATTED)
  const told = (text: string) =>
    policyFrom(text).rules.map(({ ref, tests, says }) => [
      ref.name,
      tests.map((it) => it.written),
      says.map((it) => it.written),
    ])
  t.same(told(FORMATTED), told(WRITTEN))
  for (const file of ['policy/default.yaml', 'policy/conduit.yaml']) {
    const text = readFileSync(file, 'utf8')
    t.equal(formatDocument(text), text, file)
  }
  t.equal(formatDocument(''), '')
  t.equal(formatDocument('a: [b'), undefined)
  t.equal(formatDocument('apiVersion: sluice/v1\n---\nrules: []\n'), 'apiVersion: sluice/v1\n---\nrules: []\n')
  t.end()
})

test('files are rewritten in place, also through a link; --check and --stdout write nothing', async (t) => {
  const directory = t.testdir({ 'a.yaml': WRITTEN, 'good.yaml': FORMATTED })
  const file = join(directory, 'a.yaml')
  const link = join(t.testdirName, 'link.yml')
  symlinkSync(file, link)
  t.same(await runCommand(fmtCommand, [directory, '--check']), { code: 1, out: `${file}\n${link}\n`, err: '' })
  t.match(await runCommand(fmtCommand, [file, '--stdout']), { code: 0, out: FORMATTED })
  t.equal(readFileSync(file, 'utf8'), WRITTEN)
  t.same(await runCommand(fmtCommand, [link]), { code: 0, out: `${link}\n`, err: '' })
  t.equal(readFileSync(file, 'utf8'), FORMATTED)
  t.ok(lstatSync(link).isSymbolicLink())
  t.same(await runCommand(fmtCommand, [directory]), { code: 0, out: '', err: '' })
  await t.rejects(runCommand(fmtCommand, []), { message: /name at least one/ })
})

test('what is not YAML is left alone', async (t) => {
  const file = join(t.testdir({ 'a.yaml': 'a: [' }), 'a.yaml')
  t.match(await runCommand(fmtCommand, [file]), { code: 1, err: /this is not YAML/ })
  t.equal(readFileSync(file, 'utf8'), 'a: [')
})
