#!/usr/bin/env bash
#
# Tests /metrics with the tools of those who read it: promtool has no complaint, a real
# Prometheus scrapes it, with a token where there are tokens, and the dashboard in
# scripts/package asks for nothing that is not there.
#
#     scripts/metrics.sh                       starts servers of its own
#     ENGINE=durable scripts/metrics.sh        on the durable engine

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

TOKEN=a-token-of-this-test
MEDIA_TYPE='text/plain; version=0.0.4; charset=utf-8'

# sample NAME: the value of a sample, with its labels, in the last answer.
sample() {
    awk -v name="$1" 'substr($0, 1, length(name) + 1) == name " " { print substr($0, length(name) + 2) }' \
        "$WORK/body"
}

# requests METHOD ROUTE STATUS COUNT: so many were counted.
requests() {
    local labels="method=\"$1\",route=\"$2\",status=\"$3\""
    check "$1 $2 $3 was counted" "$4" "$(sample "lkv_http_requests_total{$labels}")"
}

# shellcheck disable=SC2317,SC2329 # `within` calls it.
all_are_counted() {
    ask "$URL/metrics"
    # A response is counted once it was written.
    [ "$(awk '/^lkv_http_requests_total/ && !/"\/metrics"/ { sum += $NF } END { print sum }' \
        "$WORK/body")" -ge "$1" ]
}

URL=
case $ENGINE in
    memory) start_server --max-memory 64MiB ;;
    durable) start_server --working-dir "$WORK/store" ;;
    *) echo "no such engine: $ENGINE" >&2 && exit 1 ;;
esac

# Traffic of all kinds.

head -c 2000000 /dev/urandom >"$WORK/large.bin"
answer_status 200 curl -T "$WORK/large.bin" "$URL/kv/a-secret-name"
answer_status 200 curl -T - "$URL/kv/a-secret-name" < <(printf 'from a pipe')
answer_status 200 curl "$URL/kv/a-secret-name"
answer_status 200 curl --head "$URL/kv/a-secret-name"
answer_status 206 curl --range 0-3 "$URL/kv/a-secret-name"
answer_status 404 curl "$URL/kv/a-secret-that-is-absent"
answer_status 404 curl "$URL/kv/a-secret-that-is-absent?wait=100ms"
answer_status 412 curl -X PUT -H 'If-None-Match: *' -d x "$URL/kv/a-secret-name"
answer_status 200 curl "$URL/kv?prefix=a-secret"
answer_status 400 curl "$URL/kv?prefix=a-secret&x"
answer_status 201 curl -X POST -d 'added' "$URL/kv?prefix=a-secret-"
answer_status 200 curl --data-binary '{"key":"a-secret-of-a-batch","value":"x"}' "$URL/batch"
answer_status 200 curl --data-binary '{"key":"a-secret-import","value":"x"}' "$URL/import"
answer_status 405 curl -X BREW "$URL/kv/a-secret-name"
answer_status 404 curl "$URL/a-secret-path"
answer_status 200 curl --max-time 25 --no-buffer "$URL/watch?key=a-secret-name&wait=1s"
answer_status 200 curl -X PUT -d x "$URL/kv/a-secret-that-expires?ttl=1ms"
answer_status 200 curl -X DELETE "$URL/kv/a-secret-name"

check_that 'all of these are counted' within "$PATIENCE" all_are_counted 18
check 'with the status' 200 "$STATUS"
check 'its media type' "$MEDIA_TYPE" "$(header Content-Type)"
check 'no cache keeps it' 'no-store' "$(header Cache-Control)"
cp "$WORK/body" "$WORK/scrape"
requests PUT '/kv/{key}' 200 3
requests GET '/kv/{key}' 200 1
requests HEAD '/kv/{key}' 200 1
requests GET '/kv/{key}' 206 1
requests GET '/kv/{key}' 404 2
requests PUT '/kv/{key}' 412 1
requests GET /kv 200 1
requests GET /kv 400 1
requests POST /kv 201 1
requests POST /batch 200 1
requests POST /import 200 1
requests other '/kv/{key}' 405 1
requests GET other 404 1
requests GET /watch 200 1
requests DELETE '/kv/{key}' 200 1
# GET, HEAD and a part of the value, and two that were absent.
check 'reads that found a value' 3 "$(sample lkv_hits_total)"
check 'and those that found none' 2 "$(sample lkv_misses_total)"
check 'no key is in it' '' "$(grep secret "$WORK/body" || true)"
check 'the bytes received are no less than those sent' 1 \
    "$(($(sample lkv_http_received_bytes_total) > 2000000))"
check 'there is a connection with this request' 1 "$(sample 'lkv_connections{state="working"}')"

answer_status 200 curl --head "$URL/metrics"
check 'and HEAD tells the same type' "$MEDIA_TYPE" "$(header Content-Type)"

if need promtool 'the form of the metrics'; then
    check 'promtool has nothing to say of them' '' "$(promtool check metrics <"$WORK/scrape" 2>&1)"
fi

# With tokens.

server_ends_well
printf '%s ro a-prefix\n' "$TOKEN" >"$WORK/tokens"
printf '%s' "$TOKEN" >"$WORK/token"
chmod 600 "$WORK/tokens" "$WORK/token"
case $ENGINE in
    memory) start_server --max-memory 64MiB --token-file "$WORK/tokens" ;;
    durable) start_server --working-dir "$WORK/store" --token-file "$WORK/tokens" ;;
esac
answer_status 401 curl "$URL/metrics"
answer_status 401 curl --oauth2-bearer "another-$TOKEN" "$URL/metrics"
# shellcheck disable=SC2317,SC2329 # `within` calls it.
both_are_counted() {
    ask --oauth2-bearer "$TOKEN" "$URL/metrics"
    [ "$(sample 'lkv_http_requests_total{method="GET",route="/metrics",status="401"}')" = 2 ]
}
check_that 'both are counted' within "$PATIENCE" both_are_counted
check 'with the status' 200 "$STATUS"
check 'who had none is counted' 1 "$(sample 'lkv_auth_failures_total{reason="missing"}')"
check 'and who had an unknown one' 1 "$(sample 'lkv_auth_failures_total{reason="unknown"}')"
requests GET /metrics 401 2

# A real Prometheus.

# query EXPR: its values, each on a line.
query() {
    curl --get --data-urlencode "query=$1" "$PROMETHEUS/api/v1/query" | python3 -c '
import json, sys
answer = json.load(sys.stdin)
if answer["status"] != "success":
    sys.exit(answer["error"])
result = answer["data"]["result"]
for sample in result if answer["data"]["resultType"] == "vector" else []:
    print(sample["value"][1])'
}

# start_prometheus: with $WORK/prometheus.yml. Sets PROMETHEUS, its URL.
# shellcheck disable=SC2317,SC2329 # `check_that` calls it.
start_prometheus() {
    local port
    for _ in 1 2 3; do
        port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        PROMETHEUS=http://127.0.0.1:$port
        rm -rf "$WORK/tsdb"
        prometheus --config.file="$WORK/prometheus.yml" --storage.tsdb.path="$WORK/tsdb" \
            --web.listen-address="127.0.0.1:$port" --log.level=error >"$WORK/prometheus.log" 2>&1 </dev/null &
        STARTED_PIDS="$STARTED_PIDS$! "
        # Somebody else may have taken the port meanwhile.
        if within "$PATIENCE" prometheus_answers "$!" && ! is_gone "$!"; then return; fi
        stop "$!"
    done
    cat "$WORK/prometheus.log" >&2
    return 1
}

# shellcheck disable=SC2317,SC2329 # `within` calls it.
prometheus_answers() {
    is_gone "$1" || curl -f -o "$WORK/probe" "$PROMETHEUS/-/ready" 2>/dev/null
}

# shellcheck disable=SC2317,SC2329 # `within` calls it.
is_scraped() {
    [ "$(query 'up{job="store"}' 2>/dev/null)" = 1 ]
}

# shellcheck disable=SC2317,SC2329 # `within` calls it.
is_counted() {
    [ -n "$(query "lkv_http_requests_total{route=\"/metrics\",status=\"200\"} > 1")" ]
}

# exprs: those of the dashboard, each on a line, with its variables filled in.
# shellcheck disable=SC2016 # They are Grafana's.
exprs() {
    python3 -c '
import json, sys
for panel in json.load(open(sys.argv[1]))["panels"]:
    for target in panel.get("targets", []):
        print(target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*"))
' "$ROOT/scripts/package/grafana-dashboard.json"
}

if need python3 'the dashboard'; then
    exprs >"$WORK/exprs"
    check 'the dashboard has panels' 1 "$(($(wc -l <"$WORK/exprs") > 30))"
    # Each engine has some that the other has not; those of a cluster, which is not there
    # for this, are looked up in the source.
    cat "$WORK/scrape" >"$WORK/both"
    grep -oE 'lkv_cluster_[a-z0-9_]+' "$ROOT/src/storage/cluster/report.rs" >>"$WORK/both"
    case $ENGINE in
        memory) engine=durable && set -- --working-dir "$WORK/other" ;;
        durable) engine=memory && set -- --max-memory 64MiB ;;
    esac
    kept_url=$URL kept_pid=$SERVER_PID
    start_server "$@"
    answer_status 200 curl "$URL/metrics"
    cat "$WORK/body" >>"$WORK/both"
    check "the other engine is $engine" 1 "$(grep -c "^lkv_build_info{.*engine=\"$engine\"" "$WORK/body")"
    server_ends_well
    URL=$kept_url SERVER_PID=$kept_pid
    grep -oE '\b(lkv|process)_[a-z0-9_]+' "$WORK/exprs" | sort -u >"$WORK/asked"
    grep -oE '^(lkv|process)_[a-z0-9_]+' "$WORK/both" | sort -u >"$WORK/told"
    check 'all that the dashboard asks for is there' '' \
        "$(comm -23 "$WORK/asked" "$WORK/told" | grep -vE '^lkv_.*_bucket$' || true)"
fi

if need python3 'a scrape' && need prometheus 'a scrape'; then
    cat >"$WORK/prometheus.yml" <<CONFIG
global:
  scrape_interval: 500ms
scrape_configs:
  - job_name: store
    authorization:
      credentials_file: $WORK/token
    static_configs:
      - targets: ['${URL#http://}']
CONFIG
    check_that 'Prometheus starts' start_prometheus
    check_that 'Prometheus scrapes the store' within "$PATIENCE" is_scraped
    check_that 'and counts what it asks' within "$PATIENCE" is_counted
    while read -r expr; do
        if ! query "$expr" >/dev/null 2>"$WORK/query.stderr"; then
            failed "an expression of the dashboard: $expr" 'an answer' "$(cat "$WORK/query.stderr")"
        fi
    done <"$WORK/exprs"
    passed 'every expression of the dashboard was asked'
fi

server_ends_well
summary
