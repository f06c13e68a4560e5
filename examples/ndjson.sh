#!/usr/bin/env bash
# Posts a file of JSON lines to a running server, at most 5,000 lines and 900,000 bytes a request.
#
#   examples/ndjson.sh entries.jsonl
#   URL=https://data.example.org TOKEN=… examples/ndjson.sh entries.jsonl
#
# `--data-binary` keeps the line breaks, which `-d` would take out. Each request is stored whole or
# not at all; on the first failure the script says where it stopped. If there was no answer at all it
# is unknown whether that request was stored: idempotent_post.sh shows how to repeat it safely.

set -euo pipefail

URL=${URL:-http://127.0.0.1:8080}
FILE=${1:?usage: ndjson.sh FILE}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

authorization=()
if [[ -n ${TOKEN:-} ]]; then authorization=(-H "Authorization: Bearer $TOKEN"); fi

# Cuts at line ends only; the limits of a request are 10,000 entries and 1 MiB.
LC_ALL=C awk -v folder="$WORK" '
    BEGIN { part = 100000 }
    lines == 5000 || bytes + length($0) >= 900000 { close(out); part++; lines = bytes = 0 }
    { out = folder "/" part; print > out; lines++; bytes += length($0) + 1 }
' "$FILE"

sent=0
for part in "$WORK"/*; do
    if [[ ! -e $part ]]; then break; fi
    if ! curl --fail-with-body -sS "${authorization[@]}" \
        -H 'Content-Type: application/x-ndjson' --data-binary @"$part" "$URL/message"; then
        printf '\nstopped before line %s of %s\n' "$((sent + 1))" "$FILE" >&2
        exit 1
    fi
    echo
    sent=$((sent + $(wc -l <"$part")))
done
