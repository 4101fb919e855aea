"""Clients that load the facts about countries through fronts, read them and count
visits, and note each answer."""

import collections
import os
import random
import socket
import threading
import time
import urllib.parse

from lib import answer
from cluster.nodes import slot_of

# The contract: nothing takes longer than this. Of a busy machine more is taken.
ANSWER_SECONDS = 5.5
MARGIN_SECONDS = 14.5
CLIENTS = 16
# Between two requests of a client: the load is to be seen, not the machine's limit.
PAUSE_SECONDS = 0.002

NOT_DONE = (b"not done: the cluster does not answer\n",
            b"not done: too few replicas are connected\n")
PERHAPS = b"the cluster has not confirmed it: it may have been done\n"


def facts(folder):
    """Keys and values of the countries."""
    with open(os.path.join(folder, "countries.tsv"), encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("\t", 1) for line in file]
    return {key.encode(): value.encode() for key, value in lines if value}


class Counter:
    """A number that clients count up: what they were told of it."""

    def __init__(self):
        self.numbers = []
        self.perhaps = 0


class Outage:
    """Slots whose node was lost at some moment, and when they were written to again."""

    def __init__(self, slots):
        self.slots = slots
        self.begun = time.monotonic()
        self.ended = None

    def seconds(self):
        return None if self.ended is None else self.ended - self.begun


class Tally:
    """All answers."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun = time.monotonic()
        self.by_second = collections.defaultdict(collections.Counter)
        self.slowest_by_second = collections.defaultdict(float)
        self.texts = collections.Counter()
        self.wrong = []
        self.counters = collections.defaultdict(Counter)
        self.outages = []

    def slowest(self):
        return max(self.slowest_by_second.values(), default=0)

    def statuses(self):
        with self.lock:
            return sum(self.by_second.values(), collections.Counter())

    def outage(self, slots):
        with self.lock:
            self.outages.append(Outage(slots))
            return self.outages[-1]

    def add(self, what, begun, status, body, key, is_right, is_write):
        ended = time.monotonic()
        with self.lock:
            second = int(ended - self.begun)
            self.by_second[second][status] += 1
            self.slowest_by_second[second] = max(self.slowest_by_second[second], ended - begun)
            if not is_right:
                self.wrong.append(f"{what}: {status} {body[:80]!r}")
            if ended - begun > ANSWER_SECONDS + MARGIN_SECONDS:
                self.wrong.append(f"{what}: {status} after {ended - begun:.1f} s")
            if status in (503, 504):
                self.texts[status, body] += 1
            elif is_write:
                slot = slot_of(key)
                for outage in self.outages:
                    if outage.ended is None and begun > outage.begun and slot in outage.slots:
                        outage.ended = ended

    def table(self, seconds):
        """A line for each of these seconds: the answers by status, where that of a read that
        finds nothing counts as done, and the slowest."""
        yield " second     done      503      504   slowest"
        for second in seconds:
            counts = self.by_second[second]
            others = sum(count for status, count in counts.items() if status not in (503, 504))
            yield (f"{second:7} {others:8} {counts[503]:8} {counts[504]:8} "
                   f"{self.slowest_by_second[second] * 1000:6.0f} ms")


class Connection:
    """A connection to a front; a new one after it has broken."""

    def __init__(self, port):
        self.port, self.socket = port, None

    def ask(self, method, key, query="", value=None):
        """The status and the body of an answer; 0 and what went wrong if there is none."""
        target = "/kv/" + urllib.parse.quote(key) + query
        length = "" if value is None else f"Content-Length: {len(value)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n"
        try:
            if not self.socket:
                self.socket = socket.create_connection(("127.0.0.1", self.port), 30)
            self.socket.sendall(head.encode() + (value or b""))
            return answer(self.socket)
        except OSError as err:
            self.close()
            return 0, repr(err).encode()

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None


class Client(threading.Thread):
    """One that asks fronts in turn, until it is told to stop."""

    def __init__(self, ports, known, counted, tally, stop, seed):
        super().__init__(daemon=True)
        self.known, self.counted, self.tally, self.stop = known, counted, tally, stop
        self.keys = list(known)
        self.dice = random.Random(seed)
        self.connections = {port: Connection(port) for port in ports}
        self.ports = ports

    def run(self):
        while not self.stop.is_set():
            port = self.dice.choice(self.ports)
            key = self.dice.choice(self.keys)
            choice = self.dice.randrange(4)
            if choice == 0:
                self.put(port, key)
            elif choice == 1:
                self.count(port, self.counted + key.partition(b":")[0])
            else:
                self.get(port, key)
            time.sleep(PAUSE_SECONDS)
        for connection in self.connections.values():
            connection.close()

    def put(self, port, key):
        status, body = self.ask(port, "PUT", key, value=self.known[key])
        self.note(status, body, (200, b""))

    def get(self, port, key):
        status, body = self.ask(port, "GET", key)
        self.note(status, body, (200, self.known[key]), (404, b"key not found\n"))

    def count(self, port, key):
        status, body = self.ask(port, "POST", key, "?incr")
        if status == 200 and body.strip().isdigit():
            self.note(status, body, (200, body))
            with self.tally.lock:
                self.tally.counters[key].numbers.append(int(body))
            return
        self.note(status, body)
        if status != 503:
            with self.tally.lock:
                self.tally.counters[key].perhaps += 1

    def ask(self, port, method, key, query="", value=None):
        self.asked = (f"{method} {key.decode()}{query} at {port}", time.monotonic(), key,
                      method != "GET")
        return self.connections[port].ask(method, key, query, value)

    def note(self, status, body, *right):
        """Notes an answer beside those that are right; the others are that the request was
        not done, or for a write that it may have been."""
        what, begun, key, is_write = self.asked
        is_right = ((status, body) in right or status == 503 and body in NOT_DONE
                    or status == 504 and body == PERHAPS and is_write)
        self.tally.add(what, begun, status, body, key, is_right, is_write)


class Load:
    """Clients at work, from the beginning of a `with` to its end."""

    def __init__(self, ports, known, counted=b"visits:", seed=0):
        self.tally = Tally()
        self.stop = threading.Event()
        self.clients = [Client(ports, known, counted, self.tally, self.stop, seed * 1000 + index)
                        for index in range(CLIENTS)]

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self.tally

    def __exit__(self, *_):
        self.stop.set()
        for client in self.clients:
            client.join()
