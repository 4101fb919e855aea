#!/usr/bin/env bash
#
# Tests the console, the page that a browser gets at /, in Chromium: what it shows, what
# it changes, and what it keeps from happening.
#
#     scripts/console.sh                      all of it
#     ENGINE=durable scripts/console.sh       on the durable engine
#     ENGINE=cluster scripts/console.sh       in front of a cluster
#     scripts/console.sh keys saving          these scenarios of console.mjs alone
#     scripts/console.sh --picture            makes the README's picture anew
#
# On the memory engine it leaves a picture of each view, light and dark, in
# target/console. The driver of the browser and the rules for whoever cannot see or use a
# mouse come from npm, once, into target/tools. It starts servers of its own, on
# 127.0.0.1, and the browser asks nobody else.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

PLAYWRIGHT=1.65.1
AXE=4.14.1
TOOLS=$ROOT/target/tools/console-$PLAYWRIGHT-$AXE
WHAT='the console in a browser'

need node "$WHAT" || summary
need npm "$WHAT" || summary
need chromium "$WHAT" || summary
if [ ! -e "$TOOLS/complete" ]; then
    mkdir -p "$TOOLS"
    if ! npm install --prefix "$TOOLS" --no-audit --no-fund --no-update-notifier --ignore-scripts \
        "playwright-core@$PLAYWRIGHT" "axe-core@$AXE" >"$WORK/npm" 2>&1; then
        skip "$WHAT" "npm cannot get its driver: $(tail -n 1 "$WORK/npm")"
        summary
    fi
    touch "$TOOLS/complete"
fi

find_program
arguments=()
if [ "$ENGINE" = cluster ]; then
    use_cluster
    arguments=(--cluster "$TEST_CLUSTER")
fi
# Whatever the browser writes goes with the rest.
export TMPDIR=$WORK HOME=$WORK XDG_CONFIG_HOME=$WORK XDG_CACHE_HOME=$WORK
counted console.mjs --program "$BIN" --browser "$(command -v chromium)" --tools "$TOOLS" \
    --directory "$WORK" --pictures "$ROOT/target/console" --engine "$ENGINE" \
    ${arguments[@]+"${arguments[@]}"} "$@"
summary
