#!/usr/bin/env bash
#
# Cuts a master of a cluster, and a front with it, off from all other nodes while clients
# write through that front, and counts the acknowledged writes that are lost: without
# --cluster-wait, and with --cluster-wait 1.
#
#     sudo scripts/partition.sh           twice each, a minute
#     ROUNDS=10 scripts/partition.sh      ten times each
#
# It takes root, and Linux: the partition is one of a network that this script makes for
# itself, with iptables. Nothing of the machine's own network is touched.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need python3 'the partition' || summary
need unshare 'the partition' || summary
need ip 'the partition' || summary
need iptables 'the partition' || summary
need "${CLUSTER_SERVER:-redis-server}" 'the partition' || summary
if ! unshare --net true 2>/dev/null; then
    skip 'the partition' 'only root may make a network'
    summary
fi

find_program
if [ -z "${IN_A_NETWORK:-}" ]; then
    IN_A_NETWORK=yes LKV_BIN=$BIN unshare --net bash "$0" "$@"
    exit
fi

# Ctrl-C is for the script of Python, which ends what it has started.
trap : INT
for ((round = 1; round <= ${ROUNDS:-2}; round++)); do
    for replicas in 0 1; do
        counted partition.py --program "$BIN" --directory "$WORK/$round-$replicas" \
            --replicas "$replicas"
    done
done
summary
