#!/usr/bin/env bash
#
# Tests the dialogue with which "Build Your Own Distributed Key-Value Store" shows
# its store, and its exercise on validation: every command, every status and
# every byte of the answers.
#
#     scripts/seed.sh                              starts a server of its own
#     ENGINE=durable scripts/seed.sh               on the durable engine
#     ENGINE=cluster scripts/seed.sh               in front of a cluster
#     URL=http://127.0.0.1:8888 scripts/seed.sh    asks one that runs
#
# It leaves the capitals of Kenya and Uganda in the store.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

use_server

answer 200 '' curl -X PUT -d 'Nairobi' "$URL/kv/kenya:capital"
answer 200 '' curl -X PUT -d 'Kampala' "$URL/kv/uganda:capital"
answer 200 '' curl -X PUT -d 'Dar es Salaam' "$URL/kv/tanzania:capital"
answer 200 '' curl -X PUT -d 'Dodoma' "$URL/kv/tanzania:capital"

answer 200 'Nairobi' curl "$URL/kv/kenya:capital"
answer 200 'Dodoma' curl "$URL/kv/tanzania:capital"

answer 200 '' curl -X DELETE "$URL/kv/tanzania:capital"
answer 404 'key not found\n' curl "$URL/kv/tanzania:capital"

# The exercise: a value and a key have to be there.
answer 400 'value cannot be empty\n' curl -X PUT -d '' "$URL/kv/kenya:capital"
answer 400 'key cannot be empty\n' curl -X PUT -d 'foo' "$URL/kv/"

# What was refused has changed nothing.
answer 200 'Nairobi' curl "$URL/kv/kenya:capital"
answer 200 'Kampala' curl "$URL/kv/uganda:capital"

summary
