#!/usr/bin/env bash
#
# Removes, cuts and changes each file of a small durable store, one at a time,
# and checks that the program refuses what is left and does not touch it, or
# serves it without a wrong value.
#
#     scripts/damage.sh                every 16 bytes, some minutes
#     scripts/damage.sh --short        every 512
#     STEP=1 scripts/damage.sh         every byte, about an hour
#
# The store is in memory or a temporary directory, and gone at the end.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

step=${STEP:-16}
if [ "${1:-}" = --short ]; then
    step=${STEP:-512}
fi

need python3 'damage' || summary

find_program
counted damage.py --program "$BIN" --directory "$WORK" --step "$step"
summary
