#!/usr/bin/env bash
#
# Counts, exactly, however many count at once, and prints the new number.
#
#     URL=http://127.0.0.1:8888 scripts/examples/counter.sh visits
#     scripts/examples/counter.sh stock 100
#     scripts/examples/counter.sh stock -3
#
# It shows ?incr and ?decr. A counter starts at 0; `curl $URL/kv/counter/stock`
# reads it. A value that is no number, or a sum past 64 bits, is an error and
# changes nothing.

set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: $0 NAME [BY]" >&2
    exit 2
fi
# Percent-encoded, each byte of it: a name may have any characters.
name=$(printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')
counter=${URL:-http://127.0.0.1:8888}/kv/counter/$name
by=${2:-1}

case $by in
    -*) curl -fsS -X POST "$counter?decr=${by#-}" ;;
    *) curl -fsS -X POST "$counter?incr=$by" ;;
esac
