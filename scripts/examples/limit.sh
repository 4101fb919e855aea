#!/usr/bin/env bash
#
# Says whether something may happen once more: at most MAX times in SECONDS,
# counted over all who ask for the same name.
#
#     URL=http://127.0.0.1:8888 scripts/examples/limit.sh mail:ann 5 60 && ./send-mail
#
# It shows a rate limiter in one request: ?incr counts, and ?ttl beside it
# sets the expiry only when it creates the key, so that the first one starts
# the time. The exit code is 0 if it may happen, 1 if not, 2 for an error.

set -euo pipefail

if [ $# -ne 3 ]; then
    echo "usage: $0 NAME MAX SECONDS" >&2
    exit 2
fi
# Percent-encoded, each byte of it: a name may have any characters.
name=$(printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')
limit=${URL:-http://127.0.0.1:8888}/kv/limit/$name

count=$(curl -fsS -X POST "$limit?incr&ttl=$3") || exit 2
[ "$count" -le "$2" ]
