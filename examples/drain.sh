#!/usr/bin/env bash
# Measures what a consumer costs that drains a backlog, and what it costs when there is none.
#
#   cargo build --release && BINARY=target/release/async-data-processor examples/drain.sh 1000000
#   SHARDS_COUNT=64 examples/drain.sh 100000 1000000 10000000
#
# For each number of messages it fills a state directory in a temporary directory through a server,
# stops that, starts a consumer, and reads the kernel's account of it. What starting costs is taken
# off. A million messages need 130 MB of disk.

set -euo pipefail

BINARY=${BINARY:-async-data-processor}
IDLE_SECONDS=${IDLE_SECONDS:-10}
if (($# == 0)); then
    echo 'usage: drain.sh MESSAGES…' >&2
    exit 2
fi
PART=
DIRECTORY=
trap '[[ -z $PART ]] || kill "$PART"; rm -rf "$DIRECTORY"' EXIT

# CPU nanoseconds of a process: those of its threads.
cpu_ns() { cat /proc/"$PART"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f", sum }'; }

anonymous_kib() { awk '/^RssAnon/ { print $2 }' /proc/"$PART"/status; }

start() {
    "$BINARY" "$@" 2>>"$DIRECTORY/log" &
    PART=$!
}

stop() {
    kill -TERM "$PART"
    wait "$PART"
    PART=
}

batches() { "$BINARY" history --output csv | awk -F, 'NR > 1 { sum += $3 } END { print sum + 0 }'; }

for messages in "$@"; do
    DIRECTORY=$(mktemp -d)
    export STATE_DIR=$DIRECTORY/state DATA_OUTPUT_DIR=$DIRECTORY/out LOG_FORMAT=json PORT=0
    start message-consumer
    until grep -qs 'took over shards' "$DIRECTORY/log"; do sleep 0.05; done
    sleep 0.2
    starting_ns=$(cpu_ns)
    stop
    start server
    until url=$(grep '"listening"' "$DIRECTORY/log" | grep -o 'http://[0-9.:]*'); do sleep 0.05; done
    "$BINARY" bench --url "$url" --no-drain --count "$messages" --connections 64 >/dev/null
    server_kib=$(anonymous_kib)
    stop
    start message-consumer
    # The history counts messages in committed batches.
    until (($(batches) >= messages)); do sleep 0.2; done
    draining_ns=$(cpu_ns)
    consumer_kib=$(anonymous_kib)
    sleep 1
    before_ns=$(cpu_ns)
    sleep "$IDLE_SECONDS"
    idle_ns=$(($(cpu_ns) - before_ns))
    awk -v messages="$messages" -v used="$((draining_ns - starting_ns))" -v idle="$idle_ns" \
        -v seconds="$IDLE_SECONDS" -v server="$server_kib" -v consumer="$consumer_kib" 'BEGIN {
        printf "%d messages: %.3f CPU s per million, idle %.2f %% of a core, ", \
            messages, used / messages / 1000, idle / seconds / 1e7
        printf "anonymous KiB %d server, %d consumer\n", server, consumer
    }'
    stop
    rm -rf "$DIRECTORY"
done
