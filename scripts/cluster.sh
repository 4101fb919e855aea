#!/usr/bin/env bash
#
# Starts a cluster of six Redis or Valkey nodes and two fronts to it, loads the facts of
# the demo through both, kills a master meanwhile, and shows what is answered.
#
#     scripts/cluster.sh                  half a minute
#     scripts/cluster.sh --short          a little less
#     scripts/cluster.sh --stay           leaves it running, until Ctrl-C
#     scripts/cluster.sh --soak           kills masters for two minutes
#     DURATION=600 scripts/cluster.sh --soak
#
# REPLICAS=1 starts the fronts with --cluster-wait 1, as --soak does by itself. The nodes
# are those of redis-server, or of the program that CLUSTER_SERVER names, on free ports of
# this machine. All is gone at the end.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

replicas=${REPLICAS:-0}
options=()
for option in "$@"; do
    case $option in
        --short | --stay) options+=("$option") ;;
        --soak)
            replicas=${REPLICAS:-1}
            options+=(--soak "${DURATION:-120}")
            ;;
        *) echo "no such option: $option" >&2 && exit 2 ;;
    esac
done

need python3 'the cluster' || summary
need "${CLUSTER_SERVER:-redis-server}" 'the cluster' || summary

find_program
# Ctrl-C is for the script of Python, which ends what it has started.
trap : INT
counted cluster.py --program "$BIN" --directory "$WORK/cluster" \
    --countries "$ROOT/scripts/countries" --replicas "$replicas" ${options[@]+"${options[@]}"}
summary
