#!/usr/bin/env bash
#
# Measures the store beside other servers that do the same work on the same
# machine in the same minutes, and prints a table: medians, the least and the
# most of the rounds, ratios.
#
#     scripts/bench.sh                    every row
#     scripts/bench.sh get put            only these rows
#     scripts/bench.sh --list             lists the rows
#     scripts/bench.sh --short            half a minute, to see that it works
#     ROUNDS=9 DURATION=5 OUTPUT=bench.md scripts/bench.sh
#
#     ROUNDS         how often each measurement is repeated (5)
#     DURATION       the seconds that it takes (3)
#     OUTPUT         the Markdown file for the table (target/bench.md; none with
#                    --short)
#     BENCH_DIR      a folder on the disk for the durable rows ($TMPDIR or /tmp)
#     BENCH_DURABLE  memory: the engine in memory stands in for the durable one,
#                    to try these rows out
#
# A row fails if a connection is not served or an answer is wrong, never for its
# speed. scripts/bench.py has the map of the rest.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need python3 'the benchmark' || summary
if [ "${1:-}" = --list ]; then
    python3 -B "$ROOT/scripts/bench.py" --list
    exit
fi

# What a short run measures is not worth keeping.
output=$ROOT/target/bench.md
[ "${1:-}" = --short ] && output=$WORK/bench.md
find_program

# peer TOOL PACKAGE: says that a server to compare with is not here.
peer() {
    command -v "$1" >/dev/null 2>&1 || echo "missing $1 (Debian: $2): rows stand without it"
}
for tool in wrk ab ss rustc; do
    need "$tool" "what the benchmark measures with $tool" || true
done
peer nginx nginx-light
peer redis-server redis-server
peer redis-benchmark redis-tools
peer webdis webdis
peer etcd etcd-server
peer go golang-go

counted bench.py --bin "$BIN" --output "${OUTPUT:-$output}" \
    --rounds "${ROUNDS:-5}" --duration "${DURATION:-3}" \
    --disk "${BENCH_DIR:-${TMPDIR:-/tmp}}" --durable "${BENCH_DURABLE:-disk}" "$@"
summary
