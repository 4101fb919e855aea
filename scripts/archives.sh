#!/usr/bin/env bash
#
# Tests exports and imports as tar archives with tar and Python: whatever the store
# writes they list and extract, whatever they write it takes, and neither loses
# anything.
#
#     scripts/archives.sh                              starts a server of its own
#     ENGINE=durable scripts/archives.sh               on the durable engine
#     ENGINE=cluster scripts/archives.sh               in front of a cluster
#     URL=http://127.0.0.1:8888 scripts/archives.sh    asks one that runs
#
# It uses keys below archives/ and deletes them in the end.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

use_server
cd "$WORK"

keys="$URL/kv?prefix=archives/"

# deleted: nothing is left of earlier checks.
deleted() {
    curl -X DELETE "$keys" >/dev/null
}

# has_values FILE: the store has the lines of this file.
has_values() {
    curl "$keys&values" >values
    check_file '    it has all that was there' "$1" values
}

# is_refused TEXT COMMAND...: what the command writes is refused with this text.
is_refused() {
    local text=$1
    shift
    "$@" >refused.tar
    answer 400 "$text\n" curl -T refused.tar "$URL/import"
}

head -c 3000000 /dev/urandom >film.bin
long=$(printf 'n%.0s' {1..200})

# An archive of the store's.

deleted
mkdir -p tree/archives/docs/img
printf 'hello' >tree/archives/greeting
printf '{"n":1}' >tree/archives/docs/data.json
printf 'Read me.\n' >tree/archives/docs/readme
printf '1' >"tree/archives/docs/img/S$(printf '\303\243')o Paulo"
printf '2' >"tree/archives/new"$'\n'"line"
printf '3' >"tree/archives/$long"
cp film.bin tree/archives/film

url_of() {
    printf '%s' "$1" | sed -e ':a' -e '$!{N;ba' -e '}' -e 's/ /%20/g' -e 's/\n/%0A/g'
}
(cd tree && find archives -type f -print0) >names
while IFS= read -r -d '' name; do
    curl -T "tree/$name" "$URL/kv/$(url_of "$name")" >/dev/null
done <names
curl "$keys&values" >plain
check 'all are there' 7 "$(curl "$keys&count")"

ask "$keys&tar"
check 'an archive is sent' '200 0' "$STATUS $CODE"
check '    its type' application/x-tar "$(header Content-Type)"
cp body out.tar
check 'tar lists it' 7 "$(tar tf out.tar | wc -l | tr -d ' ')"
mkdir extracted
check_that 'tar extracts it' tar xf out.tar -C extracted
check_that '    all files are as they were' diff -r tree extracted
curl "$keys&tar" >again.tar
check_file 'the same again is the same archive' out.tar again.tar
check 'a page is an archive, too' 2 "$(curl "$keys&tar&limit=2" | tar t | wc -l | tr -d ' ')"
ask -I "$keys&tar&limit=2"
check '    its head has its length' "$(curl "$keys&tar&limit=2" | wc -c | tr -d ' ')" \
    "$(header Content-Length)"

deleted
answer 200 '7\n' curl -T out.tar "$URL/import"
has_values plain
deleted
answer 200 '7\n' curl --data-binary @out.tar "$URL/import"
has_values plain

# Archives of tar's.

if tar --version 2>/dev/null | grep -q GNU; then
    for format in pax gnu oldgnu ustar v7; do
        deleted
        options=
        expected=7
        if [ "$format" = v7 ] || [ "$format" = ustar ]; then
            # They have no room for the name.
            options="--exclude=$long"
            expected=6
        fi
        # shellcheck disable=SC2086 # There may be no option.
        tar c --format="$format" $options -C tree . >in.tar
        answer 200 "$expected\n" curl -T in.tar "$URL/import"
        grep -v "$([ "$expected" = 6 ] && printf '%s' "$long" || printf '^$')" plain >expected_lines
        has_values expected_lines
    done
    tar c --format=pax --record-size=1M -C tree archives/greeting >in.tar
    answer 200 '1\n' curl -T in.tar "$URL/import"
    deleted
    ask -T - "$URL/import" < <(tar c -C tree archives)
    check 'a pipe is imported' '200 7' "$STATUS $(cat body)"
    has_values plain

    # What is no file.
    mkdir refused
    cd refused
    kind='it is neither a plain file nor a directory; 0 were stored'
    ln -s /etc/passwd link
    is_refused "entry 1: $kind" tar c link
    printf 'x' >file
    ln file other
    is_refused 'entry 2: it is neither a plain file nor a directory; 1 were stored' \
        tar c file other
    mkfifo fifo
    is_refused "entry 1: $kind" tar c fifo
    : >empty
    is_refused 'entry 1: value cannot be empty; 0 were stored' tar c empty
    truncate -s 1M sparse
    printf 'x' >>sparse
    for format in gnu pax; do
        for version in 0.0 0.1 1.0; do
            is_refused "entry 1: $kind" \
                tar c --sparse --sparse-version="$version" --format="$format" sparse
        done
    done
    cd ..
    curl -X DELETE "$URL/kv/file" >/dev/null
else
    skip 'archives of GNU tar in all of its formats' 'this tar is not GNU'
fi

# What is cut, or packed.

deleted
for bytes in 1000 5000 2000000; do
    ask -T - "$URL/import" < <(head -c "$bytes" out.tar)
    check_match "an archive of $bytes bytes is refused" \
        '^400 entry [1-7]: the archive ended early; [0-6] were stored$' "$STATUS $(cat body)"
done
gzip -c out.tar >packed.tar.gz
answer 400 'the import is neither lines of JSON nor a tar archive\n' \
    curl -T packed.tar.gz "$URL/import"
answer 415 'content encoding is not supported\n' \
    curl -H 'Content-Encoding: gzip' -T packed.tar.gz "$URL/import"

# What no file can be, and what no path.

deleted
for key in beside beside/below docs%2F a%2F%2Fb ..%2Fup %00 '%0A'; do
    curl -X PUT -d 'x' "$URL/kv/archives/$key" >/dev/null
done
curl -X PUT -d 'x' -H 'Content-Type: text/csv' "$URL/kv/archives/typed?ttl=1h" >/dev/null
curl "$keys&values" >before
curl "$keys&tar" >all.tar
code=0
tar tf all.tar >listed 2>/dev/null || code=$?
check 'tar lists keys that no path can be' '8 0' "$(wc -l <listed | tr -d ' ') $code"
mkdir in_the_way
check 'one of a file and a directory of one name is not extracted' 'yes' \
    "$(tar xf all.tar -C in_the_way 2>/dev/null && echo no || echo yes)"
check '    and nothing is outside' '' "$(find . -name up)"
deleted
answer 200 '8\n' curl -T all.tar "$URL/import"
has_values before

# Archives of Python's.

deleted
if need python3 'archives of Python'; then
    counted archives.py --url "$URL"
fi

deleted
server_ends_well
summary
