"""Six nodes of a Redis or Valkey Cluster, three masters with a replica each, on
addresses of this machine: their start, their end, and what they tell.

CLUSTER_SERVER names another program than redis-server.
"""

import binascii
import os
import random
import shutil
import signal
import socket
import subprocess
import time

from lib import Wrong, wait_for

SERVER = os.environ.get("CLUSTER_SERVER") or "redis-server"
MASTERS = 3
SLOTS = 16384
NODE_TIMEOUT_MILLIS = 2000
# For a machine that has much else to do.
PATIENCE_SECONDS = 90
# Starts on other ports, where somebody takes one of those that were free.
TRIES = 5


def slot_of(key):
    """The slot of a key: its {tag} counts alone, if it has one."""
    _, brace, rest = key.partition(b"{")
    tag, end, _ = rest.partition(b"}")
    return binascii.crc_hqx(tag if brace and end and tag else key, 0) % SLOTS


class Refused(Exception):
    """A node has answered with an error."""


class Link:
    """A connection to a node."""

    def __init__(self, address, source=None, seconds=2):
        source = (source, 0) if source else None
        self.socket = socket.create_connection(address, seconds, source)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        """The reply to a command; an OSError if there is none."""
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        command = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.socket.sendall(b"*%d\r\n%s" % (len(words), command))
        return self.reply()

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the node has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise Wrong(f"no reply: {line!r}")

    def close(self):
        self.file.close()
        self.socket.close()


class Node:
    """A node, as its process and as others see it."""

    def __init__(self, host, port, folder, observer=None):
        self.host, self.port, self.folder, self.observer = host, port, folder, observer
        self.id = "%040x" % random.getrandbits(160)
        self.process = None
        self.command = [SERVER, "--port", str(port), "--bind", host, "--bind-source-addr", host,
                        "--dir", folder, "--logfile", "log", "--save", "", "--appendonly", "no",
                        "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
                        "--cluster-node-timeout", str(NODE_TIMEOUT_MILLIS),
                        "--maxmemory", "100mb", "--repl-diskless-sync-delay", "0",
                        # The addresses are those of this machine alone.
                        "--protected-mode", "no"]

    def __str__(self):
        return f"{self.host}:{self.port}"

    def start(self):
        # In a session of its own: Ctrl-C is not for it, but for who started it.
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, *words, seconds=2):
        """The reply to a command, on a connection of its own."""
        link = Link((self.host, self.port), self.observer, seconds)
        try:
            return link.ask(*words)
        finally:
            link.close()

    def info(self, section):
        """The fields of INFO, or of CLUSTER INFO."""
        words = ["CLUSTER", "INFO"] if section == "cluster" else ["INFO", section]
        lines = self.ask(*words).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def is_well(self):
        """It knows six nodes and that all slots are covered, and its replica or master
        is in step."""
        try:
            cluster, link = self.info("cluster"), self.info("replication")
            known = (cluster["cluster_state"], cluster["cluster_known_nodes"],
                     cluster["cluster_slots_ok"])
            if known != ("ok", str(2 * MASTERS), str(SLOTS)):
                return False
            if link["role"] == "master":
                return ",state=online," in link.get("slave0", "")
            return link["master_link_status"] == "up"
        except (OSError, Refused, KeyError):
            return False


class Nodes:
    """All six."""

    def __init__(self, folder, hosts=("127.0.0.1",) * 6, observer=None):
        self.folder, self.hosts, self.observer = folder, hosts, observer
        self.all = self.on_free_ports()

    def on_free_ports(self):
        return [Node(host, port, os.path.join(self.folder, str(port)), self.observer)
                for host, port in zip(self.hosts, free_ports(self.hosts))]

    def start(self):
        """Starts them, each with the map of all, and waits until they are well."""
        if not shutil.which(SERVER):
            raise Wrong(f"there is no {SERVER} here: apt install redis-server, or name another "
                        "program in CLUSTER_SERVER")
        for _ in range(TRIES):
            for node in self.all:
                os.makedirs(node.folder, exist_ok=True)
                with open(os.path.join(node.folder, "nodes.conf"), "w") as file:
                    file.write(self.map_of(node))
                node.start()
            wait_for(lambda: self.are_well() or self.has_lost_one(), PATIENCE_SECONDS)
            if not self.has_lost_one():
                break
            # Somebody else has taken one of the ports meanwhile.
            self.end()
            self.all = self.on_free_ports()
        self.expect_well()

    def has_lost_one(self):
        """One of them has ended by itself."""
        return any(node.process and node.process.poll() is not None for node in self.all)

    def map_of(self, own):
        """The file by which a node knows the others."""
        lines = []
        for index, node in enumerate(self.all):
            first, next_first = (SLOTS * at // MASTERS for at in (index, index + 1))
            flags = ("myself," if node is own else "") + ("master" if index < MASTERS else "slave")
            master = "-" if index < MASTERS else self.all[index - MASTERS].id
            slots = f" {first}-{next_first - 1}" if index < MASTERS else ""
            epoch = index % MASTERS + 1
            lines.append(f"{node.id} {node}@{node.port + 10000} {flags} {master} 0 0 {epoch} "
                         f"connected{slots}\n")
        return "".join(lines) + f"vars currentEpoch {MASTERS} lastVoteEpoch 0\n"

    def expect_well(self):
        """Waits until each node is well and every master takes writes."""
        if not wait_for(self.are_well, PATIENCE_SECONDS):
            raise Wrong("the nodes do not become a cluster: " + "; ".join(map(self.state, self.all)))

    def are_well(self):
        return all(node.is_well() for node in self.all) and len(self.masters()) == MASTERS

    @staticmethod
    def state(node):
        try:
            return f"{node}: {node.info('cluster')['cluster_state']}"
        except (OSError, Refused) as err:
            return f"{node}: {str(err)[:100]}"

    def masters(self):
        """The masters with the slots of each, as a node that answers tells them."""
        for node in self.all:
            try:
                entries = node.ask("CLUSTER", "SLOTS")
            except (OSError, Refused):
                continue
            by_port = {other.port: other for other in self.all}
            owners = {}
            for first, last, (_, port, *_), *_ in entries:
                owners.setdefault(by_port[port], set()).update(range(first, last + 1))
            return owners
        return {}

    def replica_of(self, master):
        """The node that follows a master."""
        for node in self.all:
            if node is not master and node.info("replication").get("master_port") == str(master.port):
                return node
        raise Wrong(f"{master} has no replica")

    def addresses(self):
        return ",".join(map(str, self.all))

    def end(self):
        for node in self.all:
            if node.process and node.process.poll() is None:
                # It may be stopped.
                node.process.send_signal(signal.SIGCONT)
                node.kill()


def free_ports(hosts):
    """A port for each, at which it is free, as is that of the nodes' own bus above it."""
    ports = []
    while len(ports) < len(hosts):
        # Neither is one that the system gives to others.
        port = random.randrange(12_000, 22_000)
        if port not in ports and all(is_free(hosts[len(ports)], at) for at in (port, port + 10_000)):
            ports.append(port)
    return ports


def is_free(host, port):
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
