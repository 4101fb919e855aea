"""The settings of a run, the servers that it may start, and how these take turns."""

import os
import shutil
import tempfile

from lib import Wrong

from .cluster import Cluster
from .servers import Process, Servers, free_port, start_nginx
from .table import Line


class Bench:
    """The settings, the servers that can be started, and how turns are taken."""

    def __init__(self, options):
        self.short = options.short
        self.rounds = 1 if options.short else options.rounds
        self.seconds = 0.4 if options.short else options.duration
        self.program = options.bin
        self.durable_engine = options.durable
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.scratch = tempfile.mkdtemp(prefix="lkv-bench.", dir=memory)
        self.disk = tempfile.mkdtemp(prefix="lkv-bench.", dir=options.disk)
        self.running_cluster = None

    def close(self):
        if self.running_cluster:
            self.running_cluster.end()
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.disk, ignore_errors=True)

    def pick(self, short, long):
        return short if self.short else long

    def folder(self, durable=False):
        return tempfile.mkdtemp(dir=self.disk if durable else self.scratch)

    def race(self, what, metrics, contenders, rounds=None):
        """Has the contenders take turns; the first is the one that all others
        are lines beside. A contender is a name and a function that measures."""
        seen = {name: [] for name, _ in contenders}
        for turn in range(rounds or self.rounds):
            first = turn % len(contenders)
            for name, measure in contenders[first:] + contenders[:first]:
                seen[name].append(measure())
        (_, ours), *others = seen.items()
        lines = []
        for metric in metrics:
            values = [figures[metric.key] for figures in ours]
            for name, theirs in others or [(None, [])]:
                # Not everybody has every figure.
                if theirs and metric.key not in theirs[0]:
                    continue
                lines.append(Line(what, metric, values, name,
                                  [figures[metric.key] for figures in theirs]))
        return lines

    def load_race(self, what, metrics, loads):
        return self.race(what, metrics, [
            (load.name, lambda load=load: load.run(self.seconds)) for load in loads])

    # The servers.

    def store(self, *flags, name="memory engine"):
        return Process(name, [self.program, "--port", "0", *flags], self.folder(), None, b"/healthz")

    def durable_store(self, data, *flags, name="durable engine"):
        place = [] if self.durable_engine == "memory" else ["--working-dir", data]
        return self.store(*place, *flags, name=name)

    def cluster(self):
        """The one cluster of all rows, started for the first of them."""
        if not self.running_cluster:
            self.running_cluster = self.on_free_port(lambda _: Cluster(self.folder()))
        return self.running_cluster

    def no_durable_engine(self):
        """Why the durable rows cannot be run, or None."""
        try:
            with self.durable_store(self.folder(True)):
                return None
        except Wrong as wrong:
            return f"no durable engine ({str(wrong).partition(': ')[2]})"

    def peer(self, tool, start, *arguments):
        """A peer in a list, that is empty where it is not installed."""
        if not shutil.which(tool):
            return []
        return [self.on_free_port(lambda port: start(self, port, *arguments))]

    def on_free_port(self, start):
        """Somebody may be faster than we on a port that was free."""
        for _ in range(2):
            try:
                return start(free_port())
            except Wrong:
                pass
        return start(free_port())

    def nginx(self):
        return self.peer("nginx", start_nginx)


def store_and_nginx(bench):
    servers = Servers(bench.store())
    try:
        servers.add(bench.nginx())
    except BaseException:
        servers.__exit__()
        raise
    return servers
