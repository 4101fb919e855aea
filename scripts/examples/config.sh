#!/usr/bin/env bash
#
# Changes a value with a command that reads the old one and writes the new
# one, and loses nothing if others change it at the same time.
#
#     curl -X PUT -d 'color=red' http://127.0.0.1:8888/kv/app.conf
#     URL=http://127.0.0.1:8888 scripts/examples/config.sh app.conf sed s/red/blue/
#     scripts/examples/config.sh app.json jq '.workers += 1'
#
# It shows compare-and-set: the new value goes in only if the one it was made
# from is still there (If-Match with its ETag), else all of it is done again.
# The value keeps its type and, with ?ttl=keep, its expiry. The key is as in a URL,
# percent-encoded.

set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 KEY COMMAND..." >&2
    exit 2
fi
config=${URL:-http://127.0.0.1:8888}/kv/$1
shift

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

while true; do
    type=$(curl -fsS -o "$work/old" --etag-save "$work/etag" -w '%{content_type}' "$config")
    "$@" <"$work/old" >"$work/new"
    status=$(curl -sS -o "$work/answer" -w '%{http_code}' -T "$work/new" \
        -H "If-Match: $(cat "$work/etag")" -H "Content-Type: $type" "$config?ttl=keep")
    case $status in
        200) exit 0 ;;
        412) ;; # Somebody else has changed it.
        *) cat "$work/answer" >&2 && exit 1 ;;
    esac
done
