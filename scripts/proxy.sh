#!/usr/bin/env bash
#
# Tests the store behind nginx, HAProxy and Caddy, with the configurations in
# scripts/proxy: the seed's transcript, a mixed load, large values both ways,
# refusals, kept connections, watches, imports, and a restart of the store. Then
# behind nginx and Caddy with those in README.md: TLS, a token, and a Unix socket.
#
#     scripts/proxy.sh                     ten seconds of load through each
#     scripts/proxy.sh --short             one second
#     scripts/proxy.sh --short haproxy     only this one
#
# It starts servers and proxies of its own, on 127.0.0.1.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

seconds=10
if [ "${1:-}" = --short ]; then
    seconds=1
    shift
fi
if [ "$#" -eq 0 ]; then
    set -- nginx haproxy caddy
fi
MEBIBYTE=1048576

need python3 'clients of a proxy' || summary
need openssl 'what speaks TLS' || summary
URL=
find_program
cd "$WORK"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,DNS:store.example.com,IP:127.0.0.1 \
    -keyout key.pem -out ca.pem 2>/dev/null
cat ca.pem key.pem >store.pem
# curl takes this for all that it asks.
export CURL_CA_BUNDLE=$WORK/ca.pem

head -c $((10 * MEBIBYTE)) /dev/urandom >largest.bin
head -c $((10 * MEBIBYTE + 1)) /dev/urandom >too-large.bin

# The name in the README is that of this machine.
HERE=(--connect-to store.example.com::127.0.0.1:)
curl() {
    command curl -q --silent --show-error --max-time 60 "${HERE[@]}" "$@"
}

# free_port: one that nobody listens on.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# block PORT FILE: a block of scripts/proxy with this port, and our certificate and
# store, in place of those that it names.
# shellcheck disable=SC2317,SC2329 # Those below call it.
block() {
    sed -e "s|127\.0\.0\.1:8888|${STORE#http://}|" -e "s|/etc/ssl/private/store.pem|$WORK/store.pem|g" \
        -e "s|listen 8443|listen 127.0.0.1:$1|" -e "s|bind :8443|bind 127.0.0.1:$1|" \
        -e "s|https://:8443 {|https://:$1 {\n\tbind 127.0.0.1|" "$ROOT/scripts/proxy/$2"
}

# readme_block FIRST PORT: the block of README.md with this first line, likewise.
# shellcheck disable=SC2317,SC2329
readme_block() {
    sed -n "/^    $1\$/,/^    }\$/s/^    //p" "$ROOT/README.md" |
        sed -e "s|127\.0\.0\.1:8888|${STORE#http://}|" -e "s|/etc/ssl/store.pem|$WORK/ca.pem|" \
            -e "s|/etc/ssl/store.key|$WORK/key.pem|" -e "s|listen 443|listen 127.0.0.1:$2|" \
            -e "s|^store.example.com {|https://store.example.com:$2 {\n\tbind 127.0.0.1\n\ttls $WORK/ca.pem $WORK/key.pem|"
}

# readme_code START: what begins so in a line of README.md, as code.
# shellcheck disable=SC2016,SC2317,SC2329
readme_code() {
    sed -n 's|.*`\('"$1"'[^`]*\)`.*|\1|p' "$ROOT/README.md"
}

# The command that runs each, on a port.

# run_nginx: with what comes for the http block.
# shellcheck disable=SC2317,SC2329
run_nginx() {
    {
        # Root's own directory is closed to the user that nginx would run as.
        if [ "$(id -u)" = 0 ]; then echo 'user root;'; fi
        echo "daemon off; pid $WORK/nginx.pid; error_log $WORK/nginx.log;"
        echo 'events { worker_connections 1024; } http { access_log off;'
        for folder in client_body proxy fastcgi uwsgi scgi; do
            echo "${folder}_temp_path $WORK/nginx-$folder;"
        done
        cat
        echo '}'
    } >proxy.conf
    COMMAND=(nginx -p "$WORK" -e "$WORK/nginx.log" -c "$WORK/proxy.conf")
}
# shellcheck disable=SC2317,SC2329 # start_proxy calls these by name.
configure_nginx() {
    run_nginx < <(block "$1" nginx.conf)
}
# shellcheck disable=SC2317,SC2329
configure_haproxy() {
    block "$1" haproxy.cfg >proxy.conf
    COMMAND=(haproxy -W -q -f "$WORK/proxy.conf")
}
# shellcheck disable=SC2317,SC2329
configure_caddy() {
    block "$1" Caddyfile | sed '0,/^{/s//{\n\tadmin off\n\tauto_https disable_redirects/' >proxy.conf
    run_caddy
}
# shellcheck disable=SC2317,SC2329
run_caddy() {
    COMMAND=(env "HOME=$WORK" "XDG_DATA_HOME=$WORK" "XDG_CONFIG_HOME=$WORK"
        caddy run --adapter caddyfile --config "$WORK/proxy.conf")
}

# Those of the README, on a Unix socket as well.
# shellcheck disable=SC2317,SC2329
configure_readme_nginx() {
    local listen
    listen=$(readme_code 'listen unix:')
    run_nginx < <(
        readme_block 'server {' "$1"
        readme_block 'server {' "$1" | sed -e '/ssl_/d' -e "s|listen .*|${listen//\/run/$WORK}|"
    )
}
# shellcheck disable=SC2317,SC2329
configure_readme_caddy() {
    {
        printf '{\n\tadmin off\n\tauto_https disable_redirects\n}\n'
        readme_block 'store.example.com {' "$1"
    } >proxy.conf
    run_caddy
}

# shellcheck disable=SC2317,SC2329 # within calls it.
proxy_answers() {
    is_gone "$PROXY_PID" || curl -f -o "$WORK/probe" "$PROXY/healthz" 2>/dev/null
}

# start_proxy NAME [SED]: starts one, with its configuration edited by a script
# of sed if there is one. Sets PROXY, its URL, and PROXY_PID.
start_proxy() {
    local port host=localhost
    case $1 in readme_*) host=store.example.com ;; esac
    for _ in 1 2 3; do
        port=$(free_port)
        "configure_$1" "$port"
        if [ -n "${2:-}" ]; then
            sed "$2" proxy.conf >edited.conf && mv edited.conf proxy.conf
        fi
        PATH=$PATH:/usr/sbin "${COMMAND[@]}" >"$WORK/proxy.stdout" 2>"$WORK/proxy.stderr" </dev/null &
        PROXY_PID=$!
        STARTED_PIDS="$STARTED_PIDS$PROXY_PID "
        PROXY=https://$host:$port
        if within 20 proxy_answers && ! is_gone "$PROXY_PID"; then return; fi
        # Somebody else may have taken the port meanwhile.
        stop "$PROXY_PID"
    done
    cat "$WORK/proxy.stderr" >&2
    return 1
}

# store_connections: how many connections to the store there are, or were until
# lately.
store_connections() {
    local port=${STORE##*:}
    ss -Htan exclude listening "( dport = :$port or sport = :$port )" | wc -l
}

# tail_of COMMAND...: a test script's own count of checks.
tail_of() {
    "$@" 2>&1 | tee "$WORK/script.stdout" | tail -n 1 || true
}

# clients ARG...: runs proxy.py and adds its checks to those here.
clients() {
    counted proxy.py --url "$PROXY" --ca "$WORK/ca.pem" "$@"
}

# refused_upload STATUS BODY curl ARG...: as `answer`, for what is refused before
# all of it has come. Caddy may end the connection of a client that still sends,
# with that status or without one.
refused_upload() {
    if [ "$name" != caddy ]; then
        answer "$@"
        return
    fi
    local status=$1 what
    shift 2
    what="$status or none  $(quoted "$@")"
    shift
    ask "$@"
    case $STATUS in
        "$status" | 100 | 000) passed "$what" ;;
        *) failed "$what" "$status, or none" "$STATUS $(describe "$WORK/body")" ;;
    esac
}

# What the store refuses, in its own words.
refusals() {
    answer 404 'key not found\n' curl "$PROXY/kv/absent"
    answer 404 'not found: the paths are /kv/{key}, /kv, /batch, /watch, /import, /clear, /metrics, /openapi.json, /livez, /readyz, /healthz, /v8/artifacts/status, /v8/artifacts/events and /v8/artifacts/{hash}\n' curl "$PROXY/nowhere"
    answer 400 'key cannot be empty\n' curl "$PROXY/kv/"
    answer 405 'method not allowed\n' curl -d 'x' "$PROXY/kv/absent"
    check 'with the methods there are' 'GET, HEAD, PUT, POST, DELETE, OPTIONS' "$(header Allow)"
    refused_upload 400 'unknown query parameter\n' curl -T largest.bin "$PROXY/kv/absent?tll=1"
    answer 400 'value cannot be empty\n' curl -X PUT -d '' "$PROXY/kv/absent"
    refused_upload 413 'value is too large\n' curl -T too-large.bin "$PROXY/kv/absent"
    refused_upload 413 'value is too large\n' curl -T - "$PROXY/kv/absent" < <(cat too-large.bin)
    answer 415 'content encoding is not supported\n' curl -X PUT -d 'x' -H 'Content-Encoding: gzip' "$PROXY/kv/absent"
    answer 400 'the content does not match its digest\n' \
        curl -X PUT -d 'x' -H 'Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==' "$PROXY/kv/absent"
    answer 412 'precondition failed\n' curl -X PUT -d 'x' -H 'If-Match: *' "$PROXY/kv/absent"
    answer 404 'key not found\n' curl "$PROXY/kv/absent"
    answer 403 'a page of another site may not do this\n' \
        curl -X POST -H 'Origin: https://evil.example' "$PROXY/kv/absent?incr"
    answer 200 '1\n' curl -X POST -H "Origin: $PROXY" "$PROXY/kv/page?incr"
}

# The commands at / are for the proxy, and not for the store behind it.
manual() {
    check_match 'the manual has commands for it' "'$PROXY/kv/" "$(curl "$PROXY/")"
}

# Values of every size, by both versions of HTTP that proxies speak to clients.
large_values() {
    local version
    for version in --http1.1 --http2; do
        answer 200 '' curl "$version" -T largest.bin "$PROXY/kv/largest"
        answer_file 200 largest.bin curl "$version" --compressed "$PROXY/kv/largest"
        check 'its ETag is strong' "\"$(sha256sum largest.bin | cut -c1-32)\"" "$(header ETag)"
        answer 200 '' curl "$version" -T - "$PROXY/kv/pipe" < <(cat largest.bin)
        answer_file 200 largest.bin curl "$version" "$PROXY/kv/pipe"
        tail -c 1000 largest.bin >last.bin
        answer_file 206 last.bin curl "$version" -r -1000 "$PROXY/kv/pipe"
    done
    if ! cmp -s <(curl "$STORE/kv/pipe") largest.bin; then
        failed 'the store has it too' 'the same bytes' 'others'
    fi
}

# has_lines COUNT PATTERN FILE
# shellcheck disable=SC2317,SC2329 # within calls it.
has_lines() {
    [ "$(grep -Ec -- "$2" "$3")" -eq "$1" ]
}

# Changes are told at once, in each form and by both versions of HTTP.
watches() {
    local version form
    answer 200 '' curl -X PUT -d 'before' "$PROXY/kv/watched/1"
    for version in --http1.1 --http2; do
        for form in text/plain text/event-stream application/x-ndjson; do
            : >changes
            command curl -q -sN --max-time 100 "${HERE[@]}" "$version" -H "Accept: $form" \
                "$PROXY/watch?prefix=watched/&since=0" >changes &
            STARTED_PIDS="$STARTED_PIDS$! "
            check_that "a watch begins through $name, $form, $version" \
                within "$PATIENCE" has_lines 1 'watched/1' changes
            answer 200 '' curl -X PUT -d 'after' "$PROXY/kv/watched/1"
            check_that 'and tells a change before it ends' within "$PATIENCE" has_lines 2 'watched/1' changes
            stop "$!"
        done
    done
    # One for the restart that follows, to see how it ends.
    : >changes
    command curl -q -sN --max-time 100 "${HERE[@]}" "$PROXY/watch" >changes &
    WATCHER=$!
    STARTED_PIDS="$STARTED_PIDS$WATCHER "
    check_that 'one that goes on while the store is restarted' within "$PATIENCE" test -s changes
}

# Longer than a request to anything else may be.
imports() {
    awk 'BEGIN { for (i = 0; i < 60000; i++)
        printf "{\"key\":\"imported/%06d\",\"value\":\"%0200d\"}\n", i, i }' >lines
    answer 200 '60000\n' curl -T lines "$PROXY/import"
    answer 200 '60000\n' curl -T - "$PROXY/import" < <(cat lines)
    curl "$PROXY/kv?values&prefix=imported/" | sed 's/,"etag":"[0-9a-f]*"//' >exported
    check_file 'an export through it has every line' lines exported
    echo '{"key":' >>lines
    refused_upload 400 'line 60001: the line is not JSON; 60000 were stored\n' curl -T lines "$PROXY/import"
    answer 200 '60000\n' curl -X DELETE "$PROXY/kv?prefix=imported/"
}

# restart SIGNAL CODE: the store goes away, with this exit code, and comes back
# while clients are at work.
restart() {
    rm -f begun back count
    python3 -B "$ROOT/scripts/proxy.py" --url "$PROXY" --ca ca.pem --restart begun back \
        --count count &
    local clients_pid=$!
    STARTED_PIDS="$STARTED_PIDS$clients_pid "
    check_that 'clients are at work' within 60 test -e begun
    kill "-$1" "$SERVER_PID"
    exit_code "$SERVER_PID" 20
    check "SIG$1 ends the store with" "$2" "$CODE"
    launch --port "${STORE##*:}" --working-dir "$WORK/store"
    touch back
    exit_code "$clients_pid" 200
    check 'a restart costs no more than its own time' 0 "$CODE"
    answer_status 200 curl "$PROXY/healthz"
}

# What reached a store that answers nothing is not sent again, on a connection
# that was kept either.
sent_once() {
    local name=$1
    rm -f deaf.url deaf.log
    python3 -B "$ROOT/scripts/proxy.py" --deaf deaf.url deaf.log &
    local deaf_pid=$!
    STARTED_PIDS="$STARTED_PIDS$deaf_pid "
    check_that 'a store that hears and does not answer' within 20 test -s deaf.url
    STORE=$(cat deaf.url)
    if ! start_proxy "$name"; then
        failed "$name starts" 'an answer' 'none'
        return
    fi
    unanswered -X PUT -d x "$PROXY/kv/a"
    unanswered -X PUT -d x -H 'If-None-Match: *' "$PROXY/kv/b"
    unanswered -X POST "$PROXY/kv/c?incr"
    unanswered -X POST -d x "$PROXY/kv/d?append"
    unanswered -X DELETE "$PROXY/kv/e?return"
    unanswered -X DELETE "$PROXY/kv?take=f"
    unanswered -X DELETE "$PROXY/clear"
    check 'each was sent once' 'PUT /kv/a PUT /kv/b POST /kv/c?incr POST /kv/d?append DELETE /kv/e?return DELETE /kv?take=f DELETE /clear' \
        "$(tr '\n' ' ' <deaf.log | sed 's/ $//')"
    stop "$PROXY_PID"
    stop "$deaf_pid"
}

# unanswered ARG...: curl is told that there is no answer, on a connection of the
# proxy that was there before.
unanswered() {
    answer 200 'ok\n' curl "$PROXY/healthz"
    answer_status 502 curl "$@"
}

# restart_store FLAG...: ends it, and starts it on its port with these flags.
restart_store() {
    server_ends_well
    launch --port "${STORE##*:}" "$@"
}

# The blocks of the README: what each says of the store's flags, of TLS and of sockets.
readme_blocks() {
    local name=$1 version socket command
    start_server --allow-host store.example.com
    STORE=$URL
    if ! start_proxy "readme_$name"; then
        failed "$name starts with the block of the README" 'an answer' 'none'
        return
    fi
    for version in 1.1 2; do
        answer 200 '' curl "--http$version" -X PUT -d 'Nairobi' "$PROXY/kv/capital"
        answer 200 'Nairobi' curl "--http$version" --compressed "$PROXY/kv/capital"
        check 'with the ETag that it has' "\"$(printf Nairobi | sha256sum | cut -c1-32)\"" "$(header ETag)"
        check "over HTTP/$version" "$version" "$(curl "--http$version" -o /dev/null -w '%{http_version}' "$PROXY/")"
    done
    manual
    answer 200 '' curl -T largest.bin "$PROXY/kv/largest"
    answer_file 200 largest.bin curl "$PROXY/kv/largest"
    refused_upload 413 'value is too large\n' curl -T too-large.bin "$PROXY/kv/absent"
    imports
    watches
    stop "$WATCHER"
    if [ "$name" = nginx ]; then
        socket=$WORK/store.sock
        command=$(readme_code 'curl --unix-socket')
        check "$command" 'Nairobi' "$(eval "${command//\/run\/store.sock/$socket}")"
    fi

    restart_store
    answer 403 'this Host is not allowed: start the store with --allow-host and its name\n' curl "$PROXY/healthz"

    echo 'a-token-of-the-proxy-test' >tokens
    chmod 600 tokens
    restart_store --token-file tokens
    answer_status 401 curl "$PROXY/kv/capital"
    check 'with the scheme' 'Bearer realm="little-key-value"' "$(header WWW-Authenticate)"
    refused_upload 401 "$(cat "$WORK/body")\n" curl -T largest.bin "$PROXY/kv/largest"
    answer 200 '' curl --oauth2-bearer "$(cat tokens)" -X PUT -d 'Nairobi' "$PROXY/kv/capital"
    answer 200 'Nairobi' curl --http2 -u ":$(cat tokens)" "$PROXY/kv/capital"
    if [ "$name" = nginx ]; then
        answer 200 'Nairobi' curl --unix-socket "$socket" -u ":$(cat tokens)" http://store/kv/capital
        answer_status 401 curl --unix-socket "$socket" http://store/kv/capital
    fi
    stop "$PROXY_PID"
    server_ends_well
}

for name; do
    need "$name" "the store behind $name" || continue
    printf '\n%s\n\n' "$name"
    rm -rf store
    start_server --working-dir "$WORK/store"
    STORE=$URL
    if ! start_proxy "$name"; then
        failed "$name starts" 'an answer' 'none'
        continue
    fi

    check 'the transcript of the seed' '12 passed, 0 failed' \
        "$(URL=$PROXY LKV_BIN=$BIN tail_of bash "$ROOT/scripts/seed.sh")"
    if need ss 'how many connections a proxy makes'; then
        before=$(store_connections)
        clients --seconds "$seconds"
        more=$(($(store_connections) - before))
        # Without keep-alive there would be one for each of some hundred requests.
        check_that "$more more connections to the store: they are kept" [ "$more" -lt 100 ]
    fi
    manual
    refusals
    large_values
    imports
    watches
    restart TERM 0
    exit_code "$WATCHER" "$PATIENCE"
    check 'a watch through it comes to its end at a stop' 0 "$CODE"
    watches
    restart KILL 137
    exit_code "$WATCHER" "$PATIENCE"
    # The Caddy of Debian ends it as if nothing were missing: proxy/README.md.
    [ "$name" = caddy ] ||
        check_that "a watch that is cut off by a kill fails: curl exits with $CODE" [ "$CODE" -gt 0 ]
    check_that "$name runs still" kill -0 "$PROXY_PID"
    stop "$PROXY_PID"
    server_ends_well
    sent_once "$name"
    case $name in nginx | caddy) readme_blocks "$name" ;; esac
done

# What proxy/README.md says of gzip.
if [[ " $* " = *' nginx '* ]] && need nginx 'gzip in nginx'; then
    start_server
    STORE=$URL
    start_proxy nginx 's/gzip off;/gzip on; gzip_min_length 1; gzip_proxied any; gzip_types *;/'
    answer 200 '' curl -X PUT -d 'Nairobi' "$PROXY/kv/capital"
    strong=\"$(printf Nairobi | sha256sum | cut -c1-32)\"
    answer 200 'Nairobi' curl --compressed "$PROXY/kv/capital"
    check 'gzip in nginx makes an ETag weak' "W/$strong" "$(header ETag)"
    answer_status 304 curl --compressed -H "If-None-Match: W/$strong" "$PROXY/kv/capital"
    answer 412 'precondition failed\n' curl -X PUT -d 'x' -H "If-Match: W/$strong" "$PROXY/kv/capital"
    answer 200 '' curl -X PUT -d 'x' -H "If-Match: $strong" "$PROXY/kv/capital"
    stop "$PROXY_PID"
    server_ends_well
fi
summary
