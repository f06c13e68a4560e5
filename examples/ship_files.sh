#!/usr/bin/env bash
# Moves finished files to another directory, while the consumer goes on writing.
#
#   DATA_OUTPUT_DIR=/srv/messages examples/ship_files.sh /mnt/archive
#
# A file appears whole, under a name that is never used again, and is not touched afterwards: so
# whatever does not start with a dot may be taken at any time. The target may be on another file
# system, hence the copy, the sync and the rename; killed at any point, the next run goes on. Run
# it from a timer. At the end `verify --allow-taken-away` checks everything that is still here.

set -euo pipefail

BINARY=${BINARY:-async-data-processor}
OUTPUT=${DATA_OUTPUT_DIR:-./data_dump}
TARGET=${1:?usage: ship_files.sh TARGET}
mkdir -p "$TARGET"

# Pathname expansion passes over names with a dot: the marker and the staging folder.
shopt -s nullglob
for file in "$OUTPUT"/*/*/*.jsonl "$OUTPUT"/*/*/*.jsonl.zst; do
    name=${file##*/}
    if [[ -e $TARGET/$name ]]; then
        # Killed between the rename and the removal; anything else is not ours to decide.
        if ! cmp -s "$file" "$TARGET/$name"; then
            echo "$TARGET/$name is there already, with other content" >&2
            exit 1
        fi
    else
        cp -- "$file" "$TARGET/.$name.part"
        sync "$TARGET/.$name.part"
        mv -- "$TARGET/.$name.part" "$TARGET/$name"
        sync "$TARGET"
    fi
    rm -- "$file"
    echo "$name"
done

# Folders that are empty may go as well: the consumer makes those it needs.
for folder in "$OUTPUT"/*/*/ "$OUTPUT"/*/; do
    rmdir --ignore-fail-on-non-empty -- "$folder"
done

"$BINARY" verify --allow-taken-away >&2
