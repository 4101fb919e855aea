#!/usr/bin/env bash
#
# Shows the store at work: watches itself load facts about 252 countries and their
# flags, asks for a few, lists and counts some, and reads every value back to compare
# its bytes.
#
#     scripts/demo.sh                              starts a server of its own
#     ENGINE=durable scripts/demo.sh               on the durable engine
#     ENGINE=cluster scripts/demo.sh               in front of a cluster
#     URL=http://127.0.0.1:8888 scripts/demo.sh    fills one that runs
#
# A server of its own is gone at the end; one that runs keeps the countries.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

COUNTRIES=$ROOT/scripts/countries

use_server

# timed ARG...: runs curl and sets SECONDS_TAKEN. What goes wrong is for the
# checks to find; curl's own words on it are shown.
timed() {
    local TIMEFORMAT=%R
    { time curl "$@" 2>"$WORK/curl.stderr"; } 2>"$WORK/time" || head -n 5 "$WORK/curl.stderr"
    SECONDS_TAKEN=$(cat "$WORK/time")
}

# every_key OPTION FOLDER: a curl configuration that has, for each key, its URL
# and this option with its file in that folder.
every_key() {
    (cd "$WORK/sent" && ls) | awk -v url="$URL/kv/" -v option="$1" -v folder="$2" '
        { printf "url = \"%s%s\"\n%s = \"%s/%s\"\n", url, $0, option, folder, $0 }'
}

# The data: one file for each key.

mkdir "$WORK/sent" "$WORK/received"
LC_ALL=C awk -F '\t' -v folder="$WORK/sent" '
    { file = folder "/" $1; printf "%s", $2 >file; close(file) }' "$COUNTRIES/countries.tsv"
awk -F '\t' '$1 ~ /:code$/ { sub(/:code$/, "", $1); print $1, tolower($2) }' \
    "$COUNTRIES/countries.tsv" |
    while read -r country code; do
        cp "$COUNTRIES/flags/$code.svg" "$WORK/sent/$country:flag"
    done
keys=$(find "$WORK/sent" -type f | wc -l | tr -d ' ')
bytes=$(find "$WORK/sent" -type f -exec cat {} + | wc -c | tr -d ' ')

# Loading: curl with one connection and many uploads, and another that watches.

# shellcheck disable=SC2317 # within calls it.
all_are_told() {
    [ "$(grep -c '^put ' "$WORK/changes")" -ge "$keys" ]
}

if has_slots; then
    echo 'Before a cluster nobody is told of each change: it loads unwatched.'
    answer 501 'not on this engine\n' curl "$URL/watch"
else
    printf '$ curl -N %s &\n' "$URL/watch"
    command curl -q -sN --max-time 600 "$URL/watch" >"$WORK/changes" &
    STARTED_PIDS="$STARTED_PIDS$! "
    check_that 'a watch begins' within "$PATIENCE" test -s "$WORK/changes"
fi

echo "Loading $keys keys with $bytes bytes into $URL ..."
every_key upload-file "$WORK/sent" >"$WORK/uploads"
timed -w '%{http_code}\n' -K "$WORK/uploads" >"$WORK/statuses"
echo "Loaded in $SECONDS_TAKEN s."
check 'every upload is answered with 200' "$keys" "$(grep -c '^200$' "$WORK/statuses")"
# These names need no percent-encoding: they stand so in a line.
(cd "$WORK/sent" && printf '%s\n' *) | LC_ALL=C sort >"$WORK/keys"
if ! has_slots; then
    check_that 'the watch tells each' within "$PATIENCE" all_are_told
    sed -n '1,4p' "$WORK/changes"
    echo '...'
    check 'by its key' '' "$(awk '$1 == "put" { print $3 }' "$WORK/changes" | LC_ALL=C sort |
        LC_ALL=C comm -23 "$WORK/keys" -)"
fi

# Asking.

# shown STATUS BODY curl ARG...: a command and its answer, as in a terminal.
shown() {
    local command
    command=$(shift 2 && quoted "$@")
    printf '\n$ %s\n' "${command//\$URL/$URL}"
    answer "$@" >"$WORK/verdict"
    cat "$WORK/body"
    [ -z "$(tail -c 1 "$WORK/body" | tr -d '\n')" ] || echo
    cat "$WORK/verdict"
}

shown 200 'Nairobi' curl "$URL/kv/kenya:capital"
shown 200 'Kenyan Shilling' curl "$URL/kv/kenya:currencies"
shown 200 'German, French, Italian' curl "$URL/kv/switzerland:languages"
shown 200 'Österreich' curl "$URL/kv/austria:native"
shown 200 '🇯🇵' curl "$URL/kv/japan:emoji"
shown 404 'key not found\n' curl "$URL/kv/antarctica:capital"

printf '\n$ curl %s | head -c 80\n' "$URL/kv/kenya:flag"
ask "$URL/kv/kenya:flag"
head -c 80 "$WORK/body"
echo
check_file "Kenya's flag" "$COUNTRIES/flags/ke.svg" "$WORK/body"
printf '\n$ curl -I %s\n' "$URL/kv/kenya:flag"
ask -I "$URL/kv/kenya:flag"
tr -d '\r' <"$WORK/head" | sed '/^$/d'
check 'its length' "$(wc -c <"$COUNTRIES/flags/ke.svg" | tr -d ' ')" "$(header Content-Length)"
check 'its type' 'text/plain; charset=utf-8' "$(header Content-Type)"

shown 200 "$(cd "$WORK/sent" && printf '%s\\n' kenya:*)" curl "$URL/kv?prefix=kenya:"
shown 200 'kazakhstan:\nkenya:\nkiribati:\nkosovo:\nkuwait:\nkyrgyzstan:\n' \
    curl "$URL/kv?prefix=k&delimiter=:"
shown 200 "$(find "$WORK/sent" -type f -name 's*' | wc -l | tr -d ' ')\\n" curl "$URL/kv?prefix=s&count"

shown 200 '' curl -X PUT -d 'Zanzibar' "$URL/kv/tanzania:capital"
shown 200 'Zanzibar' curl "$URL/kv/tanzania:capital"
shown 200 '' curl -X DELETE "$URL/kv/tanzania:capital"
shown 404 'key not found\n' curl "$URL/kv/tanzania:capital"
shown 200 '' curl -X PUT -d 'Dodoma' "$URL/kv/tanzania:capital"

# Everything back.

printf '\nReading every value back ...\n'
every_key output "$WORK/received" >"$WORK/downloads"
timed -K "$WORK/downloads"
echo "Read in $SECONDS_TAKEN s."
check 'every key is read' "$keys" "$(find "$WORK/received" -type f | wc -l | tr -d ' ')"
ask "$URL/kv"
check 'every key is listed, once and in order' '' "$(LC_ALL=C comm -23 "$WORK/keys" "$WORK/body")"
check 'every value is what was sent, byte for byte' '' \
    "$(diff -r "$WORK/sent" "$WORK/received" 2>&1 | head -n 5)"

summary
