import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { type Test, test } from 'tap'
import { type Changing, keepPolicy, loadPolicy, problemsOf, type Reload } from '../../src/admin/livePolicy.ts'
import { systemClock } from '../../src/net/clock.ts'

const document = (name: string) => `apiVersion: sluice/v1\nrules:\n  - { name: ${name}, then: { deny: true } }\n`

/** Keeps the policy of `paths`, and gives what happens, one after the other. */
const keep = async (t: Test, paths: readonly string[], prepare?: Changing['prepare']) => {
  const loaded = await loadPolicy(paths)
  if (loaded.is !== 'policy') throw new Error(problemsOf(loaded).join('\n'))
  const happened: Reload[] = []
  let wake: (() => void) | undefined
  const live = keepPolicy(paths, loaded, systemClock, {
    ...(prepare && { prepare }),
    reloaded: (reload) => {
      happened.push(reload)
      wake?.()
    },
  })
  // The watch does not keep the process alive; the test does.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => {
    clearInterval(alive)
    live.close()
  })
  const next = async (): Promise<Reload> => {
    while (happened.length === 0) await new Promise<void>((resolve) => (wake = resolve))
    return happened.shift()!
  }
  return { live, next, names: () => live.policy().rules.map(({ ref }) => ref.name) }
}

test('a file edited in place, replaced by renaming, added and removed: each is read again', async (t) => {
  const directory = t.testdir({
    '10-a.yaml': document('a'),
    '20-b.yml': document('b'),
    'notes.txt': 'not read',
    '.hidden.yaml': ':',
  })
  const { next, names } = await keep(t, [directory])
  t.same(names(), ['a', 'b'])
  writeFileSync(join(directory, '20-b.yml'), document('edited'))
  t.equal((await next()).is, 'replaced')
  t.same(names(), ['a', 'edited'])
  for (const name of ['renamed', 'renamed twice']) {
    writeFileSync(join(directory, '.20-b.yml.swp'), document(name))
    renameSync(join(directory, '.20-b.yml.swp'), join(directory, '20-b.yml'))
    t.equal((await next()).is, 'replaced')
    t.same(names(), ['a', name])
  }
  writeFileSync(join(directory, '15-c.yaml'), document('c'))
  t.equal((await next()).is, 'replaced')
  t.same(names(), ['a', 'c', 'renamed twice'])
  rmSync(join(directory, '10-a.yaml'))
  t.equal((await next()).is, 'replaced')
  t.same(names(), ['c', 'renamed twice'])
})

test('a ConfigMap is swapped as kubelet does it, more than once', async (t) => {
  const directory = t.testdir({ '..v1': { 'a.yaml': document('one') } })
  symlinkSync('..v1', join(directory, '..data'))
  symlinkSync('..data/a.yaml', join(directory, 'a.yaml'))
  const { next, names } = await keep(t, [directory])
  t.same(names(), ['one'])
  for (const version of ['two', 'three']) {
    mkdirSync(join(directory, `..${version}`))
    writeFileSync(join(directory, `..${version}`, 'a.yaml'), document(version))
    symlinkSync(`..${version}`, join(directory, '..data_tmp'))
    renameSync(join(directory, '..data_tmp'), join(directory, '..data'))
    t.equal((await next()).is, 'replaced')
    t.same(names(), [version])
  }
})

test('a single file, and a link to a directory that is swapped', async (t) => {
  const directory = t.testdir({
    one: { 'a.yaml': document('one') },
    two: { 'a.yaml': document('two') },
    'file.yaml': document('file'),
  })
  symlinkSync('one', join(directory, 'current'))
  const { next, names } = await keep(t, [join(directory, 'file.yaml'), join(directory, 'current')])
  t.same(names(), ['file', 'one'])
  symlinkSync('two', join(directory, 'next'))
  renameSync(join(directory, 'next'), join(directory, 'current'))
  t.equal((await next()).is, 'replaced')
  t.same(names(), ['file', 'two'])
  writeFileSync(join(directory, 'file.yaml'), document('edited'))
  t.equal((await next()).is, 'replaced')
  t.same(names(), ['edited', 'two'])
})

test('a document that is not good is reported and the last good one stays, until it is mended', async (t) => {
  const directory = t.testdir({ 'a.yaml': document('good') })
  const { live, next, names } = await keep(t, [directory])
  writeFileSync(join(directory, 'a.yaml'), document('bad').replace('deny', 'dny'))
  const kept = await next()
  t.match(kept, { is: 'kept', problems: [/a\.yaml:3:26: error: unknown key "dny"; did you mean "deny"\?/] })
  t.same(names(), ['good'])
  t.same(await live.reload(), { is: 'unchanged' })
  rmSync(join(directory, 'a.yaml'))
  t.match(await next(), { is: 'kept', problems: [/no \.yaml file in this directory/] })
  t.same(names(), ['good'])
  writeFileSync(join(directory, 'a.yaml'), document('mended'))
  t.match(await live.reload(), { is: 'replaced', policy: { rules: [{ ref: { name: 'mended' } }] } })
  t.same(names(), ['mended'])
})

test('a policy counts once all that it needs is ready, in the same turn, and not at all when that fails', async (t) => {
  const directory = t.testdir({ 'a.yaml': document('old') })
  const preparing: { name: string; ready: () => void; fail: () => void }[] = []
  let inUse = 'old'
  const { live, next, names } = await keep(
    t,
    [directory],
    ({ rules }) =>
      new Promise((resolve, reject) => {
        const name = rules[0]!.ref.name!
        const use = () => {
          inUse = name
          t.same(names(), ['old'], 'the policy changes with it, not before')
        }
        preparing.push({ name, ready: () => resolve(use), fail: () => reject(new Error('no certificates today')) })
      }),
  )
  const asked = async () => {
    while (preparing.length === 0) await turn()
    return preparing.shift()!
  }
  writeFileSync(join(directory, 'a.yaml'), document('failing'))
  const failing = await asked()
  t.same([names(), inUse], [['old'], 'old'])
  failing.fail()
  t.match(await next(), { is: 'kept', problems: ['no certificates today'] })

  writeFileSync(join(directory, 'a.yaml'), document('new'))
  const good = await asked()
  t.same([names(), inUse], [['old'], 'old'])
  good.ready()
  t.equal((await next()).is, 'replaced')
  t.same([names(), inUse], [['new'], 'new'])

  writeFileSync(join(directory, 'a.yaml'), document('too late'))
  const late = await asked()
  const looking = live.reload()
  live.close()
  late.ready()
  await looking
  t.same([names(), inUse], [['new'], 'new'], 'nothing changes once it is closed')
})

test('what cannot be read is said with its path', async (t) => {
  const directory = t.testdir({ empty: {} })
  const loaded = await loadPolicy([join(directory, 'absent.yaml'), join(directory, 'empty')])
  t.match(loaded, {
    is: 'mistaken',
    unreadable: [/absent\.yaml: there is no such file or directory/, /empty: no \.yaml file/],
  })
})
