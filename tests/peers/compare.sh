#!/usr/bin/env bash
# A relay's accepting side by side with Postfix's, on one machine, interleaved: what counts is the ratio.
#
#   compare.sh    RUNS=5 COUNT=4000 SESSIONS=16 SIZE=4096; MINIMUM=1.0 is the ratio below which it fails
#
# Each side makes COUNT messages durable and answers each, over SESSIONS connections with one message outstanding on
# each. Prints every run, both medians and their ratio. Needs root: Postfix starts as root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export SESSIONS=${SESSIONS:-16} SIZE=${SIZE:-4096}
runs=${RUNS:-5} count=${COUNT:-4000} minimum=${MINIMUM:-1.0}
binaries=${POSTERN_BINARIES:-target/release}

# On a disk: on a memory file system a sync costs nothing, and syncs are what is compared.
folder=$(mktemp -d "${TMPDIR:-/var/tmp}/postern-compare.XXXXXX")
# Postfix leaves root behind and must reach its queue.
chmod 755 "$folder"
relay=
finish() {
    [ -z "$relay" ] || kill "$relay" 2>/dev/null || true
    tests/peers/postfix.sh stop "$folder/postfix" || true
    wait
    rm -rf "$folder"
}
trap finish EXIT
trap 'echo "compare.sh: line $LINENO failed" >&2' ERR

free_ports() {
    python3 - <<'PYTHON'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
print(*(listener.getsockname()[1] for listener in sockets))
PYTHON
}
median() { printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

read -r postfix link mx status hole < <(free_ports)
tests/peers/postfix.sh start "$folder/postfix" "$postfix"

# Mail that is accepted waits in the spool: nothing listens at the smarthost, and the first retry is an hour away.
cat >"$folder/posternd.toml" <<CONFIG
domain = "relay.test"
data = "$folder/relay"
link = "127.0.0.1:$link"
mx = "127.0.0.1:$mx"
status = "127.0.0.1:$status"
smarthost = "127.0.0.1:$hole"
retry_s = [3600, 3600]
CONFIG
"$binaries/posternd" run --config "$folder/posternd.toml" 2>"$folder/relay.log" &
relay=$!
for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$link") 2>/dev/null && break
    sleep 0.1
done

load() {
    "$binaries/linkload" --relay "127.0.0.1:$link" --data "$folder/relay" --sessions "$SESSIONS" --size "$SIZE" \
        --count "$1" | sed -n 's/.* rate=//p'
}

tests/peers/postfix.sh send "$postfix" 200 >/dev/null
load 200 >/dev/null
ours=() theirs=()
for run in $(seq "$runs"); do
    theirs+=("$(tests/peers/postfix.sh send "$postfix" "$count")")
    ours+=("$(load "$count")")
    echo "run $run: postern ${ours[-1]} msg/s, postfix ${theirs[-1]} msg/s"
done
"$binaries/posternd" audit --data "$folder/relay" >/dev/null

awk -v ours="$(median "${ours[@]}")" -v theirs="$(median "${theirs[@]}")" -v minimum="$minimum" -v n="$runs" \
    -v sessions="$SESSIONS" -v size="$SIZE" 'BEGIN {
    ratio = ours / theirs
    printf "%d sessions, %d bytes, median of %d: postern %.1f msg/s, postfix %.1f msg/s, ratio %.2f\n",
        sessions, size, n, ours, theirs, ratio
    exit ratio < minimum
}'
