import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t, { test } from 'tap'
import { isWrong, portsOfLabels, shardLabels } from '../../src/codec/exposedPort.ts'
import { taskHash } from '../../src/codec/taskHash.ts'
import { readDockerfile } from '../../src/gateway/dockerfile.ts'
import { portsOfImage, readInspected } from '../../src/gateway/imagePorts.ts'
import { labelsCommand } from '../../src/gateway/labelsCommand.ts'
import { runCommand } from '../support/runCommand.ts'

const inspected = (exposed: object | undefined, labels: object | undefined = {}) =>
  JSON.stringify([{ Config: { ...(exposed && { ExposedPorts: exposed }), Labels: labels } }])

/** The labels of an image, `name=value`, or what is wrong with it. */
const labelsOf = (text: string, task = 'acmeCo/in'): string[] | string => {
  const image = /^\s*[[{]/.test(text) ? readInspected(text) : readDockerfile(text)
  if (isWrong(image)) return image.wrong
  const ports = portsOfImage(image)
  return isWrong(ports) ? ports.wrong : shardLabels(task, ports).map((label) => label.join('='))
}

test('the host name of a task is its FxHash, without leading zeros', async (t) => {
  const cases: [task: string, hash: string][] = [
    ['acmeCo/in', '383f2c491e2b39'],
    ['acmeCo/task44', '657d768aaf7ae86'],
    ['testing/s3-source', 'd4b08a40cd6dda6d'],
    ['acmeCo/source', 'b4f9985ff9eb6ab4'],
  ]
  for (const [task, hash] of cases) t.equal(taskHash(task), hash)
})

const HOST = 'estuary.dev/hostname=383f2c491e2b39'
const images: readonly (readonly [what: string, text: string, expected: string[] | string])[] = [
  ['no port', inspected(undefined), []],
  ['no labels at all', inspected({ '8080/tcp': {} }, undefined), ['estuary.dev/expose-port=8080', HOST]],
  ['labels null', JSON.stringify([{ Config: { ExposedPorts: null, Labels: null } }]), []],
  ['a bare port is TCP', inspected({ 789: {} }), ['estuary.dev/expose-port=789', HOST]],
  ['UDP is ignored', inspected({ '123/udp': {}, '80/tcp': {} }), ['estuary.dev/expose-port=80', HOST]],
  [
    'public with a protocol, as the documentation has it',
    inspected({ '567/tcp': {} }, { 'dev.estuary.port-proto.567': 'ftp', 'dev.estuary.port-public.567': 'true' }),
    ['estuary.dev/expose-port=567', HOST, 'estuary.dev/port-proto/567=ftp', 'estuary.dev/port-public/567=true'],
  ],
  [
    'public: false says nothing',
    inspected({ '80/tcp': {} }, { 'dev.estuary.port-public.80': 'false', 'dev.estuary.port-proto.80': '' }),
    ['estuary.dev/expose-port=80', HOST],
  ],
  [
    'labels are sorted as texts',
    inspected({ '9/tcp': {}, '10/tcp': {} }),
    ['estuary.dev/expose-port=10', 'estuary.dev/expose-port=9', HOST],
  ],
  [
    'a label for a port that is not exposed is not looked at',
    inspected({ '80/tcp': {} }, { 'dev.estuary.port-public.81': 'whoops', 'dev.estuary.port-proto.81': 'ftp' }),
    ['estuary.dev/expose-port=80', HOST],
  ],
  [
    'a private port may say h2',
    inspected({ '80/tcp': {} }, { 'dev.estuary.port-proto.80': 'h2' }),
    ['estuary.dev/expose-port=80', HOST, 'estuary.dev/port-proto/80=h2'],
  ],
  ...['True', '1', 'yes', ''].map(
    (value) =>
      [
        `public: '${value}'`,
        inspected({ '111/tcp': {} }, { 'dev.estuary.port-public.111': value }),
        `invalid 'dev.estuary.port-public.111' label value: '${value}', must be either 'true' or 'false'`,
      ] as const,
  ),
  ...['whoops', '0', '65536', '-1', '80/sctp', '8080/TCP', ''].map(
    (key) =>
      [
        `the key '${key}'`,
        inspected({ [key]: {} }),
        `invalid key in inspected Config.ExposedPorts '${key}': it is not a port from 1 to 65535`,
      ] as const,
  ),
  [
    'another protocol on a private port names the label and the fix',
    inspected({ '25/tcp': {} }, { 'dev.estuary.port-proto.25': 'smtp' }),
    "dev.estuary.port-proto.25 is 'smtp', but port 25 is not public: only requests by http/1.1 or h2 can show a token. Add LABEL dev.estuary.port-public.25=true, or use one of these two",
  ],
  [
    'a list of protocols is no label value',
    inspected({ '25/tcp': {} }, { 'dev.estuary.port-proto.25': 'h2,http/1.1', 'dev.estuary.port-public.25': 'true' }),
    "dev.estuary.port-proto.25: 'h2,http/1.1' cannot be the value of a shard label: letters, digits and -_+/.=% can",
  ],
  ['no image', '[]', 'expected 1 image, got 0'],
  ['two images', '[{},{}]', 'expected 1 image, got 2'],
  ['not a list', '{}', 'failed to parse `docker inspect` output: it is not a list'],
  ['no Config', '[{}]', 'failed to parse `docker inspect` output: the image has no Config'],
  ['a label that is no text', inspected({}, { a: 1 }), "the value of the label 'a' is not a text"],
  ['a list of ports', inspected([1]), 'Config.ExposedPorts is not a mapping'],
  ['FROM and EXPOSE', 'FROM alpine\nEXPOSE 8080\n', ['estuary.dev/expose-port=8080', HOST]],
  [
    'continuation lines, a comment within, several pairs on a line',
    'FROM alpine\nexpose 567 \\\n  # not this one: 99\n  8080/tcp 53/udp\nLABEL dev.estuary.port-proto.567=ftp \\\n\t  dev.estuary.port-public.567="true" other="a b"\n',
    [
      'estuary.dev/expose-port=567',
      'estuary.dev/expose-port=8080',
      HOST,
      'estuary.dev/port-proto/567=ftp',
      'estuary.dev/port-public/567=true',
    ],
  ],
  [
    'the old form of LABEL, a range, and a variable',
    'ARG P=8001\nFROM alpine\nARG P\nENV Q=81\nEXPOSE $P $Q 7000-7001\nLABEL dev.estuary.port-public.8001 true\n',
    ['7000', '7001', '8001', '81']
      .map((port) => `estuary.dev/expose-port=${port}`)
      .concat(HOST, 'estuary.dev/port-public/8001=true'),
  ],
  [
    'only the last stage counts, and those it is made from',
    'FROM alpine AS base\nEXPOSE 80\nFROM node AS build\nEXPOSE 9999\nFROM base\nLABEL dev.estuary.port-public.80=true\n',
    ['estuary.dev/expose-port=80', HOST, 'estuary.dev/port-public/80=true'],
  ],
  [
    'a here-document is no instruction',
    'FROM alpine\nRUN <<EOF\nEXPOSE 1\nEOF\nEXPOSE 80\n',
    ['estuary.dev/expose-port=80', HOST],
  ],
  [
    'another escape',
    '# escape=`\nFROM alpine\nEXPOSE 80 `\n  81\n',
    ['estuary.dev/expose-port=80', 'estuary.dev/expose-port=81', HOST],
  ],
  [
    'EXPOSE of no port',
    'FROM alpine\nEXPOSE http\n',
    'EXPOSE http: it is not a port from 1 to 65535, or a range of them',
  ],
  [
    'EXPOSE out of range',
    'FROM alpine\nEXPOSE 65536\n',
    'EXPOSE 65536: it is not a port from 1 to 65535, or a range of them',
  ],
  ['an unknown variable', 'FROM alpine\nEXPOSE $P\n', '$P: the Dockerfile gives this variable no value'],
  ['something else', 'hello', 'it is neither what `docker inspect` prints nor a Dockerfile: no FROM in it'],
]

for (const [what, text, expected] of images) {
  test(`labels: ${what}`, async (t) => {
    t.same(labelsOf(text), expected)
  })
}

test('labels and the ports they stand for are the same thing', async (t) => {
  const port = fc.record(
    { port: fc.integer({ min: 1, max: 65_535 }), isPublic: fc.boolean(), protocol: fc.constantFrom('h2', 'http/1.1') },
    { requiredKeys: ['port', 'isPublic'] },
  )
  fc.assert(
    fc.property(fc.uniqueArray(port, { selector: (it) => it.port }), fc.string(), (ports, task) => {
      const found = portsOfLabels(task, shardLabels(task, ports))
      t.same(
        found,
        [...ports].sort((a, b) => (`${a.port}` < `${b.port}` ? -1 : 1)),
      )
    }),
  )
})

test('whatever an image or a Dockerfile says, it is read or refused in words', async (t) => {
  const word = fc.constantFrom(
    'FROM',
    'a',
    '\n',
    'EXPOSE',
    '80',
    'LABEL',
    '=',
    '"',
    "'",
    '\\',
    '$',
    '${',
    '}',
    '<<EOF',
    '/',
    '#',
    ' ',
  )
  const texts = fc.oneof(
    fc.string(),
    fc.array(word).map((found) => found.join(' ')),
    fc.json().map((it) => `[${it}]`),
  )
  fc.assert(
    fc.property(texts, (text) => {
      const found = labelsOf(text)
      t.ok(Array.isArray(found) || found.length > 0)
    }),
  )
})

test('sluice labels prints labels, words, JSON, and a part of a policy', async (t) => {
  const path = join(t.testdir(), 'Dockerfile')
  writeFileSync(
    path,
    'FROM alpine\nEXPOSE 8080 567\nLABEL dev.estuary.port-proto.567=ftp dev.estuary.port-public.567=true\n',
  )
  const text = await runCommand(labelsCommand, [path, '--task', 'acmeCo/in', '--domain', 'dp.example.test'])
  t.equal(text.code, 0)
  t.equal(
    text.out,
    `estuary.dev/expose-port=567
estuary.dev/expose-port=8080
estuary.dev/hostname=383f2c491e2b39
estuary.dev/port-proto/567=ftp
estuary.dev/port-public/567=true

port 567 is public: anybody may call it; ALPN ftp; at 383f2c491e2b39-567.dp.example.test:443
port 8080 is private: every request needs a token; ALPN h2 or http/1.1; at https://383f2c491e2b39-8080.dp.example.test/
`,
  )
  const json = await runCommand(labelsCommand, [path, '--task', 'acmeCo/in', '--json'])
  t.same(JSON.parse(json.out)[0], { name: 'estuary.dev/expose-port', value: '567' })
  const policy = await runCommand(labelsCommand, [path, '--task', 'acmeCo/in', '--policy'])
  t.match(policy.out, '"567": { public: true, protocol: ftp }\n        "8080": {}')
  const missing = await runCommand(labelsCommand, ['/nowhere', '--task', 'a'])
  t.same([missing.code, missing.err], [1, '/nowhere: it cannot be read (ENOENT)\n'])
  await t.rejects(runCommand(labelsCommand, [path]), { message: /--task is missing/ })
  await t.rejects(runCommand(labelsCommand, ['--task', 'a']), { message: 'expected one FILE' })
})

t.end()
