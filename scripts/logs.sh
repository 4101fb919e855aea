#!/usr/bin/env bash
#
# Tests the access log with what people read logs with: goaccess reads each line of the
# text, and jq each of the JSON.
#
#     scripts/logs.sh
#
# It always starts servers of its own, on 127.0.0.1, each on a port that the system
# gives. It needs goaccess and jq.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

# The requests of each kind that `ask_a_thousand` sends, by status.
GOOD=600
NOT_FOUND=290
NOT_ALLOWED=50
BAD=60

# transfers FILE METHOD FIRST LAST TARGET ARG...: adds transfers to a file of curl's, with
# a number in place of % in each target.
transfers() {
    local file=$1 method=$2 number=$3 last=$4 target=$5 argument
    shift 5
    for (( ; number <= last; number++)); do
        [ ! -s "$file" ] || echo next >>"$file"
        printf 'url = "%s%s"\noutput = "/dev/null"\n' "$URL" "${target//%N/$number}" >>"$file"
        if [ "$method" = HEAD ]; then
            echo head >>"$file"
        else
            printf 'request = "%s"\n' "$method" >>"$file"
        fi
        for argument in "$@"; do
            printf '%s\n' "$argument" >>"$file"
        done
    done
}

# Sends a thousand requests of many kinds, on one connection as far as that goes.
ask_a_thousand() {
    local file=$WORK/requests
    rm -f "$file"
    # 600 that succeed: strange keys, fields with quotes and other bytes.
    transfers "$file" PUT 1 100 '/kv/log/%N' 'data = "twelve bytes"'
    transfers "$file" GET 1 100 '/kv/log/%N?q=a%20b&r=%22c%22'
    transfers "$file" HEAD 1 100 '/kv/log/%N'
    transfers "$file" PUT 1 50 '/kv/S%C3%A3o%20Paulo/%22%5C/%N' 'data = "x"'
    transfers "$file" GET 1 50 '/kv/S%C3%A3o%20Paulo/%22%5C/%N' \
        'user-agent = "a \"browser\"\t\\ \\x41 São"' 'referer = "http://a.test/\"%22\\"'
    transfers "$file" GET 1 50 '/kv/log/%N' 'user-agent = ""' 'referer = "-"'
    transfers "$file" OPTIONS 1 50 '/kv/log/%N'
    transfers "$file" POST 1 50 '/kv/count/%N?incr'
    transfers "$file" GET 1 50 '/kv?prefix=log/&limit=3'
    # 290 of absent keys, and 50 by a method that there is not.
    transfers "$file" GET 1 240 '/kv/absent/%N'
    transfers "$file" GET 1 50 '/%N/<script>"`{}|^/[]'
    transfers "$file" BREW 1 50 '/kv/log/%N'
    # 60 that are refused: by their key, and by their framing.
    transfers "$file" GET 1 30 '/kv/%FF%N'
    curl --globoff --path-as-is --http1.1 -K "$file" >/dev/null
    for ((number = 1; number <= 10; number++)); do
        refused_by_framing 'GET /kv/log/1 HTTP/1.1\r\nHost: a\r\nBad Field: x\r\n\r\n'
        refused_by_framing 'G\033[31mET\007 /kv/"\\ HTTP/1.1\r\n\r\n'
        refused_by_framing '\026\003\001\002\000\001\374\003\003\377\r\n\r\n'
    done
}

# refused_by_framing BYTES: sends these and reads the answer to its end.
refused_by_framing() {
    exec 3<>"/dev/tcp/127.0.0.1/$(port)"
    # shellcheck disable=SC2059 # They are escaped for printf.
    printf "$1" >&3
    cat <&3 >/dev/null
    exec 3>&-
}

# logged LINES: whether there are as many lines of a log.
# shellcheck disable=SC2317 # `within` calls it.
logged() {
    [ "$(wc -l <"$WORK/stderr")" -ge "$1" ]
}

# A log of a thousand requests in a form; nothing else is logged.
log_of() {
    start_server --access-log --log-level off --log-format "$1"
    ask_a_thousand
    check_that "$1: a thousand lines are logged" within "$PATIENCE" logged 1000
    stop_server "$PATIENCE"
    check "$1: the server stops with" 0 "$CODE"
    check "$1: and no more" 1000 "$(($(wc -l <"$WORK/stderr")))"
    cp "$WORK/stderr" "$WORK/log.$1"
}

if need goaccess 'the access log as text'; then
    log_of text
    goaccess "$WORK/log.text" --no-global-config --log-format=COMBINED --no-progress \
        --invalid-requests="$WORK/invalid" -o "$WORK/report.json" </dev/null \
        >"$WORK/goaccess.out" 2>&1 || cat "$WORK/goaccess.out"
    # general NUMBER: the number of that name in the report.
    general() {
        sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" "$WORK/report.json" | head -n 1
    }
    check 'goaccess reads a thousand lines' 1000 "$(general total_requests)"
    check 'all of them are valid' 1000 "$(general valid_requests)"
    check 'and none fails' 0 "$(general failed_requests)"
    check 'nor is one told to be invalid' '' "$(head -n 3 "$WORK/invalid" 2>/dev/null || true)"
fi

if need jq 'the access log as JSON'; then
    log_of json
    # query FILTER: what jq says of all lines.
    query() {
        jq -r -s "$1" "$WORK/log.json"
    }
    check 'jq reads a thousand objects' 1000 "$(query 'length')"
    check 'each has what the manual says' 1000 "$(query 'map(select(
        (.time | test("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}[.][0-9]{3}Z$"))
        and .level == "info" and (.message | type) == "string"
        and (.method | type) == "string" and (.target | type) == "string"
        and (.status | type) == "number" and (.bytes | type) == "number"
        and (.duration | type) == "number" and (.peer | test("^127.0.0.1:[0-9]+$"))
        )) | length')"
    check 'times are in order' true "$(query 'map(.time) | . == sort')"
    statuses="200 $((GOOD - 50)), 204 50, 400 $BAD, 404 $NOT_FOUND, 405 $NOT_ALLOWED"
    check 'counted by status' "$statuses" \
        "$(query 'group_by(.status) | map("\(.[0].status) \(length)") | join(", ")')"
    check 'counted by method' '- 20, BREW 50, GET 580, HEAD 100, OPTIONS 50, POST 50, PUT 150' \
        "$(query 'group_by(.method) | map("\(.[0].method) \(length)") | join(", ")')"
    check 'the bytes of bodies add up' $((150 * 12 + 50)) "$(query 'map(select(.method == "GET"
        and .status == 200 and (.target | startswith("/kv/")))) | map(.bytes) | add')"
    check 'a HEAD has none' 0 "$(query 'map(select(.method == "HEAD") | .bytes) | add')"
    check 'the durations are seconds' true \
        "$(query 'map(.duration) | max < 60 and min >= 0 and add > 0')"
    check 'a target is as it came' 50 "$(query 'map(select(.method == "GET"
        and (.target | test("^/kv/S%C3%A3o%20Paulo/%22%5C/[0-9]+$")))) | length')"
    check 'a user agent is as it came' 50 \
        "$(query 'map(select(.user_agent == "a \"browser\"\t\\ \\x41 São")) | length')"
    check 'and absent where there is none' 50 \
        "$(query 'map(select(.referer == "-" and (has("user_agent") | not))) | length')"
    check 'what cannot be read is -' 20 "$(query 'map(select(.target == "-")) | length')"
fi

summary
