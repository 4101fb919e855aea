#!/usr/bin/env bash
#
# Runs all shell test scripts, each on a server of its own, and sums up. Those
# whose answers are the same on every engine run once on each.
#
#     scripts/test.sh
#
# The last lines name each script with its count; the exit code is 1 if any has
# failed. A check whose tool is missing here is skipped, or with CI set a failure.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

find_program
unset URL
export LKV_BIN=$BIN

verdicts=
all_passed=true

# run ENGINE SCRIPT ARG...: runs a script on that engine and notes how it went.
run() {
    local engine=$1 script=$2 name=$2.sh code=0 count
    shift 2
    [ "$engine" = memory ] || name="$name, $engine"
    printf '\n=== scripts/%s\n\n' "$name"
    ENGINE=$engine bash "$ROOT/scripts/$script.sh" "$@" 2>&1 | tee "$WORK/output" || code=$?
    count=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$WORK/output" | tail -n 1 || true)
    verdicts="$verdicts$(printf '%-22s %s' "$name" "${count:-did not come to its end}")
"
    [ "$code" -eq 0 ] || all_passed=false
}

export DURATION=${DURATION:-20}
for engine in memory durable; do
    for script in seed curl readme semantics archives events examples demo turbo; do
        run "$engine" "$script"
    done
    run "$engine" caches --short
    run "$engine" metrics
done

# The scripts on a cluster take turns with one.
if need_cluster 'all scripts on a cluster'; then
    start_cluster
    export TEST_CLUSTER
    for script in seed curl readme semantics archives examples demo turbo; do
        run cluster "$script"
    done
    unset TEST_CLUSTER
    stop_cluster
    run memory cluster --short
else
    [ "$FAILED" -eq 0 ] || all_passed=false
fi

run memory process
run memory logs
run memory browser
run memory openapi
run memory package
# Those below run for minutes otherwise; the benchmark only shows that it works.
run memory hostile --short
run memory soak
run durable proxy --short
run durable crash --short
run durable damage --short
run memory bench --short

printf '\n=== all\n\n%s' "$verdicts"
$all_passed
