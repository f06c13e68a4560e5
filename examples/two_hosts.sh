#!/usr/bin/env bash
# Two hosts that work together over a RabbitMQ, played by two pairs of directories on this machine.
#
#   RABBITMQ_URL=amqp://user:password@127.0.0.1:5672/vhost examples/two_hosts.sh
#
# Needs a virtual host of its own, which it fills with queues. Each host has a consumer with its own
# state and output directory. The first that subscribes has all shards, the other stands by; when
# the first is killed, the other goes on with what comes then.

set -euo pipefail

: "${RABBITMQ_URL:?set it to the URL of an empty virtual host}"
BINARY=${BINARY:-async-data-processor}
WORK=$(mktemp -d)
export RABBITMQ_URL LOG=warn FILES_PER_SECOND=0
CONSUMERS=()
trap '((${#CONSUMERS[@]} == 0)) || kill "${CONSUMERS[@]}"; wait; rm -rf "$WORK"' EXIT

# Runs a command as on host $1.
on() {
    local host=$WORK/$1
    shift
    STATE_DIR=$host/state DATA_OUTPUT_DIR=$host/out "$@"
}

# How many messages are in files of host $1. It knows nothing of the other.
in_files() {
    on "$1" "$BINARY" verify --output json | grep -o '"in_files":[0-9]*' | head -n 1 | cut -d: -f2
}

consume() {
    STATE_DIR=$WORK/$1/state DATA_OUTPUT_DIR=$WORK/$1/out "$BINARY" message-consumer &
    CONSUMERS+=($!)
}

publish() {
    for second in {10..59}; do
        echo "{\"timestamp\":\"2026-11-22T07:30:${second}Z\",\"value\":\"$1\"}"
    done | on a "$BINARY" publish
}

on a "$BINARY" publish < /dev/null
on b "$BINARY" publish < /dev/null

consume a
publish "both hosts are there"
until (($(in_files a) == 50)); do sleep 0.2; done

consume b
echo "host a has $(in_files a), host b has $(in_files b)"

kill -KILL "${CONSUMERS[0]}"
wait "${CONSUMERS[0]}" 2> "$WORK/killed" || true
CONSUMERS=("${CONSUMERS[1]}")
publish "host a is lost"
until (($(in_files b) == 50)); do sleep 0.2; done
echo "host a has $(in_files a), host b has $(in_files b)"

on a "$BINARY" verify > "$WORK/account"
on b "$BINARY" verify > "$WORK/account"
