#!/usr/bin/env python3
"""The store beside other servers: rounds of measurements, and a table.

It is run by bench.sh:

    bench.py --bin PROGRAM --output FILE [--short] [--count FILE] [ROW...]

One function is one row, and one row may be several lines of the table. The
servers that a row compares take turns within each round, so that whatever else
the machine does hits all of them. wrk and ab make the load; as neither notices
connections that nobody serves, each is looked at here as well.
"""

import argparse
import base64
import bisect
import ctypes
import itertools
import json
import os
import platform
import random
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

KIB, MIB = 1 << 10, 1 << 20
HERE = os.path.dirname(os.path.abspath(__file__))
CORES = len(os.sched_getaffinity(0))
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 64
VALUE = b"v" * 100
# How many different keys the requests of a PUT row go to.
PUT_KEYS = 1000
# As in YCSB.
ZIPF_EXPONENT = 0.99


class Wrong(Exception):
    """A row cannot be believed: what is wrong with it."""


# Processes.


def end_with_parent(number=signal.SIGTERM):
    """Has the system send this process a signal once its parent is gone."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(number))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds, pause=0.005):
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(pause)
    return held


class Process:
    """A server that is stopped, by its own id, when the block ends."""

    def __init__(self, name, command, folder, port=None, path=b"/"):
        self.name = name
        self.port = port
        self.folder = folder
        self.started = time.perf_counter()
        self.log = os.path.join(folder, "log")
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C reaches this script, which stops it.
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                start_new_session=True, preexec_fn=lambda: end_with_parent(signal.SIGKILL))
        self.path = path
        if not wait_for(self.is_settled, 15) or self.popen.poll() is not None:
            self.stop()
            raise Wrong(f"{name} does not start: {self.last_words()}")

    def is_settled(self):
        """Whether it answers, or has ended."""
        if self.popen.poll() is not None:
            return True
        if not self.port:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", self.words())
            self.port = int(found.group(1)) if found else None
        try:
            return bool(self.port) and ask(self.port, get_request(self.path))[0] > 0
        except OSError:
            return False

    def words(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def last_words(self):
        return (self.words().strip().splitlines() or ["no word"])[-1][:200]

    def pids(self):
        """It and its children, as nginx has them."""
        pid = self.popen.pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [pid, *map(int, file.read().split())]

    def resident(self):
        """Resident bytes now."""
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/status") as file:
                total += int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) * KIB
        return total

    def cpu_seconds(self):
        ticks = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS_PER_SECOND

    def stop(self, number=signal.SIGTERM):
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


# Requests, and clients that look at each answer.


def get_request(path):
    return b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path


def put_request(path, body, method=b"PUT"):
    head = b"%s %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n"
    return head % (method, path, len(body)) + body


def path_of(number):
    """The path of a key of 16 bytes."""
    return b"/kv/key:%012d" % number


def parsed(data):
    """The status and the body of a whole answer, else None."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    status = int(data[9:12])
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data[:end + 2])
    length = int(length.group(1)) if length and status != 204 else 0
    return (status, bytes(data[end + 4:])) if len(data) - end - 4 >= length else None


def ask(port, request):
    """The status and the body of the answer on a new connection."""
    with socket.create_connection(("127.0.0.1", port), 15) as client:
        client.sendall(request)
        data = bytearray()
        while not (answer := parsed(data)):
            piece = client.recv(MIB)
            if not piece:
                raise ConnectionError("closed before the answer's end")
            data += piece
        return answer


class Client:
    """One of many connections: its socket, what is left to send, what came."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 15)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.unsent = memoryview(b"")
        self.data = bytearray()

    def begin(self, request):
        self.unsent = memoryview(request)
        self.data = bytearray()

    def step(self):
        """Sends and takes what goes without waiting."""
        try:
            if self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent):]
        except BlockingIOError:
            pass
        try:
            piece = self.socket.recv(MIB)
            if not piece:
                raise ConnectionError("the server has closed a connection")
            self.data += piece
        except BlockingIOError:
            pass


def open_clients(port, count):
    clients = []
    try:
        for _ in range(count):
            clients.append(Client(port))
        return clients
    except OSError:
        close(clients)
        raise


def close(clients):
    for client in clients:
        client.socket.close()


def drive(clients, is_done, seconds):
    """Moves bytes on all connections until each is done, and returns those
    that are not in time."""
    poll, left = select.poll(), {}
    for client in clients:
        left[client.socket.fileno()] = client
        poll.register(client.socket, select.POLLIN | select.POLLOUT)
    end = time.monotonic() + seconds
    while left and time.monotonic() < end:
        for number, _ in poll.poll(100):
            client = left[number]
            client.step()
            if is_done(client):
                poll.unregister(number)
                del left[number]
            else:
                poll.modify(number, select.POLLIN | (select.POLLOUT if client.unsent else 0))
    return list(left.values())


def check_served(port, count, request, is_right):
    """Opens so many connections, and each has to get the right answer while
    all are open."""
    clients = open_clients(port, count)
    try:
        for client in clients:
            client.begin(request)
        starved = drive(clients, lambda client: parsed(client.data), 15)
        if starved:
            raise Wrong(f"{len(starved)} of {count} connections got no whole answer in 15 s")
        for client in clients:
            status, body = parsed(client.data)
            if not is_right(status, body):
                raise Wrong(f"a wrong answer: {status} {body[:60]!r}")
    finally:
        close(clients)


def send_all(port, requests, connections=16, depth=100):
    """Sends many requests down pipelines; each has to be answered 200."""
    clients = open_clients(port, connections)

    def begin_next(client):
        batch = list(itertools.islice(requests, depth))
        client.begin(b"".join(batch))
        client.expected, client.answered, client.looked = len(batch), 0, 0

    def is_done(client):
        """Whether there is nothing more to send, having counted what came."""
        # The end of what was looked at may be half of the next one's beginning.
        client.answered += client.data.count(b"HTTP/1.1 200 ", max(0, client.looked - 12))
        client.looked = len(client.data)
        if client.answered >= client.expected and not client.unsent:
            begin_next(client)
        return not client.expected

    try:
        for client in clients:
            begin_next(client)
        if drive(clients, is_done, 300):
            raise Wrong("not every entry could be stored")
    finally:
        close(clients)


# Loads.


class Load:
    """So many connections that ask a server the same things without a pause.

    `is_right` judges an answer to the first of the requests."""

    def __init__(self, server, requests, connections=CONNECTIONS, is_right=None, name=None):
        self.server = server
        self.name = name or server.name
        self.connections = connections
        self.first = requests[0]
        self.is_right = is_right or (lambda status, _: status in (200, 201, 204))
        self.file = tempfile.NamedTemporaryFile(dir=server.folder, suffix=".requests")
        for request in requests:
            self.file.write(b"%d\n%s" % (len(request), request))
        self.file.flush()

    def check(self):
        check_served(self.server.port, self.connections, self.first, self.is_right)

    def run(self, seconds):
        """Figures of one run in which each connection was served."""
        self.check()
        cpu = self.server.cpu_seconds()
        seen = self.wrk(seconds)
        cpu = self.server.cpu_seconds() - cpu
        self.check()
        if seen["refused"] or seen["socket_errors"]:
            raise Wrong(f"{self.name}: {seen['refused']} refused, "
                        f"{seen['socket_errors']} socket errors")
        if not seen["requests"]:
            raise Wrong(f"{self.name}: no request was answered")
        return {"rate": seen["requests"] / seen["us"] * 1e6, "p50": seen["p50"],
                "p99": seen["p99"], "cpu": cpu / seen["requests"] * 1e6}

    def wrk(self, seconds):
        threads = min(self.connections, max(1, CORES // 2))
        command = ["wrk", f"-t{threads}", f"-c{self.connections}", "-d600s", "--timeout", "10s",
                   "-s", os.path.join(HERE, "bench.lua"), f"http://127.0.0.1:{self.server.port}/"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent,
            env=dict(os.environ, BENCH_REQUESTS=self.file.name))
        try:
            # It takes whole seconds only; interrupted, it reports all the same.
            time.sleep(seconds)
            served = 0

            def all_served():
                nonlocal served
                served = connections_served(self.server.port)
                return served is None or served >= self.connections

            # On a busy machine a large transfer may take its time.
            wait_for(all_served, 5, 0.1)
            process.send_signal(signal.SIGINT)
            text = process.communicate(timeout=30)[0]
        finally:
            process.kill()
            process.wait()
        if served is not None and served < self.connections:
            raise Wrong(f"{self.name}: {served} of {self.connections} connections served")
        found = re.search(r"(?m)^\{.*\}$", text)
        if not found:
            raise Wrong(f"wrk says nothing of {self.name}")
        return json.loads(found.group())


def connections_served(port):
    """How many connections to this port have got at least a byte."""
    if not shutil.which("ss"):
        return None
    command = ["ss", "-HtinO", "state", "established", f"( dport = :{port} )"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    return sum("bytes_received:" in line for line in text.splitlines())


def gets(server, path, value, connections=CONNECTIONS, name=None):
    return Load(server, [get_request(path)], connections,
                lambda status, body: (status, body) == (200, value), name)


def puts(server, value=VALUE, connections=CONNECTIONS, name=None):
    requests = [put_request(path_of(number), value)
                for number in range(PUT_KEYS if len(value) < 10_000 else 8)]
    return Load(server, requests, connections, name=name)


def store_value(server, path, value):
    status, body = ask(server.port, put_request(path, value))
    if status not in (200, 201, 204):
        raise Wrong(f"{server.name} does not store {path!r}: {status} {body[:60]!r}")


# Lines of the table.


class Metric:
    def __init__(self, key, unit, better):
        self.key = key
        self.unit = unit
        self.better = better


RATE = Metric("rate", "requests/s", "more")
P50 = Metric("p50", "p50, us", "less")
P99 = Metric("p99", "p99, us", "less")
CPU = Metric("cpu", "CPU us/request", "less")
THROUGHPUT = Metric("throughput", "MiB/s", "more")
BYTES_EACH = Metric("each", "bytes each", "less")
MEBIBYTES = Metric("mib", "MiB", "less")
SECONDS = Metric("seconds", "s", "less")


class Line:
    """What was measured of the store, and of one that it stands beside."""

    def __init__(self, what, metric, ours, name=None, theirs=()):
        self.what = what
        self.metric = metric
        self.ours = ours
        self.name = name
        self.theirs = theirs

    def cells(self):
        there = [self.name, *spread(self.theirs)] if self.theirs else ["", "", ""]
        ratio = ""
        if self.theirs and statistics.median(self.theirs):
            ratio = f"{statistics.median(self.ours) / statistics.median(self.theirs):.2f}"
        return [self.what, self.metric.unit, self.metric.better, *spread(self.ours), *there, ratio]


def spread(values):
    """The median, and the least and the most."""
    return figure(statistics.median(values)), f"{figure(min(values))}-{figure(max(values))}"


def figure(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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

    def close(self):
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
                lines.append(Line(what, metric, values, name,
                                  [figures[metric.key] for figures in theirs]))
        return lines

    def load_race(self, what, metrics, loads):
        return self.race(what, metrics, [
            (load.name, lambda load=load: load.run(self.seconds)) for load in loads])

    # The servers.

    def store(self, *flags, name="memory engine"):
        return Process(name, [self.program, "--port", "0", *flags], self.folder(), None, b"/healthz")

    def durable_store(self, data, name="durable engine"):
        flags = [] if self.durable_engine == "memory" else ["--working-dir", data]
        return self.store(*flags, name=name)

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


NGINX = """
daemon off;
{user}
worker_processes auto;
worker_rlimit_nofile 20000;
pid {folder}/pid;
error_log {folder}/log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    open_file_cache max=10000 inactive=600s;
    client_max_body_size 64m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {folder}/root;
        location / {{ dav_methods PUT; }}
    }}
}}
"""


def start_nginx(bench, port):
    """Static files, and PUT of files, in memory where there is /dev/shm."""
    folder = bench.folder()
    os.makedirs(f"{folder}/root/kv")
    # Its workers have to write to our folder.
    user = "user root;" if os.getuid() == 0 else ""
    with open(f"{folder}/conf", "w") as file:
        file.write(NGINX.format(folder=folder, port=port, user=user))
    return Process("nginx", ["nginx", "-p", folder, "-c", f"{folder}/conf"], folder, port)


class Redis(Process):
    def is_settled(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as client:
                client.sendall(b"PING\r\n")
                return client.recv(100).startswith(b"+PONG")
        except OSError:
            return self.popen.poll() is not None


def start_redis(bench, port, durable=False):
    folder = bench.folder(durable)
    persistence = ["yes", "--appendfsync", "always"] if durable else ["no"]
    return Redis("Redis", [
        "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
        "--save", "", "--appendonly", *persistence], folder, port)


def start_webdis(bench, port, redis):
    folder = bench.folder()
    with open(f"{folder}/json", "w") as file:
        json.dump({"redis_host": "127.0.0.1", "redis_port": redis.port, "http_host": "127.0.0.1",
                   "http_port": port, "threads": CORES, "pool_size": 20, "daemonize": False,
                   "verbosity": 0, "logfile": f"{folder}/webdis.log"}, file)
    return Process("Redis behind Webdis", ["webdis", f"{folder}/json"], folder, port, b"/PING")


def start_etcd(bench, port):
    folder, peer = bench.folder(True), free_port()
    client, between = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return Process("etcd", [
        "etcd", "--name", "bench", "--data-dir", f"{folder}/data", "--log-level", "error",
        "--logger", "zap", "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", between, "--initial-advertise-peer-urls", between,
        "--initial-cluster", f"bench={between}"], folder, port, b"/health")


def start_go(bench, port):
    folder = bench.folder()
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench.go")
    built = subprocess.run(["go", "build", "-o", f"{folder}/store", source], text=True,
                           env={**os.environ, "GOCACHE": f"{folder}/cache", "GO111MODULE": "off"},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    if built.returncode != 0:
        raise Wrong(f"go build: {built.stdout}")
    return Process("Go net/http", [f"{folder}/store", str(port)], folder, port)


class Servers:
    """Servers that are stopped together when the block ends, last first."""

    def __init__(self, *servers):
        self.servers = list(servers)

    def add(self, servers):
        self.servers += servers
        return servers

    def __iter__(self):
        return iter(self.servers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in reversed(self.servers):
            server.stop()


def store_and_nginx(bench):
    servers = Servers(bench.store())
    try:
        servers.add(bench.nginx())
    except BaseException:
        servers.__exit__()
        raise
    return servers


# The rows of the engine in memory. Each returns lines.


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


def check_stored(server, keys):
    """Looks at a few of the keys that were written."""
    for number in range(0, keys, max(1, keys // 100)):
        if ask(server.port, get_request(path_of(number))) != (200, VALUE):
            raise Wrong(f"{server.name} has lost key {number}")


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
        requests = [put_request(path_of(number), VALUE) if turn % 10 == 0
                    else get_request(path_of(number))
                    for turn, number in enumerate(zipfian(count, bench.pick(10_000, 200_000)))]
        loads = [Load(store, requests), gets(store, path_of(0), VALUE, name="its GET of one key")]
        what = f"90 GET to 10 PUT, {count:,} keys, zipfian, 64 connections"
        return bench.load_race(what, [RATE, P99], loads)


def zipfian(count, samples):
    """Keys of which a few are asked for often, the same in each run."""
    weights = list(itertools.accumulate((rank + 1) ** -ZIPF_EXPONENT for rank in range(count)))
    chance = random.Random(1)
    return [bisect.bisect(weights, chance.random() * weights[-1]) for _ in range(samples)]


def load_keys(server, count, connections=16, depth=100):
    send_all(server.port, (put_request(path_of(number), VALUE) for number in range(count)),
             connections, depth)


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
            return {"each": (server.resident() - before) / count}
        finally:
            close(clients)


def entries(bench):
    """memory for an entry of 16 + 100 bytes"""
    count = bench.pick(20_000, 1_000_000)
    contenders = [("memory engine", lambda: entry_bytes(bench.store(), load_keys, count))]
    if shutil.which("redis-server") and shutil.which("redis-cli"):
        contenders.append(("Redis", lambda: entry_bytes(*bench.peer("redis-server", start_redis), pipe_keys, count)))
    what = f"resident memory for each of {count:,} entries of 16 + 100 bytes"
    return bench.race(what, [BYTES_EACH], contenders, rounds=1)


def entry_bytes(server, load, count):
    with server:
        before = server.resident()
        load(server, count)
        return {"each": (server.resident() - before) / count}


def pipe_keys(redis, count):
    command = ["redis-cli", "-p", str(redis.port), "--pipe"]
    set_entry = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%s\r\n"
    pieces = [set_entry % (number, len(VALUE), VALUE) for number in range(count)]
    done = subprocess.run(command, input=b"".join(pieces), capture_output=True, timeout=120)
    if b"errors: 0, replies: %d" % count not in done.stdout:
        raise Wrong(f"redis-cli --pipe: {done.stdout[-100:]!r}")


# The rows of the durable engine.


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
    requests = [put_request(b"/SET/" + path_of(number)[4:], VALUE) for number in range(PUT_KEYS)]
    return Load(webdis, requests,
                is_right=lambda status, body: (status, body) == (200, b'{"SET":[true,"OK"]}'))


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
    return sum(os.lstat(os.path.join(root, name)).st_blocks * 512
               for root, _, names in os.walk(folder) for name in names)


class Row:
    def __init__(self, run, tool="wrk", durable=False):
        self.run = run
        self.name = run.__name__.replace("_", "-")
        # Without it there is nothing to measure.
        self.tool = tool
        self.durable = durable


ROWS = [
    Row(get),
    Row(put),
    Row(one),
    Row(many),
    Row(new, tool="ab"),
    Row(sizes),
    Row(put_large),
    Row(mixed),
    Row(idle, tool=None),
    Row(entries, tool=None),
    Row(durable_put, durable=True),
    Row(durable_get, durable=True),
    Row(durable_peers, durable=True),
    Row(durable_one, durable=True),
    Row(durable_restart, tool=None, durable=True),
]

HEADINGS = ["what", "unit", "better", "store", "min-max", "beside", "its", "min-max", "ratio"]
WIDTHS = "{:<62} {:<14} {:<6} {:>9} {:>17}  {:<20} {:>9} {:>17} {:>6}"


def show(cells):
    print(WIDTHS.format(*cells).rstrip(), flush=True)


def write_markdown(path, bench, lines, wrong):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w") as file:
        file.write(f"{CORES} cores, {platform.system()} {platform.release()}, {bench.rounds} rounds"
                   f" of {bench.seconds:g} s. The ratio is that of the medians.\n\n")
        for cells in (HEADINGS, ["---"] * 3 + ["--:"] * 2 + ["---"] + ["--:"] * 3,
                      *(line.cells() for line in lines)):
            file.write("| " + " | ".join(cells) + " |\n")
        for text in wrong:
            file.write(f"\nFAILED {text}\n")


def chosen_rows(names):
    known = {row.name: row for row in ROWS}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such row: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else ROWS


def parsed_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--short", action="store_true", help="see that it works")
    parser.add_argument("--bin", default="")
    parser.add_argument("--output", default="bench.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=3)
    parser.add_argument("--disk", default=tempfile.gettempdir())
    parser.add_argument("--durable", choices=["disk", "memory"], default="disk")
    parser.add_argument("--count")
    parser.add_argument("row", nargs="*", help="the rows to run, all if none is named")
    return parser.parse_args()


def measure(bench, rows):
    """Runs the rows, shows their lines, and returns these, how many rows were
    measured, and what went wrong."""
    lines, passed, wrong = [], 0, []
    missing_engine = bench.no_durable_engine() if any(row.durable for row in rows) else None
    show(HEADINGS)
    for row in rows:
        if row.tool and not shutil.which(row.tool):
            continue
        if row.durable and missing_engine:
            continue
        try:
            found = row.run(bench)
        except (Wrong, OSError, subprocess.SubprocessError) as err:
            wrong.append(f"{row.name}: {err}")
            print(f"FAILED {wrong[-1]}", flush=True)
            continue
        passed += 1
        lines += found
        for line in found:
            show(line.cells())
    if missing_engine:
        print(missing_engine)
    return lines, passed, wrong


def main():
    end_with_parent()
    # Each way to be stopped leaves through the blocks that hold servers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    options = parsed_arguments()
    rows = chosen_rows(options.row)
    if options.list:
        for row in rows:
            print(f"{row.name:<16} {row.run.__doc__}")
        return
    # Thousands of sockets of our own.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    bench = Bench(options)
    try:
        lines, passed, wrong = measure(bench, rows)
        write_markdown(options.output, bench, lines, wrong)
        if options.count:
            with open(options.count, "w") as file:
                file.write(f"{passed} {len(wrong)}\n")
    finally:
        bench.close()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
