#!/usr/bin/env bash
#
# Copies all of a store into a file while it is in use, and back.
#
#     URL=http://127.0.0.1:8888 scripts/examples/backup.sh save monday.ndjson
#     URL=http://127.0.0.1:9000 scripts/examples/backup.sh load monday.ndjson
#
# It shows the export (?values), a line of JSON for each key, and /import, which
# takes the lines back and prints how many there were. A durable store is exported
# as it was at one moment, whatever is written meanwhile. If the export breaks off,
# curl's exit code is 18, and the file stays the one it was. `load` deletes nothing
# and can be repeated; a key that is there gets the value from the file.

set -euo pipefail

if [ $# -ne 2 ]; then
    echo "usage: $0 save FILE | $0 load FILE" >&2
    exit 2
fi
url=${URL:-http://127.0.0.1:8888}
file=$2

save() {
    # A rename would put a file in the place of a device or a link, as /dev/stdout is.
    if [ -L "$file" ] || { [ -e "$file" ] && [ ! -f "$file" ]; }; then
        echo "$0: no plain file: $file" >&2
        exit 2
    fi
    # Beside the file, so that it takes the file's place at once.
    new=$(mktemp "$file.XXXXXX")
    trap 'rm -f "$new"' EXIT
    curl -fsS -o "$new" "$url/kv?values"
    mv "$new" "$file"
}

load() {
    local status
    answer=$(mktemp)
    trap 'rm -f "$answer"' EXIT
    # -g: brackets in the file's name are no list.
    status=$(curl -gsS -o "$answer" -w '%{http_code}' -T "$file" "$url/import")
    case $status in
        200) cat "$answer" ;;
        # It says which line, and how many were stored.
        *) cat "$answer" >&2 && exit 1 ;;
    esac
}

case $1 in
    save) save ;;
    load) load ;;
    *) echo "$0: neither save nor load: $1" >&2 && exit 2 ;;
esac
