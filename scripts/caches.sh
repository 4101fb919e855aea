#!/usr/bin/env bash
#
# Tests the store as the remote cache of ccache: misses, hits, a store that is
# killed in the middle, and hits again once it is back; and then a store that is
# too small, which makes room.
#
#     scripts/caches.sh                        a hundred sources
#     scripts/caches.sh --short                ten, and a smaller store
#     ENGINE=durable scripts/caches.sh         on the durable engine
#
# It starts servers of its own. Any build tool that keeps things with GET and PUT
# can use the store; these need no more than a URL. For values over 10 MiB, start
# the store with a larger --max-value-size:
#
#     ccache   export CCACHE_REMOTE_STORAGE=http://store:8888/kv/ccache
#              (up to 4.6: CCACHE_SECONDARY_STORAGE)
#     Bazel    bazel build --remote_cache=http://store:8888/kv/bazel //...
#     Gradle   in settings.gradle, and then gradle --build-cache build:
#              buildCache {
#                  remote(HttpBuildCache) {
#                      url = 'http://store:8888/kv/gradle/'
#                      allowInsecureProtocol = true
#                      push = true
#                  }
#              }
#     Nx       export NX_SELF_HOSTED_REMOTE_CACHE_SERVER=http://store:8888/kv/nx
#     moon     in .moon/workspace.yml:
#              remote:
#                host: 'http://store:8888'
#                api: 'http'
#                cache:
#                  instanceName: 'kv/moon'
#     Nix      nix copy --to http://store:8888/kv/nix PATH, and --from
#     DVC      dvc remote add --default store http://store:8888/kv/dvc
#              dvc remote modify store method PUT
#     Terraform, for its state, by one at a time: with a lock_address it adds an ?ID=
#              to each PUT, which is 400
#              backend "http" {
#                address       = "http://store:8888/kv/terraform/state"
#                update_method = "PUT"
#              }
#
# All of them read with GET, write with PUT, and take 404 for "not there". An empty file
# is no value: DVC cannot push it, moon keeps nothing of a task that makes one, and Bazel
# 2.1, which uploads one with each build, never finds anything (4.2 does).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

sources=100
limit_mib=64
rounds=5
if [ "${1:-}" = --short ]; then
    sources=10
    # The least that the durable engine works in.
    limit_mib=16
    rounds=1
fi

need ccache 'a cache for compilers' || summary
need cc 'what a compiler makes' || summary

# What the person has set for ccache would change what is tested.
while read -r name; do
    unset "$name"
done < <(compgen -e | grep '^CCACHE_')
export CCACHE_CONFIGPATH=/dev/null

URL=
use_server
cd "$WORK"
mkdir sources

for ((number = 1; number <= sources; number++)); do
    cat >"sources/$number.c" <<SOURCE
#include <stdio.h>
int answer_$number(void) { return printf("%d\n", $number); }
SOURCE
done

# build NAME [FOLDER]: compiles all sources of a folder through ccache from an
# empty cache of its own, so that what is found was found in the store. The
# objects go to NAME.
# shellcheck disable=SC2317,SC2329 # check_that calls it.
build() {
    export CCACHE_DIR=$WORK/cache-$1
    # The machine may be slow, and that is not what is looked at.
    export CCACHE_REMOTE_STORAGE="$STORE/kv/ccache|connect-timeout=20000|operation-timeout=60000"
    compile "$1" "${2:-sources}" ccache cc
}

largest_kib=0

# compile NAME FOLDER COMPILER...
# shellcheck disable=SC2317,SC2329 # The same.
compile() {
    local name=$1 folder=$2 source
    shift 2
    mkdir "$name"
    for source in "$folder"/*.c; do
        "$@" -c "$source" -o "$name/$(basename "$source" .c).o" || return
        note_size
    done
}

# Keeps the most that the store's directory took, if it has one.
# shellcheck disable=SC2317,SC2329 # The same.
note_size() {
    local kib
    [ -d "$WORK/small" ] || return 0
    # Files may go meanwhile.
    kib=$(du -sk "$WORK/small" 2>/dev/null | cut -f 1) || true
    [ "$kib" -le "$largest_kib" ] || largest_kib=$kib
}

# counted_by_ccache COUNTER: of the last build.
counted_by_ccache() {
    ccache --print-stats | awk -v name="$1" '$1 == name { print $2 }'
}

# The number of entries that the store has removed to make room.
evicted() {
    curl "$STORE/metrics" | awk '$1 == "lkv_evicted_total" { print $2 }'
}

# built HITS MISSES NAME: a build succeeds with so many of each in the store.
built() {
    local hits=$1 misses=$2 name=$3
    check_that "a build ($name)" build "$name"
    check "$name: so many are found in the store" "$hits" \
        "$(counted_by_ccache remote_storage_hit)"
    check "$name: and so many are not" "$misses" "$(counted_by_ccache remote_storage_miss)"
    check "$name: the store never fails" 0 "$(counted_by_ccache remote_storage_error)"
    if [ "$name" != cold ]; then
        check "$name: the objects are those of the first build" '' \
            "$(diff -rq cold "$name" || true)"
    fi
}

STORE=$URL
built 0 "$sources" cold
built "$sources" 0 hit

# Another store takes its place, so the port has to be the same.
kill -KILL "$SERVER_PID"
exit_code "$SERVER_PID" "$PATIENCE"
check 'the store is killed' 137 "$CODE"
check_that 'a build without a store' build without
check 'without: the objects are those of the first build' '' "$(diff -rq cold without || true)"
check 'without: nothing is found' 0 "$(counted_by_ccache remote_storage_hit)"

case $ENGINE in
    durable)
        launch --port "${STORE##*:}" --working-dir "$WORK/store"
        built "$sources" 0 restarted
        ;;
    *)
        launch --port "${STORE##*:}"
        built 0 "$sources" restarted
        ;;
esac
check 'the store is where it was' "$STORE" "$URL"
built "$sources" 0 again

# A cache that is too small for it loses what it was to keep, and no more.
stop_server "$PATIENCE"
head -c 300000 /dev/urandom | od -An -tu1 -v | tr -s ' \n' ',,' | sed 's/^,//; s/,$//' >bytes
printf 'const unsigned char bytes[] = {' | cat - bytes >sources/large.c
echo '};' >>sources/large.c
start_server --max-value-size 100KiB
STORE=$URL
export CCACHE_DIR=$WORK/cache-large
export CCACHE_REMOTE_STORAGE="$STORE/kv/ccache|connect-timeout=20000|operation-timeout=60000"
check_that 'an object that the store does not take is made' ccache cc -c sources/large.c -o large.o
check_that 'and is whole' cc -c sources/large.c -o expected.o
check_file 'as without a cache' expected.o large.o

server_ends_well

# A store that is too small for all objects makes room for those that come, and
# the builds stay right.
objects=$((3 * limit_mib))
mkdir many
for ((number = 1; number <= objects; number++)); do
    # 512 KiB of it, which ccache is not to make small.
    echo "int words_${number}[131072] = {[0 ... 131071] = $number};" >"many/$number.c"
done
export CCACHE_NOCOMPRESS=1

case $ENGINE in
    durable) start_server --working-dir "$WORK/small" --max-disk "${limit_mib}MiB" --when-full evict ;;
    *) start_server --max-memory "${limit_mib}MiB" --when-full evict ;;
esac
STORE=$URL

check_that 'a build without a cache' compile plain many cc
for ((round = 0; round <= rounds; round++)); do
    check_that "a build with a store that is too small ($round)" build "small-$round" many
    check "$round: the objects are the same bytes as without a cache" '' \
        "$(diff -rq plain "small-$round" || true)"
    check "$round: the store never fails" 0 "$(counted_by_ccache remote_storage_error)"
    found=$(counted_by_ccache remote_storage_hit)
    echo "        $found of $objects objects are found"
done
check_that 'the store has made room' test "$(evicted)" -gt 0

if [ "$ENGINE" = durable ]; then
    check_that "its directory, of at most $largest_kib KiB, is within the limit and 5 %" \
        test "$largest_kib" -le $((limit_mib * 1024 * 105 / 100))
elif [ -e "/proc/$SERVER_PID/status" ]; then
    highest_kib=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$SERVER_PID/status")
    check_that "its resident memory, of at most $highest_kib KiB, is within the limit and 24 MiB" \
        test "$highest_kib" -le $(((limit_mib + 24) * 1024))
fi

server_ends_well
summary
