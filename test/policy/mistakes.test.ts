import { test } from 'tap'
import { formatDiagnostic } from '../../src/policy/diagnostic.ts'
import { parsePolicy } from '../../src/policy/parsePolicy.ts'

/** What is printed of documents; of one text, the file is called p.yaml. */
const mistakes = (...texts: string[]): string => {
  const files = texts.map((text, i) => ({ path: texts.length === 1 ? 'p.yaml' : `p${i + 1}.yaml`, text }))
  const parsed = parsePolicy(files)
  const diagnostics = parsed.is === 'policy' ? parsed.warnings : parsed.diagnostics
  // Which keys a mapping has grows with the program; the tests of those keys are elsewhere.
  return diagnostics
    .map((it) => `${formatDiagnostic(it)}\n`)
    .join('')
    .replace(/expected a mapping \([^)]*\)/g, 'expected a mapping (…)')
}

const rule = (when: string, says = 'deny: true') =>
  `apiVersion: sluice/v1\nrules:\n  - { name: x, when: { ${when} }, then: { ${says} } }\n`

/** The message of the only mistake, without its place. */
const message = (text: string): string =>
  /^[^\n]*?: (?:error|warning): ([^\n]*)\n(?: {2}[^\n]*\n)*$/.exec(mistakes(text))?.[1] ?? mistakes(text)

test('all mistakes of a document at once, each with its place, its line and a caret', (t) => {
  t.equal(
    mistakes(`apiVersion: sluice/v1
defaults:
  detect: { timeout: 5, maxByte: 16KiB, onTimeout: opaqe }
rules:
  - name: one
    when: { direction: outbund, port: [25, "90-80"], sni: *.shop.example }
    then: { deny: yes }
  - name: two
    when:
      sni: "*.x.y"
      patth: /x
    then: { detect: { timeout: 3s } }
  - name: two
    then: {}
  - then:
certificates:
  shop: { cert: tls/shop.pem }
listener: {}
admin: 3
`),
    `p.yaml:3:22: error: expected a time with its unit, such as 500ms, 5s, 2m or 1h, not 5
    detect: { timeout: 5, maxByte: 16KiB, onTimeout: opaqe }
                       ^
p.yaml:3:25: error: unknown key "maxByte"; did you mean "maxBytes"?
    detect: { timeout: 5, maxByte: 16KiB, onTimeout: opaqe }
                          ^^^^^^^
p.yaml:3:52: error: expected opaque, deny or http1, not "opaqe"; did you mean "opaque"?
    detect: { timeout: 5, maxByte: 16KiB, onTimeout: opaqe }
                                                     ^^^^^
p.yaml:6:24: error: expected inbound or outbound, not "outbund"; did you mean "outbound"?
      when: { direction: outbund, port: [25, "90-80"], sni: *.shop.example }
                         ^^^^^^^
p.yaml:6:44: error: "90-80" ends before it begins; write 80-90
      when: { direction: outbund, port: [25, "90-80"], sni: *.shop.example }
                                             ^^^^^^^
p.yaml:6:59: error: a text that begins with * needs quotes: "*.shop.example"
      when: { direction: outbund, port: [25, "90-80"], sni: *.shop.example }
                                                            ^^^^^^^^^^^^^^
p.yaml:7:19: error: expected true or false, not "yes"
      then: { deny: yes }
                    ^^^
p.yaml:10:7: error: sni is known only once the first bytes are read, too late for detect.timeout, which is decided when the connection is accepted, before a byte is read
        sni: "*.x.y"
        ^^^
p.yaml:11:7: error: unknown key "patth"; did you mean "path"?
        patth: /x
        ^^^^^
p.yaml:13:11: error: rule "two" is already defined at p.yaml:8
    - name: two
            ^^^
p.yaml:14:5: error: this rule decides nothing; say something under "then"
      then: {}
      ^^^^
p.yaml:15:5: error: "name" is missing
    - then:
      ^^^^^
p.yaml:15:10: error: expected a mapping (…), not nothing
    - then:
           ^
p.yaml:17:3: error: "key" is missing
    shop: { cert: tls/shop.pem }
    ^^^^
p.yaml:18:1: error: unknown key "listener"; did you mean "listeners"?
  listener: {}
  ^^^^^^^^
p.yaml:19:8: error: expected a mapping (…), not 3
  admin: 3
         ^
`,
  )
  t.end()
})

test('a tab in the line keeps the caret under its letter', (t) => {
  const [, line, carets] = mistakes('apiVersion: sluice/v1\nlog: {\tlevl: info }\n').split('\n')
  t.same([line, carets], ['  log: {\tlevl: info }', '        \t^^^^'])
  t.equal(line?.indexOf('levl'), carets?.indexOf('^'))
  t.end()
})

test('what is wrong with the YAML is said in its place, and other files are still read', (t) => {
  const cases: [string, string][] = [
    [
      'rules: [a, b',
      'p.yaml:1:13: error: Flow sequence in block collection must be sufficiently indented and end with a ]\n  rules: [a, b\n              ^\n',
    ],
    ['a: 1\na: 2\n', 'p.yaml:2:1: error: this key is written twice; the second would replace the first\n  a: 2\n  ^\n'],
    [
      'apiVersion: sluice/v1\nlog:\n\tlevel: info\n',
      'p.yaml:3:1: error: a tab indents this line; YAML takes spaces only\n  \tlevel: info\n  ^\n',
    ],
    ['just text', 'p.yaml:1:1: error: expected a mapping, not "just text"\n  just text\n  ^^^^^^^^^\n'],
  ]
  for (const [text, expected] of cases) t.ok(mistakes(text).includes(expected), mistakes(text))
  const bomb = `apiVersion: sluice/v1\nlog: &a { level: info }\nx: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\ny: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nz: [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n`
  t.match(mistakes(bomb), /p\.yaml:1:1: error: Excessive alias count/)
  t.match(mistakes('rules: [', rule('prt: 80')), /p1\.yaml:1:9: error: [\s\S]*p2\.yaml:3:24: error: unknown key "prt"/)
  t.equal(mistakes('', '# only a comment\n', '---\n---\n', rule('port: 80')), '', 'empty documents say nothing')
  t.end()
})

test('what several files may not both say', (t) => {
  const head = 'apiVersion: sluice/v1\n'
  const cases: [string, RegExp][] = [
    [
      'rules:\n  - { name: x, then: { deny: true } }',
      /^p2\.yaml:3:13: error: rule "x" is already defined at p1\.yaml:3\n/,
    ],
    ['log: { level: info }', /^p2\.yaml:2:1: error: section "log" is already defined at p1\.yaml:2\n/],
    [
      'defaults: { limits: { idle: 1h } }',
      /^p2\.yaml:2:29: error: the default of limits\.idle is already set at p1\.yaml:2\n/,
    ],
    [
      'certificates: { a: { cert: a, key: b } }',
      /^p2\.yaml:2:17: error: "a" in certificates is already defined at p1\.yaml:2\n/,
    ],
  ]
  for (const [text, expected] of cases) t.match(mistakes(head + text, head + text), expected)
  t.equal(
    mistakes(`${head}certificates: { a: { cert: a, key: b } }`, `${head}certificates: { b: { cert: a, key: b } }`),
    '',
  )
  t.equal(mistakes(`${head}---\n${rule('port: 80')}`), '', 'several documents in one file')
  t.end()
})

const VALUES: [string, string][] = [
  [rule('port: 0'), 'expected a whole number from 1 to 65535, not 0'],
  [rule('port: 1.5'), 'expected a whole number from 1 to 65535, not 1.5'],
  [rule('port: http'), 'expected a port from 1 to 65535, or a range such as 8000-8999, not "http"'],
  [rule('port: true'), 'expected a port from 1 to 65535, or a range such as 8000-8999, not true'],
  [rule('port: 1-70000'), 'expected a port from 1 to 65535, or a range such as 8000-8999, not "1-70000"'],
  [
    rule('destination: 10.0.0.5/8'),
    `"10.0.0.5/8" has bits set after its prefix; write the network's first address, or the address alone`,
  ],
  [rule('destination: 10.0.0.0/33'), '"10.0.0.0/33" is not an IP address or network, such as 10.0.0.0/8 or fd00::/8'],
  [rule('destination: 010.0.0.1'), '"010.0.0.1" is not an IP address or network, such as 10.0.0.0/8 or fd00::/8'],
  [rule('destination: "db.example:5432"'), '"db.example:5432" is not address:port; for names, use sni or authority'],
  [rule('destination: "10.0.0.1:0"'), '"10.0.0.1:0": a port is a number from 1 to 65535'],
  [rule('peer: "10.0.0.1:80"'), '"10.0.0.1:80" is not an IP address or network, such as 10.0.0.0/8 or fd00::/8'],
  [rule('peer: 10'), 'expected an IP address or network, not 10'],
  [rule('sni: "a*.example"'), '"a*.example": a * stands only for a whole first label, as in "*.shop.example"'],
  [rule('sni: "https://x"'), '"https://x" is not a host name or "*." and a host name'],
  [rule('sni: ""'), '"" is not a host name or "*." and a host name'],
  [rule('authority: "http://x"'), '"http://x" is not an authority: leave scheme and path out'],
  [rule('method: get'), 'methods are case-sensitive: write GET'],
  [rule('method: "GET /"'), '"GET /" is not an HTTP method'],
  [rule('path: orders'), '"orders": a path begins with /'],
  [rule('path: "/a?b=c"'), '"/a?b=c": the query is not part of the path; leave it out'],
  [rule('path: /a**'), '"/a**": ** stands for whole segments, as in /orders/**'],
  [rule('protocol: http'), 'expected tls, http1, http2 or opaque, not "http"; did you mean "http1"?'],
  [rule('header: { "a b": { present: true } }'), '"a b" is not a header name'],
  [rule('header: { a: { present: true, equals: b } }'), 'expected exactly one of present, equals, matches'],
  [rule('header: { a: {} }'), 'expected exactly one of present, equals, matches'],
  [rule('header: { a: present }'), 'expected a mapping (…), not "present"'],
  [rule('header: [a]'), 'expected a mapping from names, not a list'],
  [rule('extension: 70000'), 'expected a whole number from 0 to 65535, not 70000'],
  [
    rule('port: 80', 'upstream: { address: "db:1" }'),
    '"db:1" is not "original" or an IP address and port, such as 10.0.0.5:8080 or "[fd00::5]:8080"',
  ],
  [
    rule('port: 80', 'upstream: { address: [original, "1.1.1.1:1"] }'),
    'the original destination cannot be one of several; write it alone',
  ],
  [rule('port: 80', 'upstream: { address: [] }'), 'expected at least one address'],
  [rule('port: 80', 'upstream: { proxyProtocol: v3 }'), 'expected none, v1 or v2, not "v3"; did you mean "v1"?'],
  [
    rule('port: 80', 'limits: { idle: never }'),
    'expected a time with its unit, such as 500ms, 5s, 2m or 1h, not "never"',
  ],
  [rule('port: 80', 'limits: { idle: 30d }'), '30d is not between 100ms and 24d'],
  [rule('port: 80', 'detect: { maxBytes: 2MiB }'), '2MiB is not between 32B and 1MiB'],
  [
    rule('port: 80', 'detect: { maxBytes: 16K }'),
    'expected a size with its unit, such as 512B, 16KiB or 1MiB, not "16K"',
  ],
  [
    rule('path: /a', 'limits: { idle: 1h }'),
    'path is known only with each HTTP request, too late for limits.idle, which is decided once TLS, if Sluice terminates it, is set up',
  ],
  ['apiVersion: sluice/v2', 'expected sluice/v1, not "sluice/v2"; did you mean "sluice/v1"?'],
  ['rules: []', 'apiVersion is missing; begin the document with "apiVersion: sluice/v1"'],
  ['apiVersion: sluice/v1\nrules: 3', 'expected a list, not 3'],
  ['apiVersion: sluice/v1\nrules: [3]', 'expected a mapping (…), not 3'],
  [
    'apiVersion: sluice/v1\nrules: [{ name: "", then: { deny: true } }]',
    'expected a name for the rule, not an empty text',
  ],
  [
    'apiVersion: sluice/v1\ncertificates: { a: { cert: "-----BEGIN CERTIFICATE-----", key: b } }',
    'expected the path of a PEM file, not its contents: keys are never inline',
  ],
  [
    'apiVersion: sluice/v1\nlisteners: { outbound: { address: "localhost:1" } }',
    '"localhost:1" is not an IP address and port, such as 127.0.0.1:4140 or "[::1]:4140"',
  ],
  [
    'apiVersion: sluice/v1\nlisteners: { outbound: { destination: "1.1.1.1:0" } }',
    '"1.1.1.1:0" is not an IP address and port, such as 10.0.0.5:8080 or "[fd00::5]:8080"',
  ],
  ['apiVersion: sluice/v1\nlimits: { drain: 2h }', '2h is not between 0ms and 1h'],
]

test('what is wrong with each kind of value', (t) => {
  for (const [text, expected] of VALUES) t.equal(message(text), expected, text)
  t.end()
})

test('paths in a document are relative to its file', (t) => {
  const text = 'apiVersion: sluice/v1\ncertificates: { a: { cert: tls/a.pem, key: /run/a.key } }'
  t.match(parsePolicy([{ path: '/etc/sluice/p.yaml', text }]), {
    policy: { sections: { certificates: { a: { cert: '/etc/sluice/tls/a.pem', key: '/run/a.key' } } } },
  })
  t.end()
})

test('a file that is no text, or has one endless line, is shown in part and without its control characters', (t) => {
  const endless = [
    'x'.repeat(100_000),
    '\u001b[2J'.repeat(5_000),
    `rules: ${'['.repeat(20_000)}`,
    `token:${' '.repeat(100_000)}`,
    'token:equals:['.repeat(10_000),
    'token:"'.repeat(10_001),
  ]
  for (const text of endless)
    for (const shown of mistakes(text).split('\n')) {
      t.ok(shown.length < 500, `${shown.length} letters in a line`)
      t.notMatch(shown, /[\u0000-\u0008\u000b-\u001f]/)
    }
  const long = `apiVersion: sluice/v1 # ${'x'.repeat(300)}\nrules: [${' '.repeat(300)}{ nam: x }]\n`
  const [, line = '', caret = ''] = /unknown key "nam".*\n(.*)\n(.*)\n/.exec(mistakes(long)) ?? []
  t.equal(line.slice(caret.indexOf('^'), caret.lastIndexOf('^') + 1), 'nam', 'the caret stands under the place')
  t.end()
})
