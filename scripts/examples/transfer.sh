#!/usr/bin/env bash
#
# Moves an amount from one account to another: both change at one moment, or
# neither does, and no account goes below zero.
#
#     curl -g -X PUT -d 100 'http://127.0.0.1:8888/kv/{account}/ann'
#     URL=http://127.0.0.1:8888 scripts/examples/transfer.sh ann bob 30
#
# It shows a batch: requests, one a line, that take effect together. The first
# has a condition (if_match), the balance that was looked at; if it has changed
# meanwhile, all of the batch is refused and the script looks again. It exits
# with 1 if the account has less than the amount.

set -euo pipefail

if ! [[ "$*" =~ ^[A-Za-z0-9_-]+\ [A-Za-z0-9_-]+\ [1-9][0-9]{0,17}$ ]]; then
    echo "usage: $0 FROM TO AMOUNT" >&2
    exit 2
fi
url=${URL:-http://127.0.0.1:8888}
# The braces {...} have a cluster keep all accounts in one place.
from=/kv/%7Baccount%7D/$1
to=/kv/%7Baccount%7D/$2
amount=$3

status=
while [ "$status" != 200 ]; do
    balance=$(curl -fsS "$url$from")
    if [ "$balance" -lt "$amount" ]; then
        echo "$1 has $balance" >&2
        exit 1
    fi
    # The ETag of a value is the start of its SHA-256.
    etag=$(printf '%s' "$balance" | sha256sum | cut -c1-32)
    status=$(curl -sS -o /dev/null -w '%{http_code}' --data-binary @- "$url/batch" <<END
{"method":"POST","path":"$from?decr=$amount","if_match":"$etag"}
{"method":"POST","path":"$to?incr=$amount"}
END
    )
    case $status in
        200) ;;
        412) ;; # Somebody was faster.
        *) echo "the server answers $status" >&2 && exit 3 ;;
    esac
done
