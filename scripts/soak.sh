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

set -- --url "$URL" --seconds "${DURATION:-600}" \
    --request-timeout "$request_timeout" --idle-timeout "$idle_timeout"

counted soak.py "$@"
server_ends_well
summary
