"""The server under attack, as its clients and /proc see it, and the requests
that every case makes."""

import os
import re
import socket

from lib import answer

BIG_BYTES = 9_000_000
# An answer that takes so many seconds is none.
PATIENCE = 30
HOST = b"Host: hostile\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
GET_BIG = b"GET /kv/hostile:big HTTP/1.1\r\n" + HOST + b"\r\n"
DELETE_VICTIM = b"DELETE /kv/hostile:victim HTTP/1.1\r\n" + HOST + b"\r\n"


class Server:
    """The server under attack, as its clients and /proc see it."""

    def __init__(self, url, pid):
        host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
        self.url = url.rstrip("/")
        self.addr = (host.strip("[]"), int(port))
        self.pid = pid

    def connect(self, timeout=PATIENCE, receive_bytes=None, segment_bytes=None):
        family = socket.AF_INET6 if ":" in self.addr[0] else socket.AF_INET
        client = socket.socket(family)
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if segment_bytes:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment_bytes)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(timeout)
        client.connect(self.addr)
        return client

    def ask(self, request, timeout=PATIENCE):
        """The status and the body of the answer on a new connection."""
        with self.connect(timeout) as client:
            client.sendall(request)
            return answer(client)

    def store(self, key, value):
        head = b"PUT /kv/%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (key, HOST, len(value))
        return self.ask(head + value)[0]

    def load(self, key):
        return self.ask(b"GET /kv/%s HTTP/1.1\r\n%s\r\n" % (key, HOST))

    def set_up(self):
        """Stores what the cases attack and ask for."""
        self.store(b"hostile:victim", b"unharmed")
        self.store(b"hostile:big", b"b" * BIG_BYTES)

    def clean_up(self):
        """Deletes what was stored, unless the server is down."""
        for key in (b"victim", b"big", b"medium"):
            try:
                self.ask(b"DELETE /kv/hostile:%s HTTP/1.1\r\n%s\r\n" % (key, HOST))
            except OSError:
                break

    def status(self, field):
        text = open(f"/proc/{self.pid}/status").read()
        return int(re.search(rf"{field}:\s+(\d+)", text).group(1))

    def threads(self):
        return self.status("Threads")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """Resident MiB now."""
        return self.status("VmRSS") / 1024

    def memory_peak(self):
        """The most resident MiB since forget_peak()."""
        return self.status("VmHWM") / 1024

    def forget_peak(self):
        try:
            with open(f"/proc/{self.pid}/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            pass  # The peak is then that of the whole run: stricter, not laxer.
