#!/usr/bin/env bash
#
# Tests the programs in scripts/examples, alone and many at once: they do what
# their first lines say.
#
#     scripts/examples.sh                              starts a server of its own
#     ENGINE=durable scripts/examples.sh               on the durable engine
#     ENGINE=cluster scripts/examples.sh               in front of a cluster
#     URL=http://127.0.0.1:8888 scripts/examples.sh    asks one that runs
#
# It leaves some keys named after test-… in the store.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

use_server
cd "$WORK"

# The examples are programs of their own: from them too is kept what the person
# has in .curlrc, and none waits for ever.
export URL TTL=20s CURL_HOME=$WORK
echo 'max-time = 60' >.curlrc

NAME=test-$$

# example NAME ARG...: runs one of them.
example() {
    local name=$1
    shift
    bash "$ROOT/scripts/examples/$name.sh" "$@"
}

# run ARG...: runs one to its end. Sets CODE; its output is in stdout and
# stderr.
run() {
    CODE=0
    example "$@" >stdout 2>stderr || CODE=$?
}

# gives CODE OUTPUT EXAMPLE ARG...: it ends with this exit code and prints,
# byte for byte, this output, in which \n is a newline.
gives() {
    local code=$1
    printf '%b' "$2" >expected
    shift 2
    run "$@"
    if [ "$CODE" = "$code" ] && cmp -s expected stdout; then
        passed "examples/$(quoted "$@")"
    else
        failed "examples/$(quoted "$@")" "$code $(describe expected)" \
            "$CODE $(describe stdout) $(cat stderr)"
    fi
}

# at_once TIMES COMMAND...: runs a function so many times at once, each with
# its number, from 1, as a further argument. Sets SUCCEEDED, how many did.
at_once() {
    local times=$1 pids=() pid number
    shift
    for ((number = 1; number <= times; number++)); do
        "$@" "$number" &
        pids+=("$!")
    done
    SUCCEEDED=0
    for pid in "${pids[@]}"; do
        if wait "$pid"; then SUCCEEDED=$((SUCCEEDED + 1)); fi
    done
}

# A counter.

gives 0 '1\n' counter "$NAME"
gives 0 '101\n' counter "$NAME" 100
gives 0 '98\n' counter "$NAME" -3
answer 200 '98' curl "$URL/kv/counter/$NAME"
answer 200 '' curl -X PUT -d 'many' "$URL/kv/counter/$NAME-word"
gives 22 '' counter "$NAME-word"

# shellcheck disable=SC2317 # at_once calls it, and those below.
count_three_times() {
    local i
    for ((i = 0; i < 3; i++)); do
        example counter "$NAME-sum" >>"numbers-$1" || return
    done
}
at_once 10 count_three_times
check 'ten that count three times each' 10 "$SUCCEEDED"
answer 200 '30' curl "$URL/kv/counter/$NAME-sum"
check 'nobody gets the number of another' "$(seq 30)" "$(sort -n numbers-*)"

# A lock.

gives 0 'held\n' lock "$NAME" echo held
gives 7 '' lock "$NAME" sh -c 'exit 7'
answer 404 'key not found\n' curl "$URL/kv/lock/$NAME"

# shellcheck disable=SC2016,SC2317 # The inner shell expands it.
add_under_lock() {
    example lock "$NAME" sh -c 'sum=$(cat sum); sleep 0.01; echo "$((sum + $0))" >sum' "$1"
}
echo 0 >sum
at_once 10 add_under_lock
check 'ten that add to a file, each under the lock' 10 "$SUCCEEDED"
check 'lose nothing' 55 "$(cat sum)"
answer 404 'key not found\n' curl "$URL/kv/lock/$NAME"

# One whose owner has died.
answer 201 '' curl -X PUT -d 'dead' -H 'If-None-Match: *' "$URL/kv/lock/$NAME?ttl=1s"
gives 0 'mine\n' lock "$NAME" echo mine

# One that is lost while its command runs is not taken from its new owner.
# shellcheck disable=SC2016
gives 0 '' lock "$NAME" sh -c 'curl -q -sS -X PUT -d other "$0"' "$URL/kv/lock/$NAME"
check_match 'a lock that was lost is told' 'lost' "$(cat stderr)"
answer 200 'other' curl "$URL/kv/lock/$NAME"
answer 200 '' curl -X DELETE "$URL/kv/lock/$NAME"

# A rate limiter.

gives 0 '' limit "$NAME" 2 60
gives 0 '' limit "$NAME" 2 60
gives 1 '' limit "$NAME" 2 60
gives 2 '' limit "$NAME" 2 soon
# shellcheck disable=SC2317
may_it() {
    example limit "$NAME-many" 5 60
}
at_once 12 may_it
check 'of twelve at once five may' 5 "$SUCCEEDED"

gives 0 '' limit "$NAME-short" 1 2
check_that 'when the time is over it may again' within "$PATIENCE" example limit "$NAME-short" 1 2

# A log.

# follow LOG FILE: follows a log in the background. Sets FOLLOWER.
follow() {
    bash "$ROOT/scripts/examples/log.sh" tail "$1" >"$2" 2>stderr &
    FOLLOWER=$!
    STARTED_PIDS="$STARTED_PIDS$FOLLOWER "
}

# shellcheck disable=SC2317
has_lines() {
    [ "$(wc -l <"$2")" -ge "$1" ]
}

follow "$NAME" followed
gives 0 '' log append "$NAME" 'first line'
check_that 'a log is followed from its first line' within "$PATIENCE" has_lines 1 followed
run log append "$NAME" < <(printf 'second\nthird\n')
check 'several lines at once' 0 "$CODE"
check_that 'and on' within "$PATIENCE" has_lines 3 followed
answer 200 'first line\nsecond\nthird\n' curl "$URL/kv/log/$NAME"

# shellcheck disable=SC2317
append_three_lines() {
    local i
    for ((i = 0; i < 3; i++)); do
        example log append "$NAME" "line $i of $1" || return
    done
}
at_once 10 append_three_lines
check 'ten that append three lines each' 10 "$SUCCEEDED"
check_that 'all of them are followed' within "$PATIENCE" has_lines 33 followed
ask "$URL/kv/log/$NAME"
check_file 'who follows has what is there' body followed
for ((writer = 1; writer <= 10; writer++)); do
    for ((i = 0; i < 3; i++)); do echo "line $i of $writer"; done
done | sort >sent
sed 1,3d body | sort >there
check_file 'every line is whole and there once' sent there
answer 200 '' curl -X DELETE "$URL/kv/log/$NAME"
gives 0 '' log append "$NAME" 'anew'
check_that 'a log that is made anew is followed from its start' \
    within "$PATIENCE" grep -qx anew followed
stop "$FOLLOWER"

# A queue.

gives 1 '' queue pop "$NAME"
gives 0 '' queue push "$NAME" 'first  item'
gives 0 '' queue push "$NAME" '@second'
gives 0 'first  item' queue pop "$NAME"
gives 0 '@second' queue pop "$NAME"
gives 1 '' queue pop "$NAME"
gives 1 '' queue pop "$NAME" 20ms

# One that waits.
example queue pop "$NAME" 1m >popped-late &
waiting=$!
gives 0 '' queue push "$NAME" 'late'
wait "$waiting"
check 'who waits gets the next item' 'late' "$(cat popped-late)"
rm popped-late

# shellcheck disable=SC2317
push_three_items() {
    local i
    for ((i = 0; i < 3; i++)); do
        example queue push "$NAME" "$1-$i" || return
    done
}

# Pops until it has what the others leave.
# shellcheck disable=SC2317
pop_all() {
    local item
    while item=$(example queue pop "$NAME"); do
        echo "$item" >>"popped-$1"
    done
}

at_once 5 push_three_items
check 'five that push three items each' 5 "$SUCCEEDED"
at_once 5 pop_all
for ((pusher = 1; pusher <= 5; pusher++)); do
    for ((i = 0; i < 3; i++)); do echo "$pusher-$i"; done
done >pushed
cat popped-* | sort >popped
check_file 'of five that pop, each item goes to one' pushed popped
gives 1 '' queue pop "$NAME"

# Names with what has a meaning in a URL, or to curl.

odd="$NAME #1?ttl=1s&b%41/../{c}"
encoded="$NAME%20%231%3Fttl=1s%26b%2541/../%7Bc%7D"
gives 0 '1\n' counter "$odd"
gives 0 '3\n' counter "$odd" 2
answer 200 "counter/$encoded\n" curl "$URL/kv?prefix=counter/$NAME%20"
gives 0 "lock/$encoded\n" lock "$odd" curl -q -sS "$URL/kv?prefix=lock/$NAME%20"
gives 0 '' limit "$odd" 1 60
gives 1 '' limit "$odd" 1 60
gives 0 '' log append "$odd" 'a line'
answer 200 'a line\n' curl --path-as-is "$URL/kv/log/$encoded"
gives 0 '' queue push "$odd" 'an item'
gives 1 '' queue pop "$NAME"
gives 0 'an item' queue pop "$odd"

# A transfer.

answer 200 '' curl -X PUT -d 100 "$URL/kv/%7Baccount%7D/$NAME-a"
answer 200 '' curl -X DELETE "$URL/kv/%7Baccount%7D/$NAME-b"
gives 0 '' transfer "$NAME-a" "$NAME-b" 30
answer 200 '70' curl "$URL/kv/%7Baccount%7D/$NAME-a"
answer 200 '30' curl "$URL/kv/%7Baccount%7D/$NAME-b"
gives 1 '' transfer "$NAME-b" "$NAME-a" 31
check 'an account has what it has' "$NAME-b has 30" "$(cat stderr)"
gives 22 '' transfer "$NAME-c" "$NAME-a" 1
gives 2 '' transfer "$NAME-a" "$NAME-b" 0
answer 200 '' curl -X PUT -d 'word' "$URL/kv/%7Baccount%7D/$NAME-c"
gives 3 '' transfer "$NAME-a" "$NAME-c" 1
answer 200 '70' curl "$URL/kv/%7Baccount%7D/$NAME-a"

# shellcheck disable=SC2317
transfer_three_times() {
    local i
    for ((i = 0; i < 3; i++)); do
        example transfer "$NAME-a" "$NAME-b" 2 && example transfer "$NAME-b" "$NAME-a" 1 || return
    done
}
at_once 10 transfer_three_times
check 'ten that move amounts to and fro' 10 "$SUCCEEDED"
answer 200 '40' curl "$URL/kv/%7Baccount%7D/$NAME-a"
answer 200 '60' curl "$URL/kv/%7Baccount%7D/$NAME-b"

# A configuration.

answer 200 '' curl -X PUT -d '{"count":0}' -H 'Content-Type: application/json' \
    "$URL/kv/$NAME.json?ttl=1h"
gives 0 '' config "$NAME.json" sed 's/0/1/'
answer 200 '{"count":1}' curl "$URL/kv/$NAME.json"
check 'the value keeps its type' application/json "$(header Content-Type)"
check_match 'and its expiry' '^(3600|35[0-9]{2})$' "$(header TTL)"
gives 22 '' config "$NAME-absent" cat
gives 4 '' config "$NAME.json" sh -c 'exit 4'
gives 1 '' config "$NAME.json" true
check 'an empty value is refused' 'value cannot be empty' "$(cat stderr)"
answer 200 '{"count":1}' curl "$URL/kv/$NAME.json"

# shellcheck disable=SC2016,SC2317
add_a_line() {
    example config "$NAME.conf" sh -c 'cat && echo "$0"' "name-$1"
}
answer 200 '' curl -T - "$URL/kv/$NAME.conf" < <(echo 'name-0')
at_once 10 add_a_line
check 'ten that change one value' 10 "$SUCCEEDED"
ask "$URL/kv/$NAME.conf"
check 'lose nothing' "$(seq -f 'name-%g' 0 10 | sort)" "$(sort body)"

# A cache.

gives 22 '' cache "$NAME-absent" copy
check_that 'of what is absent there is no copy' test ! -e copy
gives 0 'changed\n' cache "$NAME.conf" copy
check_file 'the copy is the value' body copy
gives 0 'unchanged\n' cache "$NAME.conf" copy
check_file 'and stays' body copy
run config "$NAME.conf" tr a-z A-Z
gives 0 'changed\n' cache "$NAME.conf" copy
ask "$URL/kv/$NAME.conf"
check_file 'the copy is what the value has become' body copy
rm copy
gives 0 'changed\n' cache "$NAME.conf" copy
check_file 'a copy that is gone comes back' body copy
gives 0 'unchanged\n' cache "$NAME.conf" copy 20ms
gives 2 '' cache "$NAME.conf" .
example cache "$NAME.conf" copy 1m >cached &
waiting=$!
run config "$NAME.conf" tr A-Z a-z
wait "$waiting"
check 'who waits for a change gets it' changed "$(cat cached)"
ask "$URL/kv/$NAME.conf"
check_file 'as it is then' body copy
check 'nothing else is left there' 'copy copy.etag' "$(echo copy*)"

# A second store, of our own in any case.

SOURCE=$URL
SOURCE_PID=$SERVER_PID
start_server
TARGET=$URL
URL=$SOURCE
SERVER_PID=$SOURCE_PID

# lines_of URL: all that a store has under our name, with types and expiries.
lines_of() {
    curl "$1/kv?values&prefix=$NAME/"
}

# shellcheck disable=SC2317 # within calls it.
stores_are_equal() {
    lines_of "$SOURCE" >source.ndjson
    lines_of "$TARGET" >target.ndjson
    cmp -s source.ndjson target.ndjson
}

# Keys of every kind, as they stand in a URL.
printf '%s\n' '%00' '%0A' '%20' '%22' '%25' '%2541' '%27%24%28id%29' '%2A' '+' ',' '.' '..' '../a' \
    '/' '//' '%3Fa=1&b' '@file' '%5B1-3%5D' '%5C' '%7Ba%7D' 'a/../b' 'a/b/' 'S%C3%A3o%20Paulo' \
    '%F0%9F%87%B0%F0%9F%87%AA' "$(head -c 900 /dev/zero | tr '\0' k)" >names
store_names() {
    local name
    while read -r name; do
        printf 'url = "%s/kv/%s/%s"\n' "$URL" "$NAME" "$name"
    done <names >config
    curl -g -f --path-as-is -X PUT -d "$1" -K config
}

# A backup.

store_names first
head -c 300000 /dev/urandom >film.bin
answer 200 '' curl -T film.bin -H 'Content-Type: video/mp4' "$URL/kv/$NAME/film"
answer 200 '' curl -X PUT -d 'ann' "$URL/kv/$NAME/session?ttl=1h"
gives 0 '' backup save saved.ndjson
lines_of "$SOURCE" >source.ndjson
check 'a backup has every key of ours' '' "$(LC_ALL=C grep -vxFf saved.ndjson source.ndjson | head -n 1)"
check 'as many as there are' "$(wc -l <names)" "$(($(wc -l <source.ndjson) - 2))"
URL=$TARGET
gives 0 "$(wc -l <saved.ndjson | tr -d ' ')\\n" backup load saved.ndjson
gives 0 "$(wc -l <saved.ndjson | tr -d ' ')\\n" backup load saved.ndjson
check_that 'loaded into another store, twice, it is the same' stores_are_equal
cp saved.ndjson '{a,b}[1].ndjson'
gives 0 "$(wc -l <saved.ndjson | tr -d ' ')\\n" backup load '{a,b}[1].ndjson'
echo '{"key":"a"}' >bad.ndjson
gives 1 '' backup load bad.ndjson
check_match 'what is no backup is told' '^line 1: .* 0 were stored$' "$(cat stderr)"
URL=http://127.0.0.1:9
cp saved.ndjson before.ndjson
gives 7 '' backup save saved.ndjson
check_file 'a backup that fails leaves the one before' before.ndjson saved.ndjson
URL=$SOURCE
check 'and nothing else' 'saved.ndjson' "$(echo saved*)"
gives 2 '' backup restore saved.ndjson
ln -s saved.ndjson link
gives 2 '' backup save link
check_that 'a backup replaces no link' test -L link

# One of a store that is written to. Each batch has the same value for two keys, at
# the two ends of the export.
# shellcheck disable=SC2317
write_pairs() {
    local i
    for ((i = 1; ; i++)); do
        printf '{"method":"PUT","path":"/kv/%s/%s","value":"%s"}\n' "$NAME" '!first' "$i" "$NAME" '~last' "$i" |
            curl -f -o pair.answer --data-binary @- "$SOURCE/batch"
    done
}
# pair_in FILE: both values in a backup.
pair_in() {
    sed -n 's/.*"key":"'"$NAME"'\/[!~][a-z]*","value":"\([0-9]*\)".*/\1/p' "$1"
}
if server_is_ours && [ "$ENGINE" = durable ]; then
    # What lies between them takes a while.
    awk -v name="$NAME" 'BEGIN { for (i = 0; i < 20000; i++)
        printf "{\"key\":\"%s/filler/%05d\",\"value\":\"%0200d\"}\n", name, i, i }' >filler
    answer 200 '20000\n' curl -T filler "$URL/import"
    write_pairs &
    writer=$!
    STARTED_PIDS="$STARTED_PIDS$writer "
    # shellcheck disable=SC2317
    pair_is_there() { ask "$URL/kv/$NAME/~last" && [ "$STATUS" = 200 ]; }
    check_that 'two keys are written by one' within "$PATIENCE" pair_is_there
    seen=0 torn=
    for ((i = 0; i < 10; i++)); do
        example backup save pairs.ndjson
        pair_in pairs.ndjson >pair
        [ "$(wc -l <pair)" -eq 2 ] && [ "$(uniq pair | wc -l)" -eq 1 ] || torn="$torn $(tr '\n' ' ' <pair)"
        [ "$(head -n 1 pair)" = "$seen" ] || changed=$((${changed:-0} + 1))
        seen=$(head -n 1 pair)
    done
    stop "$writer"
    check 'a backup under writers is one moment: two keys of one batch are equal in it' '' "$torn"
    check_that 'though they have changed between one and the next' [ "${changed:-0}" -gt 1 ]
    answer_status 200 curl -X DELETE "$URL/kv?prefix=$NAME/filler/"
fi

# A replica, for which a store has to tell its changes.

if has_slots; then
    answer 200 '' curl -X DELETE "$TARGET/clear"
    gives 22 '' replica "$SOURCE" "$TARGET" position
    check_match 'who cannot be told of changes is told so' '501' "$(cat stderr)"
    gives 22 '' move "$SOURCE" "$TARGET"
    summary
fi

mkfifo pipe
gives 2 '' replica "$SOURCE" "$TARGET" pipe
check_that 'a replica puts no file in the place of a pipe' test -p pipe
ln -s saved.ndjson other.new
gives 2 '' replica "$SOURCE" "$TARGET" other
check_that 'and writes to no file that a link names' test -L other.new -a ! -e other
gives 1 '' replica "$SOURCE" "$TARGET" position
check_match 'a store with keys of its own is no replica' 'keys of its own$' "$(cat stderr)"
answer 200 '' curl -X DELETE "$TARGET/clear"

# start_replica: follows the source in the background. Sets REPLICA_PID.
start_replica() {
    bash "$ROOT/scripts/examples/replica.sh" "$SOURCE" "$TARGET" position 2>replica.stderr &
    REPLICA_PID=$!
    STARTED_PIDS="$STARTED_PIDS$REPLICA_PID "
}

# write_at_random TIMES: puts, deletes, batches, counters and expiries.
write_at_random() {
    local i name
    for ((i = 0; i < $1; i++)); do
        name=$NAME/random/$((RANDOM % 7))
        case $((RANDOM % 7)) in
            0 | 1) ask -X PUT -d "$RANDOM" "$URL/kv/$name" ;;
            2) ask -X DELETE "$URL/kv/$name" ;;
            3) ask -X PUT -d "$RANDOM" "$URL/kv/$name?ttl=$((RANDOM % 300 + 1))ms" ;;
            4) ask -X POST "$URL/kv/$name?ttl=1h" ;;
            5) ask -X PUT -d "$RANDOM" -H 'Content-Type: text/csv' "$URL/kv/$name" ;;
            6) ask --data-binary @- "$URL/batch" <<END
{"method":"PUT","path":"/kv/$name","value":"$RANDOM"}
{"method":"DELETE","path":"/kv/$NAME/random/$((RANDOM % 7))"}
{"method":"POST","path":"/kv/$NAME/random/count?incr"}
END
                ;;
        esac
    done
}

start_replica
check_that 'a replica has what is there' within "$PATIENCE" stores_are_equal
check_that 'keys of every kind' [ "$(wc -l <target.ndjson)" -ge "$(wc -l <names)" ]
store_names second
write_at_random 100
check_that 'and what is written meanwhile' within "$PATIENCE" stores_are_equal
check_match 'that is all of it' 'second' "$(cat target.ndjson)"

{ kill -KILL "$REPLICA_PID" && wait "$REPLICA_PID"; } 2>/dev/null || true
write_at_random 50
answer 200 '' curl -X PUT -d 'missed' "$URL/kv/$NAME/missed"
answer 200 '' curl --path-as-is -X DELETE "$URL/kv/$NAME/a/../b"
# It would be gone if the replica began again from nothing.
answer 200 '' curl -X PUT -d 'mark' "$TARGET/kv/mark"
start_replica
check_that 'killed and started again, it goes on' within "$PATIENCE" stores_are_equal
check_match 'with what it has missed' 'missed' "$(cat target.ndjson)"
answer 200 'mark' curl "$TARGET/kv/mark"
if server_is_ours; then
    answer 200 '' curl -X DELETE "$URL/clear"
    store_names third
    check_that 'a clear empties it' within "$PATIENCE" stores_are_equal
    check_that 'and what follows is there' [ "$(wc -l <target.ndjson)" -eq "$(wc -l <names)" ]
    answer 404 'key not found\n' curl "$TARGET/kv/mark"
fi
stop "$REPLICA_PID"
write_at_random 20
ONCE=yes run replica "$SOURCE" "$TARGET" position
check 'a replica that is brought up to date once ends' 0 "$CODE"
check_that 'and is equal' within "$PATIENCE" stores_are_equal

# A move.

answer 200 '' curl -X DELETE "$TARGET/clear"
mkfifo enter
example move "$SOURCE" "$TARGET" <enter >moved 2>stderr &
move_pid=$!
STARTED_PIDS="$STARTED_PIDS$move_pid "
exec 9>enter
check_that 'a move says when it is up to date' within "$PATIENCE" grep -q 'up to date' moved
write_at_random 50
answer 200 '' curl -X PUT -d 'last' "$URL/kv/$NAME/last"
echo >&9
exec 9>&-
exit_code "$move_pid" "$PATIENCE"
check 'at Enter it ends' 0 "$CODE"
check_that 'with all that was written' within "$PATIENCE" stores_are_equal
check_match 'the last too' '"last"' "$(cat target.ndjson)"
summary
