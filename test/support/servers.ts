import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Lab, Space } from './netns.ts'
import { NODE_PORTS } from './nodePeer.ts'

/** Where the real servers listen, in IPv4 and IPv6. */
export const PORTS = {
  http: 8080,
  h2c: 8081,
  https: 8443,
  mariadb: 3306,
  ssh: 2222,
  smtp: 2525,
  /** haproxy: answers with the addresses that a PROXY protocol header named. */
  accepts: 7100,
  /** haproxy: passes TCP on to the HTTP server of the pod, with a header of version 1 or 2 before it. */
  sendsV1: 7201,
  sendsV2: 7202,
  /** haproxy: answers by itself. */
  answers: 7300,
  /** haproxy: passes HTTP on to the HTTP server of the other side, by IPv4 or IPv6. */
  relays4: 7404,
  relays6: 7406,
  ...NODE_PORTS,
} as const

/** What every server of the lab shares: a certificate, an SSH key, a database directory. Made once. */
export const prepare = async (where: Space, directory: string): Promise<void> => {
  const sh = async (script: string) => {
    const { code, err } = await where.run(['sh', '-ec', script])
    if (code !== 0) throw new Error(`${script} ended with ${code}: ${err}`)
  }
  const name = '-subj /CN=shop.example -addext subjectAltName=DNS:shop.example'
  await Promise.all([
    sh(
      `cd ${directory} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 ${name}`,
    ),
    sh(`cd ${directory} && ssh-keygen -q -t ed25519 -N '' -f id && cp id.pub authorized && mkdir -p /run/sshd`),
    sh(`mariadb-install-db --no-defaults --user=root --skip-test-db --datadir=${directory}/database >/dev/null`),
  ])
}

/** Starts all servers in one namespace and waits until they listen. */
export const startServers = async (space: Space, directory: string, name: string, lab: Lab): Promise<void> => {
  const { pod, peer } = lab
  const other = (space === pod ? peer : pod).addresses
  const own = join(directory, name)
  mkdirSync(own)
  const file = (path: string, text: string): string => {
    const whole = join(own, path)
    writeFileSync(whole, text)
    return whole
  }
  const started = [
    space.start(['nginx', '-p', own, '-c', file('nginx.conf', nginx(directory, own, other))]),
    space.start(['/usr/sbin/sshd', '-D', '-e', '-f', file('sshd.conf', sshd(directory))]),
    space.start(['haproxy', '-db', '-f', file('haproxy.cfg', haproxy(pod.addresses[4], other))]),
    space.start(['sh', '-ec', mariadb(directory, own)]),
    space.start(['sh', '-ec', postfix(own)]),
    space.start([process.execPath, join(import.meta.dirname, 'nodePeer.ts')]),
  ]
  const ended = started.map(async ({ child, finished }) => {
    const { code, out, err } = await finished
    throw new Error(`${child.spawnargs.join(' ')} ended early with ${code}: ${out}${err}`)
  })
  await Promise.race([Promise.all(Object.values(PORTS).map((port) => listening(space, port))), ...ended])
}

/** A connection over loopback, which nothing redirects, tells. */
const listening = (space: Space, port: number): Promise<void> =>
  space.evaluate(
    ({ net }, at) =>
      new Promise<void>((settle) => {
        const attempt = () => {
          const socket = net.connect(at, '127.0.0.1', () => {
            socket.destroy()
            settle()
          })
          socket.on('error', () => setTimeout(attempt, 20))
        }
        attempt()
      }),
    port,
  )

const nginx = (directory: string, own: string, other: Space['addresses']): string => `
daemon off; master_process off; pid ${own}/nginx.pid; error_log stderr warn;
events {}
http {
  access_log off;
  client_body_temp_path ${own}/body; proxy_temp_path ${own}/proxy; fastcgi_temp_path ${own}/f;
  uwsgi_temp_path ${own}/u; scgi_temp_path ${own}/s;
  ssl_certificate ${directory}/cert.pem; ssl_certificate_key ${directory}/key.pem;
  server {
    listen [::]:${PORTS.http} ipv6only=off;
    location / { return 200 "hello over $server_protocol\\n"; }
    location /relay/4/ { proxy_pass http://${other[4]}:${PORTS.http}/by-nginx; }
    location /relay/6/ { proxy_pass http://[${other[6]}]:${PORTS.http}/by-nginx; }
  }
  server { listen [::]:${PORTS.h2c} ipv6only=off http2; location / { return 200 "hello over $server_protocol\\n"; } }
  server { listen [::]:${PORTS.https} ipv6only=off ssl http2; location / { return 200 "hello over $server_protocol\\n"; } }
}
`

const sshd = (directory: string): string => `
Port ${PORTS.ssh}
HostKey ${directory}/id
AuthorizedKeysFile ${directory}/authorized
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
`

const haproxy = (pod: string, other: Space['addresses']): string => `
global
  maxconn 100
defaults
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend accepts
  mode http
  bind :::${PORTS.accepts} v4v6 accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[dst] %[dst_port]"
frontend answers
  mode http
  bind :::${PORTS.answers} v4v6
  http-request return status 200 content-type text/plain lf-string "haproxy over HTTP/%[req.ver]"
listen relays4
  mode http
  option httpclose
  bind :::${PORTS.relays4} v4v6
  server there ${other[4]}:${PORTS.http}
listen relays6
  mode http
  option httpclose
  bind :::${PORTS.relays6} v4v6
  server there [${other[6]}]:${PORTS.http}
listen sendsV1
  mode tcp
  bind :::${PORTS.sendsV1} v4v6
  server pod ${pod}:${PORTS.http} send-proxy
listen sendsV2
  mode tcp
  bind :::${PORTS.sendsV2} v4v6
  server pod ${pod}:${PORTS.http} send-proxy-v2
`

const mariadb = (directory: string, own: string): string => `
cp -r ${directory}/database ${own}/database
exec mariadbd --no-defaults --user=root --datadir=${own}/database --socket=${own}/mariadb.sock --pid-file=${own}/pid \\
  --port=${PORTS.mariadb} --bind-address='*' --skip-name-resolve --skip-grant-tables --innodb-buffer-pool-size=8M
`

const postfix = (own: string): string => `
mkdir -p ${own}/postfix ${own}/queue ${own}/data
chown postfix ${own}/data
cat >${own}/postfix/main.cf <<'END'
compatibility_level = 3.6
queue_directory = ${own}/queue
data_directory = ${own}/data
maillog_file = /dev/stdout
inet_interfaces = all
inet_protocols = all
myhostname = mail.example
mydestination =
mynetworks = 0.0.0.0/0 [::]/0
local_recipient_maps =
alias_maps =
alias_database =
default_transport = discard
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
END
cat >${own}/postfix/master.cf <<'END'
${PORTS.smtp} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
END
exec postfix -c ${own}/postfix start-fg >${own}/postfix.log 2>&1 # it opens /dev/stdout again, which a pipe of Node's is no good for
`
