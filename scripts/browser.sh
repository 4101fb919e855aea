#!/usr/bin/env bash
#
# Tests in Chromium what pages may do with a store of another origin: those of an
# allowed origin all that the API has, and others nothing.
#
#     scripts/browser.sh
#
# It starts servers of its own, on 127.0.0.1, and a browser without a window, which
# needs no network.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need python3 'a server of pages' || summary
need chromium 'pages in a browser' || summary
find_program
counted browser.py --program "$BIN" --browser chromium --directory "$WORK"
summary
