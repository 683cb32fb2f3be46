import { join } from 'node:path'
import { test } from 'tap'
import { parse } from 'yaml'
import { checkCommand } from '../../src/admin/checkCommand.ts'
import { decide } from '../../src/policy/decide.ts'
import { builtInPolicy } from '../../src/policy/parsePolicy.ts'
import { factsOf, policyFrom } from '../support/policy.ts'
import { runCommand } from '../support/runCommand.ts'

const BAD = `apiVersion: sluice/v1
rules:
  - name: typed in haste
    when: { prot: 80 }
    then: { deny: maybe }
`

test('the policies that come with Sluice are good', async (t) => {
  const ran = await runCommand(checkCommand, ['policy/default.yaml', '--strict'])
  t.same(ran, { code: 0, err: '', out: 'policy/default.yaml: good, 1 rule, 0 errors, 0 warnings\n' })
  t.match(await runCommand(checkCommand, ['policy/conduit.yaml', '--strict']), { code: 0, err: '' })
})

test('every mistake is printed with its line and a caret, and the exit code is 1', async (t) => {
  const file = join(t.testdir({ 'bad.yaml': BAD }), 'bad.yaml')
  t.same(await runCommand(checkCommand, [file]), {
    code: 1,
    out: '',
    err: `${file}:4:13: error: unknown key "prot"; did you mean "port"?
      when: { prot: 80 }
              ^^^^
${file}:5:19: error: expected true or false, not "maybe"
      then: { deny: maybe }
                    ^^^^^
2 errors, 0 warnings
`,
  })
})

test('the same as JSON, as SARIF and as annotations of a CI run', async (t) => {
  const file = join(t.testdir({ 'bad.yaml': BAD }), 'bad.yaml')
  const json = await runCommand(checkCommand, [file, '--json'])
  t.match(
    { ...json, out: JSON.parse(json.out) },
    {
      code: 1,
      err: '',
      out: {
        ok: false,
        diagnostics: [
          { severity: 'error', code: 'unknown-key', file, line: 4, column: 13, endColumn: 17 },
          { severity: 'error', code: 'bad-value', file, line: 5, column: 19, endColumn: 24 },
        ],
      },
    },
  )
  const sarif = JSON.parse((await runCommand(checkCommand, [file, '--format', 'sarif'])).out)
  t.match(sarif, { version: '2.1.0', runs: [{ tool: { driver: { name: 'sluice check' } }, results: { length: 2 } }] })
  const ids = sarif.runs[0].tool.driver.rules.map((rule: { id: string }) => rule.id)
  t.ok(sarif.runs[0].results.every((result: { ruleId: string }) => ids.includes(result.ruleId)))
  t.match(sarif.runs[0].results[0].locations[0].physicalLocation.region, {
    startLine: 4,
    startColumn: 13,
    endColumn: 17,
  })
  const annotations = (await runCommand(checkCommand, [file, '--format', 'github'])).out.split('\n')
  t.match(annotations[0], /^::error file=.*bad\.yaml,line=4,col=13,endColumn=17,title=sluice check::unknown key "prot"/)
})

test('what cannot be read is an error, and what is asked wrongly is a usage error', async (t) => {
  const absent = join(t.testdir(), 'absent.yaml')
  const ran = await runCommand(checkCommand, [absent])
  t.equal(ran.code, 1)
  t.match(ran.err, `${absent}: there is no such file or directory`)
  await t.rejects(runCommand(checkCommand, []), { message: /name at least one file/ })
  await t.rejects(runCommand(checkCommand, [absent, '--format', 'xml']), {
    message: /--format is one of text, json, sarif, github, not 'xml'/,
  })
})

test('--defaults prints a document that changes nothing', async (t) => {
  const { code, out } = await runCommand(checkCommand, ['--defaults'])
  t.equal(code, 0)
  const policy = policyFrom(out)
  const values = (verdict: object) => Object.values(verdict).map((it: { value?: unknown }) => it.value)
  t.same(values(decide(policy, factsOf())), values(decide(builtInPolicy(), factsOf())))
  t.same(policy.sections, builtInPolicy().sections)
  t.same(JSON.parse((await runCommand(checkCommand, ['--defaults', '--json'])).out), parse(out))
})
