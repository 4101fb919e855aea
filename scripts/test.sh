#!/usr/bin/env bash
#
# Runs all shell test scripts, each on a server of its own, and sums up.
#
#     scripts/test.sh
#
# The last lines name each script with its count; the exit code is 1 if any
# has failed. A check that needs what this machine lacks is skipped, or with
# CI set a failure.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

find_program
unset URL
export LKV_BIN=$BIN

verdicts=
all_passed=true
export DURATION=${DURATION:-20}
for script in seed curl process demo hostile soak bench; do
    printf '\n=== scripts/%s.sh\n\n' "$script"
    code=0
    # Both run for minutes otherwise; the benchmark only shows that it works.
    set --
    case $script in
        hostile | bench) set -- --short ;;
    esac
    bash "$ROOT/scripts/$script.sh" "$@" 2>&1 | tee "$WORK/output" || code=$?
    count=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$WORK/output" | tail -n 1 || true)
    verdicts="$verdicts$(printf '%-12s %s' "$script.sh" "${count:-did not come to its end}")
"
    [ "$code" -eq 0 ] || all_passed=false
done

printf '\n=== all\n\n%s' "$verdicts"
$all_passed
