#!/usr/bin/env bash
#
# Runs honest and hostile clients together for a while. In the end the server has
# about as many descriptors and threads and as much memory as in the beginning,
# and every honest client got right answers.
#
#     scripts/soak.sh                              ten minutes
#     DURATION=20 scripts/soak.sh                  twenty seconds
#     URL=http://127.0.0.1:8888 scripts/soak.sh    against one that runs
#
# A server that runs should have short timeouts; REQUEST_TIMEOUT and
# IDLE_TIMEOUT say which, in seconds. Its threads and memory are not looked at.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need python3 'the soak' || summary

request_timeout=${REQUEST_TIMEOUT:-30}
idle_timeout=${IDLE_TIMEOUT:-60}
if [ -z "$URL" ]; then
    # A shared machine may stand still for a second.
    request_timeout=2
    idle_timeout=3
    start_server --request-timeout "${request_timeout}s" --idle-timeout "${idle_timeout}s"
fi

set -- --url "$URL" --seconds "${DURATION:-600}" \
    --request-timeout "$request_timeout" --idle-timeout "$idle_timeout"

counted soak.py "$@"
server_ends_well
summary
