"""Servers that are measured: how each is started, looked at and stopped."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time

from lib import Wrong, end_with_parent, wait_for

from .requests import KIB, VALUE, ask, get_request, key_of, received

HERE = os.path.dirname(os.path.abspath(__file__))
CORES = len(os.sched_getaffinity(0))
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pids):
    """What these processes have used of the processors until now."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


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
        if not wait_for(self.is_settled, 15, 0.005) or self.popen.poll() is not None:
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
        return cpu_seconds(self.pids())

    def sockets(self):
        """The inodes of those that it has open."""
        folder, found = f"/proc/{self.popen.pid}/fd", set()
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                target = os.readlink(os.path.join(folder, name))
                if target.startswith("socket:["):
                    found.add(target[8:-1])
        return found

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

    def fill(self, count):
        """Stores as many entries as load_keys does, under the same keys."""
        self.change((key_of(number), VALUE) for number in range(count))

    def info(self):
        """What it tells of itself, as texts by their names."""
        with socket.create_connection(("127.0.0.1", self.port), 15) as client:
            client.sendall(b"INFO\r\n")
            data = b""
            while not (head := re.match(rb"\$(\d+)\r\n", data)) or (
                    len(data) < head.end() + int(head.group(1)) + 2):
                data += received(client)
        return dict(re.findall(r"(?m)^(\w+):(.*)\r$", data.decode()))

    def change(self, changes):
        """Does as change_keys does."""
        put, delete = (b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n",
                       b"*2\r\n$3\r\nDEL\r\n$%d\r\n%s\r\n")
        with socket.create_connection(("127.0.0.1", self.port), 15) as client:
            while some := list(itertools.islice(changes, 1000)):
                client.sendall(b"".join(
                    delete % (len(key), key) if value is None
                    else put % (len(key), key, len(value), value) for key, value in some))
                expected = b"".join(b":1\r\n" if value is None else b"+OK\r\n" for _, value in some)
                data = b""
                while len(data) < len(expected):
                    data += received(client)
                if data != expected:
                    raise Wrong(f"Redis does not store: {data[:60]!r}")


def start_redis(bench, port, durable=False, name="Redis", flags=()):
    folder = bench.folder(durable)
    persistence = ["yes", "--appendfsync", "always"] if durable else ["no"]
    return Redis(name, [
        "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
        "--save", "", "--appendonly", *persistence, *flags], folder, port)


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
    source = os.path.join(HERE, "store.go")
    built = subprocess.run(["go", "build", "-o", f"{folder}/store", source], text=True,
                           env={**os.environ, "GOCACHE": f"{folder}/cache", "GO111MODULE": "off"},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    if built.returncode != 0:
        raise Wrong(f"go build: {built.stdout}")
    return Process("Go net/http", [f"{folder}/store", str(port)], folder, port)
