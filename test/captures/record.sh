#!/usr/bin/env bash
# Records the captures beside this file anew: real programs, unmodified, on the loopback of a network namespace of their
# own. Needs root and the Debian packages named in NEEDED; the captures are kept in git, so that only recording needs
# them. After recording, write the verdicts anew, and look at what changed in them:
#   bin/sluice replay --json --config test/captures/policy.yaml test/captures/*.pcap* >test/captures/verdicts.jsonl
set -euo pipefail

NEEDED='tcpdump:tcpdump dumpcap:wireshark-common curl:curl openssl:openssl nghttp:nghttp2-client nghttpd:nghttp2-server
  nginx:nginx mariadbd:mariadb-server mariadb:mariadb-client sshd:openssh-server ssh:openssh-client
  smtp-sink:postfix swaks:swaks redis-server:redis-server redis-cli:redis-tools psql:postgresql-client nc:netcat-openbsd'

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
node=$root/node_modules/.bin/node

if [ "${1:-}" != inside ]; then
  for each in $NEEDED; do
    command -v "${each%%:*}" >/dev/null || { echo "record: ${each%%:*} is missing: apt-get install ${each##*:}" >&2; exit 2; }
  done
  exec unshare --net --mount --pid --fork --mount-proc "$0" inside
fi

# Segments as on a real network, not the 64 KiB that loopback makes of them.
ip link set lo up mtu 1500
ip link set lo gso_max_segs 1

work=$(mktemp -d)
chmod 755 "$work"
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
exec 2>>"$work/errors"
trap 'cat "$work/errors" >&3' ERR
exec 3>&1

waitFor() { # PORT
  for _ in $(seq 100); do nc -z 127.0.0.1 "$1" 2>/dev/null && sleep 0.5 && return; sleep 0.1; done
  echo "record: nothing listens on port $1" >&3
  cat "$work/errors" >&3
  exit 1
}

# record NAME PORT COMMAND…: what COMMAND does on PORT, as NAME. OPTIONS are tcpdump's. Again, if packets were lost.
record() {
  local name=$1 port=$2
  shift 2
  for _ in 1 2 3 4 5; do
    : >"$work/errors"
    tcpdump ${OPTIONS:--i lo} -U --immediate-mode -B 16384 -w "$work/$name" "tcp port $port" &
    local dump=$!
    until grep -q 'listening on' "$work/errors"; do sleep 0.1; done
    "$@" >/dev/null </dev/null || echo "record: $name: the program said $?" >&3
    sleep 0.5
    kill -INT $dump
    wait $dump || true
    grep -q '^0 packets dropped by kernel' "$work/errors" && break
  done
  cp "$work/$name" "$here/$name"
  echo "$name: $(stat -c %s "$here/$name") bytes" >&3
}

# A certificate for the names that the clients ask for.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=shop.example \
  -addext 'subjectAltName=DNS:shop.example,DNS:*.shop.example' -keyout "$work/key.pem" -out "$work/cert.pem"

# HTTP: nginx for HTTP/1 and TLS, nghttpd for HTTP/2 without TLS.
mkdir "$work/www"
echo '<p>shop' >"$work/www/index.html"
cat >"$work/nginx.conf" <<EOF
daemon off; pid $work/nginx.pid; error_log $work/nginx.log;
events {}
http {
  access_log off; client_body_temp_path $work/t1; proxy_temp_path $work/t2; fastcgi_temp_path $work/t3;
  uwsgi_temp_path $work/t4; scgi_temp_path $work/t5;
  server { listen 127.0.0.1:8080; listen [::1]:8080; root $work/www; }
  server { listen 127.0.0.1:8443 ssl http2; root $work/www; ssl_certificate $work/cert.pem; ssl_certificate_key $work/key.pem; }
}
EOF
nginx -c "$work/nginx.conf" &
nghttpd --no-tls -d "$work/www" 8081 &
waitFor 8080
waitFor 8443
waitFor 8081
record curl-http1.pcap 8080 curl -s http://127.0.0.1:8080/ http://127.0.0.1:8080/missing?reason=none
record curl-http1-post.pcap 8080 curl -s -H 'Expect: 100-continue' --data 'item=1' http://127.0.0.1:8080/order
OPTIONS='-i lo --time-stamp-precision=nano' record curl-http1-ipv6-nano.pcap 8080 curl -s -g 'http://[::1]:8080/'
OPTIONS='-i any -y LINUX_SLL2' record curl-http1-cooked2.pcap 8080 curl -s http://127.0.0.1:8080/
OPTIONS='-i any -y LINUX_SLL' record curl-http1-cooked1.pcap 8080 curl -s http://127.0.0.1:8080/
record curl-upgrade-websocket.pcap 8080 curl -s -H 'Connection: Upgrade' -H 'Upgrade: websocket' http://127.0.0.1:8080/prices
record curl-http2.pcap 8081 curl -s --http2-prior-knowledge http://127.0.0.1:8081/
record nghttp.pcap 8081 nghttp http://127.0.0.1:8081/index.html
record curl-https.pcap 8443 curl -sk --connect-to shop.example:8443:127.0.0.1:8443 https://shop.example:8443/
record curl-https-http1.pcap 8443 curl -sk --http1.1 --connect-to www.shop.example:8443:127.0.0.1:8443 https://www.shop.example:8443/
record openssl-tls12.pcap 8443 openssl s_client -connect 127.0.0.1:8443 -tls1_2 -noservername
record openssl-alpn.pcap 8443 openssl s_client -connect 127.0.0.1:8443 -servername live.shop.example -alpn sluice/1,http/1.1
# Node's ClientHello has a post-quantum key share, and so is longer than a segment.
record node-tls-post-quantum.pcap 8443 "$node" -e "
  require('tls').connect({ port: 8443, host: '127.0.0.1', servername: 'node.shop.example', ALPNProtocols: ['h2'],
    rejectUnauthorized: false }, function () { this.end() })"
record curl-plain-to-tls-port.pcap 8443 curl -s http://127.0.0.1:8443/
record curl-refused.pcap 8999 curl -s http://127.0.0.1:8999/ || true
record scan.pcap 8080 nc -z 127.0.0.1 8080
record nc-half-close.pcap 8080 sh -c 'printf "GET / HT" | nc -N 127.0.0.1 8080'
record byte-by-byte.pcap 8080 bash -c 'exec 5<>/dev/tcp/127.0.0.1/8080; for c in G E T " " / " " H T T P / 1 . 0; do printf %s "$c" >&5; sleep 0.01; done; printf "\r\n\r\n" >&5; cat <&5'

# Servers that speak first.
mkdir "$work/mysql" /run/sshd 2>/dev/null || mkdir -p /run/sshd
chown mysql "$work/mysql"
mariadb-install-db --user=mysql --datadir="$work/mysql" --auth-root-authentication-method=normal --skip-test-db >/dev/null
mariadbd --no-defaults --user=mysql --datadir="$work/mysql" --port=3306 --bind-address=127.0.0.1 --socket="$work/mysql/s" &
waitFor 3306
record mysql.pcap 3306 mariadb --no-defaults --protocol=tcp -h 127.0.0.1 -u root --skip-ssl -e 'select 1'
ssh-keygen -q -t ed25519 -N '' -f "$work/host"
cat >"$work/sshd_config" <<EOF
Port 2222
ListenAddress 127.0.0.1
HostKey $work/host
PasswordAuthentication no
EOF
/usr/sbin/sshd -D -f "$work/sshd_config" &
waitFor 2222
record ssh.pcap 2222 ssh -p 2222 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null nobody@127.0.0.1 true
smtp-sink -u nobody 127.0.0.1:2525 10 &
waitFor 2525
record smtp.pcap 2525 swaks --silent 2 --server 127.0.0.1:2525 --from a@shop.example --to b@shop.example --helo client.shop.example

# Clients that speak first, in protocols of their own.
redis-server --port 6379 --bind 127.0.0.1 --save '' --daemonize no --dir "$work" >/dev/null &
waitFor 6379
record redis.pcap 6379 redis-cli -h 127.0.0.1 set greeting hello
postgres=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
mkdir "$work/postgres"
chown postgres "$work/postgres"
su postgres -c "$postgres/initdb -D $work/postgres -A trust" >/dev/null
su postgres -c "$postgres/postgres -D $work/postgres -p 5432 -k $work/postgres -c listen_addresses=127.0.0.1" >/dev/null &
waitFor 5432
record psql.pcap 5432 psql 'host=127.0.0.1 user=postgres sslmode=disable' -c 'select 1'
record psql-asks-for-tls.pcap 5432 psql 'host=127.0.0.1 user=postgres sslmode=prefer' -c 'select 1'

# gRPC without TLS: HTTP/2 whose both sides may speak first.
cat >"$work/echo.proto" <<'EOF'
syntax = "proto3";
package shop;
message Text { string text = 1; }
service Echo { rpc Say(Text) returns (Text); }
EOF
cat >"$work/grpc.cjs" <<EOF
const grpc = require('$root/node_modules/@grpc/grpc-js')
const { loadSync } = require('$root/node_modules/@grpc/proto-loader')
const { shop } = grpc.loadPackageDefinition(loadSync('$work/echo.proto'))
if (process.argv[2] === 'server') {
  const server = new grpc.Server()
  server.addService(shop.Echo.service, { say: (call, done) => done(null, call.request) })
  server.bindAsync('127.0.0.1:50051', grpc.ServerCredentials.createInsecure(), () => {})
} else {
  const client = new shop.Echo('127.0.0.1:50051', grpc.credentials.createInsecure())
  client.say({ text: 'hello' }, () => client.close())
}
EOF
"$node" "$work/grpc.cjs" server &
waitFor 50051
record grpc-js.pcap 50051 "$node" "$work/grpc.cjs" client

# The other file format, and what a capture can lack.
dumpcap -q -i lo -f 'tcp port 8080' -w "$work/several.pcapng" &
dump=$!
sleep 1
curl -s http://127.0.0.1:8080/ >/dev/null
curl -s -g 'http://[::1]:8080/v6' >/dev/null
sleep 1
kill -INT $dump
wait $dump || true
cp "$work/several.pcapng" "$here/several.pcapng"
OPTIONS='-i lo -s 100' record cut-packets.pcap 8080 curl -s -H "X-Long: $(printf 'x%.0s' $(seq 200))" http://127.0.0.1:8080/
tcpdump -r "$here/curl-http1.pcap" -w "$here/no-beginning.pcap" 'tcp[tcpflags] & tcp-syn == 0'
head -c -40 "$here/curl-https.pcap" >"$here/truncated.pcap"
chmod 644 "$here"/*.pcap*
