#!/usr/bin/env bash
# Turns log lines into messages, without HTTP: the first word of a line is its time (RFC 3339), the
# rest its value.
#
#   docker logs --timestamps web 2>&1 | examples/publish_pipe.sh
#   examples/publish_pipe.sh < app.log
#
# `publish` needs no server, only the same STATE_DIR as the consumer, and may run beside both. It
# prints what was stored. On a line that is no message it stops with exit code 65, having stored all
# lines before it; SKIP=<lines> goes on behind those.

set -euo pipefail

BINARY=${BINARY:-async-data-processor}

LC_ALL=C awk '
    {
        # What JSON asks for: no bare backslash, quote or control character in a string.
        gsub(/\\/, "&&")
        gsub(/"/, "\\\\&")
        gsub(/[[:cntrl:]]/, " ")
        time = $1
        sub(/^ *[^ ]+ ?/, "")
        printf "{\"timestamp\":\"%s\",\"value\":\"%s\"}\n", time, $0
    }
' | "$BINARY" publish --skip "${SKIP:-0}"
