"""The rows of the durable engine. Each is a function that returns lines."""

import base64
import contextlib
import json
import os
import shutil
import signal
import statistics
import tempfile
import time

from .loads import PUT_KEYS, Load, gets, puts, zipfian
from .requests import (MIB, VALUE, check_stored, get_request, load_keys, path_of, put_request,
                       store_value)
from .servers import Servers, start_etcd, start_redis, start_webdis
from .table import CPU, MEBIBYTES, P50, P99, RATE, SECONDS, Line


def durable_put(bench):
    """PUT of 100 bytes, 64 connections, durable"""
    with bench.store() as memory, bench.durable_store(bench.folder(True)) as durable:
        loads = [puts(durable), puts(memory)]
        lines = bench.load_race(durable_put.__doc__, [RATE, P99, CPU], loads)
        check_stored(durable, PUT_KEYS)
        return lines


def durable_get(bench):
    """GET of 100 bytes, 64 connections, durable"""
    with bench.store() as memory, bench.durable_store(bench.folder(True)) as durable:
        for server in (durable, memory):
            store_value(server, path_of(0), VALUE)
        loads = [gets(server, path_of(0), VALUE) for server in (durable, memory)]
        return bench.load_race(durable_get.__doc__, [RATE, P99, CPU], loads)


def durable_get_files(bench):
    """GET of a million keys, most of them in files, zipfian, durable"""
    count = bench.pick(20_000, 1_000_000)
    requests = [get_request(path_of(number))
                for number in zipfian(count, bench.pick(10_000, 1_000_000))]
    with bench.store() as memory, bench.durable_store(bench.folder(True)) as durable:
        for server in (durable, memory):
            load_keys(server, count)
        loads = [Load(server, requests) for server in (durable, memory)]
        what = f"GET of 100 bytes, {count:,} keys, zipfian, 64 connections, durable"
        return bench.load_race(what, [RATE, P99, CPU], loads)


def durable_peers(bench):
    """PUT of 100 bytes beside others, all durable"""
    with Servers(bench.durable_store(bench.folder(True))) as servers:
        loads = [puts(server) for server in servers]
        loads += [etcd_puts(server) for server in servers.add(bench.peer("etcd", start_etcd))]
        if shutil.which("webdis"):
            for redis in servers.add(bench.peer("redis-server", start_redis, True)):
                loads += map(webdis_puts, servers.add(bench.peer("webdis", start_webdis, redis)))
        what = "PUT of 100 bytes, 64 connections, durable"
        return bench.load_race(what, [RATE, P99], loads)


def etcd_puts(etcd):
    def request(number):
        key, value = (base64.b64encode(text).decode() for text in (path_of(number)[4:], VALUE))
        body = json.dumps({"key": key, "value": value}).encode()
        return put_request(b"/v3/kv/put", body, b"POST")

    return Load(etcd, [request(number) for number in range(PUT_KEYS)],
                is_right=lambda status, body: status == 200 and b'"revision"' in body)


def webdis_puts(webdis):
    # What a connection that has gone had asked it answers on one that has come.
    requests = [put_request(b"/SET/" + path_of(number)[4:], VALUE) for number in range(PUT_KEYS)]
    return Load(webdis, requests,
                is_right=lambda status, body: status == 200 and body.startswith(b'{"SET":[true,"OK"]}'))


def durable_one(bench):
    """PUT of 100 bytes, 1 connection, durable"""
    with bench.durable_store(bench.folder(True)) as durable:
        load = puts(durable, connections=1)
        return bench.race(durable_one.__doc__, [P50, P99], [
            (durable.name, lambda: load.run(bench.seconds)),
            ("write + fdatasync", lambda: bare_syncs(bench))])


def bare_syncs(bench):
    """What the disk itself takes for as many bytes as a key and a value have."""
    times, end = [], time.monotonic() + bench.seconds
    with tempfile.NamedTemporaryFile(dir=bench.disk, buffering=0) as file:
        while time.monotonic() < end:
            start = time.perf_counter()
            file.write(b"k" * 16 + VALUE)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    return {"p50": statistics.median(times), "p99": times[len(times) * 99 // 100]}


def durable_restart(bench):
    """a million entries: disk, and a start after kill -9"""
    count = bench.pick(20_000, 1_000_000)
    data = bench.folder(True)
    with bench.durable_store(data) as store:
        load_keys(store, count, connections=256, depth=8)
        store.stop(signal.SIGKILL)
    size = disk_bytes(data)
    starts, residents = [], []
    for _ in range(bench.rounds):
        with bench.durable_store(data) as store:
            starts.append(time.perf_counter() - store.started)
            residents.append(store.resident() / MIB)
            if bench.durable_engine != "memory":
                check_stored(store, count)
            store.stop(signal.SIGKILL)
    what = f"{count:,} entries of 16 + 100 bytes: "
    raw = count * (16 + len(VALUE)) / MIB
    return [Line(what + "disk used", MEBIBYTES, [size / MIB], "the bytes themselves", [raw]),
            Line(what + "start after kill -9", SECONDS, starts),
            Line(what + "resident after it", MEBIBYTES, residents)]


def disk_bytes(folder):
    """What the files in a folder take of the disk."""
    taken = 0
    for root, _, names in os.walk(folder):
        for name in names:
            # It may be gone by now.
            with contextlib.suppress(FileNotFoundError):
                taken += os.lstat(os.path.join(root, name)).st_blocks * 512
    return taken
