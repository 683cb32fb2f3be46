import { join } from 'node:path'
import { test } from 'tap'
import { type Carried, loadPump, type Pump } from '../../src/native/pump.ts'

const ROW = 11 // numbers of a connection, see pump.ts

/** A pump whose addon is played by the test: it says what waits to be taken, and calls as the pump's thread does. */
const played = (folder: string) => {
  const accepted: number[] = []
  const ended: number[] = []
  const open: number[] = []
  const give = (ids: number[], rows: Float64Array, hosts: string[]): number => {
    const taken = ids.splice(0)
    for (const [row, id] of taken.entries()) {
      rows.set([id, 0, 1, 1, 1000 + id, 80, 0, 0, 0, 0, 0], row * ROW)
      hosts[2 * row] = `192.0.2.${id}`
      hosts[2 * row + 1] = '192.0.2.200'
    }
    return taken.length
  }
  let call = () => {}
  const addon = {
    pumpStart: (_: number, hear: () => void) => {
      call = hear
      return 0
    },
    send: () => 0,
    pumpHold: () => {},
    pumpListen: () => 0,
    pumpTakeAccepted: (rows: Float64Array, hosts: string[]) => give(accepted, rows, hosts),
    pumpTakeEnded: (rows: Float64Array, hosts: string[]) => give(ended, rows, hosts),
    pumpTotal: () => {},
    pumpList: (_: number, rows: Float64Array, hosts: string[]) => give([...open], rows, hosts),
  }
  Object.assign(globalThis, { playedAddon: addon })
  const loaded = loadPump(() => Promise.reject(new Error('nothing is relayed here')), join(folder, 'addon.cjs'))
  if (loaded.is === 'missing') throw new Error(loaded.reason)
  return { pump: loaded.value, accepted, ended, open, call: () => call() }
}

const heardBy = (pump: Pump, then: (it: string) => void = () => {}): string[] => {
  const heard: string[] = []
  const hear = (what: string, { peer }: { readonly peer: Carried['peer'] }) => {
    heard.push(`${what} ${peer.host}:${peer.port}`)
    then(heard.at(-1)!)
  }
  pump.listen(0, {
    destination: { host: '192.0.2.200', port: 80 },
    maxConnections: 10,
    asked: (connection) => hear('asked', connection),
    wantsEach: () => true,
    ended: ({ connection }) => hear('ended', connection!),
  })
  return heard
}

test('what is accepted while an end is being heard is asked about, though the pump does not call for it', (t) => {
  const { pump, accepted, ended, call } = played(t.testdir({ 'addon.cjs': 'module.exports = globalThis.playedAddon' }))
  const heard = heardBy(pump, (it) => it.startsWith('ended') && accepted.push(7))
  ended.push(1)
  call()
  t.same(heard, ['ended 192.0.2.1:1001', 'asked 192.0.2.7:1007'])
  t.end()
})

test('whoever hears of an end may look at the open connections, and the next end is still the right one', (t) => {
  const { pump, ended, open, call } = played(t.testdir({ 'addon.cjs': 'module.exports = globalThis.playedAddon' }))
  const heard = heardBy(pump, () => t.equal(pump.carried()[0]?.peer.host, '192.0.2.9'))
  open.push(9, 8)
  ended.push(1, 2)
  call()
  t.same(heard, ['ended 192.0.2.1:1001', 'ended 192.0.2.2:1002'])
  t.end()
})
