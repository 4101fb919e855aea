#!/usr/bin/env bash
#
# Honest and hostile clients together for a while; then descriptors, threads
# and memory are about where they began, and no honest client was told a lie.
#
#     scripts/soak.sh                              ten minutes
#     DURATION=20 scripts/soak.sh                  twenty seconds
#     URL=http://127.0.0.1:8888 scripts/soak.sh    against one that runs
#
# A server that runs should have short timeouts; say which, in seconds, with
# REQUEST_TIMEOUT and IDLE_TIMEOUT. Its own threads and memory are not looked at.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need python3 'the soak' || summary

request_timeout=${REQUEST_TIMEOUT:-30}
idle_timeout=${IDLE_TIMEOUT:-60}
if [ -z "$URL" ]; then
    request_timeout=1
    idle_timeout=2
    start_server --request-timeout "${request_timeout}s" --idle-timeout "${idle_timeout}s"
fi

set -- --url "$URL" --seconds "${DURATION:-600}" --count "$WORK/count" \
    --request-timeout "$request_timeout" --idle-timeout "$idle_timeout"
if server_is_ours && [ -e "/proc/$SERVER_PID/status" ]; then
    set -- "$@" --pid "$SERVER_PID"
fi

python3 -B "$ROOT/scripts/soak.py" "$@" || true
if [ -s "$WORK/count" ]; then
    read -r checks_passed checks_failed <"$WORK/count"
    PASSED=$((PASSED + checks_passed))
    FAILED=$((FAILED + checks_failed))
else
    failed 'the soak comes to its end' 'a count of checks' 'none'
fi

if server_is_ours; then
    check 'the log has no panic of our own' '' \
        "$(grep -a 'panicked at src' "$WORK/stderr" | head -n 3)"
    stop_server 12
    check 'it stops with' 0 "$CODE"
fi

summary
