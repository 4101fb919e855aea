#!/usr/bin/env bash
#
# Keeps a copy of a store: what changes in FROM changes in TO a moment later.
#
#     scripts/examples/replica.sh http://127.0.0.1:8888 http://127.0.0.1:9000 position
#     until scripts/examples/replica.sh http://a:8888 http://b:8888 position; do sleep 1; done
#     ONCE=yes scripts/examples/replica.sh http://a:8888 http://b:8888 position
#
# It shows a watch that goes on after a break: the file has the id up to which TO
# has all, and ?since asks for the changes behind it. Where the server does not
# remember these (`reset`), TO is cleared and all is copied, from an export whose
# Revision is the next id. Changes come in groups (?wait): the keys that were put
# are read as lines of JSON, which /import stores with their types and expiries.
# It ends if one of the two does not answer; with ONCE, as soon as TO has all that
# FROM had at the start. TO has to be empty at first, for all else in it would go.

set -euo pipefail

if [ $# -ne 3 ]; then
    echo "usage: $0 FROM TO FILE" >&2
    exit 2
fi
from=$1
to=$2
file=$3

# A rename would put a file in the place of a device or a link, as /dev/stdout is.
for path in "$file" "$file.new"; do
    if [ -L "$path" ] || { [ -e "$path" ] && [ ! -f "$path" ]; }; then
        echo "$0: no plain file: $path" >&2
        exit 2
    fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

remember() {
    position=$1
    echo "$position" >"$file.new"
    mv "$file.new" "$file"
}

# The Revision in the head of an answer.
revision() {
    tr -d '\r' | sed -n 's/^[Rr]evision: //p'
}

copy() {
    # Until all is there, a break leads back to here.
    remember 0
    curl -fsS -X DELETE "$to/clear"
    curl -fsS -D "$work/head" "$from/kv?values" | curl -fsS -o "$work/count" -T - "$to/import"
    remember "$(revision <"$work/head")"
    goal=${goal:+$position}
}

# each URL OPTION...: curl on that URL with each of the keys that come in behind it.
each() {
    awk -v url="$1" '{ printf "url = \"%s%s\"\n", url, $0 }' >"$work/urls"
    shift
    [ ! -s "$work/urls" ] || curl -fsS --fail-early "$@" -K "$work/urls"
}

# Takes over the keys of a group, whose order does not matter then.
take_over() {
    awk '$1 == "put" { print $2 }' "$work/last" >"$work/puts"
    # The first key that begins so is the one that was put or, if that is gone again,
    # another, whose line is as true.
    each "$from/kv?limit=1&values&prefix=" <"$work/puts" |
        curl -fsS -o "$work/count" -T - "$to/import"
    # What has expired before it was read or stored is gone as well.
    each "$from/kv?limit=1&prefix=" <"$work/puts" >"$work/there"
    # For curl, /kv/a/../b would be /kv/b.
    { awk '{ print $2 }' "$work/last" | grep -vxFf "$work/there" || true; } |
        each "$to/kv/" --path-as-is -X DELETE
}

next_group() {
    # The state behind a reset is not kept: it comes as an export.
    curl -fsS "$from/watch?since=$position&wait=30s" |
        awk '!is_over { print } /^reset / { is_over = 1 }' >"$work/changes"
    if grep -q '^reset ' "$work/changes"; then
        copy
        return
    fi
    awk '/^(put|delete|expire|evict) / { last[$3] = $1 }
        END { for (key in last) print last[key], key }' "$work/changes" >"$work/last"
    take_over
    remember "$(awk '$1 == "ready" { print $2 }' "$work/changes")"
}

# Whether all is there that was there at the start: of the number behind the birth
# of a store it is known that it grows.
is_up_to_date() {
    [ -n "$goal" ] && [ "${position%-*}" = "${goal%-*}" ] && [ "${position#*-}" -ge "${goal#*-}" ]
}

if [ ! -e "$file" ]; then
    keys=$(curl -fsS "$to/kv?count")
    if [ "$keys" != 0 ]; then
        echo "$to has $keys keys of its own" >&2
        exit 1
    fi
    remember 0
fi
position=$(cat "$file")
goal=
[ -z "${ONCE:-}" ] || goal=$(curl -fsSI "$from/kv" | revision)

until is_up_to_date; do
    next_group
done
