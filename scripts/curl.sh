#!/usr/bin/env bash
#
# Tests what people do with curl: every way to send a value, keys of every kind,
# large and binary values, lists, waits, watches, exports, exit codes, and what each
# mistake is answered with.
#
#     scripts/curl.sh                              starts a server of its own
#     ENGINE=durable scripts/curl.sh               on the durable engine
#     ENGINE=cluster scripts/curl.sh               in front of a cluster
#     URL=http://127.0.0.1:8888 scripts/curl.sh    asks one that runs
#
# It overwrites a few keys (greeting, notes.txt, ...) and leaves them in the
# store. Only a server of its own is cleared.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

TEXT='text/plain; charset=utf-8'
BINARY='application/octet-stream'
MEBIBYTE=1048576

use_server
cd "$WORK"

# Ways to send a value.

printf 'one\ntwo\n' >notes.txt
head -c 3000 /dev/urandom >photo.bin
head -c $((3 * MEBIBYTE)) /dev/urandom >film.bin
head -c $((10 * MEBIBYTE)) /dev/urandom >largest.bin
head -c $((10 * MEBIBYTE + 1)) /dev/urandom >too-large.bin

answer 200 '' curl -X PUT -d 'hello' "$URL/kv/greeting"
answer 200 'hello' curl "$URL/kv/greeting"

answer 200 '' curl -X PUT -d @notes.txt "$URL/kv/notes"
answer 200 'onetwo' curl "$URL/kv/notes"
answer 200 '' curl -X PUT --data-binary @notes.txt "$URL/kv/notes"
answer_file 200 notes.txt curl "$URL/kv/notes"

answer 200 '' curl -X PUT --data-raw '@notes.txt' "$URL/kv/notes"
answer 200 '@notes.txt' curl "$URL/kv/notes"
answer 200 '' curl -X PUT --data-urlencode 'salt&pepper' "$URL/kv/notes"
answer 200 'salt%26pepper' curl "$URL/kv/notes"

answer 200 '' curl -T photo.bin "$URL/kv/photo"
answer_file 200 photo.bin curl "$URL/kv/photo"

answer 200 '' curl -T notes.txt "$URL/kv/"
answer_file 200 notes.txt curl "$URL/kv/notes.txt"
answer 200 '' curl -T notes.txt "$URL/kv/folder/"
answer_file 200 notes.txt curl "$URL/kv/folder/notes.txt"
answer 400 'key cannot be empty\n' curl -T - "$URL/kv/" <notes.txt

answer 200 '' curl -T - "$URL/kv/pipe" < <(printf 'from a pipe\n')
answer 200 'from a pipe\n' curl "$URL/kv/pipe"
answer 200 '' curl -T - "$URL/kv/pipe" < <(cat film.bin)
answer_file 200 film.bin curl "$URL/kv/pipe"
answer 400 'value cannot be empty\n' curl -T - "$URL/kv/pipe" </dev/null
answer_file 200 film.bin curl "$URL/kv/pipe"

answer 200 '' curl -X PUT -d 'small' -H 'Transfer-Encoding: chunked' "$URL/kv/chunked"
answer 200 'small' curl "$URL/kv/chunked"

# A body with `Expect: 100-continue` waits to be asked for. curl sends that
# with a large one of its own accord, and goes on after a second if nobody
# asks: so the answer has to hold the invitation.
answer 200 '' curl -T film.bin "$URL/kv/film"
check_match 'a 3 MiB upload is invited with 100 Continue' '^HTTP/1.1 100' "$(cat head)"
answer_file 200 film.bin curl "$URL/kv/film"
answer 200 '' curl -X PUT -d 'small' -H 'Expect: 100-continue' "$URL/kv/expect"
check_match 'a small one too' '^HTTP/1.1 100' "$(cat head)"
answer 200 'small' curl "$URL/kv/expect"
answer 200 '' curl -T film.bin -H 'Expect:' "$URL/kv/film"
check 'without Expect there is no 100' 0 "$(grep -c '^HTTP/1.1 100' head || true)"
answer 200 '' curl -T - -H 'Expect: 100-continue' "$URL/kv/expect" < <(printf 'both')
answer 200 'both' curl "$URL/kv/expect"

answer 200 '' curl -0 -X PUT -d 'old' "$URL/kv/old"
answer 200 'old' curl -0 -H 'Host:' "$URL/kv/old"
answer_status 400 curl -H 'Host:' "$URL/kv/old"

if need_curl_option --http2 'an upgrade to HTTP/2 is offered'; then
    answer 200 '' curl --http2 -X PUT -d 'still HTTP/1.1' "$URL/kv/http2"
    answer 200 'still HTTP/1.1' curl --http2 "$URL/kv/http2"
fi

# Values.

answer 200 '' curl -T largest.bin "$URL/kv/largest"
answer_file 200 largest.bin curl "$URL/kv/largest"
answer 200 '' curl -T - "$URL/kv/largest" < <(cat largest.bin)
answer_file 200 largest.bin curl "$URL/kv/largest"

answer_status 413 curl -T too-large.bin "$URL/kv/largest"
check 'a body that is refused is not invited' 0 "$(grep -c '^HTTP/1.1 100' head || true)"
answer_status 413 curl -T too-large.bin -H 'Expect:' "$URL/kv/largest"
answer_status 413 curl -T - "$URL/kv/largest" < <(cat too-large.bin)
answer_status 413 curl -X PUT --data-binary @too-large.bin "$URL/kv/largest"
answer_file 200 largest.bin curl "$URL/kv/largest"
answer 200 '' curl -X DELETE "$URL/kv/largest"

answer 200 '' curl -X PUT -d 'Dar es Salaam' "$URL/kv/value"
ask "$URL/kv/value"
check 'ASCII is text' "$TEXT" "$(header Content-Type)"
check 'no guessing of types' nosniff "$(header X-Content-Type-Options)"
check 'with its length' 13 "$(header Content-Length)"
check_match 'and a date' ' GMT$' "$(header Date)"

printf 'S\303\243o Tom\303\251' >utf8.txt
answer 200 '' curl -T utf8.txt "$URL/kv/value"
answer_file 200 utf8.txt curl "$URL/kv/value"
check 'UTF-8 is text' "$TEXT" "$(header Content-Type)"

printf 'S\343o Tom\351' >latin1.txt
answer 200 '' curl -T latin1.txt "$URL/kv/value"
answer_file 200 latin1.txt curl "$URL/kv/value"
check 'Latin-1 is binary' "$BINARY" "$(header Content-Type)"

printf '\0\0\1\377\0\r\n\0' >zeros.bin
answer 200 '' curl -X PUT --data-binary @zeros.bin "$URL/kv/value"
answer_file 200 zeros.bin curl "$URL/kv/value"
check 'bytes are binary' "$BINARY" "$(header Content-Type)"
check 'no guessing of types' nosniff "$(header X-Content-Type-Options)"

printf '\0' >zero.bin
answer 200 '' curl -T zero.bin "$URL/kv/value"
answer_file 200 zero.bin curl "$URL/kv/value"

printf '\n' >newline.txt
answer 200 '' curl -T newline.txt "$URL/kv/value"
answer_file 200 newline.txt curl "$URL/kv/value"

answer 400 'value cannot be empty\n' curl -T /dev/null "$URL/kv/value"
answer 400 'value cannot be empty\n' curl -X PUT "$URL/kv/value"
answer_file 200 newline.txt curl "$URL/kv/value"

# HEAD:

answer 200 '' curl -T photo.bin "$URL/kv/photo"
answer_status 200 curl -I "$URL/kv/photo"
check 'HEAD tells the length' 3000 "$(header Content-Length)"
check 'HEAD tells the type' "$BINARY" "$(header Content-Type)"
ask --head "$URL/kv/photo" "$URL/kv/photo" -o /dev/null
check 'HEAD has no body: the next answer follows' 200200 "$STATUS"
answer_status 200 curl -I "$URL/kv/film"
check 'HEAD tells a great length' $((3 * MEBIBYTE)) "$(header Content-Length)"
check 'HEAD is not chunked' '' "$(header Transfer-Encoding)"
answer_status 404 curl -I "$URL/kv/absent"
answer_status 200 curl -I "$URL/healthz"

# Keys.

# same_key PUT-PATH GET-PATH: both name one key.
same_key() {
    answer 200 '' curl --path-as-is -X PUT -d "$1" "$URL/kv/$1"
    answer 200 "$1" curl --path-as-is "$URL/kv/$2"
}

same_key 'a/b' 'a%2Fb'
same_key 'a%2fb/c' 'a/b/c'
same_key 'two%20words' 'two%20words'
same_key '1+1' '1%2B1'
same_key '%C3%A3o%20tom%C3%A9' '%c3%a3o%20tom%c3%a9'
same_key '%F0%9F%87%B0%F0%9F%87%AA' '%F0%9F%87%B0%F0%9F%87%AA'
same_key 'what%3F' 'what%3f'
same_key 'a%23b' 'a%23b'
same_key '100%25' '100%25'
same_key 'a//b' 'a//b'
same_key '/' '%2F'
same_key 'a/../b' 'a/%2E%2E/b'
same_key '..' '%2e%2e'
same_key 'a/' 'a/'
same_key '~tilde-._!$&()*,;=:@' '%7Etilde-._!$&()*,;=:@'
same_key 'kv/kv' 'kv/kv'

answer 200 '' curl -X PUT -d 'a space' "$URL/kv/1%201"
answer 200 '1+1' curl "$URL/kv/1+1"
answer 200 '' curl -X PUT -d 'decoded once' "$URL/kv/%2541"
answer 404 'key not found\n' curl "$URL/kv/%41"
answer 200 'decoded once' curl "$URL/kv/%2541"
answer 200 '' curl -X PUT -d 'upper' "$URL/kv/Case"
answer 404 'key not found\n' curl "$URL/kv/case"

# Without --path-as-is it is curl that takes /kv/a/../b for /kv/b.
answer 200 '' curl -X PUT -d 'b alone' "$URL/kv/a/../b"
answer 200 'b alone' curl "$URL/kv/b"
answer 200 'a/../b' curl --path-as-is "$URL/kv/a/../b"

long_key=$(head -c 1024 /dev/zero | tr '\0' k)
ask -X PUT -d 'long' "$URL/kv/$long_key"
check 'a key of 1,024 bytes' 200 "$STATUS"
ask -X PUT -d 'long' "$URL/kv/${long_key}k"
check 'a key of 1,025 bytes' 400 "$STATUS"
ask -X PUT -d 'long' "$URL/kv/$(printf '%s' "${long_key:341}" | sed 's/kk/%C3%A9/g')"
check 'a key of 682 bytes in three times the length' 200 "$STATUS"
ask -X DELETE "$URL/kv/$long_key"
check 'the long key is deleted' 200 "$STATUS"

answer_status 400 curl "$URL/kv/bad%zzescape"
answer_status 400 curl "$URL/kv/cut%2"
answer_status 400 curl "$URL/kv/cut%"
answer_status 400 curl -X PUT -d 'x' "$URL/kv/latin1-%E9"
answer 400 'key cannot be empty\n' curl "$URL/kv/"
answer 400 'key cannot be empty\n' curl -X DELETE "$URL/kv/"
answer 400 'key cannot be empty\n' curl -X POST -d 'x' "$URL/kv/"
answer 400 'key cannot be empty\n' curl "$URL/kv/?ttl=5"

# Waits.

answer 200 '' curl -X DELETE "$URL/kv/build:42:done"
curl -q -sS --max-time 60 "$URL/kv/build:42:done?wait=50s" >waited &
waiting=$!
answer 200 '' curl -X PUT -d 'yes' "$URL/kv/build:42:done"
wait "$waiting"
check 'a wait is answered once somebody puts it' yes "$(cat waited)"
answer 404 'key not found\n' curl "$URL/kv/build:43:done?wait=20ms"

answer 200 '' curl -X DELETE "$URL/kv/lock/deploy"
answer 201 '' curl -X PUT -d $$ -H 'If-None-Match: *' "$URL/kv/lock/deploy?ttl=100ms&wait=30s"
answer 404 'key not found\n' curl -H 'If-None-Match: *' "$URL/kv/lock/deploy?wait"
answer 201 '' curl -X PUT -d $$ -H 'If-None-Match: *' "$URL/kv/lock/deploy?ttl=60&wait=30s"
answer_status 412 curl -X PUT -d $$ -H 'If-None-Match: *' "$URL/kv/lock/deploy?ttl=60&wait=20ms"
answer_status 404 curl -X DELETE "$URL/kv?take=%7Bwaited%7D:&wait=20ms"
answer 400 'query parameters contradict each other\n' \
    curl -X PUT -d 'x' "$URL/kv/lock/deploy?wait"
answer 200 '' curl -X DELETE "$URL/kv/lock/deploy"

# Lists. A line is a percent-encoded key, which goes into a URL as it is.

printf '%s\n' '%2A' '100%25' 'S%C3%A3o%20Paulo' 'a%0Ab' 'img/1' 'img/2' 'it%27s' \
    'kenya:capital' 'x%00y' '%F0%9F%87%B0' >names
answer_status 200 curl -X DELETE "$URL/kv?prefix=list/"
while read -r name; do
    answer 200 '' curl -X PUT -d "$name" "$URL/kv/list/$name"
done <names
sed 's,^,list/,' names >keys
answer_file 200 keys curl "$URL/kv?prefix=list/"
ask "$URL/kv"
check 'they are among all keys' "$(cat keys)" "$(grep '^list/' body)"
# shellcheck disable=SC2033 # xargs calls the program, not the function.
xargs -I{} curl -q -sS --max-time 60 -w '\n' "$URL/kv/{}" <keys >values
check_file 'through xargs, each line names its key' names values

sed '1!G;h;$!d' keys >backwards
answer_file 200 backwards curl "$URL/kv?prefix=list/&reverse"
answer 200 'list/it%27s\nlist/kenya:capital\n' curl "$URL/kv?prefix=list/&after=list/img/2&limit=2"
answer 200 'list/img/\nlist/it%27s\n' curl "$URL/kv?prefix=list/i&delimiter=/"
answer 200 '10\n' curl "$URL/kv?prefix=list/&count"
answer 200 '{"key":"list/img/1","value":"img/1","etag":"ae3d30e780b9c67d2595dfd2baa541b5"}\n' \
    curl "$URL/kv?prefix=list/img/&values&limit=1"
answer_status 200 curl -I "$URL/kv?prefix=list/&limit=4"

# Page after page.
next="/kv?prefix=list/&limit=4"
: >paged
while [ -n "$next" ]; do
    ask "$URL$next"
    cat body >>paged
    next=$(header Link | sed -n 's/^<\(.*\)>; rel="next"$/\1/p')
done
check_file 'the pages together are the list' keys paged

answer 200 '2\n' curl -X DELETE "$URL/kv?prefix=list/&limit=2"
answer 200 '2\n' curl -X DELETE "$URL/kv?prefix=list/img/"
# shellcheck disable=SC2033 # The same.
curl "$URL/kv?prefix=list/" | xargs -I{} curl -q -sS --max-time 60 -X DELETE "$URL/kv/{}"
answer 200 '' curl "$URL/kv?prefix=list/"
answer 200 '0\n' curl -X DELETE "$URL/kv?prefix=list/"
answer 400 'prefix cannot be empty\n' curl -X DELETE "$URL/kv"
answer 400 'unknown query parameter\n' curl "$URL/kv?perfix=list/"

# A queue, and several changes at once. The {tag} of the keys, for which curl would have
# to be told -g, has a cluster keep them together.

answer_status 200 curl -X DELETE "$URL/kv?prefix=%7Bjob%7D:"
answer_status 201 curl -d 'resize 1.png' "$URL/kv?prefix=%7Bjob%7D:"
check_match 'a job has a key of its own' '^%7Bjob%7D:[0-9]+-[0-9]+$' "$(cat body)"
answer_status 201 curl -d 'resize 2.png' "$URL/kv?prefix=%7Bjob%7D:"
answer 200 'resize 1.png' curl -X DELETE "$URL/kv?take=%7Bjob%7D:&wait=60s"
curl -q -sSf --max-time 60 -X DELETE "$URL/kv?take=%7Bjob%7D:&wait=50s" >taken
check 'a worker has the next one' 'resize 2.png' "$(cat taken)"
curl -q -sSf --max-time 60 -X DELETE "$URL/kv?take=%7Bjob%7D:&wait=50s" >taken &
waiting=$!
answer_status 201 curl -d 'resize 3.png' "$URL/kv?prefix=%7Bjob%7D:"
wait "$waiting"
check 'or waits for one' 'resize 3.png' "$(cat taken)"

for name in ann bob; do answer 200 '' curl -X PUT -d 10 "$URL/kv/%7Bbank%7D:$name"; done
printf '{"method":"POST","path":"/kv/%%7Bbank%%7D:%s=5"}\n' 'ann?decr' 'bob?incr' |
    curl -f --data-binary @- -o body "$URL/batch"
check 'a batch answers each of its lines' '5 15' "$(sed 's/.*"value":"\(.*\)"}/\1/' body | xargs)"

# Watches. watch FILE TARGET: curl follows a stream in the background, as WATCHER.
watch() {
    : >"$1"
    command curl -q -sN --max-time 100 "$URL$2" >"$1" &
    WATCHER=$!
    STARTED_PIDS="$STARTED_PIDS$WATCHER "
}
# told FILE PATTERN: some line of it comes.
told() {
    check_that "a line comes: $2" within "$PATIENCE" grep -Eqx -- "$2" "$1"
}
# watch_ends CODE: curl ends with this exit code.
watch_ends() {
    exit_code "$WATCHER" "$PATIENCE"
    check 'a watch ends: curl exits with' "$1" "$CODE"
}
ID='[0-9a-f]+-[0-9]+'

answer_status 200 curl -X DELETE "$URL/kv?prefix=config/"
if has_slots; then
    answer 501 'not on this engine\n' curl "$URL/watch?prefix=config/"
    answer 501 'not on this engine\n' curl "$URL/watch?key=config/color&values&since=0"
    answer 200 '' curl -X PUT -d 'green' "$URL/kv/config/color"
else
    (curl -q -sN --max-time 100 "$URL/watch?prefix=config/" || true) |
        while read -r event id key; do echo "$event ${key:-up to date}"; done >loop &
    told loop 'ready up to date'
    answer 200 '' curl -X PUT -d 'red' "$URL/kv/config/color"
    told loop 'put config/color'
    answer 200 '' curl -X PUT -d 'none' "$URL/kv/other"
    answer 200 '' curl -X PUT -d 'x' "$URL/kv/config/S%C3%A3o%20Paulo?ttl=50ms"
    told loop 'expire config/S%C3%A3o%20Paulo'
    answer 200 '' curl -X DELETE "$URL/kv/config/color"
    told loop 'delete config/color'
    check 'nothing but that is told' \
        'ready up to date,put config/color,put config/S%C3%A3o%20Paulo,expire config/S%C3%A3o%20Paulo,delete config/color' \
        "$(tr '\n' ',' <loop | sed 's/,$//')"

    # All that is there, and what changes then.
    answer 200 '' curl -X PUT -d 'red' "$URL/kv/config/color"
    watch changes '/watch?prefix=config/&since=0'
    told changes "ready $ID"
    check_match 'it begins anew' "^reset $ID,put $ID config/color,ready $ID,\$" "$(tr '\n' ',' <changes)"
    answer 200 '' curl -X PUT -d 'blue' "$URL/kv/config/color"
    # shellcheck disable=SC2317 # within calls it.
    has_two_puts() { [ "$(grep -c '^put ' changes)" -eq 2 ]; }
    check_that 'and goes on' within "$PATIENCE" has_two_puts
    id=$(sed -n '3s/^ready //p' changes)
    stop "$WATCHER"
    answer_status 200 curl "$URL/watch?prefix=config/&since=$id&wait"
    check_match 'who asks from an id on hears what followed' "^put $ID config/color,ready $ID,\$" "$(tr '\n' ',' <body)"
    id=$(sed -n 's/^ready //p' body)
    answer 200 "ready $id\n" curl "$URL/watch?prefix=config/&since=$id&wait=20ms"
    answer 400 'since is not a revision\n' curl "$URL/watch?since=yesterday"
    watch values '/watch?key=config/color&values'
    told values "\{\"event\":\"ready\",\"id\":\"$ID\"\}"
    answer 200 '' curl -X PUT -d 'green' "$URL/kv/config/color"
    told values '\{"event":"put",.*"key":"config/color","value":"green".*'
    stop "$WATCHER"
fi

# Export and import.

answer_status 200 curl "$URL/kv?values&prefix=config/"
if has_slots; then
    check 'an export says nothing of watches' '' "$(header Revision)"
else
    check_match 'an export says where a watch goes on' "^$ID\$" "$(header Revision)"
fi
cp body all.ndjson
answer 200 '' curl -X DELETE "$URL/kv/config/color"
answer 200 '1\n' curl -T all.ndjson "$URL/import"
answer 200 'green' curl "$URL/kv/config/color"
answer 200 '1\n' curl -X POST --data-binary @all.ndjson "$URL/import"
answer 200 '1\n' curl -T - "$URL/import" < <(cat all.ndjson)
echo '{"key":"","value":"a"}' >>all.ndjson
answer 400 'line 2: key cannot be empty; 1 were stored\n' curl -T all.ndjson "$URL/import"
answer 405 'method not allowed\n' curl "$URL/import"
curl "$URL/kv?tar&prefix=config/" >all.tar
check 'tar lists an export' config/color "$(tar tf all.tar)"
check 'and takes a value out' green "$(tar xOf all.tar config/color)"
answer 200 '1\n' curl -T all.tar "$URL/import"

# What is not there, and what is not allowed.

answer 200 '' curl -X DELETE "$URL/kv/absent"
answer 404 'key not found\n' curl "$URL/kv/absent"
check 'an error is text' "$TEXT" "$(header Content-Type)"
check 'an error is not cached' no-store "$(header Cache-Control)"
check 'an error tells its length' 14 "$(header Content-Length)"
check 'no guessing of types' nosniff "$(header X-Content-Type-Options)"

ask -f "$URL/kv/absent"
check 'curl -f exits with 22 when a key is absent' 22 "$CODE"
ask -f "$URL/kv/greeting"
check 'curl -f exits with 0 when it is there' 0 "$CODE"
ask -f -X PUT -d '' "$URL/kv/greeting"
check 'curl -f exits with 22 when a value is refused' 22 "$CODE"
ask -f -X DELETE "$URL/kv/absent"
check 'curl -f exits with 0 when an absent key is deleted' 0 "$CODE"

# allowed METHODS: the last answer's Allow names these and no others.
allowed() {
    check 'Allow tells the methods that there are' "$1" \
        "$(header Allow | tr -d ' ' | tr ',' '\n' | sort | tr '\n' ' ' | sed 's/ $//')"
}

answer 405 'method not allowed\n' curl -d 'a POST, as -X PUT is missing' "$URL/kv/greeting"
allowed 'DELETE GET HEAD OPTIONS POST PUT'
answer 405 'method not allowed\n' curl -X PATCH -d 'x' "$URL/kv/greeting"
answer 405 'method not allowed\n' curl -X put -d 'x' "$URL/kv/greeting"
answer 405 'method not allowed\n' curl -X POST -T film.bin "$URL/kv/greeting"
answer 405 'method not allowed\n' curl -X POST -T - "$URL/kv/greeting" < <(cat film.bin)
answer 405 'method not allowed\n' curl "$URL/clear"
allowed 'DELETE OPTIONS'
answer 405 'method not allowed\n' curl -X PUT -d 'x' "$URL/healthz"
allowed 'GET HEAD OPTIONS'
answer 405 'method not allowed\n' curl -X PATCH -d 'x' "$URL/kv/greeting?ttl=5"
answer 200 'hello' curl "$URL/kv/greeting"

for path in /kvs /kv.txt /KV/greeting /clear/ /healthz/ /favicon.ico; do
    answer_status 404 curl "$URL$path"
    check_match 'the answer names the paths there are' '/kv/.*/clear.*/healthz' "$(cat body)"
done
answer_status 405 curl -X PUT -d 'x' "$URL/kv"
allowed 'DELETE GET HEAD OPTIONS POST'
answer_status 404 curl -T film.bin "$URL/nowhere"
answer_status 404 curl -T - "$URL/nowhere/" < <(cat film.bin)

answer_status 400 curl -X DELETE "$URL/kv/greeting?tll=5"
answer 200 'hello' curl "$URL/kv/greeting?nocache=1764302400"
# Without -X POST nothing is counted, so it must not look so.
answer 400 'unknown query parameter\n' curl "$URL/kv/greeting?incr"
answer 200 'hello' curl -G -d 'x=1' "$URL/kv/greeting"
answer_status 400 curl -X PUT -d 'x' "$URL/kv/greeting?"'a&b'
answer 200 'ok\n' curl "$URL/healthz?verbose"
answer_status 400 curl -X DELETE "$URL/clear?yes"
answer 200 'hello' curl "$URL/kv/greeting?"

# The manual at the root: each of its lines runs, and none fails.
answer_status 200 curl "$URL"
check 'the manual is text' "$TEXT" "$(header Content-Type)"
cp body manual
check_match 'it has the name that it was asked under' "'$URL/kv/" "$(cat manual)"
# shellcheck disable=SC2317 # check_that calls it.
manual_runs() {
    # Its lock is to be there yet when it is taken out, on a busy machine too.
    sed -e "\\,$different,d" -e 's/curl /curl -q -sS --max-time 60 -f /g' -e 's/ttl=1s/ttl=60s/' \
        manual >manual.sh
    bash -euo pipefail manual.sh >manual.stdout 2>manual.stderr
}
different='^$'
if has_slots; then
    # Its queue has no {tag}, and it says so.
    check 'it says what is another on a cluster' 2 "$(grep -c 'In front of a cluster' manual)"
    answer_status 201 curl -d 'resize 1.png' "$URL/kv?prefix=%7Btry%7D/job:"
    answer 200 'resize 1.png' curl -X DELETE "$URL/kv?take=%7Btry%7D/job:"
    different='/kv?take=\|/watch?'
    answer 409 'keys are in different slots\n' curl -X DELETE "$URL/kv?take=try/job:"
fi
check_that 'it runs in a shell' manual_runs
check 'as far as its last line says so' ok "$(tail -n 1 manual.stdout)"
answer_status 204 curl -X OPTIONS "$URL"
answer_status 204 curl -X OPTIONS --request-target '*' "$URL"
answer 400 'the request target is not a path\n' curl --request-target '*' "$URL"

answer 200 'ok\n' curl "$URL/healthz"
check 'health is text' "$TEXT" "$(header Content-Type)"

# Connections.

ask -w '%{num_connects}:%{http_code} ' "$URL/kv/greeting" "$URL/kv/absent" "$URL/healthz" \
    -X GET -o /dev/null -o /dev/null
check 'three answers on one connection, an error among them' '1:200 0:404 0:200 ' "$STATUS"

ask -w '%{num_connects}:%{http_code} ' -X POST -d 'x' \
    "$URL/kv/greeting" "$URL/kv/" "$URL/nowhere" -o /dev/null -o /dev/null
check 'refused with a small body, a connection stays' '1:405 0:400 0:404 ' "$STATUS"

ask -H 'Connection: close' "$URL/kv/greeting"
check 'a connection is closed on request' close "$(header Connection | tr 'C' 'c')"

if need_curl_option --parallel 'fifty uploads at once'; then
    at_once='--parallel --parallel-immediate --parallel-max 50 --no-progress-meter --max-time 60'
    mkdir sent received
    for ((i = 1; i <= 50; i++)); do
        head -c $((i * 700)) /dev/urandom >"sent/$i"
        printf 'upload-file = "sent/%s"\nurl = "%s/kv/parallel/%s"\n' "$i" "$URL" "$i" >>uploads
        printf 'output = "received/%s"\nurl = "%s/kv/parallel/%s"\n' "$i" "$URL" "$i" >>downloads
    done
    # shellcheck disable=SC2086 # They are several words.
    curl $at_once -w '%{http_code}\n' -K uploads >statuses || true
    check 'fifty uploads at once' 50 "$(grep -c '^200$' statuses)"
    # shellcheck disable=SC2086
    curl $at_once -K downloads || true
    check 'fifty downloads at once' '' "$(diff -r sent received 2>&1 | head -n 3)"
fi

# Everything at once.

if server_is_ours; then
    answer 200 '' curl -X DELETE "$URL/clear"
    answer 404 'key not found\n' curl "$URL/kv/greeting"
    answer 404 'key not found\n' curl "$URL/kv/film"
    answer 200 '' curl -X DELETE "$URL/clear"
    answer 200 '' curl -X PUT -d 'hello again' "$URL/kv/greeting"
    answer 200 'hello again' curl "$URL/kv/greeting"
else
    echo "skipped DELETE /clear: the store at $URL is not ours to clear"
fi

# How a stream ends.

if has_slots; then
    server_ends_well
elif server_is_ours; then
    watch stopped /watch
    told stopped "ready $ID"
    server_ends_well
    watch_ends 0

    start_server
    watch killed /watch
    told killed "ready $ID"
    { kill -KILL "$SERVER_PID" && wait "$SERVER_PID"; } 2>/dev/null || true
    watch_ends 18

    # One who is behind by more than the history: curl is stopped meanwhile.
    start_server --history 4KiB
    watch late /watch
    told late "ready $ID"
    kill -STOP "$WATCHER"
    awk -v name="$long_key" 'BEGIN { for (i = 10000; i < 40000; i++)
        printf "{\"key\":\"%s\",\"value\":\"a\"}\n", substr(name, 6) i }' >changes
    answer 200 '30000\n' curl -T changes "$URL/import"
    kill -CONT "$WATCHER"
    watch_ends 18
    check 'what it got is without a gap' '' "$(sed 1d late | sed '$d' | awk '
        { number = substr($3, length($3) - 4) } NR > 1 && number != last + 1 { print last, number } { last = number }' | head -n 3)"
else
    echo "skipped the ends of a stream: the store at $URL is not ours to stop"
fi

summary
