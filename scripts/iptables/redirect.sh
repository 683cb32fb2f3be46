#!/usr/bin/env bash
# Sends the TCP connections that enter and leave this network namespace to Sluice, by iptables.
#
#   redirect.sh print  [flags]   shows the rules, changes nothing
#   redirect.sh apply  [flags]   puts them in place: all or nothing; a second time changes nothing
#   redirect.sh check  [flags]   says whether they are in place
#   redirect.sh remove [flags]   takes them away and leaves everything else as it is
#
# Flags, each with its value as the next word (ports: 22,8000-8010; CIDRs: 10.0.0.0/8,fd00::/8, sorted to their family):
#
#   --inbound-port P          the inbound listener of the proxy (4143)
#   --outbound-port P         the outbound listener of the proxy (4140)
#   --admin-port P            health and metrics, reached directly (4191; '' for none)
#   --proxy-uid N             the user the proxy runs as, whose connections go out directly (2102; '' for none)
#   --proxy-gid N             the same by group
#   --proxy-mark N            the same by the mark it sets on its connections (sockets.mark in its policy)
#   --skip-inbound-ports L    ports of the workload to leave alone
#   --skip-outbound-ports L   ports elsewhere to leave alone
#   --skip-inbound-cidrs L    callers to leave alone
#   --skip-outbound-cidrs L   destinations to leave alone
#   --only-inbound-ports L    redirect these ports of the workload and no others
#   --only-outbound-ports L   redirect these ports elsewhere and no others
#   --ipv6 auto|on|off        auto: where the kernel has IPv6, and then it must work (auto)
#   --backend auto|nft|legacy which of the kernel's two packet filters; auto: the one in use (auto)
#
# Exit codes: 0 done; 1 it did not work, or check found something; 2 wrong usage.
set -euf -o pipefail
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=rules.sh
. "$here/rules.sh"

INBOUND_PORT=4143 OUTBOUND_PORT=4140 ADMIN_PORT=4191 PROXY_UID=2102 PROXY_GID='' PROXY_MARK=''
SKIP_INBOUND_PORTS='' SKIP_OUTBOUND_PORTS='' SKIP_INBOUND_CIDRS='' SKIP_OUTBOUND_CIDRS=''
ONLY_INBOUND_PORTS='' ONLY_OUTBOUND_PORTS='' IPV6=auto BACKEND=auto

main() {
  local verb=${1:-}
  shift || true
  case $verb in
    print | apply | check | remove) ;;
    -h | --help) usage; exit 0 ;;
    '') wrong 'say what to do: print, apply, check or remove' ;;
    *) wrong "'$verb' is not one of print, apply, check, remove" ;;
  esac
  read_flags "$@"
  "do_$verb"
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$here/redirect.sh"; }
wrong() { echo "redirect: $*" >&2; exit 2; }
failed() { echo "redirect: $*" >&2; exit 1; }

# --- Flags: a mistake ends here, with the name of the flag, and never becomes a rule ---------------------------------

read_flags() {
  local flag value
  while [ $# -gt 0 ]; do
    flag=$1
    [ $# -ge 2 ] || wrong "$flag needs a value"
    value=$2
    shift 2
    case $flag in
      --inbound-port | --outbound-port) one_port "$flag" "$value" ;;
      --admin-port) [ -z "$value" ] || one_port "$flag" "$value" ;;
      --proxy-uid | --proxy-gid)
        [[ $value =~ ^[0-9]{0,10}$ ]] || wrong "$flag: '$value' is not a number; 'id -u NAME' tells it" ;;
      --proxy-mark)
        [[ $value =~ ^([1-9][0-9]{0,9}|0x[0-9a-fA-F]{1,8})?$ ]] || wrong "$flag: '$value' is not a number such as 81 or 0x51" ;;
      --skip-inbound-ports | --skip-outbound-ports) port_list "$flag" "$value" ;;
      --only-inbound-ports | --only-outbound-ports) port_list "$flag" "$value" ;;
      --skip-inbound-cidrs | --skip-outbound-cidrs) cidr_list "$flag" "$value" ;;
      --ipv6) [[ $value =~ ^(auto|on|off)$ ]] || wrong "$flag: '$value' is not one of auto, on, off" ;;
      --backend) [[ $value =~ ^(auto|nft|legacy)$ ]] || wrong "$flag: '$value' is not one of auto, nft, legacy" ;;
      *) wrong "unknown flag '$flag'; redirect.sh --help lists them" ;;
    esac
    flag=${flag#--}
    flag=${flag//-/_}
    printf -v "${flag^^}" %s "$value"
  done
  [ "$INBOUND_PORT" != "$OUTBOUND_PORT" ] || wrong "--inbound-port and --outbound-port are both $INBOUND_PORT"
  [ -n "$PROXY_UID$PROXY_GID$PROXY_MARK" ] ||
    wrong '--proxy-uid, --proxy-gid and --proxy-mark are all empty: the proxy would be sent to itself'
}

one_port() { port_number "$2" || wrong "$1: '$2' is not a port from 1 to 65535"; }
port_number() { [[ $1 =~ ^[1-9][0-9]{0,4}$ ]] && [ "$1" -le 65535 ]; }

port_list() {
  local item low high
  [[ ,$2, != *,,* || -z $2 ]] || wrong "$1: '$2' has an empty item between its commas"
  for item in ${2//,/ }; do
    low=${item%%[-:]*}
    high=${item#*[-:]}
    if ! port_number "$low" || ! port_number "$high"; then
      wrong "$1: '$item' is neither a port from 1 to 65535 nor a range such as 8000-8010"
    fi
    [ "$low" -le "$high" ] || wrong "$1: the range '$item' is empty: it starts after its end"
  done
  [[ $2 != *[[:space:]]* ]] || wrong "$1: '$2' has a space in it; separate ports with commas only"
}

cidr_list() {
  local item
  [[ ,$2, != *,,* || -z $2 ]] || wrong "$1: '$2' has an empty item between its commas"
  [[ $2 != *[[:space:]]* ]] || wrong "$1: '$2' has a space in it; separate CIDRs with commas only"
  for item in ${2//,/ }; do
    cidr4 "$item" || cidr6 "$item" || wrong "$1: '$item' is neither an IPv4 nor an IPv6 address or CIDR"
  done
}

cidr4() {
  local byte='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
  [[ $1 =~ ^$byte\.$byte\.$byte\.$byte(/(3[0-2]|[12]?[0-9]))?$ ]]
}

cidr6() {
  local address=${1%%/*} bits=${1#*/} colons
  [ "$bits" != "$1" ] || bits=128
  [[ $bits =~ ^[0-9]{1,3}$ && $bits -le 128 && $address =~ ^[0-9a-fA-F:]+$ && $address == *:* ]] || return 1
  [[ $address != *:::* && $address != *::*::* && ! $address =~ [0-9a-fA-F]{5} ]] || return 1
  [[ ! $address =~ (^:[^:]|[^:]:$) ]] || return 1
  colons=${address//[^:]/}
  if [[ $address == *::* ]]; then [ ${#colons} -le 8 ]; else [ ${#colons} = 7 ]; fi
}

# --- The system: which families, which packet filter, which program --------------------------------------------------

families() {
  echo 4
  case $IPV6 in
    on) echo 6 ;;
    auto) if [ -e /proc/net/if_inet6 ]; then echo 6; fi ;;
  esac
}

# program 4|6 nft|legacy ''|-save|-restore: its name. Older systems have it without the backend in the name.
program() {
  local name=iptables version
  [ "$1" = 4 ] || name=ip6tables
  if command -v "$name-$2$3" >/dev/null; then echo "$name-$2$3"; return; fi
  version=$("$name" -V 2>/dev/null) || return 1
  case $2$version in
    nft*nf_tables*) echo "$name$3" ;;
    legacy*nf_tables*) return 1 ;;
    legacy*) echo "$name$3" ;;
    *) return 1 ;;
  esac
}

# saved 4|6 nft|legacy: what is in the table now. A legacy table that is not there is not asked for: asking makes it.
saved() {
  local names=/proc/net/ip_tables_names save
  [ "$1" = 4 ] || names=/proc/net/ip6_tables_names
  if [ "$2" = legacy ] && ! grep -qs '^nat$' "$names"; then return 0; fi
  save=$(program "$1" "$2" -save) || return 1
  "$save" -t nat 2> >(grep -v '^# Warning' >&2)
}

restore() {
  local name
  name=$(program "$1" "$2" -restore) || failed "no $2 iptables-restore for IPv$1 on this system: apt-get install iptables"
  "$name" -w 10 --noflush "${@:3}"
}

# The filter in use: legacy where its nat table has rules already; else nft where it works; else legacy.
choose_backend() {
  if [ "$BACKEND" != auto ]; then echo "$BACKEND"; return; fi
  local family
  for family in 4 6; do
    if saved $family legacy 2>/dev/null | grep -q '^-A '; then echo legacy; return; fi
  done
  if saved 4 nft >/dev/null 2>&1; then echo nft; else echo legacy; fi
}

# --- What can be done ------------------------------------------------------------------------------------------------

do_print() {
  local family
  for family in $(families); do
    echo "# IPv$family, for $([ "$family" = 4 ] && echo iptables-restore || echo ip6tables-restore) --noflush"
    transaction "$family" ''
  done
}

do_apply() {
  local backend family before4 before6='' before unchanged=yes what
  backend=$(choose_backend)
  before4=$(saved 4 "$backend") || failed "cannot read the IPv4 $backend tables (is this root, with CAP_NET_ADMIN?)"
  if with_ipv6; then
    before6=$(saved 6 "$backend") || failed "cannot read the IPv6 $backend tables; without IPv6 in this pod use --ipv6 off"
    # Both are tried before either is changed; what only shows when it is done is undone below.
    transaction 6 "$before6" | restore 6 "$backend" --test || failed 'the IPv6 rules were refused; nothing was changed'
  fi
  transaction 4 "$before4" | restore 4 "$backend" || failed 'the IPv4 rules were refused; nothing was changed'
  if with_ipv6 && ! transaction 6 "$before6" | restore 6 "$backend"; then
    undo 4 "$backend" "$before4"
    failed 'the IPv6 rules were refused; IPv4 is as it was before'
  fi
  for family in $(families); do
    before=before$family
    same_rules "${!before}" "$(saved "$family" "$backend")" || unchanged=''
  done
  remove_from "$(other "$backend")" >/dev/null
  if [ -n "$unchanged" ]; then what='already in place for'; else what='applied to'; fi
  what+=" IPv4$(if with_ipv6; then echo ' and IPv6'; fi) ($backend)"
  echo "redirect: $what: outbound to port $OUTBOUND_PORT, inbound to port $INBOUND_PORT"
}

with_ipv6() { families | grep -q 6; }
other() { if [ "$1" = nft ]; then echo legacy; else echo nft; fi; }
same_rules() { [ "$(grep '^-A' <<<"$1")" = "$(grep '^-A' <<<"$2")" ]; }

# undo 4|6 nft|legacy SAVED: our chains and what leads to them are what they were when SAVED was taken.
undo() {
  local now
  now=$(saved "$1" "$2")
  if holds "$3" "$IN"; then restoration "$3" "$now"; else removal "$now"; fi | restore "$1" "$2"
}

do_check() {
  local backend family now wrong=0
  backend=$(choose_backend)
  for family in $(families); do
    now=$(saved "$family" "$backend") || failed "cannot read the IPv$family $backend tables (is this root, with CAP_NET_ADMIN?)"
    check_chain "$now" PREROUTING "$IN" "$INBOUND_PORT" || wrong=1
    check_chain "$now" OUTPUT "$OUT" "$OUTBOUND_PORT" || wrong=1
  done
  [ $wrong = 0 ] || exit 1
  echo "redirect: in place ($backend)"
}

check_chain() {
  local first
  if ! grep -q "^-A $3 .*-j REDIRECT --to-ports $4\$" <<<"$1"; then
    echo "redirect: IPv$family has no rule of $3 to port $4: run apply" >&2
    return 1
  fi
  first=$(grep "^-A $2 " <<<"$1" | grep -vm1 -e '-p udp' || true)
  [[ $first != *"-j $3" ]] || return 0
  if [ -z "$(ours "$1" "$3")" ]; then
    echo "redirect: nothing in IPv$family $2 leads to $3: run apply" >&2
  else
    echo "redirect: in IPv$family $2 a rule stands before ours and may take connections away: $first" >&2
  fi
  return 1
}

do_remove() {
  local backend found=''
  for backend in nft legacy; do
    [[ $BACKEND == auto || $BACKEND == "$backend" ]] || continue
    found+=$(remove_from "$backend")
  done
  if [ -n "$found" ]; then echo "redirect: removed ($found)"; else echo 'redirect: nothing to remove'; fi
}

# remove_from nft|legacy: in both families, whatever --ipv6 says now; prints the backend where there was something.
remove_from() {
  local family now found=''
  for family in 4 6; do
    now=$(saved $family "$1" 2>/dev/null) || continue
    if holds "$now" "$IN" || holds "$now" "$OUT"; then
      removal "$now" | restore $family "$1" || failed "the IPv$family $1 rules could not be removed"
      found=$1
    fi
  done
  echo "$found"
}

main "$@"
