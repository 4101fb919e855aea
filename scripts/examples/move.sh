#!/usr/bin/env bash
#
# Moves a store to another machine while it is in use.
#
#     scripts/examples/move.sh http://127.0.0.1:8888 http://127.0.0.1:9000
#
# It shows an export that goes right into an import, and the watch that catches up
# with what was written meanwhile (both in replica.sh). Once the new store is up to
# date it says so, and keeps it so until Enter is pressed: have those who write stop,
# press it, and send them to the new store. TO has to be empty.

set -euo pipefail

if [ $# -ne 2 ]; then
    echo "usage: $0 FROM TO" >&2
    exit 2
fi
from=$1
to=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

catch_up() {
    ONCE=yes bash "$(dirname "$0")/replica.sh" "$from" "$to" "$work/position"
}

catch_up
echo "$to is up to date. Stop writing to $from, then press Enter."
# `read` gives more than 128 when its second is over.
until read -r -t 1 || [ $? -le 128 ]; do
    catch_up
done
catch_up

# A key that expires between these two is in one of the numbers.
keys=$(curl -fsS "$from/kv?count")
moved=$(curl -fsS "$to/kv?count")
echo "$to has $moved keys, $from has $keys."
