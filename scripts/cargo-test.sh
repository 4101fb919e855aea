#!/usr/bin/env bash
#
# Runs the tests of cargo, and ends them if they hang: tests that are not over in time are
# named, and have failed.
#
#     scripts/cargo-test.sh [CARGO ARG...]
#     MINUTES=5 scripts/cargo-test.sh --test promises
#
# Its command is $CARGO, else cargo.

set -euo pipefail
cd "$(dirname "$0")/.."

# Many times what they take, for a machine that has much else to do.
MINUTES=${MINUTES:-30}

WORK=$(mktemp -d "${TMPDIR:-/tmp}/little-key-value.XXXXXX")
TESTS=

# Ends all that the tests have started, for that is in one process group.
# shellcheck disable=SC2317,SC2329 # The trap calls it.
end_tests() {
    local signal
    for signal in TERM KILL; do
        kill -"$signal" -- "-$TESTS" 2>/dev/null || return 0
        sleep 2
    done
}

# shellcheck disable=SC2317,SC2329 # The same.
clean_up() {
    if [ -n "$TESTS" ]; then end_tests; fi
    rm -rf "$WORK"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# The tests that were said to run for long, and not to have ended.
still_running() {
    local escape
    escape=$(printf '\033')
    sed "s/$escape\[[0-9;]*m//g" "$WORK/output" | awk '
        /^test .* has been running for over [0-9]+ seconds$/ { long[$2] = 1 }
        /^test .* \.\.\. / { delete long[$2] }
        END { for (name in long) print "    " name }' | sort
}

if [ -t 1 ]; then export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}; fi

run() {
    local code=0
    "${CARGO:-cargo}" test --locked "$@" </dev/null || code=$?
    echo "$code" >"$WORK/code"
}

set -m
run "$@" 2>&1 | tee "$WORK/output" &
TESTS=$(jobs -p %%)
set +m

# What the tests leave behind may have their output, and is not waited for.
last=$((SECONDS + 60 * MINUTES))
until [ -s "$WORK/code" ]; do
    if [ "$SECONDS" -ge "$last" ]; then
        exec >&2
        printf '\nThe tests are not over after %s minutes. Those that have run for over one:\n' "$MINUTES"
        still_running
        exit 1
    fi
    sleep 0.2
done
for ((tries = 50; tries > 0; tries--)); do
    kill -0 "$!" 2>/dev/null || break
    sleep 0.2
done
exit "$(cat "$WORK/code")"
