"""The rows of a store that is too small and evicts. Each is a function that returns lines.

The workloads of a cache are played by cache/main.rs, on the store and on Redis with both
of its policies, with the same requests at the same pace. The pace matters: Redis tells when a key
was used by a clock of seconds, and ages how often by one of minutes, so that a cache that
turns over within a second or two is none to compare with. Here that takes some ten."""

import copy
import json
import os
import re
import subprocess
import threading
import time

from lib import Wrong, end_with_parent, wait_for

from .durable_rows import disk_bytes
from .loads import CONNECTIONS, fresh_puts, gets
from .requests import KIB, MIB, VALUE, ask, get_request, path_of, store_value
from .servers import HERE, Redis, Servers, start_redis
from .table import CPU, MEBIBYTES, MISSED, P99, RATE, Line

# How far resident memory may be above the limit.
BESIDE_LIMIT_BYTES = 24 * MIB
# How large a directory may be, as a part of its limit.
DISK_SHARE_MAX = 1.05
# Uploads under way have this part of the limit at most.
UPLOADS_PART = 8
# How long a store takes to fill at most.
FILL_SECONDS = 120
# The store that has nothing to evict.
WITHOUT_LIMIT = "without a limit"


class Workload:
    """What is asked for, and of how large a cache."""

    def __init__(self, what, exponent=0.9, kind="zipfian", rate=30_000, keys=1_000_000,
                 value_bytes=100, limit=32 * MIB, depth=16, warm_up=60, counted=40):
        self.what = what
        self.kind = kind
        self.exponent = exponent
        self.rate = rate
        self.keys = keys
        # 0 stands for those of a build cache.
        self.value_bytes = value_bytes
        self.limit = limit
        self.depth = depth
        # In seconds at that rate.
        self.warm_up = warm_up
        self.counted = counted
        self.speed = 1

    def options(self):
        return ["--workload", self.kind, "--exponent", self.exponent, "--rate", self.rate,
                "--keys", self.keys, "--value-bytes", self.value_bytes, "--depth", self.depth,
                "--warm-up", self.warm_up * self.rate, "--counted", self.counted * self.rate,
                "--speed", self.speed]

    def ratios(self):
        """Which of its misses are told, as a part of which requests."""
        yield "", "misses", "requests"
        if self.kind in ("scan", "one-hit"):
            yield ": the zipfian alone", "usual_missed", "usual"
        if not self.value_bytes:
            yield ": bytes", "bytes_missed", "bytes"

    def shortened(self):
        """The same in less memory with fewer keys and no pace, which tells nothing but that
        it works."""
        times, short = 10 if self.value_bytes else 1, copy.copy(self)
        short.limit //= 8
        short.keys //= 8 * times
        short.rate //= 8 * times
        short.value_bytes *= times
        short.warm_up, short.counted, short.speed = 40, 20, 1000
        return short


# A sixth of the keys find room, in the last a ninth of the bytes.
WORKLOADS = [
    Workload("zipfian 0.7", 0.7, rate=20_000),
    Workload("zipfian 0.9"),
    Workload("zipfian 1.1", 1.1, rate=60_000),
    Workload("zipfian 0.9, all keys scanned each minute", kind="scan", counted=60),
    Workload("zipfian 0.9, 60 % of requests for one-hit wonders", kind="one-hit", rate=20_000),
    Workload("zipfian 0.9, a working set that shifts", kind="shift"),
    Workload("zipfian 0.9, a build cache, 1 KiB to 10 MiB", rate=500, keys=40_000, value_bytes=0,
             limit=256 * MIB, depth=1),
]


def caches(bench):
    """misses of a cache that is too small, beside Redis"""
    player, lines = build_player(bench), []
    for workload in WORKLOADS:
        workload = workload.shortened() if bench.short else workload
        with Servers(evicting_store(bench, workload.limit)) as servers:
            for policy in ("allkeys-lru", "allkeys-lfu"):
                servers.add(bench.peer("redis-server", start_redis, False, policy, (
                    "--maxmemory", str(workload.limit), "--maxmemory-policy", policy)))
            lines += played(bench, player, workload, list(servers))
    return lines


def evicting_store(bench, limit):
    return bench.store("--max-memory", str(limit), "--when-full", "evict")


def build_player(bench):
    path = os.path.join(bench.folder(), "cache")
    built = subprocess.run(["rustc", "--edition", "2021", "-O", "-o", path,
                            os.path.join(HERE, "cache", "main.rs")],
                           capture_output=True, text=True, timeout=300)
    if built.returncode:
        raise Wrong(f"rustc: {built.stderr}")
    return path


def played(bench, player, workload, servers):
    """Lines of a workload that is played on some servers, the first of which is ours."""
    addresses = {f"{'redis' if isinstance(server, Redis) else 'http'}:{server.port}": server
                 for server in servers}
    ours, *others = servers
    what = f"a cache of {workload.limit // MIB} MiB, {workload.what}"
    with Highest(ours.resident) as resident:
        seen = play([player, *map(str, workload.options()), *addresses], addresses)
    lines = []
    for which, key, of in workload.ratios():
        mine, *theirs = [seen[server][key] / seen[server][of] for server in servers]
        lines += [Line(what + which, MISSED, [mine], server.name, [its])
                  for server, its in zip(others, theirs)] or [Line(what + which, MISSED, [mine])]
    return [*lines, bounded(f"{what}: resident", resident.value, "limit + 24 MiB",
                            workload.limit + BESIDE_LIMIT_BYTES)]


def bounded(what, value, bound, most):
    """A line that stands beside what is the most it may be."""
    return Line(what, MEBIBYTES, [value / MIB], bound, [most / MIB])


def play(command, addresses):
    """The figures of each server. It has to be full once misses are counted."""
    seen = {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=end_with_parent)
    try:
        for line in process.stdout:
            if line.startswith("warm "):
                server = addresses[line.split()[1]]
                if not evicted(server):
                    raise Wrong(f"{server.name} is not full when misses are counted")
                continue
            figures = json.loads(line)
            server = addresses[figures["server"]]
            if figures["refused"]:
                raise Wrong(f"{server.name} refuses {figures['refused']} values")
            seen[server] = figures
        if process.wait(30) or len(seen) < len(addresses):
            raise Wrong(f"{command[0]}: {process.stderr.read()[-300:]}")
    finally:
        process.kill()
        process.communicate()
    return seen


def evicted(server):
    """How many entries a server has removed to make room."""
    if isinstance(server, Redis):
        return int(server.info()["evicted_keys"])
    text = ask(server.port, get_request(b"/metrics"))[1].decode()
    return float(re.search(r"(?m)^lkv_evicted_total ([\d.e+]+)$", text).group(1))


class Highest:
    """The highest of what is looked at again and again while the block runs."""

    def __init__(self, look):
        self.look = look
        self.value = 0
        self.wrong = None
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        try:
            while not self.is_over.wait(0.05):
                self.value = max(self.value, self.look())
        except OSError as err:
            self.wrong = err

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()
        if self.wrong:
            raise self.wrong


def evicting(bench):
    """PUT and GET of 100 bytes while entries are evicted"""
    limit = bench.pick(8, 32) * MIB
    with evicting_store(bench, limit) as full, bench.store() as other, \
            Highest(full.resident) as resident:
        loads = [fresh_puts(full, VALUE), fresh_puts(other, VALUE, name=WITHOUT_LIMIT)]
        fill(full, loads[0])
        lines = bench.load_race("PUT of 100 bytes under new keys, evicting", [RATE, P99, CPU], loads)
        for server in (full, other):
            store_value(server, path_of(0), VALUE)
        lines += bench.load_race("GET of 100 bytes from a store that evicts", [RATE, P99, CPU], [
            gets(full, path_of(0), VALUE), gets(other, path_of(0), VALUE, name=WITHOUT_LIMIT)])
    return [*lines, bounded(f"resident meanwhile, of {limit // MIB} MiB", resident.value,
                            "limit + 24 MiB", limit + BESIDE_LIMIT_BYTES)]


def fill(server, load):
    """Has a load run until the server evicts, and returns how many seconds that takes."""
    begun = time.monotonic()
    load.run_while(lambda: wait_for(lambda: evicted(server), FILL_SECONDS))
    if not evicted(server):
        raise Wrong(f"{server.name} is not full after {FILL_SECONDS} s")
    return time.monotonic() - begun


def evicting_sizes(bench):
    """memory while the sizes of values shift, at the limit"""
    limit = bench.pick(64, 128) * MIB
    with evicting_store(bench, limit) as store, Highest(store.resident) as resident:
        for size in (10 * KIB, 100, MIB, 10 * MIB, 10 * KIB, 100):
            # As many large uploads as the store has room for at once.
            connections = min(CONNECTIONS, max(1, limit // UPLOADS_PART // size))
            load = fresh_puts(store, b"v" * size, connections)
            fill(store, load)
            load.run(bench.seconds)
    return [bounded(f"resident, of {limit // MIB} MiB, PUT of 10 KiB, 100 bytes, 1 and 10 MiB, and back",
                    resident.value, "limit + 24 MiB", limit + BESIDE_LIMIT_BYTES)]


def durable_evicting(bench):
    """PUT of 100 bytes and of 1 MiB while entries are evicted, durable"""
    lines = []
    for what, value, limit, connections in (("100 bytes", VALUE, bench.pick(16, 64) * MIB, CONNECTIONS),
                                            ("1 MiB", b"v" * MIB, bench.pick(64, 1024) * MIB, 16)):
        data = bench.folder(True)
        flags = ("--working-dir", data, "--max-disk", str(limit), "--when-full", "evict")
        with bench.store(*flags) as full, bench.durable_store(bench.folder(True)) as other, \
                Highest(lambda: disk_bytes(data)) as taken:
            loads = [fresh_puts(full, value, connections),
                     fresh_puts(other, value, connections, WITHOUT_LIMIT)]
            # The first values of a store are the fastest: files are not merged yet, and the
            # system has not begun to write them. So both are filled.
            loads[1].run(fill(full, loads[0]))
            lines += bench.load_race(f"PUT of {what} under new keys, evicting, durable",
                                     [RATE, P99, CPU], loads)
        lines.append(bounded(f"directory meanwhile, of {limit // MIB} MiB, values of {what}",
                             taken.value, "limit + 5 %", limit * DISK_SHARE_MAX))
    return lines
