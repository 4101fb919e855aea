#!/usr/bin/env bash
#
# Kills the durable store with SIGKILL at random moments while clients write,
# again and again, also while it starts, clears or evicts, and checks that every
# acknowledged write is there.
#
#     scripts/crash.sh                 a hundred rounds, some minutes
#     scripts/crash.sh --short         ten rounds
#     ROUNDS=1000 scripts/crash.sh     a thousand
#
# The store is in a temporary directory and gone at the end.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

rounds=${ROUNDS:-100}
if [ "${1:-}" = --short ]; then
    rounds=${ROUNDS:-10}
fi

need python3 'kills' || summary

find_program
counted crash.py --program "$BIN" --directory "$WORK/store" --rounds "$rounds"
counted crash.py --program "$BIN" --directory "$WORK/large" --rounds $((rounds / 4 + 1)) --large
counted crash.py --program "$BIN" --directory "$WORK/evict" --rounds $((rounds / 4 + 1)) --evict
summary
