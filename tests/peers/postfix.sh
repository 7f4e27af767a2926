#!/usr/bin/env bash
# Postfix, accepting to its durable queue: the peer that a relay is measured against.
#
#   postfix.sh start FOLDER PORT    own configuration, queue and processes below FOLDER; returns when it answers
#   postfix.sh send PORT COUNT      COUNT messages over SESSIONS connections (16) of SIZE bytes (4096); prints msg/s
#   postfix.sh stop FOLDER
#
# Every setting is as shipped, save those that would slow Postfix for reasons of this test alone: no look-ups, no
# limits for one client, no pauses. What is accepted is discarded from the queue, beside the accepting.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

configure() {
    local folder=$1 port=$2
    mkdir -p "$folder/etc" "$folder/queue" "$folder/data"
    chmod 755 "$folder" "$folder/queue"
    chown postfix "$folder/data"
    cat >"$folder/etc/main.cf" <<CONFIG
compatibility_level = 3.6
queue_directory = $folder/queue
data_directory = $folder/data
maillog_file = $folder/log
maillog_file_prefixes = $folder
myhostname = peer.test
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
default_transport = discard:
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
default_process_limit = 200
CONFIG
    # The services that accepting and discarding take; each line as in the master.cf that Debian ships.
    cat >"$folder/etc/master.cf" <<CONFIG
127.0.0.1:$port inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
CONFIG
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

case ${1:-} in
start)
    configure "$2" "$3"
    postfix -c "$2/etc" start >"$2/start" 2>&1 || { cat "$2/start" >&2; exit 1; }
    for _ in $(seq 100); do
        answers "$3" && exit 0
        sleep 0.1
    done
    cat "$2/log" >&2
    echo "postfix does not answer at port $3" >&2
    exit 1
    ;;
send)
    started=$EPOCHREALTIME
    smtp-source -d -s "${SESSIONS:-16}" -m "$3" -l "${SIZE:-4096}" -f sender@source.test -t to@peer.test 127.0.0.1:"$2"
    awk -v count="$3" -v from="$started" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f\n", count / (to - from) }'
    ;;
stop)
    postfix -c "$2/etc" stop >/dev/null 2>&1
    ;;
*)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
