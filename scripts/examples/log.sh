#!/usr/bin/env bash
#
# A log that many append to and many follow.
#
#     URL=http://127.0.0.1:8888 scripts/examples/log.sh append web 'a line'
#     make 2>&1 | scripts/examples/log.sh append build
#     scripts/examples/log.sh tail build
#
# It shows ?append, which adds all of what it sends or nothing, and a range that
# begins where the last one ended (curl -r), once the log is another than the one
# that was seen (?wait with its ETag): 206 is what is new. `tail` follows the log
# until Ctrl-C, from its start if it was made anew. A log is one value: past the
# server's --max-value-size, 10 MiB, append fails with 413.

set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 append NAME [LINE] | $0 tail NAME" >&2
    exit 2
fi
# Percent-encoded, each byte of it: a name may have any characters.
name=$(printf '%s' "$2" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')
log=${URL:-http://127.0.0.1:8888}/kv/log/$name

append() {
    curl -fsS -X POST --data-binary @- -H 'Content-Type: text/plain; charset=utf-8' "$log?append"
}

follow() {
    local offset=0 etag='' status
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    while true; do
        # Asked for again before a proxy on the way gives up.
        status=$(curl -sS -r "$offset-" -H "If-None-Match: $etag" --etag-save "$work/etag" \
            -o "$work/piece" -w '%{http_code}' "$log?wait=30s")
        case $status in
            206)
                cat "$work/piece"
                offset=$((offset + $(wc -c <"$work/piece")))
                etag=$(cat "$work/etag")
                ;;
            304) ;;
            404 | 416) offset=0 etag='' ;;
            *) echo "the server answers $status" >&2 && exit 1 ;;
        esac
    done
}

case $1 in
    append) if [ $# -gt 2 ]; then printf '%s\n' "${*:3}"; else cat; fi | append ;;
    tail) follow ;;
    *) echo "$0: neither append nor tail: $1" >&2 && exit 2 ;;
esac
