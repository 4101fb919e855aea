"""The rows of streams: watches, imports, exports. Each is a function that returns
lines."""

import contextlib
import itertools
import os
import select
import socket
import statistics
import struct
import subprocess
import time

from lib import Wrong, wait_for

from .collection_rows import taken
from .loads import gets, puts
from .requests import (
    MIB, VALUE, ask, close, drive, get_request, open_clients, path_of, put_request, received,
    store_value)
from .servers import Servers, start_redis
from .table import LINES, P50, P99, P999, RATE, THROUGHPUT

# How long to wait for a line at all.
PATIENCE_SECONDS = 30
# Linux' option, and the type of its notes (asm-generic/socket.h).
SO_TIMESTAMPNS = 35


# Watches.


class Audience:
    """Many connections that listen. The system notes the moment at which a piece has come,
    so that it does not matter how slow this client is."""

    def __init__(self, port, count, request, greeting):
        """Each sends the request, and has heard the greeting then."""
        self.clients = open_clients(port, count)
        self.poll = select.epoll()
        self.sockets = {client.socket.fileno(): client.socket for client in self.clients}
        try:
            for client in self.clients:
                client.begin(request)
            late = drive(self.clients, lambda client: greeting in client.data, PATIENCE_SECONDS)
            if late:
                raise Wrong(f"{len(late)} of {count} do not listen: {bytes(late[0].data[:60])!r}")
            for number, client in self.sockets.items():
                client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                self.poll.register(number, select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def hear(self, mark):
        """Waits until each has heard of it, and gives the moment at which the last had."""
        # Until then this client does not take the processors from the server.
        time.sleep(0.02)
        left, last = set(self.sockets), 0
        end = time.monotonic() + PATIENCE_SECONDS
        while left and time.monotonic() < end:
            for number, _ in self.poll.poll(1):
                piece, notes, _, _ = self.sockets[number].recvmsg(MIB, 128)
                if mark in piece:
                    left.discard(number)
                    last = max(last, *map(moment_of, notes))
                elif not piece:
                    raise Wrong("a connection is closed")
        if left:
            raise Wrong(f"{len(left)} of {len(self.sockets)} have not heard of {mark!r}")
        return last

    def close(self):
        self.poll.close()
        close(self.clients)


def moment_of(note):
    """The seconds of the clock in a note of the system."""
    seconds, nanoseconds = struct.unpack("@ll", note[2])
    return seconds + nanoseconds / 1e9


def told(bench):
    """from a PUT to the last of 1,000 who watch its prefix, in memory"""
    count = bench.pick(100, 1000)
    with bench.store("--max-connections", str(count + 200)) as store, Servers() as peers, \
            contextlib.ExitStack() as stack:
        numbers = itertools.count()

        def told_by(port, request, greeting, write):
            audience = Audience(port, count, request, greeting)
            stack.callback(audience.close)
            writer = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))

            def once():
                key = b"told:%09d" % next(numbers)
                begun = time.time()
                write(writer, key)
                return audience.hear(key) - begun

            return lambda: {"p50": 1e6 * statistics.median(
                once() for _ in range(bench.pick(10, 200)))}

        def put(writer, key):
            writer.sendall(put_request(b"/kv/" + key, VALUE))
            taken(writer)

        contenders = [(store.name, told_by(
            store.port, get_request(b"/watch?prefix=told:"), b"ready ", put))]
        for redis in peers.add(bench.peer("redis-server", start_redis)):
            command(redis.port, b"CONFIG SET notify-keyspace-events K$")
            contenders.append(("keyspace notifications", told_by(
                redis.port, b"PSUBSCRIBE __keyspace@0__:told:*\r\n", b"psubscribe",
                lambda writer, key: spoken(writer, b"SET %s %s" % (key, VALUE)))))
        return bench.race(f"from a PUT to the last of {count:,} who watch", [P50], contenders)


def command(port, words):
    with socket.create_connection(("127.0.0.1", port), 15) as client:
        spoken(client, words)


def spoken(client, words):
    """Has Redis do what it answers with OK."""
    client.sendall(words + b"\r\n")
    data = received(client)
    if data != b"+OK\r\n":
        raise Wrong(f"Redis does not do it: {data[:60]!r}")


def beside_watchers(bench):
    """PUT of 64 beside 1,000 who watch other prefixes, in memory"""
    count = bench.pick(200, 1000)
    with bench.store("--max-connections", str(count + 200)) as store:
        load = puts(store)
        at_rest = len(store.sockets())

        def beside(target, is_greeted):
            others = open_clients(store.port, count)
            try:
                for number, other in enumerate(others):
                    other.begin(get_request(target % number))
                late = drive(others, lambda other: is_greeted in other.data, PATIENCE_SECONDS)
                if late:
                    raise Wrong(f"{store.name} does not answer {len(late)} requests")
                return load.run(bench.seconds)
            finally:
                close(others)
                # Those who have left are not beside the next.
                wait_for(lambda: len(store.sockets()) <= at_rest, PATIENCE_SECONDS)

        what = f"PUT of 64 beside {count:,} who watch other prefixes"
        return bench.race(what, [RATE], [
            ("who watch", lambda: beside(b"/watch?prefix=watched:%d:", b"ready ")),
            ("who are idle", lambda: beside(b"/kv/watched:%d", b"key not found"))])


# Imports and exports.


def import_lines(bench):
    """an import of a million lines by one client, in memory"""
    with bench.store() as store:
        return imported(bench, store, bench.pick(20_000, 1_000_000))


def durable_import_lines(bench):
    """an import of a million lines by one client, durable"""
    with bench.durable_store(bench.folder(True)) as store:
        return imported(bench, store, bench.pick(20_000, 1_000_000))


def imported(bench, store, count):
    lines = write_lines(store.folder, count)

    def run():
        if ask(store.port, b"DELETE /clear HTTP/1.1\r\nHost: bench\r\n\r\n")[0] != 200:
            raise Wrong(f"{store.name} is not cleared")
        seconds, answer = timed_curl(store, "/import", "-T", lines)
        if answer != f"{count}\n":
            raise Wrong(f"{store.name} imports {answer!r} of {count} lines")
        return {"lines": count / seconds}

    return bench.race(f"{count:,} lines imported by one client", [LINES], [(store.name, run)])


def beside_import(bench):
    """GET of 64 others while one imports 4 million keys, in memory"""
    count = bench.pick(20_000, 4_000_000)
    lines = write_lines(bench.folder(), count)

    def beside(act):
        # A store that is to grow from nothing each time.
        with bench.store() as store:
            store_value(store, path_of(0), VALUE)
            load = gets(store, path_of(0), VALUE)
            # The first connections of all wait for their threads: that would be the
            # slowest of either side.
            load.run(bench.pick(0.2, 1))
            return load.run_while(lambda: act(store))

    try:
        return bench.race(f"GET of 64 while one imports {count:,} keys", [RATE, P99, P999], [
            ("while one imports", lambda: beside(
                lambda store: timed_curl(store, "/import", "-T", lines))),
            ("while nobody does", lambda: beside(lambda _: time.sleep(bench.seconds)))])
    finally:
        os.remove(lines)


def export_lines(bench):
    """an export of a million lines by one client, beside a tar archive, in memory"""
    with bench.store() as store:
        return exported(bench, store, bench.pick(20_000, 1_000_000))


def durable_export_lines(bench):
    """an export of a million lines by one client, beside a tar archive, durable"""
    with bench.durable_store(bench.folder(True)) as store:
        return exported(bench, store, bench.pick(20_000, 1_000_000))


def exported(bench, store, count):
    timed_curl(store, "/import", "-T", write_lines(store.folder, count))

    def run(target, bytes_min):
        options = ["-o", "/dev/null", "-w", "%{size_download}"]
        seconds, size = timed_curl(store, target, *options)
        if int(size) < count * bytes_min:
            raise Wrong(f"{store.name} exports {size} bytes of {count} keys")
        return {"throughput": int(size) / MIB / seconds}

    return bench.race(f"{count:,} keys exported to one client", [THROUGHPUT], [
        (store.name, lambda: run("/kv?values", len(VALUE))),
        ("as a tar archive", lambda: run("/kv?tar", 1024))])


def write_lines(folder, count):
    """A file of lines to import."""
    path = os.path.join(folder, "lines")
    with open(path, "wb") as file:
        file.writelines(b'{"key":"key:%012d","value":"%s"}\n' % (number, VALUE)
                        for number in range(count))
    return path


def timed_curl(store, target, *options):
    """The seconds that curl takes, and its output."""
    begun = time.perf_counter()
    done = subprocess.run(["curl", "-q", "-sSf", *options, f"http://127.0.0.1:{store.port}{target}"],
                          capture_output=True, text=True, timeout=300)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise Wrong(f"curl {target} ends with {done.returncode}: {done.stderr[-100:]}")
    return seconds, done.stdout
