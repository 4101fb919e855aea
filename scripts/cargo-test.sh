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
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

# make's jobs are not for them: their compilers would only warn that they cannot take part.
unset MAKEFLAGS MFLAGS

# Many times what they take, for a machine that has much else to do.
MINUTES=${MINUTES:-30}
TESTS=

# All that the tests have started is in one process group.
# shellcheck disable=SC2317,SC2329 # The trap calls it.
end_tests() {
    if [ -n "$TESTS" ]; then stop_group "$TESTS"; fi
    clean_up
}
trap end_tests EXIT
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
within 10 is_gone "$!" || true
exit "$(cat "$WORK/code")"
