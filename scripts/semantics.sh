#!/usr/bin/env bash
#
# Tests with curl what HTTP and the store's own parameters mean for a key:
# validators, conditions, ranges, expiry, counters, appending, taking out, types.
#
#     scripts/semantics.sh                              starts a server of its own
#     ENGINE=durable scripts/semantics.sh               on the durable engine
#     ENGINE=cluster scripts/semantics.sh               in front of a cluster
#     URL=http://127.0.0.1:8888 scripts/semantics.sh    asks one that runs
#
# It overwrites a few keys (greeting, film, session, ...) and leaves them in
# the store.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

TEXT='text/plain; charset=utf-8'

use_server
cd "$WORK"

# etag FILE: the ETag of its bytes, as anybody can compute it.
etag() {
    printf '"%s"' "$(sha256sum <"$1" | cut -c1-32)"
}

# etag_of TEXT
etag_of() {
    printf '"%s"' "$(printf '%s' "$1" | sha256sum | cut -c1-32)"
}

# has HEADER VALUE: a field of the last answer.
has() {
    check "    $1: $2" "$2" "$(header "$1")"
}

# lives SECONDS: the last answer has a TTL of that, or a little less.
lives() {
    local left
    left=$(header TTL)
    if [[ $left =~ ^[0-9]+$ ]] && [ "$left" -le "$1" ] && [ "$left" -ge $(($1 / 2)) ]; then
        passed "    TTL: $left"
    else
        failed "    TTL" "$1, or a little less" "$left"
    fi
}

# expires KEY: the key is absent soon.
expires() {
    check_that "$1 expires" within "$PATIENCE" is_absent "$1"
}

# shellcheck disable=SC2317 # `within` calls it.
is_absent() {
    ask "$URL/kv/$1"
    [ "$STATUS" = 404 ]
}

head -c 3000000 /dev/urandom >film.bin
hello=$(etag_of hello)
world=$(etag_of world)

# Validators.

answer 200 '' curl -X PUT -d 'hello' "$URL/kv/greeting"
has ETag "$hello"
answer 200 'hello' curl "$URL/kv/greeting"
has ETag "$hello"
has Cache-Control no-cache
has Accept-Ranges bytes
has X-Content-Type-Options nosniff
has Content-Type "$TEXT"
has TTL ''
answer_status 200 curl -I "$URL/kv/greeting"
has ETag "$hello"
answer 200 '' curl -T film.bin "$URL/kv/film"
has ETag "$(etag film.bin)"
answer_file 200 film.bin curl "$URL/kv/film"
has ETag "$(etag film.bin)"

answer 304 '' curl -H "If-None-Match: $hello" "$URL/kv/greeting"
has ETag "$hello"
has Cache-Control no-cache
answer 304 '' curl -H "If-None-Match: $world, W/$hello" "$URL/kv/greeting"
answer 304 '' curl -H 'If-None-Match: *' "$URL/kv/greeting"
answer_status 304 curl -I -H "If-None-Match: $hello" "$URL/kv/greeting"
answer 200 'hello' curl -H "If-None-Match: $world" "$URL/kv/greeting"
answer 404 'key not found\n' curl -H 'If-None-Match: *' "$URL/kv/absent"
answer 304 '' curl -H "If-None-Match: $(etag film.bin)" "$URL/kv/film"

: >none
answer 200 'hello' curl --etag-compare none --etag-save known "$URL/kv/greeting"
check 'curl keeps the ETag' "$hello" "$(cat known)"
answer 304 '' curl --etag-compare known "$URL/kv/greeting"

# Conditions.

answer 200 '' curl -X DELETE "$URL/kv/greeting"
answer 201 '' curl -X PUT -d 'hello' -H 'If-None-Match: *' "$URL/kv/greeting"
has ETag "$hello"
answer 412 'precondition failed\n' curl -X PUT -d 'world' -H 'If-None-Match: *' "$URL/kv/greeting"
has ETag "$hello"
answer 412 'precondition failed\n' curl -X PUT -d 'world' -H "If-Match: $world" "$URL/kv/greeting"
has ETag "$hello"
has Cache-Control no-store
answer 200 'hello' curl "$URL/kv/greeting"
answer 200 '' curl -X PUT -d 'world' -H "If-Match: $hello" "$URL/kv/greeting"
has ETag "$world"
answer 200 '' curl -X PUT -d 'hello' -H 'If-Match: *' "$URL/kv/greeting"
answer 412 'precondition failed\n' curl -X PUT -d 'world' -H "If-None-Match: $hello" "$URL/kv/greeting"
answer 412 'precondition failed\n' curl -X PUT -d 'x' -H 'If-Match: *' "$URL/kv/absent"
has ETag ''
answer 412 'precondition failed\n' curl -X DELETE -H "If-Match: $world" "$URL/kv/greeting"
answer 412 'precondition failed\n' curl -X POST -H "If-Match: $world" "$URL/kv/greeting?ttl=60"
answer 412 'precondition failed\n' curl -T film.bin -H "If-Match: $hello" "$URL/kv/film"
has ETag "$(etag film.bin)"
ask -f -X PUT -d 'world' -H "If-Match: $world" "$URL/kv/greeting"
check 'curl -f exits with 22 when a condition fails' 22 "$CODE"
answer 200 '' curl -X DELETE -H "If-Match: $hello" "$URL/kv/greeting"
answer 404 'key not found\n' curl "$URL/kv/greeting"
answer_status 400 curl -X PUT -d 'x' -H 'If-Match: hello' "$URL/kv/greeting"

# Ranges.

answer 200 '' curl -X PUT -d '0123456789' "$URL/kv/digits"
answer 206 '0123' curl -r 0-3 "$URL/kv/digits"
has Content-Range 'bytes 0-3/10'
has Content-Length 4
has ETag "$(etag_of 0123456789)"
answer 206 '789' curl -r 7- "$URL/kv/digits"
has Content-Range 'bytes 7-9/10'
answer 206 '89' curl -r -2 "$URL/kv/digits"
has Content-Range 'bytes 8-9/10'
answer 206 '89' curl -r 8-1000 "$URL/kv/digits"
answer_status 416 curl -r 10- "$URL/kv/digits"
has Content-Range 'bytes */10'
answer 200 '0123456789' curl -r 0-1,3-4 "$URL/kv/digits"
answer 200 '0123456789' curl -H 'Range: lines=0-3' "$URL/kv/digits"
answer 206 '01' curl -r 0-1 -H "If-Range: $(etag_of 0123456789)" "$URL/kv/digits"
answer 200 '0123456789' curl -r 0-1 -H "If-Range: $hello" "$URL/kv/digits"
ask -I -r 0-3 "$URL/kv/digits"
check 'HEAD has no parts' '200 10' "$STATUS $(header Content-Length)"

head -c 2000000 film.bin | tail -c 1000000 >part.bin
answer_file 206 part.bin curl -r 1000000-1999999 "$URL/kv/film"
has Content-Range 'bytes 1000000-1999999/3000000'
head -c 1000 film.bin >resumed
curl -C - -o resumed "$URL/kv/film" 2>resumed.stderr || true
check_file 'curl -C - resumes a download' film.bin resumed

# Expiry.

for time in 60:60 90s:90 5m:300 2h:7200 7d:604800; do
    answer 200 '' curl -X PUT -d 'ann' "$URL/kv/session?ttl=${time%:*}"
    answer 200 'ann' curl "$URL/kv/session"
    lives "${time#*:}"
    has Cache-Control no-cache
done
answer 200 '' curl -X PUT -d 'ann' -H 'TTL: 60' "$URL/kv/session"
answer_status 200 curl -I "$URL/kv/session"
lives 60
answer 200 '' curl -X PUT -d 'bob' "$URL/kv/session?ttl=keep"
answer 200 'bob' curl "$URL/kv/session"
lives 60
answer 200 '' curl -X PUT -d 'ann' "$URL/kv/session"
answer 200 'ann' curl "$URL/kv/session"
has TTL ''

answer 200 '' curl -X POST "$URL/kv/session?ttl=60"
answer 200 'ann' curl "$URL/kv/session"
lives 60
answer 200 '' curl -X POST "$URL/kv/session?ttl=none"
answer 200 'ann' curl "$URL/kv/session"
has TTL ''
answer 404 'key not found\n' curl -X POST "$URL/kv/absent?ttl=60"
answer_status 400 curl -d 'a body' "$URL/kv/session?ttl=60"

for time in 0 -1 0s soon '' 60x 1.5 36526d 99999999999999999999; do
    answer_status 400 curl -X PUT -d 'bob' "$URL/kv/session?ttl=$time"
done
answer_status 400 curl -X PUT -d 'bob' -H 'TTL: 0' "$URL/kv/session"
answer_status 400 curl -X PUT -d 'bob' -H 'TTL: soon' "$URL/kv/session"
answer_status 400 curl -X PUT -d 'bob' -H 'TTL: 61' "$URL/kv/session?ttl=60"
answer_status 400 curl -X POST "$URL/kv/session?ttl=0"
answer 200 'ann' curl "$URL/kv/session"

answer 200 '' curl -X PUT -d 'ann' "$URL/kv/session?ttl=500ms"
expires session
answer 404 'key not found\n' curl "$URL/kv/session"
answer 404 'key not found\n' curl -X DELETE "$URL/kv/session?return"
answer 404 'key not found\n' curl -X POST "$URL/kv/session?ttl=60"
answer 201 '' curl -X PUT -d 'bob' -H 'If-None-Match: *' "$URL/kv/session?ttl=60"
answer 200 '' curl -X POST -d '!' "$URL/kv/session?append"
answer 200 'bob!' curl "$URL/kv/session"
lives 60
answer 200 '' curl -T film.bin "$URL/kv/session?ttl=100ms"
expires session

# Counters.

answer 200 '' curl -X DELETE "$URL/kv/visits"
answer 200 '1\n' curl -X POST "$URL/kv/visits?incr"
has Content-Type "$TEXT"
answer 200 '6\n' curl -X POST "$URL/kv/visits?incr=5"
answer 200 '4\n' curl -X POST "$URL/kv/visits?decr=2"
answer 200 '-6\n' curl -X POST "$URL/kv/visits?decr=10"
answer 200 '-6' curl "$URL/kv/visits"
has ETag "$(etag_of -6)"
answer_status 400 curl -X POST "$URL/kv/visits?incr=many"
answer 200 '' curl -X PUT -d '41' "$URL/kv/visits?ttl=60"
answer 200 '42\n' curl -X POST "$URL/kv/visits?incr"
answer 200 '43\n' curl -X POST "$URL/kv/visits?incr&ttl=2h"
answer 200 '43' curl "$URL/kv/visits"
lives 60
answer 200 '' curl -X DELETE "$URL/kv/visits"
answer 200 '1\n' curl -X POST "$URL/kv/visits?incr&ttl=60"
answer 200 '1' curl "$URL/kv/visits"
lives 60
answer 200 '' curl -X PUT -d 'Nairobi' "$URL/kv/visits"
answer_status 409 curl -X POST "$URL/kv/visits?incr"
answer 200 'Nairobi' curl "$URL/kv/visits"
answer 200 '' curl -X PUT -d '9223372036854775807' "$URL/kv/visits"
answer_status 409 curl -X POST "$URL/kv/visits?incr"
answer 200 '' curl -X PUT -d '9223372036854775808' "$URL/kv/visits"
answer_status 409 curl -X POST "$URL/kv/visits?incr"
answer 200 '9223372036854775808' curl "$URL/kv/visits"

# Appending and taking out.

answer 200 '' curl -X DELETE "$URL/kv/log"
answer 200 '' curl -d 'one,' "$URL/kv/log?append"
answer 200 '' curl -X POST -T - "$URL/kv/log?append" < <(printf 'two\n')
answer 200 'one,two\n' curl "$URL/kv/log"
has Content-Type "$TEXT"
has ETag "$(printf '"%s"' "$(printf 'one,two\n' | sha256sum | cut -c1-32)")"
answer 400 'value cannot be empty\n' curl -d '' "$URL/kv/log?append"
answer 200 '' curl --data-binary @film.bin "$URL/kv/log?append"
{ printf 'one,two\n' && cat film.bin; } >expected.bin
answer_file 200 expected.bin curl "$URL/kv/log"
has ETag "$(etag expected.bin)"
head -c 8000000 /dev/zero >zeros.bin
answer_status 413 curl --data-binary @zeros.bin "$URL/kv/log?append"
answer_file 200 expected.bin curl -X DELETE "$URL/kv/log?return"
answer 404 'key not found\n' curl -X DELETE "$URL/kv/log?return"
answer 404 'key not found\n' curl "$URL/kv/log"

# Types.

answer 200 '' curl -X PUT -d '{"n":1}' -H 'Content-Type: application/json' "$URL/kv/page"
answer 200 '{"n":1}' curl "$URL/kv/page"
has Content-Type application/json
has Content-Security-Policy ''
answer 200 '' curl -d ' ' "$URL/kv/page?append"
answer 200 '{"n":1} ' curl "$URL/kv/page"
has Content-Type application/json
answer 200 '{"n":1} ' curl -X DELETE "$URL/kv/page?return"
has Content-Type application/json
answer 200 '' curl -X PUT -d 'form=1' "$URL/kv/page"
answer 200 'form=1' curl "$URL/kv/page"
has Content-Type "$TEXT"
for type in 'text/html; charset=utf-8' image/svg+xml application/xml text/javascript; do
    answer 200 '' curl -X PUT -d '<a/>' -H "Content-Type: $type" "$URL/kv/page"
    answer 200 '<a/>' curl "$URL/kv/page"
    has Content-Type "$type"
    has Content-Security-Policy sandbox
done
answer_status 400 curl -X PUT -d 'x' -H 'Content-Type: text' "$URL/kv/page"
answer_status 400 curl -X PUT -d 'x' -H 'Content-Range: bytes 0-0/4' "$URL/kv/page"
answer_status 415 curl -X PUT -d 'x' -H 'Content-Encoding: gzip' "$URL/kv/page"
answer 200 '<a/>' curl "$URL/kv/page"

# Methods.

answer 204 '' curl -X OPTIONS "$URL/kv/greeting"
for method in GET HEAD PUT POST DELETE OPTIONS; do
    check_match "    Allow has $method" "(^|[ ,])$method([ ,]|\$)" "$(header Allow)"
done
answer 405 'method not allowed\n' curl -d 'a POST, as -X PUT is missing' "$URL/kv/greeting"
answer 405 'method not allowed\n' curl -X POST "$URL/kv/greeting"
answer 405 'method not allowed\n' curl -X PATCH -d 'x' "$URL/kv/greeting"
answer_status 400 curl "$URL/kv/greeting?incr"
answer_status 400 curl -X PUT -d 'x' "$URL/kv/greeting?tll=60"
answer_status 400 curl -X DELETE "$URL/kv/greeting?returns"

summary
