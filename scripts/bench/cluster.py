"""The nodes of a cluster, what they cost, and fronts to them."""

import re

from cluster.nodes import Nodes

from .servers import cpu_seconds


class Cluster(Nodes):
    """Six nodes that take writes, until it is closed."""

    def __init__(self, folder):
        super().__init__(folder)
        try:
            self.start()
        except BaseException:
            self.end()
            raise

    def cpu_seconds(self):
        return cpu_seconds(node.process.pid for node in self.all)

    def calls(self, command):
        """How often the masters have done a command."""
        name, calls = f"cmdstat_{command.lower()}", 0
        for node in self.masters():
            found = re.match(r"calls=(\d+)", node.info("commandstats").get(name, ""))
            calls += int(found.group(1)) if found else 0
        return calls

    def owner_of(self, slot):
        """The master that has a slot."""
        return next(node for node, slots in self.masters().items() if slot in slots)


def front(bench, *flags, name="cluster engine"):
    return bench.store("--cluster", bench.cluster().addresses(), *flags, name=name)


def connections_to(cluster, store):
    """How many connections the store has to the nodes."""
    ports, sockets = {node.port for node in cluster.all}, store.sockets()
    with open(f"/proc/{store.popen.pid}/net/tcp") as file:
        rows = [row.split() for row in file][1:]
    return sum(row[9] in sockets and int(row[2].rpartition(":")[2], 16) in ports for row in rows)
