#!/usr/bin/env bash
#
# Tests the forms in which the program goes to other machines: the unit for systemd, with
# the calls that it lets through; a program without shared libraries; the container image.
#
#     scripts/package.sh
#     STATIC=FILE scripts/package.sh     with this program in the image
#
# Else the image has a debug build, whose dependencies CI has compiled by then.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

UNIT=$ROOT/scripts/package/little-key-value.service
TOKEN='Authorization: Bearer 0123456789abcdef'
PROGRAM_BYTES_MAX=8000000

find_program
PROGRAM=$BIN

# start_by COMMAND... -- FLAG...: starts a server by a command that takes its flags.
start_by() {
    local command=
    while [ "$1" != -- ]; do
        command="$command $(printf '%q' "$1")"
        shift
    done
    shift
    # shellcheck disable=SC2016 # The words are those of the script.
    printf '#!/bin/sh\nexec%s "$@"\n' "$command" >"$WORK/start"
    chmod +x "$WORK/start"
    BIN=$WORK/start
    start_server "$@"
    BIN=$PROGRAM
}

# The unit.

# Complaints of systemd about the unit, for the program under test.
verify() {
    sed "s|^ExecStart=/usr/bin/little-key-value|ExecStart=\"$PROGRAM\"|" "$UNIT" >"$WORK/little-key-value.service"
    # It names other units of this machine too.
    systemd-analyze verify --man=no "$WORK/little-key-value.service" 2>&1 | grep -F little-key-value || true
}

# expand SET: the calls of a set of systemd's, or a call itself.
expand() {
    local member
    case $1 in
        @*)
            for member in $(systemd-analyze --no-pager syscall-filter "$1" | sed -n 's/^ \{4\}\([-@a-z0-9_]*\)$/\1/p'); do
                expand "$member"
            done
            ;;
        *) echo "$1" ;;
    esac
}

# The calls that the unit lets through, into $WORK/allowed.
allow() {
    local filter set
    : >"$WORK/allowed"
    while read -r filter; do
        for set in ${filter#\~}; do
            expand "$set"
        done | sort -u >"$WORK/set"
        case $filter in
            \~*) comm -23 "$WORK/allowed" "$WORK/set" >"$WORK/left" ;;
            *) sort -u "$WORK/allowed" "$WORK/set" >"$WORK/left" ;;
        esac
        mv "$WORK/left" "$WORK/allowed"
    done < <(sed -n 's/^SystemCallFilter=//p' "$UNIT")
}

# calls FLAG...: the calls that the program makes with these flags while it serves,
# into $WORK/calls. Among the rows of the summary, whose first word is a share of the
# time, strace may note a call that a thread ends in.
calls() {
    rm -f "$WORK/summary"
    start_by strace -D -f -qq -c -o "$WORK/summary" "$PROGRAM" -- "$@"
    URL=$URL bash "$ROOT/scripts/curl.sh" >"$WORK/output" 2>&1 || tail -n 1 "$WORK/output"
    stop_server "$PATIENCE"
    # strace ends after the program, and writes the summary in pieces.
    within "$PATIENCE" grep -qs ' total$' "$WORK/summary"
    awk '$1 ~ /^[0-9]+\.[0-9]+$/ && $NF != "total" { print $NF }' "$WORK/summary" | sort -u >"$WORK/calls"
}

if need systemd-analyze 'the unit'; then
    check 'systemd takes the unit as it is' '' "$(verify)"
    security=$(systemd-analyze --no-pager security --offline=true --threshold=15 "$UNIT" 2>&1) &&
        code=0 || code=$?
    check "$(tail -n 1 <<<"$security" | sed -E "s/.*Overall (.*) [^ ]+$/overall \1/"), 1.5 at most" 0 "$code"
    if need strace 'the calls that the unit lets through'; then
        allow
        for engine in memory durable; do
            if [ "$engine" = memory ]; then calls; else calls --working-dir "$WORK/store"; fi
            check "on $engine it makes $(wc -l <"$WORK/calls") calls, of which the unit refuses" '' \
                "$(comm -13 "$WORK/allowed" "$WORK/calls" | xargs)"
            # Else the trace has told nothing.
            check_match 'among them the one that takes connections' '^accept4$' "$(cat "$WORK/calls")"
        done
    fi
fi

# The program's size.

case $PROGRAM in
    */release/*)
        if need strip 'the size of the program'; then
            strip -o "$WORK/stripped" "$PROGRAM"
            bytes=$(($(wc -c <"$WORK/stripped")))
            check_that "it has $bytes bytes, fewer than $PROGRAM_BYTES_MAX" [ "$bytes" -lt "$PROGRAM_BYTES_MAX" ]
        fi
        ;;
esac

# A program without shared libraries.

# Sets STATIC.
link_statically() {
    local target=${CARGO_TARGET_DIR:-target}
    cd "$ROOT"
    if [ ! -d "$target/debug/deps" ]; then
        skip 'a program without shared libraries' 'there is no debug build here'
        return 1
    fi
    if ! cargo rustc --quiet --locked --bin little-key-value -- -C target-feature=+crt-static; then
        failed 'a program without shared libraries' 'to be built' 'errors'
        return 1
    fi
    # It stands in the place of the usual one until the next build.
    STATIC=$WORK/static
    cp "$target/debug/little-key-value" "$STATIC"
}

# root WHAT: succeeds for root; else skips a check.
root() {
    if [ "$(id -u)" -eq 0 ]; then return 0; fi
    skip "$1" 'only root may do this'
    return 1
}

# in_the_root FLAG...: starts the program as the only file of its root directory.
in_the_root() {
    start_by "$(command -v env)" -i "$(command -v chroot)" --userspec=65532:65532 "$WORK/root" \
        /little-key-value -- "$@"
}

if [ "$(uname)" != Linux ]; then
    skip 'a program without shared libraries' 'this is not Linux'
    summary
fi
if [ -z "${STATIC:-}" ]; then link_statically || summary; fi

if root 'a program without shared libraries'; then
    mkdir -p "$WORK/root/data"
    cp "$STATIC" "$WORK/root/little-key-value"
    chown 65532:65532 "$WORK/root/data"
    for flags in '' '--working-dir=/data'; do
        # shellcheck disable=SC2086 # It may be none.
        in_the_root $flags
        answer 200 '' curl -X PUT -d 'Nairobi' "$URL/kv/kenya:capital"
        answer 200 'Nairobi' curl "$URL/kv/kenya:capital"
        stop_server "$PATIENCE"
        check "alone in its root directory${flags:+, with $flags,} it stops with" 0 "$CODE"
    done
    CODE=0
    env -i "$(command -v chroot)" "$WORK/root" /little-key-value --port 0 --host store.invalid \
        2>"$WORK/stderr" >&2 || CODE=$?
    check 'a name is unknown where there is no file of names' 1 "$CODE"
    check_match 'and it is told' 'cannot listen on store\.invalid, port 0: .*address' "$(cat "$WORK/stderr")"
    mkdir "$WORK/root/etc"
    echo '127.0.0.1 store.invalid' >"$WORK/root/etc/hosts"
    in_the_root --host store.invalid
    answer 200 'ok\n' curl "$URL/healthz"
    stop_server "$PATIENCE"
fi

# The image.

# The process that the last in a row of parents has started.
last_child() {
    local pid=$1 child
    while child=$(cat "/proc/$pid/task/"*/children 2>/dev/null | cut -d ' ' -f 1) && [ -n "$child" ]; do
        pid=$child
    done
    echo "$pid"
}

if root 'the image' && need buildah 'the image'; then
    printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' "$WORK/images" "$WORK/run" \
        >"$WORK/storage.conf"
    export CONTAINERS_STORAGE_CONF=$WORK/storage.conf BUILDAH_ISOLATION=chroot
    CODE=0
    "$ROOT/scripts/package/image.sh" "$STATIC" >"$WORK/output" 2>&1 || CODE=$?
    check 'the image is built' 0 "$CODE$([ "$CODE" = 0 ] || tail -n 3 "$WORK/output")"
    container=$(buildah from --pull-never localhost/little-key-value)

    CODE=0
    buildah run "$container" /little-key-value >"$WORK/output" 2>&1 || CODE=$?
    check_match 'without a token it does not start' '0\.0\.0\.0.* can be reached' "$(cat "$WORK/output")"
    check 'which is bad usage' 2 "$CODE"

    start_by buildah run --env "LKV_TOKEN=${TOKEN##* }" "$container" /little-key-value --
    check_match 'it runs in a container, durable' 'engine: durable' "$(cat "$WORK/stdout")"
    URL=http://127.0.0.1:$(port)
    answer 200 '' curl -H "$TOKEN" -X PUT -d 'Nairobi' "$URL/kv/kenya:capital"
    answer 200 'Nairobi' curl -H "$TOKEN" "$URL/kv/kenya:capital"
    answer_status 401 curl "$URL/kv/kenya:capital"
    check_that 'it is healthy' buildah run "$container" /little-key-value health "$URL"
    # buildah passes no signal on.
    kill -TERM "$(last_child "$SERVER_PID")"
    exit_code "$SERVER_PID" "$PATIENCE"
    check 'it stops with' 0 "$CODE"
    buildah rm "$container" >"$WORK/output"
fi

summary
