import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'tap'
import { COMPLETIONS } from '../../src/admin/completions.ts'
import { manPage } from '../../src/admin/manPage.ts'
import type { Command } from '../../src/net/commandLine.ts'

const sluice = (...args: string[]) =>
  spawnSync('node_modules/.bin/node', ['src/main.ts', ...args], { encoding: 'utf8' })

const odd: Command = {
  name: 'odd',
  summary: "it's a [test]: of \\ quoting",
  usage: 'FILE…',
  options: {
    'dry-run': { help: "what's [this]: 'for'", short: 'd' },
    file: { help: 'a file', value: 'PATH', multiple: true },
  },
  examples: ['sluice odd -d', '.not a request'],
  run: async () => 0,
}

test('every command and every flag is completed by bash itself', (t) => {
  const script = sluice('completion', 'bash').stdout
  const complete = (...words: string[]) => {
    const line = `COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _sluice; echo "\${COMPREPLY[@]}"`
    const ran = spawnSync('bash', ['-c', `${script}\n${line}`], {
      encoding: 'utf8',
      cwd: t.testdir({ 'policy.yaml': '' }),
    })
    t.equal(ran.stderr, '')
    return ran.stdout.trim().split(' ')
  }
  const table = [
    ...readFileSync('src/main.ts', 'utf8').matchAll(/^ {2}['"]?([\w-]+)['"]?: async \(\) => \(await import/gm),
  ].map(([, name]) => name)
  t.ok(table.length > 5)
  t.same(complete('sluice', ''), [...table, 'help'])
  t.same(complete('sluice', 'expl'), ['explain'])
  t.same(complete('sluice', 'check', '--d'), ['--defaults'])
  t.same(complete('sluice', 'check', 'pol'), ['policy.yaml'])
  t.end()
})

test('the scripts of the other shells quote what help texts hold', (t) => {
  t.match(COMPLETIONS.zsh([odd]), `'odd:it'\\''s a [test]: of \\ quoting'`)
  t.match(COMPLETIONS.zsh([odd]), `'--dry-run[what'\\''s \\[this\\]\\: '\\''for'\\'']' '*--file[a file]:PATH:_files'`)
  t.match(COMPLETIONS.fish([odd]), `-l dry-run -s d -d 'what\\'s [this]: \\'for\\''`)
  t.equal(spawnSync('bash', ['-n'], { input: COMPLETIONS.bash([odd]) }).status, 0)
  t.match(sluice('completion', 'tcsh'), { status: 2, stderr: /name one shell: bash, zsh, fish/ })
  t.end()
})

test('the manual page is one that groff formats without a warning', (t) => {
  for (const page of [sluice('man').stdout, manPage([odd], '1.0')]) {
    const ran = spawnSync('groff', ['-man', '-ww', '-Tutf8', '-Kutf8'], { input: page, encoding: 'utf8' })
    // A machine without groff still checks that there is a page.
    if (ran.error === undefined) t.equal(ran.stderr, '')
    t.match(page, /^\.TH SLUICE 1/)
  }
  t.match(manPage([odd], '1.0'), '\\&.not a request')
  t.end()
})

test('an argument too many is wrong usage, not something to overlook', (t) => {
  for (const name of ['serve', 'tap', 'token', 'demo', 'man']) {
    const ran = sluice(name, 'policy/other.yaml')
    t.match([ran.status, ran.stdout, ran.stderr], [2, '', /'policy\/other\.yaml' is one argument too many/], name)
  }
  const given = ['--destination', 'shop.example:80']
  t.match(sluice('explain', ...given), { status: 2, stderr: /--destination: 'shop\.example' is not an IP address/ })
  t.equal(sluice('explain', ...given, '--source', 'command').status, 0, 'commands call names')
  t.end()
})
