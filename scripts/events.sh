#!/usr/bin/env bash
#
# Tests /watch with a client that does as a page's EventSource: it hears of changes,
# and goes on where it was after a break.
#
#     scripts/events.sh                              starts a server of its own
#     ENGINE=durable scripts/events.sh               on the durable engine
#     URL=http://127.0.0.1:8888 scripts/events.sh    asks one that runs
#
# The client is node-eventsource (Debian's package of that name). It leaves some keys
# named after events-… in the store.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need node 'a client of events' || summary
# Where Debian keeps its modules, for a node of whatever origin.
export NODE_PATH=${NODE_PATH:+$NODE_PATH:}/usr/share/nodejs:/usr/lib/nodejs
if ! node -e 'require("eventsource")' 2>/dev/null; then
    skip 'a client of events' 'there is no node-eventsource here'
    summary
fi

use_server
counted events.js --url "$URL"
server_ends_well
summary
