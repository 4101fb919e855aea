#!/usr/bin/env bash
#
# Runs a command while holding a lock: of all who use the same name, on any
# machine, one runs at a time and the others wait.
#
#     URL=http://127.0.0.1:8888 scripts/examples/lock.sh backup tar c /home
#     TTL=10s scripts/examples/lock.sh deploy ./deploy.sh
#
# It shows a key that only one can create (If-None-Match: *), once those who came
# before had it (?wait), that expires if its owner dies (?ttl), and that only its
# owner deletes (If-Match). A command that runs for longer than TTL, a minute,
# loses the lock to the next one.
# The exit code is the command's.

set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 NAME COMMAND..." >&2
    exit 2
fi
# Percent-encoded, each byte of it: a name may have any characters.
name=$(printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')
lock=${URL:-http://127.0.0.1:8888}/kv/lock/$name
ttl=${TTL:-60s}
shift

# The value says whose lock it is. Its ETag is the start of its SHA-256.
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
etag=$(printf '%s' "$token" | sha256sum | cut -c1-32)

status=
while [ "$status" != 201 ]; do
    # Asked for again before a proxy on the way gives up.
    status=$(curl -sS -o /dev/null -w '%{http_code}' \
        -X PUT -d "$token" -H 'If-None-Match: *' "$lock?ttl=$ttl&wait=30s")
    case $status in
        201 | 412) ;;
        *) echo "no lock: the server answers $status" >&2 && exit 1 ;;
    esac
done

release() {
    status=$(curl -sS -o /dev/null -w '%{http_code}' \
        -X DELETE -H "If-Match: \"$etag\"" "$lock") || true
    [ "$status" = 200 ] || echo "the lock was lost before the end: $status" >&2
}
trap release EXIT

"$@"
