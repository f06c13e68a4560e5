#!/usr/bin/env bash
# The quickest start: one process, one request, one file.
#
# Starts `up` in a temporary directory, posts two messages, waits until they are in a file, shows
# it, stops, and lets `verify` say that nothing is missing. Leaves nothing behind.
#
#   examples/quickstart.sh
#   BINARY=./async-data-processor examples/quickstart.sh     # if it is not on the PATH

set -euo pipefail

BINARY=${BINARY:-async-data-processor}
WORK=$(mktemp -d)
PID=
export STATE_DIR=$WORK/state DATA_OUTPUT_DIR=$WORK/output LOG_FORMAT=json
export PORT=0 SCHEDULER_PORT=0 SPACESHIP_PORT=0

clean_up() {
    if [[ -n $PID ]]; then
        kill -KILL "$PID" 2>/dev/null || true
        wait "$PID" 2>/dev/null || true
    fi
    rm -rf "$WORK"
}
trap clean_up EXIT

# Calls a command again until it succeeds, as long as the process lives.
await() {
    until "$@"; do
        if ! kill -0 "$PID" 2>/dev/null; then
            cat "$WORK/log" >&2
            exit 1
        fi
        sleep 0.05
    done
}

is_listening() {
    # PORT=0 took a free port; the log says which.
    URL=$(sed -n 's/.*"service":"server","url":"\([^"]*\)".*/\1/p' "$WORK/log")
    [[ -n $URL ]]
}

is_in_files() { "$BINARY" verify 2>/dev/null | grep -q 'accepted 2 = in files 2 '; }

"$BINARY" up 2>"$WORK/log" &
PID=$!
await is_listening
echo "listening on $URL"

curl --fail-with-body -sS -d '[
    {"timestamp": "2026-11-22T07:30:00Z", "value": "hello"},
    {"timestamp": "2026-11-22T07:30:05Z", "value": "world", "source": "quickstart"}
]' "$URL/message"
echo

await is_in_files
for file in "$DATA_OUTPUT_DIR"/*/*/*.jsonl; do
    echo "${file#"$WORK/"}:"
    cat "$file"
done

# Like Ctrl-C: it stops taking, finishes what it has, and says so.
kill -TERM "$PID"
wait "$PID"
PID=
"$BINARY" verify
