#!/usr/bin/env bash
#
# A queue of work: many push, many pop, each item goes to exactly one.
#
#     URL=http://127.0.0.1:8888 scripts/examples/queue.sh push jobs 'resize 1.png'
#     while job=$(scripts/examples/queue.sh pop jobs); do echo "$job"; done
#     job=$(scripts/examples/queue.sh pop jobs 10m)
#
# It shows a POST that adds a value under a new key, behind all that were added
# before, and ?take, which takes the first of them out of the store. `pop` exits
# with 1 if the queue is empty, or stays so for the time that it is given
# (?wait). An item that was popped is gone, also if its popper dies or its
# answer is lost: to ask again would take the next one.

set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 push NAME ITEM | $0 pop NAME [TIME]" >&2
    exit 2
fi
url=${URL:-http://127.0.0.1:8888}/kv
# Percent-encoded, each byte of it: a name may have any characters.
name=$(printf '%s' "$2" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')
# The braces {...} have a cluster keep all of a queue in one place.
prefix=queue/%7B$name%7D/

pop() {
    local status
    item=$(mktemp)
    trap 'rm -f "$item"' EXIT
    status=$(curl -sS -o "$item" -w '%{http_code}' -X DELETE "$url?take=$prefix${1:+&wait=$1}")
    case $status in
        200) cat "$item" ;;
        404) exit 1 ;;
        *) echo "the server answers $status" >&2 && exit 3 ;;
    esac
}

case $1 in
    push) curl -fsS -o /dev/null --data-raw "${3:?an item to push}" "$url?prefix=$prefix" ;;
    pop) pop "${3:-}" ;;
    *) echo "$0: neither push nor pop: $1" >&2 && exit 2 ;;
esac
