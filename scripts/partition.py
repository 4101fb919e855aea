#!/usr/bin/env python3
"""Counts acknowledged writes that a partition loses. It is run by partition.sh, as root
in a network of its own:

    partition.py --program PROGRAM --directory DIR [--replicas N] [--seconds N] [--count FILE]

    front 127.0.0.1 ──► master 127.0.0.11 ──╳── 127.0.0.12 to .16: two masters, three
                        (cut off, with the       replicas; one of these takes the place
                        front)                   of the master

Clients write through a front that is cut off together with a master, each value under a
key of its own in that master's slots. It takes writes until it has noticed; then its
replica is a master. Once the partition is over, every acknowledged write is looked for.
With --replicas 1 none may be missing.
"""

import argparse
import os
import subprocess
import threading
import time

from lib import Checks, Wrong, run_to_end, wait_for
from cluster.front import Front
from cluster.load import Connection
from cluster.nodes import Link, Nodes, Refused, slot_of

FRONT = "127.0.0.1"
OBSERVER = "127.0.0.99"
HOSTS = [f"127.0.0.{last}" for last in range(11, 17)]
CLIENTS = 16
PATIENCE_SECONDS = 60


def run(*words):
    subprocess.run(words, check=True)


def cut(alone, others):
    """Drops all packets between two sides, without a word to either."""
    for one in alone:
        for other in others:
            run("iptables", "-w", "-A", "INPUT", "-s", one, "-d", other, "-j", "DROP")
            run("iptables", "-w", "-A", "INPUT", "-s", other, "-d", one, "-j", "DROP")


def join():
    run("iptables", "-w", "-F", "INPUT")


class Writer(threading.Thread):
    """One that writes each value once, under a key of its own."""

    def __init__(self, front, index, slots, stop):
        super().__init__(daemon=True)
        self.front, self.index, self.slots, self.stop = front, index, slots, stop
        self.acknowledged, self.perhaps, self.refused, self.wrong = [], 0, 0, []
        self.slowest = 0

    def run(self):
        connection = Connection(self.front.port)
        number = 0
        while not self.stop.is_set():
            number += 1
            key = b"written:%d:%d" % (self.index, number)
            if slot_of(key) not in self.slots:
                continue
            begun = time.monotonic()
            status, body = connection.ask("PUT", key, value=key)
            self.slowest = max(self.slowest, time.monotonic() - begun)
            if status == 200:
                self.acknowledged.append(key)
            elif status == 503:
                self.refused += 1
            elif status == 504:
                self.perhaps += 1
            else:
                self.wrong.append((status, body))
        connection.close()


class Partition:
    def __init__(self, options):
        self.options = options
        self.checks = Checks()
        self.nodes = Nodes(options.directory, HOSTS, OBSERVER)
        self.front = None

    def run(self):
        run("ip", "link", "set", "lo", "up")
        self.nodes.start()
        self.front = Front(self.options.program, self.nodes.addresses(), self.options.replicas)
        if not self.front.start():
            raise Wrong("the front does not start")
        alone, heir = self.nodes.all[0], self.nodes.replica_of(self.nodes.all[0])
        slots = self.nodes.masters()[alone]
        stop = threading.Event()
        writers = [Writer(self.front, index, slots, stop) for index in range(CLIENTS)]
        for writer in writers:
            writer.start()
        time.sleep(1)
        before = sum(len(writer.acknowledged) for writer in writers)
        begun = time.monotonic()
        time.sleep(1)
        rate = (sum(len(writer.acknowledged) for writer in writers) - before) / (
            time.monotonic() - begun)

        cut([FRONT, alone.host], HOSTS[1:])
        if not wait_for(lambda: role_of(heir) == "master", PATIENCE_SECONDS):
            raise Wrong(f"{heir} does not take the place of {alone}")
        time.sleep(self.options.seconds)
        stop.set()
        for writer in writers:
            writer.join()
        join()
        self.nodes.expect_well()
        self.judge(writers, rate)

    def judge(self, writers, rate):
        acknowledged = [key for writer in writers for key in writer.acknowledged]
        lost = self.missing(acknowledged)
        perhaps, refused = (sum(getattr(writer, name) for writer in writers)
                            for name in ("perhaps", "refused"))
        wrong = [answer for writer in writers for answer in writer.wrong]
        slowest = max(writer.slowest for writer in writers)
        print(f"with --cluster-wait {self.options.replicas}: {rate:.0f} writes a second before; "
              f"{len(acknowledged)} acknowledged, {refused} times 503, {perhaps} times 504, the "
              f"slowest after {slowest:.1f} s; {len(lost)} acknowledged writes are lost",
              flush=True)
        self.checks.check("each answer was 200, 503 or 504", not wrong, str(wrong[:5]))
        if self.options.replicas:
            self.checks.check("no acknowledged write is lost", not lost and acknowledged)
        else:
            self.checks.check("acknowledged writes are lost, as is said", bool(lost))

    def missing(self, keys):
        """Those of some keys that are not stored."""
        (owner,) = [node for node, slots in self.nodes.masters().items()
                    if slot_of(keys[0]) in slots]
        link = Link((owner.host, owner.port), OBSERVER, PATIENCE_SECONDS)
        missing = [key for key in keys if link.ask("GET", key) != key]
        link.close()
        return missing

    def end(self):
        if self.front and self.front.process and self.front.process.poll() is None:
            self.front.kill()
        self.nodes.end()


def role_of(node):
    try:
        return node.info("replication")["role"]
    except (OSError, Refused, KeyError):
        return None


def parsed_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--count")
    return parser.parse_args()


def main():
    options = parsed_arguments()
    os.makedirs(options.directory)
    run_to_end(lambda: Partition(options), options.count)


if __name__ == "__main__":
    main()
