import { createServer as createTcp, type Server as TcpServer } from 'node:net'
import { createServer as createTls } from 'node:tls'
import { test } from 'tap'
import { type Made, openWorkshop } from '../support/certificates.ts'
import { listening, sClient, sluice } from '../support/tlsFront.ts'

/** Extension numbers as markers, sent by openssl: `-serverinfo` adds an empty extension of that type to the hello. */
const workshop = openWorkshop()
const root = workshop.make('root', { ca: true, names: [] })
const stranger = workshop.make('stranger', { ca: true, names: [] })
const self = workshop.make('self', { issuer: root, names: ['URI:spiffe://farm/self'] })
const front = workshop.make('front', { issuer: root, names: ['DNS:shop.example'] })
const behind = workshop.make('behind', { issuer: root, names: ['DNS:shop.example'] })
const cow = workshop.make('cow', { issuer: root, names: ['URI:spiffe://farm/cow'] })
const wolf = workshop.make('wolf', { issuer: stranger, names: ['URI:spiffe://farm/wolf'] })
const file = ({ certPath, keyPath }: Made) => `{ cert: ${certPath}, key: ${keyPath} }`
const MATERIAL = `
certificates: { self: ${file(self)}, front: ${file(front)} }
trust: { farm: { ca: ${root.certPath} } }
`
const MESH = `${MATERIAL}mesh: { certificate: self, trust: farm, marker: 65400 }\n`

/** A workload that takes TLS with its own certificate, and plain bytes as well; and how many connections it has seen. */
const workload = async (): Promise<{ server: TcpServer; connections: () => number }> => {
  const inTls = createTls({ cert: behind.cert, key: behind.key, ALPNProtocols: ['x'] }, (socket) => {
    socket.on('error', () => {})
    socket.once('data', (chunk) => socket.end(`\necho ${chunk}`))
  })
  inTls.on('tlsClientError', () => {})
  let connections = 0
  const server = createTcp((socket) => {
    connections++
    socket.on('error', () => {})
    socket.once('readable', () => {
      const chunk = socket.read() as Buffer | null
      if (chunk?.[0] !== 22) return socket.end(`\necho ${chunk}`)
      socket.unshift(chunk)
      return inTls.emit('connection', socket)
    })
  })
  return { server: await listening(server), connections: () => connections }
}

const AS_COW = ['-cert', cow.certPath, '-key', cow.keyPath]
const AS_WOLF = ['-cert', wolf.certPath, '-key', wolf.keyPath]
const MARKED = ['-serverinfo', '65400']

interface Case {
  readonly name: string
  readonly policy: string
  readonly args: readonly string[]
  /** What openssl prints, and what it must not. */
  readonly says: RegExp
  readonly outcome: object
  readonly dialled: 0 | 1
}

const BY_MESH = { result: 'forwarded', identity: 'spiffe://farm/cow', tls: { version: 'TLSv1.3' } }
const PASSED = { result: 'forwarded', protocols: ['tls'], tls: undefined, identity: undefined, sni: 'shop.example' }

const check = (name: string, cases: readonly Case[]) =>
  test(name, async (t) => {
    for (const { name, policy, args, says, outcome, dialled } of cases) {
      const { server, connections } = await workload()
      const ours = await sluice(server, policy)
      const text = await sClient(ours.port, ['-CAfile', root.certPath, '-servername', 'shop.example', ...args])
      t.match(text, says, name)
      const { identity, tls, ...last } = await ours.last()
      t.match({ ...last, identity, tls }, outcome, `${name}: the Outcome`)
      t.equal(connections(), dialled, `${name}: connections to the workload`)
      ours.close()
    }
  })

const NOBODY = 'rules: [{ name: nobody, when: { identity: none }, then: { deny: true } }]'

check('the mesh marker by extension number: taken as from the mesh where it is there', [
  {
    name: 'with a client certificate',
    policy: MESH,
    args: [...MARKED, ...AS_COW],
    says: /subject=CN = self\n[\s\S]*\necho hello/,
    outcome: { ...BY_MESH, protocols: ['tls', 'opaque'] },
    dialled: 1,
  },
  {
    name: 'with a protocol of its own that the policy agrees to',
    policy: `${MESH}defaults: { tls: { alpn: [x] } }`,
    args: [...MARKED, ...AS_COW, '-alpn', 'y,x'],
    says: /ALPN protocol: x[\s\S]*\necho hello/,
    outcome: { ...BY_MESH, tls: { alpn: 'x' } },
    dialled: 1,
  },
  {
    name: 'with no protocol in common where policy demands one',
    policy: `${MESH}defaults: { tls: { alpn: [x], alpnRequired: true } }`,
    args: [...MARKED, ...AS_COW, '-alpn', 'y'],
    says: /alert no application protocol/,
    outcome: { result: 'failed', ended: 'tlsFailed', error: { code: 'TLS_NO_APPLICATION_PROTOCOL' } },
    dialled: 0,
  },
  {
    name: 'among other extensions nobody knows',
    policy: MESH,
    args: ['-serverinfo', '65399,65400,65401', ...AS_COW],
    says: /subject=CN = self\n[\s\S]*\necho hello/,
    outcome: BY_MESH,
    dialled: 1,
  },
  {
    name: 'and rules ask who it is',
    policy: `${MESH}${NOBODY}`,
    args: [...MARKED, ...AS_COW],
    says: /\necho hello/,
    outcome: BY_MESH,
    dialled: 1,
  },
  {
    name: 'without a client certificate',
    policy: MESH,
    args: MARKED,
    says: /alert certificate required/,
    outcome: { result: 'failed', ended: 'tlsFailed', error: { message: /showed no certificate/ }, sni: 'shop.example' },
    dialled: 0,
  },
  {
    name: 'with a certificate of a stranger',
    policy: MESH,
    args: [...MARKED, ...AS_WOLF],
    says: /subject=CN = self\n/,
    outcome: { result: 'failed', ended: 'tlsFailed', error: { message: /the client's certificate/ } },
    dialled: 0,
  },
  {
    name: 'in TLS 1.2, which has no place in the mesh',
    policy: MESH,
    args: [...MARKED, ...AS_COW, '-tls1_2'],
    says: /alert protocol version/,
    outcome: { result: 'failed', ended: 'tlsFailed', error: { message: /no TLS version/ } },
    dialled: 0,
  },
])

check('the mesh marker by extension number: passed through as opaque where it is not there', [
  {
    name: 'no extension',
    policy: MESH,
    args: AS_COW,
    says: /subject=CN = behind\n[\s\S]*\necho hello/,
    outcome: PASSED,
    dialled: 1,
  },
  {
    name: 'another number',
    policy: MESH,
    args: ['-serverinfo', '65401', ...AS_COW],
    says: /subject=CN = behind\n[\s\S]*\necho hello/,
    outcome: PASSED,
    dialled: 1,
  },
  {
    name: 'TLS 1.2, and a protocol that only the workload knows',
    policy: MESH,
    args: ['-tls1_2', '-alpn', 'x'],
    says: /subject=CN = behind\n[\s\S]*ALPN protocol: x[\s\S]*\necho hello/,
    outcome: { ...PASSED, alpn: ['x'] },
    dialled: 1,
  },
  {
    name: 'the number, where the policy names none',
    policy: MESH.replace(', marker: 65400', ''),
    args: [...MARKED, ...AS_COW],
    says: /subject=CN = behind\n[\s\S]*\necho hello/,
    outcome: PASSED,
    dialled: 1,
  },
  {
    name: 'the number, where the policy ignores it',
    policy: `${MESH}defaults: { tls: { mesh: ignore } }`,
    args: [...MARKED, ...AS_COW],
    says: /subject=CN = behind\n[\s\S]*\necho hello/,
    outcome: PASSED,
    dialled: 1,
  },
  {
    name: 'and refused where rules demand an identity',
    policy: `${MESH}${NOBODY}`,
    args: AS_COW,
    says: /no peer certificate available/,
    outcome: { result: 'denied', rules: { deny: { name: 'nobody' } } },
    dialled: 0,
  },
])

const MARKED_ENDS = `${MATERIAL}rules:
  - { name: marked, when: { direction: inbound, extension: 65400 }, then: { tls: { terminate: front } } }
`
const MARKED_CLIENTS = MARKED_ENDS.replace('front }', 'front, clientCertificates: { trust: farm } }')

check('a rule by extension number and TLS that ends here', [
  {
    name: 'the extension is there: it ends here',
    policy: MARKED_ENDS,
    args: MARKED,
    says: /subject=CN = front\n[\s\S]*\necho hello/,
    outcome: {
      result: 'forwarded',
      protocols: ['tls', 'opaque'],
      tls: { version: 'TLSv1.3' },
    },
    dialled: 1,
  },
  {
    name: 'in TLS 1.2 as well',
    policy: MARKED_ENDS,
    args: [...MARKED, '-tls1_2'],
    says: /subject=CN = front\n[\s\S]*\necho hello/,
    outcome: { result: 'forwarded', tls: { version: 'TLSv1.2' } },
    dialled: 1,
  },
  {
    name: 'the extension is missing: it is passed through',
    policy: MARKED_ENDS,
    args: [],
    says: /subject=CN = behind\n[\s\S]*\necho hello/,
    outcome: PASSED,
    dialled: 1,
  },
  {
    name: 'another extension: it is passed through',
    policy: MARKED_ENDS,
    args: ['-serverinfo', '65399'],
    says: /subject=CN = behind\n[\s\S]*\necho hello/,
    outcome: PASSED,
    dialled: 1,
  },
  {
    name: 'with the certificate of a client',
    policy: MARKED_CLIENTS,
    args: [...MARKED, ...AS_COW],
    says: /subject=CN = front\n[\s\S]*\necho hello/,
    outcome: { result: 'forwarded', identity: 'spiffe://farm/cow' },
    dialled: 1,
  },
  {
    name: 'a marked client that shows none',
    policy: MARKED_CLIENTS,
    args: MARKED,
    says: /alert certificate required/,
    outcome: { result: 'failed', ended: 'tlsFailed', rules: { 'tls.terminate': { name: 'marked' } } },
    dialled: 0,
  },
  {
    name: 'a rule for the inside by the same extension, and identity',
    policy: `${MARKED_CLIENTS}  - { name: not a pig, when: { extension: 65400, identity: "spiffe://farm/cow" }, then: { deny: true } }\n`,
    args: [...MARKED, ...AS_COW],
    says: /subject=CN = front\n/,
    outcome: { result: 'denied', identity: 'spiffe://farm/cow', rules: { deny: { name: 'not a pig' } } },
    dialled: 0,
  },
])

test('the workshop is swept', async () => workshop.close())
