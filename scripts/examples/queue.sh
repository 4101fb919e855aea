#!/usr/bin/env bash
#
# A queue of work: many push, many pop, each item goes to exactly one.
#
#     URL=http://127.0.0.1:8888 scripts/examples/queue.sh push jobs 'resize 1.png'
#     while job=$(scripts/examples/queue.sh pop jobs); do echo "$job"; done
#
# It shows ?incr, which gives each item a number, an ?incr that holds only if
# nobody was faster (If-Match), and ?return, which takes a value out of the
# store. `pop` exits with 1 if the queue is empty. An item that was popped is
# gone, also if its popper dies.

set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 push NAME ITEM | $0 pop NAME" >&2
    exit 2
fi
queue=${URL:-http://127.0.0.1:8888}/kv/queue/$2

# number KEY: what a counter has, 0 if it is not there.
number() {
    local answer
    answer=$(curl -sS -w ' %{http_code}' "$queue/$1")
    case $answer in
        *' 200') echo "${answer% *}" ;;
        *' 404') echo 0 ;;
        *) echo "$answer" >&2 && return 3 ;;
    esac
}

push() {
    local tail
    tail=$(curl -fsS -X POST "$queue/tail?incr")
    curl -fsS -X PUT --data-raw "$1" "$queue/item/$tail"
}

pop() {
    local head tail status condition
    while true; do
        head=$(number head)
        tail=$(number tail)
        [ "$head" -lt "$tail" ] || exit 1
        condition="If-Match: \"$(printf '%s' "$head" | sha256sum | cut -c1-32)\""
        [ "$head" -gt 0 ] || condition='If-None-Match: *'
        status=$(curl -sS -o /dev/null -w '%{http_code}' -X POST -H "$condition" "$queue/head?incr")
        case $status in
            200) break ;;
            412) ;; # Somebody was faster.
            *) echo "the server answers $status" >&2 && exit 3 ;;
        esac
    done
    # The number is ours. If its item is not there, it is about to be pushed.
    curl -fsS --retry 10 --retry-delay 1 --retry-all-errors \
        -X DELETE "$queue/item/$((head + 1))?return"
}

case $1 in
    push) push "${3:?an item to push}" ;;
    pop) pop ;;
    *) echo "$0: neither push nor pop: $1" >&2 && exit 2 ;;
esac
