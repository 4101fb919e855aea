# shellcheck shell=bash
#
# What the shell test scripts share: a server to ask, checks, and a summary.
#
# It is sourced, not run:
#
#     . "$(dirname "$0")/lib.sh"
#     use_server
#     answer 200 'ok\n' curl "$URL/healthz"
#     summary
#
# It needs bash (3.2 will do), curl and what every Unix has; for a cluster python3 and
# redis-server too. The program under test is $LKV_BIN, else the release build, else the
# debug build, else one that cargo makes now.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
WORK=$(mktemp -d "${TMPDIR:-/tmp}/little-key-value.XXXXXX")

BIN=${LKV_BIN:-}
URL=${URL:-}
URL=${URL%/}
ENGINE=${ENGINE:-memory}
SERVER_PID=
PASSED=0
FAILED=0
STARTED_PIDS=' '

# For how many seconds a check waits for what has to come: long, for a machine
# that has much else to do, but for less than the server waits for a request.
PATIENCE=25

# Settings of the person who runs this: a proxy between curl and the server, or
# flags of the server in the environment, would change what is tested.
export no_proxy='*' NO_PROXY='*'
while read -r name; do
    unset "$name"
done < <(compgen -e | grep '^LKV_')

HEED_SIGNALS='env --default-signal=INT,TERM,HUP'
$HEED_SIGNALS true 2>/dev/null || HEED_SIGNALS=

# curl without the person's .curlrc, and never for ever.
curl() {
    command curl -q --silent --show-error --max-time 60 "$@"
}

# The program.

# Sets BIN.
find_program() {
    local target=${CARGO_TARGET_DIR:-target} build
    case $target in
        /*) ;;
        *) target=$ROOT/$target ;;
    esac
    if [ -z "$BIN" ]; then
        for build in release debug; do
            if [ -x "$target/$build/little-key-value" ]; then
                BIN=$target/$build/little-key-value
                return
            fi
        done
        (cd "$ROOT" && cargo build --release --locked)
        BIN=$target/release/little-key-value
    fi
    if [ ! -x "$BIN" ]; then
        echo "no program to test: $BIN" >&2
        exit 1
    fi
}

# launch FLAG...: starts the program with these flags alone and waits until it
# listens. Sets URL and SERVER_PID; its output is in $WORK/stdout and stderr.
launch() {
    find_program
    rm -f "$WORK/stdout" "$WORK/stderr"
    # Job control gives the server the signals that it has in a terminal;
    # without it bash starts it with Ctrl-C ignored. What this script's own
    # caller ignores, only GNU's env can give back.
    set -m
    $HEED_SIGNALS "$BIN" "$@" >"$WORK/stdout" 2>"$WORK/stderr" </dev/null &
    SERVER_PID=$!
    set +m
    STARTED_PIDS="$STARTED_PIDS$SERVER_PID "
    URL=
    if within "$PATIENCE" second_line_is_there; then
        URL=$(sed -n '2s/.*\(http:\/\/[][0-9a-fA-F:.]*[0-9]\).*/\1/p' "$WORK/stdout")
    fi
    if [ -z "$URL" ]; then
        echo "the server does not start: $BIN $*" >&2
        cat "$WORK/stdout" "$WORK/stderr" >&2
        exit 1
    fi
}

second_line_is_there() {
    [ -s "$WORK/stdout" ] && [ "$(wc -l <"$WORK/stdout")" -ge 2 ] || ! kill -0 "$SERVER_PID" 2>/dev/null
}

# start_server [FLAG...]: the same on a port that the system gives.
start_server() {
    launch --port 0 "$@"
}

# The server at $URL if the caller gave one, else one of our own. ENGINE says
# on which engine: memory, durable in a directory that goes with $WORK, or cluster.
use_server() {
    # shellcheck disable=SC2119 # Some scripts have flags for it, here are none.
    if [ -z "$URL" ]; then start_on_engine; fi
}

# start_on_engine [FLAG...]: starts a server on the engine.
# shellcheck disable=SC2120 # The same.
start_on_engine() {
    case $ENGINE in
        memory) start_server "$@" ;;
        durable) start_server --working-dir "$WORK/store" "$@" ;;
        cluster)
            use_cluster
            start_server --cluster "$TEST_CLUSTER" --cluster-clear "$@"
            ;;
        *) echo "no such engine: $ENGINE" >&2 && exit 1 ;;
    esac
}

# Whether some keys are in different slots, as those of a cluster are: they do not
# change together, and there is no change log.
has_slots() {
    [ "$ENGINE" = cluster ]
}

# The cluster of tests at $TEST_CLUSTER if the caller gave one, without its keys, else
# one of our own. Its nodes are those of redis-server, or of the program $CLUSTER_SERVER.
use_cluster() {
    if [ -z "${TEST_CLUSTER:-}" ]; then
        start_cluster
    else
        (cluster_nodes --clear "$TEST_CLUSTER")
    fi
}

# Whether what a cluster needs is there; else skips WHAT.
need_cluster() {
    need python3 "$1" && need "${CLUSTER_SERVER:-redis-server}" "$1"
}

# Starts a cluster of six, which goes with this script. Sets TEST_CLUSTER.
start_cluster() {
    need_cluster 'all of it on a cluster' || summary
    mkdir "$WORK/cluster"
    # It ends with its input, and so with us, however we end.
    mkfifo "$WORK/cluster.hold"
    (cluster_nodes "$WORK/cluster") <"$WORK/cluster.hold" >"$WORK/cluster.addresses" &
    STARTED_PIDS="$STARTED_PIDS$! "
    exec 8>"$WORK/cluster.hold"
    within 100 cluster_is_there "$!" || true
    TEST_CLUSTER=$(cat "$WORK/cluster.addresses")
    if [ -z "$TEST_CLUSTER" ]; then
        echo 'the cluster does not start' >&2
        exit 1
    fi
}

# Ends the cluster that was started.
stop_cluster() {
    exec 8>&-
}

cluster_is_there() {
    [ -s "$WORK/cluster.addresses" ] || is_gone "$1"
}

# cluster_nodes ARG...: takes the place of this shell.
cluster_nodes() {
    PYTHONPATH=$ROOT/scripts exec python3 -B -m cluster.hold "$@"
}

# Whether the server that answers is one that this script has started.
server_is_ours() {
    [ -n "$SERVER_PID" ]
}

# The port of $URL.
port() {
    echo "${URL##*:}"
}

# is_gone PID, or with -PID a process group
is_gone() {
    ! kill -0 -- "$1" 2>/dev/null
}

# exit_code PID SECONDS: waits for a process that we started and sets CODE to
# its exit code, or to `still running`.
exit_code() {
    if within "$2" is_gone "$1"; then
        CODE=0
        wait "$1" 2>/dev/null || CODE=$?
        # The system may give the id to a process of somebody else now.
        STARTED_PIDS=${STARTED_PIDS/ $1 / }
    else
        CODE='still running'
    fi
}

# stop_server SECONDS: asks the server to stop and sets CODE like exit_code.
stop_server() {
    kill -TERM "$SERVER_PID" 2>/dev/null || true
    exit_code "$SERVER_PID" "$1"
}

# stop PID: ends a process that we started, whatever it takes.
stop() {
    kill -TERM "$1" 2>/dev/null || return 0
    within 5 is_gone "$1" || kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# stop_group PID: the same for all processes of a group.
stop_group() {
    kill -TERM -- "-$1" 2>/dev/null || return 0
    within 20 is_gone "-$1" || kill -KILL -- "-$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

clean_up() {
    local pid
    for pid in $STARTED_PIDS; do
        stop "$pid"
    done
    rm -rf "$WORK"
}
trap clean_up EXIT

# within SECONDS COMMAND...: repeats a command until it succeeds, but not for
# much longer than that, and as often as that takes on a machine at rest.
within() {
    local tries=$(($1 * 20))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

# Checks.

passed() {
    PASSED=$((PASSED + 1))
    printf 'ok      %s\n' "$1"
}

# failed WHAT EXPECTED GOT
failed() {
    FAILED=$((FAILED + 1))
    printf 'FAILED  %s\n' "$1"
    printf '        expected: %s\n' "$(indented "$2")"
    printf '        got:      %s\n' "$(indented "$3")"
}

# The beginning of a text, its further lines under the first.
indented() {
    local text=${1:0:500} newline=$'\n'
    printf '%s' "${text//$newline/$newline                  }"
}

# check WHAT EXPECTED GOT: two strings are equal.
check() {
    if [ "$2" = "$3" ]; then passed "$1"; else failed "$@"; fi
}

# check_match WHAT PATTERN GOT: some line matches an extended regular expression.
check_match() {
    if grep -Eq -- "$2" <<<"$3"; then passed "$1"; else failed "$1" "/$2/" "$3"; fi
}

# check_file WHAT FILE FILE: two files hold the same bytes.
check_file() {
    if cmp -s "$2" "$3"; then
        passed "$1"
    else
        failed "$1" "$(describe "$2")" "$(describe "$3")"
    fi
}

# check_that WHAT COMMAND...: a command succeeds.
check_that() {
    local what=$1
    shift
    if "$@"; then passed "$what"; else failed "$what" "success of: $*" "failure"; fi
}

# A file, for a person: its length and its first bytes in readable form.
describe() {
    printf '%s bytes: %s' "$(($(wc -c <"$1")))" "$(head -c 100 "$1" | od -An -c | tr -s ' \n' ' ')"
}

# ask ARG...: curl with these arguments. The answer's body goes to $WORK/body,
# its head to $WORK/head; sets STATUS, and CODE to curl's own exit code.
# shellcheck disable=SC2034 # The scripts read CODE.
ask() {
    : >"$WORK/body"
    : >"$WORK/head"
    CODE=0
    STATUS=$(curl -o "$WORK/body" -D "$WORK/head" -w '%{http_code}' "$@" 2>"$WORK/curl.stderr") || CODE=$?
}

# answer STATUS BODY curl ARG...: curl succeeds and prints, byte for byte, this
# body, in which \n is a newline, as in printf '%b'; the status is this one.
answer() {
    local status=$1
    printf '%b' "$2" >"$WORK/expected"
    shift 2
    answer_file "$status" "$WORK/expected" "$@"
}

# answer_file STATUS FILE curl ARG...: the same with the body in a file.
answer_file() {
    local status=$1 file=$2 what
    shift 2
    what="$status  $(quoted "$@")"
    shift
    ask "$@"
    if [ "$STATUS $CODE" = "$status 0" ] && cmp -s "$file" "$WORK/body"; then
        passed "$what"
    else
        failed "$what" "$status $(describe "$file")" \
            "$STATUS $(describe "$WORK/body") $(cat "$WORK/curl.stderr")"
    fi
}

# answer_status STATUS curl ARG...: the same for any body.
answer_status() {
    local status=$1 what
    shift
    what="$status  $(quoted "$@")"
    shift
    ask "$@"
    check "$what" "$status" "$STATUS$([ "$CODE" = 0 ] || cat "$WORK/curl.stderr")"
}

# A command as one would type it, on one line. Only what needs quotes has them.
quoted() {
    local word out=
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'$word'" ;;
        esac
        out="$out $word"
    done
    out=${out# }
    out=${out//"$WORK"\//}
    printf '%s' "${out//"$URL"/\$URL}" | tr '\r\n\t' '   '
}

# header NAME: the field's value in the last answer that `ask` got. With
# --location or 100-continue there are several heads: it is the last one's.
header() {
    tr -d '\r' <"$WORK/head" | awk -v name="$1" '
        /^HTTP\// { value = "" }
        { colon = index($0, ":") }
        colon && tolower(substr($0, 1, colon - 1)) == tolower(name) {
            value = substr($0, colon + 1)
            sub(/^ +/, "", value)
        }
        END { print value }'
}

# Checks in other languages, and the end of a server.

# counted SCRIPT ARG...: runs a script of Python or node that counts its own checks,
# and adds them to those here. It is told the process where that is ours.
counted() {
    local script=$1 passed_there failed_there run='python3 -B'
    shift
    set -- "$@" --count "$WORK/count"
    if server_is_ours && [ -e "/proc/$SERVER_PID/status" ]; then
        set -- "$@" --pid "$SERVER_PID"
    fi
    case $script in *.js | *.mjs) run=node ;; esac
    # shellcheck disable=SC2086 # It may be several words.
    $run "$ROOT/scripts/$script" "$@" || true
    if [ -s "$WORK/count" ]; then
        read -r passed_there failed_there <"$WORK/count"
        PASSED=$((PASSED + passed_there))
        FAILED=$((FAILED + failed_there))
    else
        failed "$script comes to its end" 'a count of checks' 'none'
    fi
}

# Stops a server of our own and looks at its log.
server_ends_well() {
    if server_is_ours; then
        check 'the log has no panic of our own' '' \
            "$(grep -a 'panicked at src' "$WORK/stderr" | head -n 3)"
        stop_server "$PATIENCE"
        check 'it stops with' 0 "$CODE"
    fi
}

# What a machine may lack.

# skip WHAT WHY: says that a check is not done; with CI set that is a failure.
skip() {
    if [ -n "${CI:-}" ]; then
        failed "$1" "to be checked, as CI is set" "$2"
    else
        printf 'skipped %s: %s\n' "$1" "$2"
    fi
}

# need TOOL WHAT: whether a tool is there that a check needs; else skips it.
need() {
    if command -v "$1" >/dev/null 2>&1; then return 0; fi
    skip "$2" "there is no $1 here"
    return 1
}

# need_curl_option OPTION WHAT: the same for an option that not every curl has.
need_curl_option() {
    if command curl -q "$1" --version >/dev/null 2>&1; then return 0; fi
    skip "$2" "this curl has no $1"
    return 1
}

# The end.

# Prints the count and ends the script, with 1 if any check failed.
summary() {
    echo "$PASSED passed, $FAILED failed"
    [ "$FAILED" -eq 0 ] || exit 1
    exit 0
}
