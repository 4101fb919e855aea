#!/usr/bin/env bash
#
# Sends hostile clients of many kinds against the server, each kind beside an
# honest client whose requests are timed, and prints a table.
#
#     scripts/hostile.sh                              starts a server of its own
#     scripts/hostile.sh --short                      in under a minute
#     scripts/hostile.sh --short bursts smuggling     only these cases
#     DESCRIPTORS=64 scripts/hostile.sh               a server with so few descriptors
#     URL=http://127.0.0.1:8888 scripts/hostile.sh    attacks one that runs
#
# A server that runs should have short timeouts; REQUEST_TIMEOUT and
# IDLE_TIMEOUT say which, in seconds. Its keys that begin with hostile: are lost.
# scripts/hostile.py has the map of the cases.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

short=
few=
if [ "${1:-}" = --short ]; then
    short=--short
    shift
fi
request_timeout=${REQUEST_TIMEOUT:-30}
idle_timeout=${IDLE_TIMEOUT:-60}

need python3 'hostile clients' || summary

if [ -z "$URL" ]; then
    request_timeout=3
    idle_timeout=6
    if [ -n "$short" ]; then
        # A shared machine may stand still for a second.
        request_timeout=2
        idle_timeout=3
    fi
    if [ -n "${DESCRIPTORS:-}" ]; then
        find_program
        # shellcheck disable=SC2016 # "$@" is for the shell that runs this.
        printf '#!/bin/sh\nulimit -n %s\nexec "%s" "$@"\n' "$DESCRIPTORS" "$BIN" >"$WORK/limited"
        chmod +x "$WORK/limited"
        BIN=$WORK/limited
        [ "$DESCRIPTORS" -ge 4096 ] || few=--few
    fi
    start_server --request-timeout "${request_timeout}s" --idle-timeout "${idle_timeout}s"
fi

set -- --url "$URL" --request-timeout "$request_timeout" --idle-timeout "$idle_timeout" \
    $short $few "$@"
for tool in slowhttptest ab; do
    if need "$tool" "what $tool does"; then
        set -- "$@" --tool "$tool"
    fi
done

counted hostile.py "$@"
server_ends_well
summary
