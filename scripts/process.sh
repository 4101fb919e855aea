#!/usr/bin/env bash
#
# Tests the program as a process: its output, flags, environment, signals, exit
# codes and limits.
#
#     scripts/process.sh
#
# It always starts servers of its own, on 127.0.0.1 and ::1, each on a port
# that the system gives.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

find_program

# Output.

start_server
check 'the first line' 'Starting Little Key-Value Store...' "$(sed -n 1p "$WORK/stdout")"
check_match 'the second line has the address' 'http://127\.0\.0\.1:[0-9]+' "$(sed -n 2p "$WORK/stdout")"
check_match 'and the engine' '[Mm]emory' "$(sed -n 2p "$WORK/stdout")"
check_match 'and the workers' '[0-9]+ worker|workers: [0-9]+' "$(sed -n 2p "$WORK/stdout")"
answer 200 '' curl -X PUT -d 'Nairobi' "$URL/kv/kenya:capital"
answer 200 'Nairobi' curl "$URL/kv/kenya:capital"
answer 404 'key not found\n' curl "$URL/kv/absent"
stop_server "$PATIENCE"
check 'SIGTERM ends it with 0' 0 "$CODE"
check 'standard output has two lines, to the end' 2 "$(($(wc -l <"$WORK/stdout")))"
check_match 'a line at the end counts the PUTs' 'PUT.*200' "$(cat "$WORK/stderr")"
check_match 'a line at the end counts the GETs' 'GET.*404' "$(cat "$WORK/stderr")"

start_server --log-level debug
ask -X PUT -d 'Nairobi' "$URL/kv/kenya:capital"
ask "$URL/kv/kenya:flag"
stop_server "$PATIENCE"
check_match '--log-level debug logs each request' 'PUT /kv/kenya:capital.*200' "$(cat "$WORK/stderr")"
check_match 'with its status' 'GET /kv/kenya:flag.*404' "$(cat "$WORK/stderr")"

start_server --log-level error
ask "$URL/kv/kenya:capital"
stop_server "$PATIENCE"
check '--log-level error leaves nothing to say' '' "$(cat "$WORK/stderr")"

# Flags and environment.

# run FLAG...: runs the program to its end, which has to come. Sets CODE; its
# output is in $WORK/run.stdout and run.stderr.
run() {
    local pid
    "$BIN" "$@" >"$WORK/run.stdout" 2>"$WORK/run.stderr" </dev/null &
    pid=$!
    STARTED_PIDS="$STARTED_PIDS$pid "
    exit_code "$pid" "$PATIENCE"
    if [ "$CODE" = 'still running' ]; then stop "$pid"; fi
}

# refused CODES FLAG...: the flags end the program with one of these codes (an
# extended regular expression) and one line on standard error.
refused() {
    local codes=$1 said
    shift
    run "$@"
    said=$(cat "$WORK/run.stderr")
    if [[ $CODE =~ ^($codes)$ && -n $said && $said != *$'\n'* && $said != *panicked* ]]; then
        passed "little-key-value $*: $CODE, $said"
    else
        failed "little-key-value $*" "exit code $codes and one line" "exit code $CODE and: $said"
    fi
}

run --version
check '--version exits with 0' 0 "$CODE"
check_match '--version prints name and version' '^little-key-value [0-9]+\.[0-9]+\.[0-9]+( \(.*\))?$' "$(cat "$WORK/run.stdout")"

# help_of FLAG: what --help says of it.
help_of() {
    tr '\n' ' ' <"$WORK/run.stdout" | sed "s/.* --$1 //; s/ --.*//"
}

run --help
check '--help exits with 0' 0 "$CODE"
for flag in host port port-file allow-host token-file no-auth cors-origin workers leaders max-value-size max-memory max-disk when-full max-connections \
    idle-timeout request-timeout shutdown-timeout log-level log-format access-log; do
    check_match "--help tells of --$flag" " --$flag " "$(tr '\n' ' ' <"$WORK/run.stdout")"
done
check_match 'the default of --host' 'default: 127\.0\.0\.1\]' "$(help_of host)"
check_match 'the default of --port' 'default: 8888\]' "$(help_of port)"
check_match 'the default of --max-value-size' 'default: 10MiB\]' "$(help_of max-value-size)"
check_match 'the default of --when-full' 'default: refuse\]' "$(help_of when-full)"
check_match 'the default of --idle-timeout' 'default: 60s\]' "$(help_of idle-timeout)"
check_match 'the default of --request-timeout' 'default: 30s\]' "$(help_of request-timeout)"
check_match 'the default of --shutdown-timeout' 'default: 10s\]' "$(help_of shutdown-timeout)"
check_match 'the default of --log-level' 'default: (info|INFO)\]' "$(help_of log-level)"
check_match 'the default of --log-format' 'default: text\]' "$(help_of log-format)"
check_match 'the environment variable of --port' 'LKV_PORT' "$(help_of port)"

refused 2 --nonsense
refused 2 nonsense
refused 2 --port
refused 2 --port 99999
refused 2 --port abc
refused 2 --port -1
refused 2 --port 0 --workers 0
refused 2 --port 0 --workers many
refused 2 --port 0 --leaders 0
refused 2 --port 0 --leaders 1000
refused 2 --port 0 --max-value-size large
refused 2 --port 0 --max-memory 1XB
refused 2 --port 0 --max-memory 1GiB --working-dir "$WORK/none"
refused 2 --port 0 --max-disk 1GiB
refused 2 --port 0 --max-disk 1GiB --cluster 127.0.0.1:1
refused 2 --port 0 --max-disk 0 --working-dir "$WORK/none"
refused 2 --port 0 --when-full perhaps --max-memory 1GiB
refused 2 --port 0 --when-full evict
refused 2 --port 0 --when-full evict --working-dir "$WORK/none"
refused 2 --port 0 --when-full evict --cluster 127.0.0.1:1
refused 2 --port 0 --shutdown-timeout soon
refused 2 --port 0 --log-level loud
refused 2 --port 0 --log-format xml
refused '1|2' --port 0 --host 300.1.1.1
refused '1|2' --port 0 --host ''

start_server
answer_status 403 curl -H 'Host: evil.test' "$URL/healthz"
refused 2 --port 0 --allow-host '*.example.com'
refused 1 --port "$(port)"
answer 200 'ok\n' curl "$URL/healthz"

start_server --allow-host .example.com
answer_status 200 curl -H 'Host: Store.example.com:80' "$URL/healthz"
answer_status 403 curl -H 'Host: example.com.evil.test' "$URL/healthz"

launch --port=0 --workers=1 --shutdown-timeout=500ms --max-value-size=2KiB
answer 200 'ok\n' curl "$URL/healthz"
check_match '--workers=1 is one worker' '(^|[^0-9])1 worker|workers: 1([^0-9]|$)' "$(sed -n 2p "$WORK/stdout")"

export LKV_PORT=0 LKV_MAX_VALUE_SIZE=5
launch
answer_status 413 curl -X PUT -d '123456' "$URL/kv/five"
answer 200 '' curl -X PUT -d '12345' "$URL/kv/five"
launch --max-value-size 6
answer 200 '' curl -X PUT -d '123456' "$URL/kv/six"
export LKV_PORT=abc
refused 2 --max-value-size 6
unset LKV_PORT LKV_MAX_VALUE_SIZE

# Tokens.

token=correct-horse-battery
other=staple-of-a-sentence
refused 2 --port 0 --host 0.0.0.0
check_match 'an address for others needs a token, or the word' \
    'LKV_TOKEN.*--token-file.*--no-auth' "$(cat "$WORK/run.stderr")"
refused 2 --port 0 --cors-origin '*'
refused 2 --port 0 --token-file "$WORK/absent"
printf 'a comment\n' >"$WORK/tokens"
refused 2 --port 0 --token-file "$WORK/tokens"
check_match 'a bad file is told with its line' 'tokens: line 1: ' "$(cat "$WORK/run.stderr")"
export LKV_TOKEN=$token
refused 2 --port 0 --no-auth
refused 2 --port 0 --token-file "$WORK/tokens"
start_server
unset LKV_TOKEN
answer_status 401 curl "$URL/kv/a"
answer_status 401 curl --oauth2-bearer "$other" "$URL/kv/a"
answer 200 '' curl --oauth2-bearer "$token" -X PUT -d 'x' "$URL/kv/a"
answer 200 'x' curl -u ":$token" "$URL/kv/a"
answer 200 'x' curl -u ":$token" -H 'Host: store.example.com' "$URL/kv/a"
stop_server "$PATIENCE"

# shellcheck disable=SC2317 # `within` calls it.
lets_in() {
    curl -f -o /dev/null --oauth2-bearer "$1" "$URL/kv?count" 2>/dev/null
}

umask 077
printf '%s\n' "$token" >"$WORK/tokens"
start_server --token-file "$WORK/tokens"
check_that 'a token of the file lets in' lets_in "$token"
printf '%s\n' "$other" >"$WORK/next"
mv "$WORK/next" "$WORK/tokens"
check_that 'a changed file is taken up' within "$PATIENCE" lets_in "$other"
answer_status 401 curl --oauth2-bearer "$token" "$URL/kv?count"
printf 'short\n' >"$WORK/tokens"
check_that 'a bad one is told of' within "$PATIENCE" grep -q 'tokens: line 1: ' "$WORK/stderr"
check_that 'and the tokens from before stay' lets_in "$other"
check 'no token is in the log' '' "$(grep -e "$token" -e "$other" "$WORK/stderr" || true)"
stop_server "$PATIENCE"

# Signals.

# connect FD: opens a connection to the server as this file descriptor, 3 or 4.
connect() {
    case $1 in
        3) exec 3<>"/dev/tcp/127.0.0.1/$(port)" ;;
        4) exec 4<>"/dev/tcp/127.0.0.1/$(port)" ;;
    esac
}

# first_line FD: reads one line from it, if one comes in time. Sets LINE.
first_line() {
    LINE=
    read -r -t "$PATIENCE" LINE <&"$1" || true
    LINE=${LINE%$'\r'}
}

# end_of_head FD: reads the rest of a head, to its empty line.
end_of_head() {
    until first_line "$1" && [ -z "$LINE" ]; do :; done
}

# begin_upload KEY BYTES: sends the head and the first three bytes of a PUT on
# descriptor 3 and waits until the server asks for the rest, so that the
# request is in its hands.
begin_upload() {
    connect 3
    printf 'PUT /kv/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\nExpect: 100-continue\r\n\r\n' \
        "$1" "$2" >&3
    first_line 3
    check 'an upload begins' 'HTTP/1.1 100 Continue' "$LINE"
    end_of_head 3
    printf 'abc' >&3
}

# shellcheck disable=SC2317 # `within` calls it.
stops_listening() {
    local code=0
    curl -o /dev/null "$URL/healthz" 2>/dev/null || code=$?
    # That it was refused, and not only that nobody answers.
    [ "$code" -eq 7 ]
}

# Who waits for a client has an hour for it, so whoever ends in time has not.
for signal in INT TERM; do
    start_server --shutdown-timeout 1h
    answer 200 'ok\n' curl "$URL/healthz"
    kill -"$signal" "$SERVER_PID"
    exit_code "$SERVER_PID" "$PATIENCE"
    check "SIG$signal ends an idle server with 0" 0 "$CODE"
done

start_server
kill -HUP "$SERVER_PID"
exit_code "$SERVER_PID" "$PATIENCE"
check 'SIGHUP ends it with 129' 129 "$CODE"

if command -v nohup >/dev/null; then
    HEED_SIGNALS='nohup' start_server
    kill -HUP "$SERVER_PID"
    answer 200 'ok\n' curl "$URL/healthz"
    stop_server "$PATIENCE"
    check 'under nohup a SIGHUP does nothing' 0 "$CODE"
    check 'nor is it told of' '' "$(grep SIGHUP "$WORK/stderr" || true)"
else
    skip 'nohup' 'there is no nohup here'
fi

start_server --shutdown-timeout 1h
connect 3
connect 4
printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n' >&4
first_line 4
check 'a connection has had its answer and stays open' 'HTTP/1.1 200 OK' "$LINE"
kill -INT "$SERVER_PID"
exit_code "$SERVER_PID" "$PATIENCE"
check 'neither that one nor a silent one holds the exit' 0 "$CODE"

# The server has closed a connection first, so its port is in TIME_WAIT.
launch --port "$(port)" --shutdown-timeout 1h
answer 200 'ok\n' curl "$URL/healthz"
exec 3>&- 4>&-
kill -INT "$SERVER_PID"
exit_code "$SERVER_PID" "$PATIENCE"
check 'the same port serves again at once, and stops' 0 "$CODE"

start_server --shutdown-timeout 1h
begin_upload late 5000
kill -INT "$SERVER_PID"
check_that 'after SIGINT there are no new connections' within "$PATIENCE" stops_listening
head -c 4997 /dev/zero | tr '\0' x >&3 || true
first_line 3
check 'what was taken is answered' 'HTTP/1.1 200 OK' "$LINE"
exec 3>&-
exit_code "$SERVER_PID" "$PATIENCE"
check 'and then the server ends with 0' 0 "$CODE"

start_server --shutdown-timeout 1s
begin_upload stuck 100000
kill -INT "$SERVER_PID"
exit_code "$SERVER_PID" "$PATIENCE"
check 'a stuck upload does not hold the exit past --shutdown-timeout 1s' 0 "$CODE"
exec 3>&-

start_server --shutdown-timeout 1h
begin_upload stuck 100000
kill -INT "$SERVER_PID"
check_that 'with --shutdown-timeout 1h the server waits' within "$PATIENCE" stops_listening
check_that 'and is there' kill -0 "$SERVER_PID"
kill -INT "$SERVER_PID"
exit_code "$SERVER_PID" "$PATIENCE"
check 'a second signal ends it at once with 1' 1 "$CODE"
exec 3>&-

# Limits.

start_server --max-value-size 1KiB
head -c 1024 /dev/urandom >"$WORK/1024"
head -c 1025 /dev/urandom >"$WORK/1025"
answer 200 '' curl -T "$WORK/1024" "$URL/kv/limit"
answer_status 413 curl -T "$WORK/1025" "$URL/kv/limit"
answer_status 413 curl -T - "$URL/kv/limit" < <(cat "$WORK/1025")
answer_file 200 "$WORK/1024" curl "$URL/kv/limit"
stop_server "$PATIENCE"

# fill COUNT FILE: stores the file under so many keys, up to one that is refused. Sets
# STORED to the number of those that were not.
fill() {
    local i
    STORED=0
    for ((i = 1; i <= $1; i++)); do
        ask -T "$2" "$URL/kv/$i"
        [ "$STATUS" = 200 ] || break
        STORED=$i
    done
}

start_server --max-memory 1MiB
head -c 102400 /dev/urandom >"$WORK/100KiB"
fill 20 "$WORK/100KiB"
# One takes 112 KiB of memory, as the allocator gives it.
check_match 'a store of 1 MiB takes eight to ten values of 100 KiB' '^(8|9|10)$' "$STORED"
answer 507 'storage is full\n' curl -T "$WORK/100KiB" "$URL/kv/more"
answer 404 'key not found\n' curl "$URL/kv/more"
kept=0
for ((i = 1; i <= STORED; i++)); do
    ask "$URL/kv/$i"
    if cmp -s "$WORK/body" "$WORK/100KiB"; then kept=$i; fi
done
check 'what was stored before stays' "$STORED" "$kept"
answer 200 '' curl -T "$WORK/100KiB" "$URL/kv/1"
answer 200 '' curl -X DELETE "$URL/kv/2"
answer 200 '' curl -T "$WORK/100KiB" "$URL/kv/more"
answer_file 200 "$WORK/100KiB" curl "$URL/kv/more"
answer 507 'storage is full\n' curl -T "$WORK/100KiB" "$URL/kv/2"
answer 200 '' curl -X PUT -d 'small' "$URL/kv/1"
answer 200 '' curl -T "$WORK/100KiB" "$URL/kv/2"
answer 200 '' curl -X DELETE "$URL/clear"
answer 200 '' curl -T "$WORK/100KiB" "$URL/kv/2"
stop_server "$PATIENCE"

# shellcheck disable=SC2317,SC2329 # `within` calls it.
all_are_told() {
    local evicted
    evicted=$(grep -c '^evict ' "$WORK/told" || true)
    [ "$evicted" -gt 0 ] && [ "$((evicted + $(curl "$URL/kv?count")))" = "$1" ]
}

# shellcheck disable=SC2317,SC2329 # `within` calls it.
told_are_counted() {
    ask "$URL/metrics"
    [ "$(grep -c '^evict ' "$WORK/told")" = "$(sed -n 's/^lkv_evicted_total //p' "$WORK/body")" ]
}

# evicts COUNT FILE FLAG...: a store with these flags takes the file under so many keys, of
# which not all fit, and tells of those that it lets go.
evicts() {
    local count=$1 file=$2
    shift 2
    start_server --when-full evict "$@"
    command curl -q -sN --max-time 100 "$URL/watch" >"$WORK/told" &
    STARTED_PIDS="$STARTED_PIDS$! "
    check_that 'a watch begins' within "$PATIENCE" grep -q '^ready ' "$WORK/told"
    fill "$count" "$file"
    check 'a full cache takes every write' "$count" "$STORED"
    answer_file 200 "$file" curl "$URL/kv/$count"
    answer 200 'ok\n' curl "$URL/readyz"
    check_that 'each key is there, or was evicted and told' within "$PATIENCE" all_are_told "$count"
    check_that 'and counted' within "$PATIENCE" told_are_counted
    stop_server "$PATIENCE"
}

evicts 60 "$WORK/100KiB" --max-memory 2MiB
head -c 1048576 /dev/urandom >"$WORK/1MiB"
evicts 80 "$WORK/1MiB" --max-memory 32MiB
evicts 80 "$WORK/1MiB" --working-dir "$WORK/cache" --max-disk 32MiB

# IPv6.

# Nobody listens on port 1, so a machine with ::1 refuses the connection.
refusal=$( (exec 3<>/dev/tcp/::1/1) 2>&1 || true)
case $refusal in
    *[Rr]efused*)
        start_server --host ::1
        check_match 'the address is a URL for IPv6 too' '^http://\[::1\]:[0-9]+$' "$URL"
        answer 200 '' curl -X PUT -d 'Nairobi' "$URL/kv/kenya:capital"
        answer 200 'Nairobi' curl "$URL/kv/kenya:capital"
        stop_server "$PATIENCE"
        check 'and stops with 0' 0 "$CODE"
        ;;
    *) skip 'IPv6' 'this machine has no ::1' ;;
esac

summary
