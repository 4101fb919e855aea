"""The rows of the engine in memory. Each is a function that returns lines."""

import itertools
import random
import re
import shutil
import subprocess
import time

from lib import Wrong, parsed

from .loads import CONNECTIONS, PUT_KEYS, Load, gets, puts, zipfian
from .race import store_and_nginx
from .requests import (
    KIB, MIB, VALUE, change_keys, check_served, check_stored, close, drive, get_request, key_of,
    load_keys, marked, open_clients, path_of, put_request, store_value)
from .servers import Redis, start_go, start_redis
from .table import BYTES_EACH, CPU, MEBIBYTES, P50, P99, RATE, THROUGHPUT, Line

# How long the connections are idle before their memory is measured.
IDLE_SECONDS = 3


def get(bench):
    """GET of 100 bytes, 64 connections"""
    with store_and_nginx(bench) as servers:
        servers.add(bench.peer("go", start_go))
        for server in servers:
            store_value(server, path_of(0), VALUE)
        loads = [gets(server, path_of(0), VALUE) for server in servers]
        return bench.load_race(get.__doc__, [RATE, P99, CPU], loads)


def put(bench):
    """PUT of 100 bytes, 64 connections"""
    with store_and_nginx(bench) as servers:
        loads = [puts(server) for server in servers]
        for server in list(servers)[1:]:
            # The practical limit, which is not that of a server that writes files.
            store_value(server, path_of(PUT_KEYS), VALUE)
            loads.append(gets(server, path_of(PUT_KEYS), VALUE, name=f"GET from {server.name}"))
        loads += [puts(server) for server in servers.add(bench.peer("go", start_go))]
        lines = bench.load_race(put.__doc__, [RATE, P99, CPU], loads)
        for server in servers:
            check_stored(server, PUT_KEYS)
        return lines


def one(bench):
    """GET of 100 bytes, 1 connection"""
    with store_and_nginx(bench) as servers:
        for server in servers:
            store_value(server, path_of(0), VALUE)
        loads = [gets(server, path_of(0), VALUE, connections=1) for server in servers]
        return bench.load_race(one.__doc__, [P50, CPU], loads)


def many(bench):
    """GET of 100 bytes, 1,000 connections"""
    count = bench.pick(200, 1000)
    with store_and_nginx(bench) as servers:
        for server in servers:
            store_value(server, path_of(0), VALUE)
        ours, *others = servers
        loads = [gets(ours, path_of(0), VALUE, count),
                 gets(ours, path_of(0), VALUE, name="itself at 64")]
        loads += [gets(server, path_of(0), VALUE, count) for server in others]
        return bench.load_race(f"GET of 100 bytes, {count:,} connections", [RATE, P99, CPU], loads)


def new(bench):
    """GET of 100 bytes, a new connection for each"""
    with store_and_nginx(bench) as servers:
        for server in servers:
            store_value(server, path_of(0), VALUE)
        return bench.race(new.__doc__, [RATE, P99], [
            (server.name, lambda server=server: apache_bench(bench, server)) for server in servers])


def apache_bench(bench, server):
    """Figures of ab, which opens a connection for each request."""
    limit = bench.pick(["-n", "1000"], ["-t", str(max(1, round(bench.seconds))), "-n", "10000000"])
    url = f"http://127.0.0.1:{server.port}{path_of(0).decode()}"
    check_served(server.port, CONNECTIONS, get_request(path_of(0)),
                 lambda status, body: (status, body) == (200, VALUE))
    done = subprocess.run(["ab", "-q", "-s", "10", *limit, "-c", str(CONNECTIONS), url],
                          capture_output=True, text=True, timeout=bench.seconds + 60)
    figures = dict(re.findall(r"(?m)^([\w /-]+):\s+([\d.]+)", done.stdout))
    p99 = re.search(r"(?m)^\s+99%\s+(\d+)", done.stdout)
    if done.returncode or not p99:
        raise Wrong(f"ab ends with {done.returncode}: {done.stderr[-200:]}")
    if figures["Failed requests"] != "0" or "Non-2xx responses" in figures:
        raise Wrong(f"ab: {figures['Failed requests']} of {figures['Complete requests']} failed")
    return {"rate": float(figures["Requests per second"]), "p99": int(p99.group(1)) * 1000}


def sizes(bench):
    """GET of 4 KiB, 64 KiB, 1 MiB and 10 MiB"""
    lines = []
    with store_and_nginx(bench) as servers:
        for size, name, connections in ((4 * KIB, "4 KiB", 64), (64 * KIB, "64 KiB", 64),
                                        (MIB, "1 MiB", 16), (10 * MIB, "10 MiB", 8)):
            if bench.short and size not in (64 * KIB, MIB):
                continue
            value, path = random.randbytes(size), b"/kv/size:%d" % size
            for server in servers:
                store_value(server, path, value)
            loads = [gets(server, path, value, connections) for server in servers]
            what = f"GET of {name}, {connections} connections"
            lines += bench.race(what, [THROUGHPUT], [
                (load.name, lambda load=load: throughput(bench, load, size)) for load in loads])
    return lines


def throughput(bench, load, size):
    figures = load.run(bench.seconds)
    return {**figures, "throughput": figures["rate"] * size / MIB}


def put_large(bench):
    """PUT of 1 MiB, 16 connections"""
    with store_and_nginx(bench) as servers:
        loads = [puts(server, b"v" * MIB, 16) for server in servers]
        return bench.race(put_large.__doc__, [THROUGHPUT], [
            (load.name, lambda load=load: throughput(bench, load, MIB)) for load in loads])


def mixed(bench):
    """90 GET to 10 PUT, a million keys, zipfian"""
    count = bench.pick(20_000, 1_000_000)
    with bench.store() as store:
        load_keys(store, count)

        def load(numbers, name=None):
            requests = [put_request(path_of(number), VALUE) if turn % 10 == 0
                        else get_request(path_of(number)) for turn, number in enumerate(numbers)]
            # As many different requests cost the client as much, whatever they ask for.
            return Load(store, marked(requests), name=name)

        numbers = list(zipfian(count, bench.pick(10_000, 200_000)))
        loads = [load(numbers), load([0] * len(numbers), "its one key")]
        what = f"90 GET to 10 PUT, {count:,} keys, zipfian, 64 connections"
        return bench.load_race(what, [RATE, P99], loads)


def idle(bench):
    """memory for a connection without work"""
    count = bench.pick(200, 4000)
    contenders = [("memory engine", lambda: [bench.store()]), ("nginx", bench.nginx)]
    if not shutil.which("nginx"):
        contenders.pop()
    return bench.race(f"resident memory for each of {count:,} idle connections", [BYTES_EACH], [
        (name, lambda start=start: idle_bytes(start, count)) for name, start in contenders])


def idle_bytes(start, count):
    [server] = start()
    with server:
        store_value(server, path_of(0), VALUE)
        before = server.resident()
        clients = open_clients(server.port, count)
        try:
            for client in clients:
                client.begin(get_request(path_of(0)))
            starved = drive(clients, lambda client: parsed(client.data), 20)
            if starved:
                raise Wrong(f"{server.name}: {len(starved)} of {count} connections not answered")
            time.sleep(IDLE_SECONDS)
            return {"each": (server.resident() - before) / count}
        finally:
            close(clients)


def entries(bench):
    """memory for an entry: 16 + 100, 16 + 10 and 40 + 1,000 bytes"""
    count, lines = bench.pick(20_000, 1_000_000), []
    for form, key, value_bytes in (
            ("16 + 100 bytes", key_of, 100), ("16 + 100 bytes, keys at random", random_key, 100),
            ("16 + 10 bytes", key_of, 10), ("40 + 1,000 bytes", lambda number: key_of(number, 40), 1000)):
        value = b"v" * value_bytes
        contenders = beside_redis(bench, lambda server, change: entry_bytes(
            server, change, ((key(number), value) for number in range(count)), count))
        what = f"resident memory for each of {count:,} entries of {form}"
        lines += bench.race(what, [BYTES_EACH], contenders, rounds=1)
    return lines


def random_key(number):
    """A key of 16 bytes that has little in common with that of the next number."""
    return b"%016x" % (number * 0x9E37_79B9_7F4A_7C15 % 2 ** 64)


def beside_redis(bench, measure):
    """The store and Redis as contenders, each started for what is measured, and then
    given together with what changes its keys."""
    contenders = [("memory engine", lambda: measure(bench.store(), change_keys))]
    if shutil.which("redis-server"):
        contenders.append(
            ("Redis", lambda: measure(*bench.peer("redis-server", start_redis), Redis.change)))
    return contenders


def entry_bytes(server, change, entries, count):
    with server:
        before = server.resident()
        change(server, entries)
        return {"each": (server.resident() - before) / count}


def changed_entries(bench):
    """memory once entries were overwritten, and once half of them were deleted"""
    count = bench.pick(20_000, 1_000_000)
    seen = {name: measure() for name, measure in beside_redis(
        bench, lambda server, change: changed_bytes(bench, server, change, count))}
    ours, *others = seen.items()
    lines = []
    for stage, what in (
            ("overwritten", "overwritten twice at random, 50 to 150 bytes"),
            ("deleted", "and half of them deleted at random")):
        name, stages = ours
        lines.append(Line(f"{count:,} entries of 16 + 100 bytes, {what}", MEBIBYTES,
                          [stages[stage]], "before", [stages["before"]]))
        for name, theirs in others:
            lines.append(Line(lines[-1].what, MEBIBYTES, [stages[stage]], name, [theirs[stage]]))
    return lines


def changed_bytes(bench, server, change, count):
    """Resident MiB that the entries take at each stage."""
    chance, numbers = random.Random(1), list(range(count))

    def in_any_order(numbers):
        chance.shuffle(numbers)
        return map(key_of, numbers)

    with server:
        empty, stages = server.resident(), {}
        for stage, changes in (
                ("before", ((key_of(number), VALUE) for number in range(count))),
                ("overwritten", ((key, b"v" * chance.randint(50, 150))
                                 for _ in range(2) for key in in_any_order(numbers))),
                ("deleted", ((key, None) for key in itertools.islice(
                    in_any_order(numbers), count // 2)))):
            change(server, changes)
            # Until then what is free has to be back with the system.
            time.sleep(bench.pick(0.2, 10))
            stages[stage] = (server.resident() - empty) / MIB
        return stages
