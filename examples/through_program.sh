#!/usr/bin/env bash
# Sends each batch through a program of yours, and what the program refuses to the dead letters.
#
#   examples/through_program.sh
#
# Needs nothing but the binary: it stores messages in a temporary directory, has a consumer bring
# them through an awk program that refuses one of them, shows the dead letter, mends the program,
# and sends the message again.

set -euo pipefail

BINARY=${BINARY:-async-data-processor}
WORK=$(mktemp -d)
export STATE_DIR=$WORK/state DATA_OUTPUT_DIR=$WORK/out SHARDS_COUNT=1 LOG=error
# A batch that fails is split at once: this program does not fail by chance.
export BATCH_ATTEMPTS=1
CONSUMER=
trap '[[ -z $CONSUMER ]] || kill "$CONSUMER"; rm -rf "$WORK"' EXIT

# A program gets a batch's lines on stdin, and its stdout goes into the file. Exit code 0 says that
# it has done all of them. This one takes out the value, and can't do without.
export EXEC='sed -E "/\"value\":/!{s/.*/no value in &/;w /dev/stderr
    Q1}; s/.*\"value\":\"([^\"]*)\".*/\1/"'

consume_until_nothing_waits() {
    "$BINARY" message-consumer &
    CONSUMER=$!
    until "$BINARY" verify | grep -q 'waiting 0 '; do sleep 0.2; done
    kill -TERM "$CONSUMER"
    wait "$CONSUMER"
    CONSUMER=
}

"$BINARY" publish <<'LINES'
{"timestamp":"2026-11-22T07:30:00Z","value":"one"}
{"timestamp":"2026-11-22T07:30:01Z","valeu":"two"}
{"timestamp":"2026-11-22T07:30:02Z","value":"three"}
LINES
consume_until_nothing_waits
cat "$DATA_OUTPUT_DIR"/*/*/*.jsonl | sort
"$BINARY" dead list --output json | grep -o '"messages":[0-9]*,'

# The program learns to live with the mistake, and the dead letter gets its second chance.
export EXEC='sed -E "s/.*\"val[a-z]*\":\"([^\"]*)\".*/\1/"'
"$BINARY" dead resend --all
consume_until_nothing_waits
cat "$DATA_OUTPUT_DIR"/[0-9]*/*/*.jsonl | sort
