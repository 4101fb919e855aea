"""Starts six nodes and prints their addresses on one line; ends them when its own input
ends, or at SIGTERM. Or, with the addresses of such a cluster, deletes every key there.

    python3 -m cluster.hold DIRECTORY
    python3 -m cluster.hold --clear ADDRESSES
"""

import signal
import sys

from cluster.nodes import Link, Nodes, Refused
from lib import Wrong


def hold(directory):
    """Holds a cluster until somebody ends it."""
    nodes = Nodes(directory)
    # Ends the read below, and so comes by the end of the nodes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        nodes.start()
        print(nodes.addresses(), flush=True)
        sys.stdin.read()
    finally:
        nodes.end()


def clear(addresses):
    """Deletes every key of every master."""
    for address in addresses.split(","):
        host, _, port = address.rpartition(":")
        link = Link((host, int(port)), seconds=30)
        try:
            link.ask("FLUSHALL")
        except Refused as refusal:
            # A replica has none of its own to delete.
            if not str(refusal).startswith("READONLY"):
                raise
        finally:
            link.close()


if __name__ == "__main__":
    try:
        if sys.argv[1] == "--clear":
            clear(sys.argv[2])
        else:
            hold(sys.argv[1])
    except (Wrong, OSError, Refused) as err:
        sys.exit(f"the cluster: {err}")
