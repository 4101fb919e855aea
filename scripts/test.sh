#!/usr/bin/env bash
#
# Runs all shell test scripts, each on a server of its own, and sums up. Those
# whose answers are the same on every engine run once on each.
#
#     scripts/test.sh                  a few side by side, for most of them wait
#     AT_ONCE=1 scripts/test.sh        one after the other
#
# What a script prints is shown once it has ended, in the order of the list below. The
# last lines name each script with its count; the exit code is 1 if any has failed. A
# check whose tool is missing here is skipped, or with CI set a failure. What is not over
# after $MINUTES hangs, and is ended.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

find_program
unset URL
export LKV_BIN=$BIN
export DURATION=${DURATION:-10}

AT_ONCE=${AT_ONCE:-$(($(getconf _NPROCESSORS_ONLN) + 1))}
# Many times what all take, for a machine that has much else to do.
MINUTES=${MINUTES:-40}
NAMES=()
RUNNING=
SHOWN=0
verdicts=
all_passed=true

# A line in it is a place for scripts to run in.
mkfifo "$WORK/places"
exec 7<>"$WORK/places"
for ((place = 0; place < AT_ONCE; place++)); do echo >&7; done

# side_by_side SCRIPT...: has these run one after the other beside others, once there is
# a place. Each is one word list: `memory caches --short`.
side_by_side() {
    local first=${#NAMES[@]} words engine name
    for words; do
        read -r engine name _ <<<"$words"
        if [ "$engine" = memory ]; then NAMES+=("$name.sh"); else NAMES+=("$name.sh, $engine"); fi
    done
    until read -r -t 5 -u 7; do be_in_time; done
    show_ended
    # In a process group of its own, and with the signals that it has in a terminal.
    set -m
    (run_all "$first" "$@") </dev/null &
    set +m
    RUNNING="$RUNNING $!"
}

# alone SCRIPT: has it run while no other does.
alone() {
    wait_for_all
    side_by_side "$1"
    wait_for_all
}

# run_all NUMBER SCRIPT...: runs them, and leaves what each prints, and its exit code.
run_all() {
    local words code
    number=$1 end=$(($1 + $# - 1))
    shift
    trap give_up_the_rest EXIT
    if [[ $1 = 'cluster '* ]]; then
        start_cluster
        export TEST_CLUSTER
    fi
    for words; do
        # shellcheck disable=SC2086 # It is several.
        run_one $words >"$WORK/$number.output" 2>&1 7>&- && code=0 || code=$?
        leave "$code"
    done
}

# leave CODE: the script of that number has ended.
leave() {
    echo "$1" >"$WORK/code.$number"
    mv "$WORK/code.$number" "$WORK/$number.code"
    number=$((number + 1))
}

# What does not run any more has failed, and its place is free.
give_up_the_rest() {
    while [ "$number" -lt "$end" ]; do
        echo 'it was not run to its end' >>"$WORK/$number.output"
        leave 1
    done
    echo >&7
}

run_one() {
    local engine=$1 script=$2
    shift 2
    ENGINE=$engine bash "$ROOT/scripts/$script.sh" "$@"
}

# Shows what those have printed that have ended, up to the first that has not.
show_ended() {
    local name count
    while [ -e "$WORK/$SHOWN.code" ]; do
        name=${NAMES[$SHOWN]}
        printf '\n=== scripts/%s\n\n' "$name"
        cat "$WORK/$SHOWN.output"
        count=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$WORK/$SHOWN.output" | tail -n 1 || true)
        verdicts="$verdicts$(printf '%-22s %s' "$name" "${count:-did not come to its end}")
"
        [ "$(cat "$WORK/$SHOWN.code")" -eq 0 ] || all_passed=false
        SHOWN=$((SHOWN + 1))
    done
}

# Waits until no script runs, and shows each as it ends.
wait_for_all() {
    local pid
    for pid in $RUNNING; do
        until is_gone "$pid"; do
            show_ended
            be_in_time
            sleep 0.2
        done
        wait "$pid" 2>/dev/null || true
    done
    RUNNING=
    show_ended
}

# Fails once there is no time left, and shows what is not over.
be_in_time() {
    local number
    [ "$SECONDS" -ge "$((60 * MINUTES))" ] || return 0
    for ((number = SHOWN; number < ${#NAMES[@]}; number++)); do
        [ ! -e "$WORK/$number.code" ] || continue
        printf '\n=== scripts/%s is not over after %s minutes\n\n' "${NAMES[$number]}" "$MINUTES"
        cat "$WORK/$number.output" 2>/dev/null || echo 'it has not begun'
    done
    exit 1
}

end_all() {
    local pid
    for pid in $RUNNING; do
        stop_group "$pid"
    done
    clean_up
}
trap end_all EXIT

# The scripts on a cluster take turns with one.
if need_cluster 'all scripts on a cluster'; then
    on_cluster=()
    for script in seed curl readme semantics archives examples demo turbo console; do
        on_cluster+=("cluster $script")
    done
    side_by_side "${on_cluster[@]}"
    side_by_side 'memory cluster --short'
fi
# The longest come first, so that none of them is left to run by itself. Those with flags
# run for minutes otherwise.
for script in 'memory console' 'memory package' 'memory openapi' 'memory hostile --short' \
    'durable console' 'durable proxy --short'; do
    side_by_side "$script"
done
for engine in memory durable; do
    for script in examples curl semantics archives readme demo turbo metrics events seed 'caches --short'; do
        side_by_side "$engine $script"
    done
done
for script in process logs browser valgrind soak; do
    side_by_side "memory $script"
done
side_by_side 'durable crash --short'
side_by_side 'durable damage --short'
# It takes all processors, and only shows that it works.
alone 'memory bench --short'

printf '\n=== all\n\n%s' "$verdicts"
[ "$FAILED" -eq 0 ] && $all_passed
