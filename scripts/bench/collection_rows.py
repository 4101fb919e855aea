"""The rows of many keys: lists, counts, batches, takes. Each is a function that
returns lines."""

import contextlib
import itertools
import os
import re
import shutil
import socket
import statistics
import subprocess
import time

from lib import Wrong, end_with_parent, parsed, wait_for

from .loads import CONNECTIONS, Load, gets, puts
from .requests import (
    PATIENCE_SECONDS, VALUE, ask, close, drive, get_request, open_clients, path_of, put_request,
    received)
from .servers import Servers, start_redis
from .table import CPU, KEYS, OPERATIONS, P50, P99, P999, RATE

# The lines of a batch, at most.
BATCH = 1000
BATCH_CONNECTIONS = 4
# How many different keys the batches go to.
BATCH_KEYS = 64 * BATCH


def store_in_batches(server, paths):
    """Stores a value under each path."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as client:
        for some in in_batches(paths):
            client.sendall(batch_request(some))
            data = bytearray()
            while not (found := parsed(data)):
                data += received(client)
            if found[0] != 200:
                raise Wrong(f"{server.name} does not store a batch: {found}")


def in_batches(paths):
    paths = iter(paths)
    return iter(lambda: list(itertools.islice(paths, BATCH)), [])


def batch_request(paths):
    line = b'{"method":"PUT","path":"%s","value":"%s"}'
    return put_request(b"/batch", b"\n".join(line % (path, VALUE) for path in paths), b"POST")


# Lists.


def list_all(bench):
    """a list of all keys by one client, in memory"""
    with bench.store() as store:
        return list_beside_redis(bench, store, bench.pick(20_000, 1_000_000))


def durable_list_all(bench):
    """a list of all keys by one client, durable"""
    with bench.durable_store(bench.folder(True)) as store:
        return list_beside_redis(bench, store, bench.pick(20_000, 1_000_000))


def list_beside_redis(bench, store, count):
    with Servers() as peers:
        contenders = [(store.name, lambda: listed(store, count))]
        store_in_batches(store, map(path_of, range(count)))
        for redis in peers.add(bench.peer("redis-server", start_redis)):
            redis.fill(count)
            contenders.append(("SCAN COUNT 1000", lambda: scanned(redis, count)))
        return bench.race(f"all of {count:,} keys, listed by one client", [KEYS], contenders)


def listed(store, count):
    """Figures of one list of all keys, which have to be there once each and in order."""
    data = bytearray()
    with socket.create_connection(("127.0.0.1", store.port), 60) as client:
        start = time.perf_counter()
        client.sendall(get_request(b"/kv"))
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += received(client)
        seconds = time.perf_counter() - start
    keys = dechunked(data).split()
    if len(keys) != count or any(map(bytes.__ge__, keys, keys[1:])):
        raise Wrong(f"{store.name} lists {len(keys)} keys of {count}, or in no order")
    return {"keys": count / seconds}


def dechunked(data):
    """The body of an answer in chunks."""
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Wrong(f"no list: {head[:60]!r}")
    pieces, at = [], 0
    while at < len(rest):
        end = rest.index(b"\r\n", at)
        size = int(rest[at:end], 16)
        pieces.append(rest[end + 2:end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(pieces)


def scanned(redis, count):
    """Figures of one SCAN of all keys. As each has 16 bytes, the head of a reply tells
    its length, and this client has no more to do than that of a list."""
    head = re.compile(rb"\*2\r\n\$\d+\r\n(\d+)\r\n\*(\d+)\r\n")
    entry_bytes = len(b"$16\r\n\r\n") + 16
    seen, cursor = 0, b"0"
    with socket.create_connection(("127.0.0.1", redis.port), 60) as client:
        start = time.perf_counter()
        while not seen or cursor != b"0":
            client.sendall(b"SCAN %s COUNT %d\r\n" % (cursor, BATCH))
            data = bytearray()
            while not (found := head.match(data)) or (
                    len(data) < found.end() + int(found.group(2)) * entry_bytes):
                data += received(client)
            cursor = found.group(1)
            seen += int(found.group(2))
        seconds = time.perf_counter() - start
    # While its table grows or shrinks Redis may give a key twice.
    if seen < count:
        raise Wrong(f"Redis lists {seen} of {count} keys")
    return {"keys": count / seconds}


def list_prefix(bench):
    """a page of a prefix with ten keys, in memory"""
    with bench.store() as store:
        return page_beside_get(bench, store, bench.pick(20_000, 4_000_000))


def durable_list_prefix(bench):
    """a page of a prefix with ten keys, durable"""
    with bench.durable_store(bench.folder(True)) as store:
        return page_beside_get(bench, store, bench.pick(20_000, 1_000_000))


def page_beside_get(bench, store, count):
    store_in_batches(store, map(path_of, range(count)))
    numbers = range(0, count, count // 1000)
    pages = [get_request(b"/kv?limit=100&prefix=" + path_of(number)[4:-1]) for number in numbers]
    has_ten = lambda status, body: status == 200 and body.count(b"\n") == 10
    loads = [Load(store, pages, 1, has_ten),
             Load(store, [get_request(path_of(number)) for number in numbers], 1,
                  lambda status, body: (status, body) == (200, VALUE), "its GET of a value")]
    what = f"a page of a prefix with 10 keys of {count:,}, 1 connection"
    return bench.load_race(what, [P50, CPU], loads)


# Others meanwhile.


def beside_list(bench):
    """GET of 64 others while one lists, exports or counts all keys, in memory"""
    with bench.store() as store:
        return others_beside(bench, store, bench.pick(20_000, 4_000_000))


def durable_beside_list(bench):
    """GET of 64 others while one lists, exports or counts all keys, durable"""
    with bench.durable_store(bench.folder(True)) as store:
        return others_beside(bench, store, bench.pick(20_000, 1_000_000))


def others_beside(bench, store, count):
    store_in_batches(store, map(path_of, range(count)))
    load = gets(store, path_of(0), VALUE)

    def beside(target):
        with without_pause(store, target):
            return load.run(bench.seconds)

    lines = []
    for does, target in (("lists", "/kv"), ("exports", "/kv?values"),
                         ("counts", "/kv?prefix=key:&count")):
        lines += bench.race(f"GET of 64 while one {does} {count:,} keys", [RATE, P99, P999], [
            (f"while one {does}", lambda target=target: beside(target)),
            ("while nobody does", lambda: load.run(bench.seconds))])
    return lines


@contextlib.contextmanager
def without_pause(store, target):
    """Has curl ask the same over and over, on one connection, while the block runs. It has
    read by then what it is to ask, for which it takes a processor for some tenths of a
    second."""
    asks, first = (os.path.join(store.folder, name) for name in ("asks", "first"))

    def transfer(path, output):
        return f'url = "http://127.0.0.1:{store.port}{path}"\noutput = "{output}"\n'

    with open(asks, "w") as file:
        file.write(transfer("/healthz", first) + transfer(target, "/dev/null") * 100_000)
    curl = subprocess.Popen(["curl", "-sSf", "--fail-early", "-K", asks], text=True,
                            stderr=subprocess.PIPE, preexec_fn=end_with_parent)

    def check():
        if curl.poll() is not None:
            raise Wrong(f"curl {target} has ended with {curl.returncode}: {curl.stderr.read()}")

    def has_begun():
        check()
        return os.path.exists(first) and os.path.getsize(first) > 0

    try:
        if not wait_for(has_begun, PATIENCE_SECONDS):
            raise Wrong(f"curl {target} does not begin")
        yield
        check()
    finally:
        curl.kill()
        curl.communicate()
        if os.path.exists(first):
            os.remove(first)


# Waits.


def wake_up(bench):
    """from a PUT to the answer of one who waits for it, beside a GET"""
    with bench.store() as store, contextlib.ExitStack() as stack:
        reader, writer = (
            stack.enter_context(socket.create_connection(("127.0.0.1", store.port), 60))
            for _ in range(2))
        numbers = itertools.count()

        def wakes():
            path = path_of(next(numbers))
            reader.sendall(get_request(path + b"?wait=60s"))
            # It is parked by then: the store answers one after the other.
            answer_of(writer, get_request(b"/healthz"))
            begun = time.perf_counter()
            writer.sendall(put_request(path, VALUE))
            taken(reader)
            ended = time.perf_counter()
            taken(writer)
            return ended - begun

        def asks():
            begun = time.perf_counter()
            answer_of(reader, get_request(path_of(0)))
            return time.perf_counter() - begun

        def p50(times):
            return {"p50": statistics.median(times() for _ in range(bench.pick(100, 3000))) * 1e6}

        wakes()
        return bench.race("from a PUT to one who waits for it", [P50], [
            ("wait", lambda: p50(wakes)), ("a GET", lambda: p50(asks))])


def beside_waiters(bench):
    """PUT of 64 beside those who wait for other keys, in memory"""
    count = bench.pick(200, 5000)
    with bench.store("--max-connections", str(count + 200)) as store:
        load = puts(store)

        def beside(target):
            others = open_clients(store.port, count)
            try:
                for number, other in enumerate(others):
                    other.begin(get_request(target % number))
                late = drive(others, lambda other: not other.unsent, 30)
                if late:
                    raise Wrong(f"{store.name} does not take {len(late)} requests")
                return load.run(bench.seconds)
            finally:
                close(others)

        what = f"PUT of 64 beside {count:,} who wait for other keys"
        return bench.race(what, [RATE], [
            ("who wait", lambda: beside(b"/kv/waited-for:%d?wait=10m")),
            ("who are idle", lambda: beside(b"/kv/waited-for:%d"))])


def answer_of(client, request):
    client.sendall(request)
    return taken(client)


def taken(client):
    """The body of the next answer, which has to be a success."""
    data = bytearray()
    while not (found := parsed(data)):
        data += received(client)
    if found[0] != 200:
        raise Wrong(f"an answer is {found}")
    return found[1]


# Batches.


def batches(bench):
    """batches of 1,000 PUTs of 100 bytes, in memory"""
    with bench.store() as store, Servers() as peers:
        contenders = [batch_contender(bench, store)]
        if shutil.which("redis-benchmark"):
            for redis in peers.add(bench.peer("redis-server", start_redis)):
                contenders.append(("SET in pipelines", lambda: pipelined(bench, redis)))
        what = f"PUTs of 100 bytes in batches of {BATCH:,}, {BATCH_CONNECTIONS} connections"
        return bench.race(what, [OPERATIONS], contenders)


def durable_batches(bench):
    """batches of 1,000 PUTs of 100 bytes, durable"""
    with bench.durable_store(bench.folder(True)) as store:
        single = puts(store)
        contenders = [batch_contender(bench, store), (
            "its single PUTs, 64", lambda: {"operations": single.run(bench.seconds)["rate"]})]
        what = f"PUTs of 100 bytes in batches of {BATCH:,}, {BATCH_CONNECTIONS} connections, durable"
        return bench.race(what, [OPERATIONS], contenders)


def batch_contender(bench, store):
    paths = map(path_of, range(BATCH_KEYS))
    requests = [batch_request(some) for some in in_batches(paths)]
    is_done = lambda status, body: status == 200 and body.count(b"\n") == BATCH
    load = Load(store, requests, BATCH_CONNECTIONS, is_done)
    return (store.name, lambda: {"operations": load.run(bench.seconds)["rate"] * BATCH})


def pipelined(bench, redis):
    """Figures of SETs of the same size, as many in a pipeline as in a batch."""
    count = bench.pick(100_000, round(bench.seconds * 500_000))
    command = ["redis-benchmark", "-p", str(redis.port), "-t", "set", "-d", str(len(VALUE)),
               "-r", str(BATCH_KEYS), "-n", str(count), "-c", str(BATCH_CONNECTIONS),
               "-P", str(BATCH), "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'(?m)^"SET","([\d.]+)"', done.stdout)
    if done.returncode or not found:
        raise Wrong(f"redis-benchmark: {done.stdout[-100:]!r} {done.stderr[-100:]!r}")
    return {"operations": float(found.group(1))}


# Takes.


def durable_take(bench):
    """jobs taken by 64 workers, durable"""
    count = bench.pick(2_000, 100_000)
    part = count // 100
    with bench.durable_store(bench.folder(True)) as store:
        takes = []

        def take():
            fill_jobs(store, count)
            request = b"DELETE /kv?take=job: HTTP/1.1\r\nHost: bench\r\n\r\n"
            takes.append(worked_off(store, itertools.repeat(request, count)))
            return takes[-1]

        def delete():
            fill_jobs(store, count)
            form = b"DELETE %s HTTP/1.1\r\nHost: bench\r\n\r\n"
            return worked_off(store, (form % path for path in job_paths(count)))

        def rate(answered):
            return {"rate": len(answered) / (answered[-1] - answered[0])}

        lines = bench.race(f"{count:,} jobs taken by 64 workers, durable", [RATE], [
            (store.name, lambda: rate(take())), ("DELETE of their keys", lambda: rate(delete()))])
        # Those of the rounds above. At the very end not all workers have one to take.
        last, first = ([rate(answered[piece]) for answered in takes] for piece in (
            slice(-part - CONNECTIONS, -CONNECTIONS), slice(None, part)))
        what = f"the last {part:,} of {count:,} jobs taken"
        last, first = iter(last), iter(first)
        return lines + bench.race(what, [RATE], [
            (store.name, lambda: next(last)), ("the first of them", lambda: next(first))])


def job_paths(count):
    return (b"/kv/job:%012d" % number for number in range(count))


def fill_jobs(store, count):
    store_in_batches(store, job_paths(count))
    if ask(store.port, get_request(b"/kv?prefix=job:&count")) != (200, b"%d\n" % count):
        raise Wrong(f"{store.name} has not exactly {count} jobs")


def worked_off(store, requests):
    """Has 64 connections send the requests, one at a time each. Gives the moments of
    their answers; each is 200, and nothing is left."""
    clients, answered = open_clients(store.port, CONNECTIONS), []

    def begin_next(client):
        request = next(requests, None)
        if request:
            client.begin(request)
        return not request

    def is_done(client):
        found = parsed(client.data)
        if not found:
            return False
        if found[0] != 200:
            raise Wrong(f"{store.name} answers {found} to one of the jobs' requests")
        answered.append(time.perf_counter())
        return begin_next(client)

    try:
        for client in clients:
            begin_next(client)
        if drive(clients, is_done, 120):
            raise Wrong(f"{store.name} has not done all of the jobs' requests")
    finally:
        close(clients)
    if ask(store.port, get_request(b"/kv?prefix=job:&count")) != (200, b"0\n"):
        raise Wrong(f"{store.name} has jobs left")
    return answered
