# The rules of the redirect, for redirect.sh, which sets the variables named here in capitals. Nothing in this file
# touches the system: every function prints.

# Two chains in the table nat. A connection passes nat once, with its first packet, and only TCP enters the chains.
IN=SLUICE_INBOUND
OUT=SLUICE_OUTBOUND
JUMP_IN="PREROUTING -p tcp -m comment --comment \"sluice: what calls in\" -j $IN"
JUMP_OUT="OUTPUT -p tcp -m comment --comment \"sluice: what the workload calls\" -j $OUT"

# rules 4|6: both chains in the language of iptables-restore. The first rule that fits decides.
rules() {
  local family=$1 loopback cidr ports
  if [ "$family" = 4 ]; then loopback=127.0.0.0/8; else loopback=::1/128; fi

  echo "# What calls in. RETURN means: not redirected."
  echo ":$IN - [0:0]"
  rule "$IN" "-m addrtype ! --dst-type LOCAL" "only passes through this host" RETURN
  for cidr in $(of_family "$family" "$SKIP_INBOUND_CIDRS"); do
    rule "$IN" "-s $cidr" "callers to leave alone" RETURN
  done
  for ports in $(port_groups "$ADMIN_PORT,$SKIP_INBOUND_PORTS"); do
    rule "$IN" "-p tcp -m multiport --dports $ports" "ports to leave alone" RETURN
  done
  redirect_rules "$IN" "$ONLY_INBOUND_PORTS" "$INBOUND_PORT" "to the inbound listener"

  echo "# What the workload calls."
  echo ":$OUT - [0:0]"
  [ -z "$PROXY_UID" ] || rule "$OUT" "-m owner --uid-owner $PROXY_UID" "the proxy itself, or it would call itself" RETURN
  [ -z "$PROXY_GID" ] || rule "$OUT" "-m owner --gid-owner $PROXY_GID" "the proxy itself, by its group" RETURN
  [ -z "$PROXY_MARK" ] || rule "$OUT" "-m mark --mark $PROXY_MARK" "the proxy itself, by its mark" RETURN
  rule "$OUT" "-d $loopback" "loopback stays inside" RETURN
  echo "# The workload calls an address of its own: it meets there what anybody would meet who calls in."
  rule "$OUT" "-m addrtype --dst-type LOCAL" "its own address, as if from outside" "$IN" -g
  for cidr in $(of_family "$family" "$SKIP_OUTBOUND_CIDRS"); do
    rule "$OUT" "-d $cidr" "destinations to leave alone" RETURN
  done
  for ports in $(port_groups "$SKIP_OUTBOUND_PORTS"); do
    rule "$OUT" "-p tcp -m multiport --dports $ports" "ports to leave alone" RETURN
  done
  redirect_rules "$OUT" "$ONLY_OUTBOUND_PORTS" "$OUTBOUND_PORT" "to the outbound listener"
}

# rule CHAIN MATCH WHY TARGET [-g]: one rule that says in the tables why it is there.
rule() { echo "-A $1 $2 -m comment --comment \"sluice: $3\" ${5:--j} $4"; }

# redirect_rules CHAIN ONLY_PORTS LISTENER WHY: all ports, or only these.
redirect_rules() {
  local ports
  if [ -z "$2" ]; then
    echo "-A $1 -p tcp -m comment --comment \"sluice: $4\" -j REDIRECT --to-ports $3"
    return
  fi
  for ports in $(port_groups "$2"); do
    echo "-A $1 -p tcp -m multiport --dports $ports -m comment --comment \"sluice: $4\" -j REDIRECT --to-ports $3"
  done
}

# port_groups 22,8000-8010: 22,8000:8010, in lines of at most 15 ports, as many as one rule holds; a range counts as two.
port_groups() {
  local port group='' slots=0 size
  for port in ${1//,/ }; do
    port=${port/-/:}
    case $port in *:*) size=2 ;; *) size=1 ;; esac
    if [ $((slots + size)) -gt 15 ]; then
      echo "$group"
      group='' slots=0
    fi
    group=${group:+$group,}$port
    slots=$((slots + size))
  done
  [ -z "$group" ] || echo "$group"
}

# of_family 4|6 CIDRS: those of the list which belong to the family; the colon tells.
of_family() {
  local cidr
  for cidr in ${2//,/ }; do
    case $1$cidr in
      6*:*) echo "$cidr" ;;
      4*:*) ;;
      4*) echo "$cidr" ;;
    esac
  done
}

# transaction 4|6 SAVED: one whole change that leaves exactly these rules, whatever of ours SAVED (iptables-save) holds.
transaction() {
  echo '*nat'
  rules "$1"
  jumps "$2" "$JUMP_IN" "$IN"
  jumps "$2" "$JUMP_OUT" "$OUT"
  echo COMMIT
}

# jumps SAVED WANTED CHAIN: nothing when the one wanted jump is there; otherwise the old ones go and it comes first.
jumps() {
  local old
  old=$(ours "$1" "$3")
  if [ "$old" = "-A $2" ]; then return; fi
  [ -z "$old" ] || sed 's/^-A /-D /' <<<"$old"
  echo "-I ${2/ / 1 }"
}

# removal SAVED: one whole change that takes away what of ours SAVED holds, and nothing else.
removal() {
  local chain
  echo '*nat'
  for chain in "$IN" "$OUT"; do ours "$1" "$chain" | sed 's/^-A /-D /'; done
  for chain in "$IN" "$OUT"; do if holds "$1" "$chain"; then echo "-F $chain"; fi; done
  for chain in "$IN" "$OUT"; do if holds "$1" "$chain"; then echo "-X $chain"; fi; done
  echo COMMIT
}

# restoration BEFORE NOW: one whole change back to what of ours BEFORE holds.
restoration() {
  local chain
  echo '*nat'
  grep -E "^(:|-A )($IN|$OUT) " <<<"$1"
  for chain in "$IN" "$OUT"; do jumps "$2" "$(ours "$1" "$chain" | sed 's/^-A //')" "$chain"; done
  echo COMMIT
}

# ours SAVED CHAIN: the rules outside our chains that lead into CHAIN.
ours() { grep -E "^-A [^ ]+ .*-j $2( |$)" <<<"$1" | grep -vE "^-A ($IN|$OUT) " || true; }
holds() { grep -q "^:$2 " <<<"$1"; }
