#!/usr/bin/env bash
#
# Runs the tests of the packed entries, the memory engine's one file with unsafe code in
# it, under valgrind: no byte is read that is not there or not written, and none is left.
#
#     scripts/valgrind.sh
#
# It needs cargo and valgrind.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

# The tests' own program, which is built by then where all tests have run.
# shellcheck disable=SC2317,SC2329 # `check_that` calls it.
build_tests() {
    (cd "$ROOT" && cargo test --locked --test packed --no-run 2>&1) | tee "$WORK/build" | tail -n 2
    TESTS=$(sed -n 's/.*Executable .*(\(.*\)).*/\1/p' "$WORK/build")
    case $TESTS in
        '') return 1 ;;
        /*) ;;
        *) TESTS=$ROOT/$TESTS ;;
    esac
}

# Tests are fewer than elsewhere: each takes thirty times as long.
# shellcheck disable=SC2317,SC2329
under_valgrind() {
    PROPTEST_CASES=16 command valgrind --quiet --error-exitcode=7 --leak-check=full \
        --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect "$TESTS" --test-threads=1 storage::packed
}

if need valgrind 'packed entries'; then
    check_that 'the tests of the packed entries are built' build_tests
    check_that 'under valgrind they access and leak nothing' under_valgrind
fi

summary
