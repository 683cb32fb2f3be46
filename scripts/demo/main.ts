/** `npm run demo`: what Sluice does, shown on real connections between two network namespaces of this machine. */
import { join, resolve } from 'node:path'
import { labIsPossible, openLab } from '../../test/support/netns.ts'
import { QUIET, type Scene, tell } from './scene.ts'
import { startServers } from './servers.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const say = (text = ''): void => void process.stdout.write(`${text}\n`)

if (!(await labIsPossible())) {
  say('The demo needs a network namespace of its own. Run it as root, or allow user namespaces:')
  say('  sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=1000')
  process.exit(1)
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1)) // and the lab goes with us

const isRoot = process.getuid?.() === 0
say('Sluice stands between a workload and everything it talks to. This demo builds such a place on your machine,')
say('sends real connections through it, and shows for each one what Sluice saw, which rule decided, how it ended.')
say()
say(
  `1. A pod and the world outside: two network namespaces and a cable between them (${isRoot ? 'as root' : 'without root, in a user namespace'}).`,
)
const lab = await openLab()
const { pod, peer } = lab
say(`     the pod      ${pod.addresses[4]}  ${pod.addresses[6]}   the workload, and Sluice beside it`)
say(`     the outside  ${peer.addresses[4]}  ${peer.addresses[6]}   web, mail and secure web servers, and callers`)
await Promise.all([startServers(pod, lab.directory), startServers(peer, lab.directory)])

say('2. The redirect: iptables rules in the pod hand every TCP connection to Sluice. Neither side notices.')
say(`     ${(await lab.redirect('apply')).trim()}`)
say('3. The proxy: sluice serve --config policy/default.yaml')
const proxy = await lab.serve('', join(ROOT, 'policy/default.yaml'))
say()

const at = (where: typeof pod, family: 4 | 6): string => (family === 6 ? `[${where.addresses[6]}]` : where.addresses[4])
const curl = ['curl', ...QUIET]
const secure = ['-k', '--resolve', `shop.example:443:${at(peer, 4)}`]

const SCENES: readonly Scene[] = [
  { title: 'a web page, HTTP/1.1', from: 'workload', command: [...curl, `http://${at(peer, 4)}/`] },
  {
    title: 'the same over IPv6, HTTP/2',
    from: 'workload',
    command: [...curl, '--http2-prior-knowledge', `http://${at(peer, 6)}:8080/`],
  },
  {
    title: 'a secure web page: its name is read, its content is not',
    from: 'workload',
    command: [...curl, ...secure, 'https://shop.example/'],
  },
  {
    title: 'mail, where the server speaks first: nobody waits for anybody',
    from: 'workload',
    command: [
      ...curl,
      `smtp://${at(peer, 4)}`,
      '--mail-from',
      'me@pod.example',
      '--mail-rcpt',
      'you@outside.example',
      '-T',
      '-',
    ],
    input: 'Subject: hello\r\n\r\nhello\r\n',
  },
  {
    title: 'the metadata service of a cloud, which the policy denies',
    from: 'workload',
    command: [...curl, 'http://169.254.169.254/latest/meta-data/'],
  },
  { title: 'a port where nobody listens', from: 'workload', command: [...curl, '-k', `https://${at(peer, 4)}:444/`] },
  { title: 'a web page of the workload, HTTP/1.1', from: 'outside', command: [...curl, `http://${at(pod, 4)}/`] },
  {
    title: 'its secure web page, over IPv6',
    from: 'outside',
    command: [...curl, '-k', '--resolve', `pod.example:443:${at(pod, 6)}`, 'https://pod.example/'],
  },
]

for (const scene of SCENES) {
  proxy.forget()
  const { out, err } = await (scene.from === 'workload' ? pod : peer).run(scene.command, { input: scene.input ?? '' })
  say(tell(scene, (out || err).trim(), await proxy.outcome(() => true), ROOT))
}

say('That was everything. Stopping the proxy, taking the rules away, and the namespaces with them.')
await proxy.stop()
say(`     ${(await lab.redirect('remove')).trim()}`)
await lab.close()
say()
say(
  'From here: README.md says how it works, docs/policy.md what a policy can say, docs/redirect.md all about the rules.',
)
