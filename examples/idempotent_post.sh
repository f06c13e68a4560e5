#!/usr/bin/env bash
# Posts a file of JSON (an array of entries) so that it is stored exactly once, whatever happens on
# the way: every attempt carries the same Idempotency-Key, so that an attempt which got through
# without its answer coming back is answered again and not stored again.
#
#   examples/idempotent_post.sh entries.json
#   KEY=order-4711 examples/idempotent_post.sh entries.json     # go on after the script was killed
#
# Tries again when there is no answer, and on 408, 409, 429, 503 and 507; other refusals are final.

set -euo pipefail

URL=${URL:-http://127.0.0.1:8080}
FILE=${1:?usage: idempotent_post.sh FILE}
KEY=${KEY:-$(cat /proc/sys/kernel/random/uuid)}
TRIES=${TRIES:-60}
ANSWER=$(mktemp)
trap 'rm -f "$ANSWER"' EXIT

authorization=()
if [[ -n ${TOKEN:-} ]]; then authorization=(-H "Authorization: Bearer $TOKEN"); fi

for ((try = 1; try <= TRIES; try++)); do
    # The server gives up after 30 seconds by itself. 000 stands for no answer, or not a whole one.
    status=$(curl -sS --max-time 60 -o "$ANSWER" -w '%{http_code} %header{retry-after}' \
        "${authorization[@]}" -H "Idempotency-Key: \"$KEY\"" \
        --data-binary @"$FILE" "$URL/message") || status=000
    read -r code pause <<<"$status"
    case $code in
    201)
        cat "$ANSWER"
        echo
        exit 0
        ;;
    000 | 408 | 409 | 429 | 503 | 507)
        pause=${pause:-1}
        echo "attempt $try: $code, again in $pause s" >&2
        sleep "$pause"
        ;;
    *)
        echo "refused: $code $(cat "$ANSWER")" >&2
        exit 1
        ;;
    esac
done
echo "given up; go on with: KEY=$KEY $0 $FILE" >&2
exit 1
