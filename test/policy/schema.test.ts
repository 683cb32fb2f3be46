import { readFileSync } from 'node:fs'
import { Ajv } from 'ajv'
import { test } from 'tap'
import { parse } from 'yaml'
import { generated } from '../../scripts/schema.ts'
import { defaultsText } from '../../src/policy/defaultsText.ts'
import { parsePolicy } from '../../src/policy/parsePolicy.ts'

test('policy/schema.json and the tables of docs/policy.md are current', (t) => {
  for (const { file, text } of generated())
    t.equal(readFileSync(file, 'utf8'), text, `${file.split('/').slice(-2).join('/')}: run npm run schema`)
  t.end()
})

const head = 'apiVersion: sluice/v1\n'

test('an editor with the schema and the program agree on what a document may hold', (t) => {
  const validate = new Ajv({ strict: false }).compile(JSON.parse(readFileSync('policy/schema.json', 'utf8')))
  const cases: [string, boolean][] = [
    [readFileSync('policy/default.yaml', 'utf8'), true],
    [readFileSync('policy/conduit.yaml', 'utf8'), true],
    [defaultsText(), true],
    [
      `${head}rules:\n  - { name: a, when: { port: [80, 90-99], sni: none, header: { x: { present: true } } }, then: { deny: true } }`,
      true,
    ],
    [`${head}certificates: { a: { cert: a.pem, key: b.pem } }`, true],
    ['rules: []', false],
    [`${head}rule: []`, false],
    [`${head}rules: 3`, false],
    [`${head}rules:\n  - { name: a, when: { prt: 80 }, then: { deny: true } }`, false],
    [`${head}rules:\n  - { name: a, when: { port: 70000 }, then: { deny: true } }`, false],
    [`${head}rules:\n  - { name: a, then: { deny: 1 } }`, false],
    [`${head}rules:\n  - { then: { deny: true } }`, false],
    [`${head}defaults: { detect: { timeout: 5 } }`, false],
    [`${head}defaults: { detect: { timeout: 5 sec } }`, false],
    [`${head}defaults: { protocol: http }`, false],
    [`${head}certificates: { a: { cert: a.pem } }`, false],
  ]
  for (const [text, isGood] of cases) {
    t.equal(validate(parse(text)), isGood, `schema: ${text.slice(0, 120)}`)
    t.equal(parsePolicy([{ path: 'policy/x.yaml', text }]).is === 'policy', isGood, `program: ${text.slice(0, 120)}`)
  }
  t.end()
})

test('the documents on the page are good', (t) => {
  const blocks = [...readFileSync('docs/policy.md', 'utf8').matchAll(/```yaml\n([\s\S]*?)```/g)].map(
    ([, text]) => text!,
  )
  t.ok(blocks.length > 0)
  for (const text of blocks)
    t.match(parsePolicy([{ path: 'docs/policy.md', text }]), { is: 'policy', warnings: { length: 0 } })
  t.end()
})
