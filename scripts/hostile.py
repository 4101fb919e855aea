#!/usr/bin/env python3
"""Hostile clients against a running server, and an honest one beside them.

It is run by hostile.sh, which starts a server; python3 is all it needs:

    hostile.py --url URL [--pid PID] [--short] [--tool ab] [--count FILE]

One function is one case. While it runs, an honest client in a process of its
own makes small requests, on kept and on new connections, and measures each.
With --pid the server's memory, threads and descriptors are read from /proc.
"""

import argparse
import json
import os
import re
import resource
import select
import shutil
import socket
import subprocess
import sys
import threading
import time

MIB = 1 << 20
BIG_BYTES = 9_000_000
# What 99 of 100 honest requests keep to; and on a machine that does much else.
P99_MAX_MS = 50
P99_MAX_MS_NOISY = 250
HOST = b"Host: hostile\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
GET_BIG = b"GET /kv/hostile:big HTTP/1.1\r\n" + HOST + b"\r\n"
DELETE_VICTIM = b"DELETE /kv/hostile:victim HTTP/1.1\r\n" + HOST + b"\r\n"
CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR if hasattr(select, "POLLRDHUP") else 0


class Server:
    """The server under attack, as its clients and /proc see it."""

    def __init__(self, url, pid):
        host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
        self.url = url.rstrip("/")
        self.addr = (host.strip("[]"), int(port))
        self.pid = pid

    def connect(self, timeout=10.0, receive_bytes=None, segment_bytes=None):
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

    def ask(self, request, timeout=10.0):
        """The status and the body of the answer on a new connection."""
        with self.connect(timeout) as client:
            client.sendall(request)
            return answer(client)

    def store(self, key, value):
        head = b"PUT /kv/%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (key, HOST, len(value))
        return self.ask(head + value)[0]

    def load(self, key):
        return self.ask(b"GET /kv/%s HTTP/1.1\r\n%s\r\n" % (key, HOST))

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


def answer(client):
    """Reads one answer, its status and its body, or raises ConnectionError."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(client)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    length = int(length.group(1)) if length else 0
    pieces, have = [body], len(body)
    while have < length:
        pieces.append(received(client))
        have += len(pieces[-1])
    return int(head[9:12]), b"".join(pieces)


def received(client):
    data = client.recv(1 << 16)
    if not data:
        raise ConnectionError("closed before the answer's end")
    return data


def everything(client, until=None):
    """What comes until the connection's end, and whether that came."""
    pieces = []
    try:
        while data := client.recv(1 << 16):
            pieces.append(data)
            if until and until(pieces):
                break
        return b"".join(pieces), True
    except TimeoutError:
        return b"".join(pieces), False
    except OSError:
        return b"".join(pieces), True


def statuses(data):
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", data)]


def push(client, data):
    """Sends to a server that may have closed the connection."""
    try:
        client.sendall(data)
        return True
    except OSError:
        return False


def wait_for(condition, seconds, pause=0.05):
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(pause)
    return held


# The honest client.


def be_honest(server):
    """Makes small requests until its standard input ends, and prints what
    each took in ms and what went wrong."""
    times, faults, turn = {"kept": [], "new": []}, [], 0
    kept = None
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.003)[0]:
        turn += 1
        kind = "new" if turn % 2 else "kept"
        value = b"%d" % turn
        client = None
        start = time.perf_counter()
        try:
            if kind == "new":
                status, body = server.ask(HEALTH, 5)
                fine = (status, body) == (200, b"ok\n")
            else:
                client, kept = kept or server.connect(5), None
                client.sendall(b"PUT /kv/honest HTTP/1.1\r\n" + HOST)
                client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(value), value))
                status, _ = answer(client)
                client.sendall(b"GET /kv/honest HTTP/1.1\r\n" + HOST + b"\r\n")
                status, body = answer(client)
                fine = (status, body) == (200, value)
                kept = client
            if not fine:
                faults.append(f"{kind}: {status} {body[:40]!r}")
        except OSError as err:
            faults.append(f"{kind}: {err!r}")
        times[kind].append((time.perf_counter() - start) * 1000)
    json.dump({"times": times, "faults": faults}, sys.stdout)


class Honest:
    """The honest client's process."""

    def __init__(self, server):
        command = [sys.executable, "-B", os.path.abspath(__file__), "--honest", "--url", server.url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def end(self):
        """Its times in ms, in order, and its faults."""
        seen = json.loads(self.process.communicate(b"\n", timeout=30)[0])
        return sorted(seen["times"]["kept"] + seen["times"]["new"]), seen["faults"]


def percentile(times, percent):
    return times[min(len(times) - 1, len(times) * percent // 100)] if times else float("inf")


# The cases. Each returns what went wrong, nothing if all went well; a tuple
# of that and a remark that stands in the table.


class Plan:
    """What a case needs to know: the server, and how long things may take."""

    def __init__(self, server, options):
        self.server = server
        self.short = options.short
        # With few descriptors the honest client may be turned away as well;
        # once the others are gone it may not.
        self.few = options.few
        self.request_timeout = options.request_timeout
        self.idle_timeout = options.idle_timeout

    def pick(self, short, long):
        return short if self.short else long

    def expect_cut(self, clients, within, what):
        """The server closes all of these in time, who have nothing to read."""
        start = time.monotonic()
        poll, left = select.poll(), {client.fileno(): client for client in clients}
        for number in left:
            poll.register(number, select.POLLIN | CLOSED)
        while left and (rest := within - (time.monotonic() - start)) > 0:
            for number, _ in poll.poll(rest * 1000):
                left[number].settimeout(1)
                try:
                    if left[number].recv(1 << 16):
                        continue
                except OSError:
                    pass
                poll.unregister(number)
                del left[number]
        took = time.monotonic() - start
        if left:
            return [f"{len(left)} of {len(clients)} {what} not cut within {within:.1f} s"]
        return [], f"cut after {took:.1f} s"

    def expect_freed(self, before, within, what):
        """The server has given up its side of the connections in time."""
        if not self.server.pid:
            return []
        start = time.monotonic()
        # It has to see them first.
        wait_for(lambda: self.descriptors() > before + 8, 0.3, 0.01)
        if wait_for(lambda: self.server.descriptors() <= before + 8, within):
            return [], f"cut after {time.monotonic() - start:.1f} s"
        held = self.server.descriptors() - before
        return [f"{what}: {held} descriptors more than before after {within:.1f} s"]

    def descriptors(self):
        return self.server.descriptors() if self.server.pid else 0

    def cut_by(self):
        """By when one who is too slow has to be cut: two windows of a
        timeout, and a second for a machine that does much else."""
        return 2 * self.request_timeout + 1


def bursts(plan):
    """4 to 1,000 connections at once"""
    wrong, remarks = [], []
    for clients in (4, 8, 64, 256, 1000):
        # The second follows on the end of the first's connections.
        for turn in range(2):
            answered, slowest = burst(plan.server, clients)
            if answered != clients:
                wrong.append(f"{clients} at once: {answered} answered within 5 s")
            elif slowest > 1500:
                wrong.append(f"{clients} at once: the slowest after {slowest:.0f} ms")
        remarks.append(f"{clients}: {slowest:.0f}")
    return wrong, "slowest ms " + ", ".join(remarks)


def burst(server, count):
    """How many of so many are answered, all staying open, and the slowest."""
    clients, poll, answered = {}, select.poll(), set()
    start = time.perf_counter()
    slowest = 0
    try:
        for _ in range(count):
            client = socket.socket(socket.AF_INET6 if ":" in server.addr[0] else socket.AF_INET)
            client.setblocking(False)
            client.connect_ex(server.addr)
            clients[client.fileno()] = client
            poll.register(client, select.POLLOUT)
        while len(answered) < count and time.perf_counter() - start < 5:
            for number, event in poll.poll(200):
                try:
                    if event & select.POLLOUT:
                        clients[number].send(HEALTH)
                        poll.modify(number, select.POLLIN)
                    elif b" 200 " in clients[number].recv(4096):
                        answered.add(number)
                        slowest = (time.perf_counter() - start) * 1000
                        poll.unregister(number)
                    else:
                        poll.unregister(number)
                except OSError:
                    poll.unregister(number)
    finally:
        for client in clients.values():
            client.close()
    return len(answered), slowest


def slow_bodies(plan):
    """200 uploads: half stop, half drip a byte"""
    clients = []
    for number in range(200):
        client = plan.server.connect()
        head = b"PUT /kv/hostile:slow%d HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n"
        client.sendall(head % (number, HOST, 500 if number % 4 < 2 else 50_000) + b"x" * 100)
        clients.append(client)
    stop = threading.Event()

    def drip():
        dripping = clients[::2]
        while not stop.wait(0.2):
            dripping = [client for client in dripping if push(client, b"x")]

    dripper = threading.Thread(target=drip)
    dripper.start()
    try:
        result = plan.expect_cut(clients, plan.cut_by(), "uploads")
    finally:
        stop.set()
        dripper.join()
    wrong = result if isinstance(result, list) else result[0]
    for number in (0, 1, 2, 3, 199):
        if plan.server.load(b"hostile:slow%d" % number)[0] != 404:
            wrong.append(f"upload {number} is stored")
    return result


def slow_readers(plan):
    """200 ask for 9 MB and read nothing"""
    before = plan.descriptors()
    clients = []
    for _ in range(200):
        client = plan.server.connect(receive_bytes=4096)
        client.sendall(GET_BIG)
        clients.append(client)
    return plan.expect_freed(before, plan.cut_by() + 1, "slow readers")


def half_heads(plan):
    """300 heads without an end"""
    clients = []
    for number in range(300):
        client = plan.server.connect()
        if number % 3 == 0:
            # Behind a whole request, which is answered.
            client.sendall(HEALTH)
            answer(client)
        client.sendall(b"GET /kv/a HTTP/1.1\r\n" + HOST + b"X: " + b"y" * (number % 3 * 100))
        clients.append(client)
    return plan.expect_cut(clients, plan.cut_by(), "heads")


def silent(plan):
    """300 say nothing, 100 after an answer"""
    clients = [plan.server.connect() for _ in range(300)]
    for client in clients[::3]:
        client.sendall(HEALTH)
        answer(client)
    return plan.expect_cut(clients, plan.idle_timeout + 2, "connections")


def unread_pipelines(plan):
    """32 pipelines of 1,000, nothing is read"""
    before = plan.descriptors()
    clients = []
    for number in range(32):
        client = plan.server.connect(receive_bytes=4096)
        client.setblocking(False)
        # The large answer blocks; the others wait behind it or fill up what is left.
        push(client, (GET_BIG if number % 2 else b"") + HEALTH * 1000)
        clients.append(client)
    return plan.expect_freed(before, plan.cut_by() + plan.idle_timeout, "unread pipelines")


def pipeline_overrun(plan):
    """1,002 to 20,000 requests in one piece"""
    wrong, remarks = [], []
    for count in (1002, 1100, 3000, 20000):
        for _ in range(plan.pick(3, 8)):
            with plan.server.connect(timeout=8) as client:
                sender = threading.Thread(target=push, args=(client, HEALTH * count))
                sender.start()

                def all_there(pieces):
                    return len(pieces) % 8 == 0 and len(statuses(b"".join(pieces))) >= count

                client.settimeout(1.5)
                data, ended = everything(client, until=all_there)
                sender.join(10)
                codes = statuses(data)
                if len(codes) < count and not ended:
                    wrong.append(f"{count}: {len(codes)} answered, the rest waits, not cut")
                if set(codes) - {200, 431, 503}:
                    wrong.append(f"{count}: answered {sorted(set(codes))}")
        remarks.append(f"{count}: {len(codes)}")
    return wrong, "answered of " + ", ".join(remarks)


def flood(plan, start, piece, seconds, again=False):
    """4 flooders who send as fast as they can until they are cut, or for as
    long as it lasts, on one connection after the other."""
    sent = [0] * 4
    lasted = [0.0] * 4

    def run(index):
        begin = time.monotonic()
        end = begin + seconds
        while time.monotonic() < end:
            try:
                with plan.server.connect(timeout=5) as client:
                    client.sendall(start)
                    while time.monotonic() < end:
                        client.sendall(piece)
                        sent[index] += len(piece)
            except OSError:
                if not again:
                    break
                time.sleep(0.01)
        lasted[index] = time.monotonic() - begin

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [] if again or max(lasted) < seconds else ["a flood was not cut"]
    return wrong, f"{sum(sent) / MIB:.0f} MiB sent in {max(lasted):.2f} s"


def deep_pipelines(plan):
    """none: 1,000 requests of 250 bytes, read"""
    wrong = []
    request = HEALTH[:-2] + b"X: " + b"y" * (250 - len(HEALTH) - 5) + b"\r\n\r\n"
    for _ in range(plan.pick(4, 40)):
        with plan.server.connect(timeout=5) as client:
            sender = threading.Thread(target=push, args=(client, request * 1000))
            sender.start()
            found = [0]

            def all_there(pieces):
                found[0] += pieces[-1].count(b"HTTP/1.1 ")
                return found[0] >= 1000

            codes = statuses(everything(client, until=all_there)[0])
            sender.join(10)
        if codes != [200] * 1000:
            others = [code for code in codes if code != 200]
            wrong.append(f"{codes.count(200)} of 1,000 answered with 200, others: {others[:5]}")
    return wrong


def header_lines(plan):
    """4 flood with `a:` lines"""
    return flood(plan, b"GET /kv/a HTTP/1.1\r\n" + HOST, b"a:\r\n" * 4096, plan.pick(1.5, 5))


def header_line(plan):
    """4 flood with one endless line"""
    return flood(plan, b"GET /kv/a HTTP/1.1\r\n" + HOST + b"X: ", b"y" * 65536, plan.pick(1.5, 5))


def chunk_size(plan):
    """4 flood with an endless chunk-size line"""
    head = b"PUT /kv/hostile:chunk HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    return flood(plan, head + b"5;x=", b"y" * 65536, plan.pick(1.5, 5))


def floods_again(plan):
    """4 flood with `a:` lines, again and again"""
    head = b"GET /kv/a HTTP/1.1\r\n" + HOST
    return flood(plan, head, b"a:\r\n" * 4096, plan.pick(1.5, 5), again=True)


def huge_lengths(plan):
    """Content-Length from 10^10 to 10^30"""
    wrong = []
    lengths = [10**10, 10**12, 2 * 10**14, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**65, 10**30]
    for method in (b"PUT", b"GET", b"DELETE"):
        for length in lengths:
            with plan.server.connect(timeout=5) as client:
                client.sendall(method + b" /kv/hostile:huge HTTP/1.1\r\n" + HOST)
                push(client, b"Content-Length: %d\r\n\r\nx" % length + DELETE_VICTIM)
                data, ended = everything(client)
            if statuses(data) not in ([413], [400]) or not ended:
                wrong.append(f"{method.decode()} {length}: {statuses(data)} {data[:60]!r} {ended}")
    return wrong + harmed(plan, "huge lengths")


def harmed(plan, after):
    status, body = plan.server.load(b"hostile:victim")
    if (status, body) == (200, b"unharmed"):
        return []
    plan.server.store(b"hostile:victim", b"unharmed")
    return [f"the victim is gone after {after}: {status} {body[:40]!r}"]


def framings():
    """Heads that leave a doubt: their name, the head, the answers that do."""
    put = b"PUT /kv/hostile:framed HTTP/1.1\r\n"

    def fields(*lines, start=put, host=HOST):
        return start + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"

    length, coding = b"Content-Length: ", b"Transfer-Encoding: "
    for value in (b"+5", b"-5", b"5, 5", b"5,5", b"0x5", b"", b"5 5", b"5;", b"five", b"5.0"):
        yield length + value, fields(length + value), {400}
    yield b"two lengths", fields(length + b"5", length + b"5"), {400}
    yield b"two other lengths", fields(length + b"5", length + b"6"), {400}
    yield b"a bad length, a good one", fields(length + b"x", length + b"5"), {400}
    yield b"length and coding", fields(length + b"5", coding + b"chunked"), {400}
    yield b"coding and length", fields(coding + b"chunked", length + b"5"), {400}
    for value in (b"gzip, chunked", b"identity", b"xchunked", b"chunked, chunked", b"chunked;a=b", b""):
        yield coding + value, fields(coding + value), {400, 501}
    yield b"two codings", fields(coding + b"chunked", coding + b"chunked"), {400, 501}
    yield b"chunked on 1.0", fields(coding + b"chunked", start=put.replace(b"1.1", b"1.0")), {400}
    yield b"chunked and upgrade", fields(coding + b"chunked", b"Connection: upgrade"), {400}
    yield b"a folded coding", fields(b"X: a", b" " + coding + b"gzip"), {400, 501}
    yield b"no host", fields(host=b""), {400}
    yield b"two hosts", fields(b"Host: b"), {400}
    yield b"NUL in a value", fields(b"X: a\0b"), {400}
    yield b"LF in a value", fields(b"X: a\n" + length + b"5"), {400}
    yield b"CR in a value", fields(b"X: a\rb"), {400}
    yield b"NUL in the target", fields(start=b"PUT /kv/a\0 HTTP/1.1\r\n"), {400}
    yield b"TAB in the target", fields(start=b"PUT /kv/a\tb HTTP/1.1\r\n"), {400}
    yield b"a name that is no token", fields(b"X[]: a"), {400}
    yield b"an empty name", fields(b": a"), {400}
    yield b"101 fields", fields(*[b"X: a"] * 100), {431}
    yield b"a target over 8 KiB", fields(start=b"PUT /" + b"a" * 8192 + b" HTTP/1.1\r\n"), {414}
    yield b"a head over 64 KiB", fields(b"X: " + b"a" * 70_000), {431}
    yield b"HTTP/0.9", fields(start=put.replace(b"1.1", b"0.9")), {400, 505}


def smuggling(plan):
    """doubtful framing, then DELETE of a victim"""
    wrong, heads = [], list(framings())
    for turn in range(plan.pick(1, 5)):
        for name, head, allowed in heads:
            with plan.server.connect(timeout=plan.request_timeout + 3) as client:
                push(client, head + b"hello" * (turn % 2) + DELETE_VICTIM * (1 + turn * 10))
                data, ended = everything(client)
            name = name.decode()
            codes = statuses(data)
            if len(codes) != 1 or codes[0] not in allowed:
                wrong.append(f"{name}: {codes} {data[:60]!r}, not one of {sorted(allowed)}")
            if not ended:
                wrong.append(f"{name}: the connection stays open")
            wrong += harmed(plan, name)
    return wrong, f"{len(heads)} heads"


def truncated_uploads(plan):
    """uploads that end early, in three ways"""
    wrong = []
    put = b"PUT /kv/hostile:victim HTTP/1.1\r\n" + HOST
    by_length, chunked = b"Content-Length: %d\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
    uploads = [put + by_length % announced + b"x" * sent
               for announced, sent in ((10, 3), (5000, 3000), (1025, 1024), (500_000, 300_000))]
    uploads += [put + chunked + body for body in (
        b"", b"5", b"5\r\n", b"5\r\nva", b"5\r\nvalue", b"5\r\nvalue\r", b"5\r\nvalue\r\n",
        b"5\r\nvalue\r\n0", b"5\r\nvalue\r\n0\r\n", b"ffff\r\n" + b"x" * 60_000,
        b"zz\r\nvalue\r\n0\r\n\r\n", b"-5\r\nvalue\r\n0\r\n\r\n", b"2\r\nvalue\r\n0\r\n\r\n")]
    for turn in range(plan.pick(2, 20)):
        for upload in uploads:
            for ending in ("half-close", "close", "reset"):
                with plan.server.connect(timeout=plan.request_timeout + 3) as client:
                    push(client, upload)
                    if turn % 2:
                        time.sleep(0.002)
                    if ending == "half-close":
                        try:
                            client.shutdown(socket.SHUT_WR)
                        except OSError:
                            pass  # A bad chunk is refused before its end.
                        if 200 in statuses(everything(client)[0]):
                            wrong.append(f"{upload[60:120]!r}, {ending}: answered 200")
                    elif ending == "reset":
                        linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                wrong += harmed(plan, f"{upload[60:120]!r}, {ending}")
    return wrong, f"{len(uploads)} uploads"


def small_windows(plan):
    """100 unread answers of 64 KB, MSS 1,460"""
    before = plan.descriptors()
    plan.server.store(b"hostile:medium", b"m" * 65_000)
    clients = []
    for _ in range(100):
        client = plan.server.connect(receive_bytes=2048, segment_bytes=1460)
        client.sendall(b"GET /kv/hostile:medium HTTP/1.1\r\n" + HOST + b"\r\n")
        clients.append(client)
    return plan.expect_freed(before, plan.cut_by() + plan.idle_timeout, "unread answers")


def expect_pipelines(plan):
    """32 unread pipelines of Expect: 100-continue"""
    before = plan.descriptors()
    clients = []
    small = b"GET /kv/a HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n"
    upload = b"PUT /kv/hostile:expect HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n"
    for number in range(32):
        client = plan.server.connect(receive_bytes=4096)
        client.setblocking(False)
        push(client, GET_BIG + (small * 990 if number % 2 else upload + b"Expect: 100-continue\r\n\r\n"))
        clients.append(client)
    return plan.expect_freed(before, 2 * plan.cut_by() + plan.idle_timeout, "pipelines")


def http2_prefaces(plan):
    """1,200 HTTP/2 prefaces, which stay"""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + bytes(5)
    return crowd(plan, 1200, preface, {505})


def no_requests(plan):
    """1,200 that begin no request"""
    return crowd(plan, 1200, (b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", b"GET / HTTP/1.1\n" + HOST[:-2] + b"\n\n",
                              b"\xc3\xb6 / HTTP/1.1\r\n", b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n"), {400})


def beyond_ascii(plan):
    """1,200 with a byte beyond ASCII in a field"""
    request = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Remote-Name: J%srg\r\n\r\n"
    return crowd(plan, 1200, (request % b"\xc3\xb6", request % b"\xf6"), {200})


def crowd(plan, count, requests, allowed):
    """So many connections, each of which says one of these and stays; all
    hear one of those statuses, or that there are too many."""
    if isinstance(requests, bytes):
        requests = (requests,)
    wrong, clients, told = [], [], {}
    for number in range(count):
        client = plan.server.connect()
        push(client, requests[number % len(requests)])
        clients.append(client)
    for client in clients:
        try:
            code = answer(client)[0]
        except OSError:
            code = 0
        told[code] = told.get(code, 0) + 1
        client.close()
    if set(told) - allowed - {0, 503} or not told.keys() & allowed:
        wrong.append(f"answered {told}, not {sorted(allowed)}")
    return wrong, f"answered {told}"


def resets(plan):
    """connections that are reset at once"""
    seconds, count = plan.pick(2, 10), 0
    request, linger = HEALTH, (1).to_bytes(4, sys.byteorder) + bytes(4)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client = plan.server.connect()
        if count % 2:
            push(client, request)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
        count += 1
    return [], f"{count / seconds:.0f} a second"


def refused_upload(plan):
    """8 refused uploads that go on for seconds"""
    wrong, seconds = [], 3
    clients = []
    for _ in range(8):
        client = plan.server.connect(timeout=plan.request_timeout + 3)
        client.sendall(b"PUT /nowhere HTTP/1.1\r\n%sContent-Length: 100000000\r\n\r\n" % HOST)
        clients.append(client)
    end = time.monotonic() + min(seconds, plan.request_timeout - 0.5)
    while time.monotonic() < end:
        for client in clients:
            push(client, b"x" * 10_000)
        time.sleep(0.05)
    for client in clients:
        codes = statuses(everything(client)[0])
        if codes != [404]:
            wrong.append(f"heard {codes}, not 404")
        client.close()
    return wrong


def reused_ports(plan):
    """resets after attacks; others get the ports"""
    wrong = []
    put = b"PUT /kv/hostile:port HTTP/1.1\r\n" + HOST
    attacks = [put + b"Content-Length: %d\r\n\r\nx" % (2**63 - 1),
               put + b"Transfer-Encoding: chunked\r\n\r\n2\r\nvalue\r\n0\r\n\r\n"] * 5
    for attack in attacks:
        with plan.server.connect(timeout=3) as client:
            own = client.getsockname()
            push(client, attack)
            everything(client)
            linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with socket.socket(client.family) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.settimeout(3)
            try:
                client.bind(own)
                client.connect(plan.server.addr)
            except OSError:
                continue  # Somebody else was faster.
            try:
                client.sendall(HEALTH)
                status, _ = answer(client)
            except OSError as err:
                status = repr(err)
            if status != 200:
                wrong.append(f"{status} for an honest client on the port of {attack[47:90]!r}")
    return wrong


# Tools that others wrote.


def slowhttptest(plan, *mode):
    seconds = plan.pick(4, 15)
    command = ["slowhttptest", *mode, "-c", "200", "-r", "200", "-l", str(seconds), "-p", "2", "-v", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    available = re.findall(r"service available:\s+(\w+)", text)
    if not available:
        return [f"slowhttptest says nothing of the service: {text[-200:]!r}"]
    wrong = ["slowhttptest finds the service unavailable"] if "NO" in available else []
    return wrong, (re.findall(r"[Ee]xit status:\s+(.*)", text) or [""])[-1]


def slowhttptest_heads(plan):
    """slowhttptest -H, 200 connections"""
    return slowhttptest(plan, "-H", "-i", "1", "-u", plan.server.url + "/kv/hostile:victim")


def slowhttptest_bodies(plan):
    """slowhttptest -B, 200 connections"""
    return slowhttptest(plan, "-B", "-i", "1", "-t", "PUT", "-u", plan.server.url + "/kv/hostile:slow")


def slowhttptest_reads(plan):
    """slowhttptest -X, 200 connections"""
    return slowhttptest(plan, "-X", "-w", "256", "-y", "512", "-n", "1", "-z", "64",
                        "-u", plan.server.url + "/kv/hostile:big")


def apache_bench(plan):
    """ab -k, 16 connections"""
    requests = plan.pick(5000, 50_000)
    done = subprocess.run(["ab", "-k", "-q", "-s", "10", "-n", str(requests), "-c", "16",
                           plan.server.url + "/kv/hostile:victim"],
                          capture_output=True, text=True, timeout=120)
    figures = dict(re.findall(r"(?m)^([\w /-]+):\s+(\d+)", done.stdout))
    wanted = {"Complete requests": str(requests), "Failed requests": "0",
              "Keep-Alive requests": str(requests)}
    wrong = [f"ab: {name} {figures.get(name)}, not {value}"
             for name, value in wanted.items() if figures.get(name) != value]
    if "Non-2xx responses" in figures:
        wrong.append(f"ab: {figures['Non-2xx responses']} answers are not 200")
    return wrong, f"{figures.get('Requests per second', '?')} requests/s" if not wrong else ""


class Case:
    def __init__(self, run, growth_mib=64, crowded=False, tool=None):
        self.run = run
        # How many MiB the server may grow by.
        self.growth_mib = growth_mib
        # It is run where there are few descriptors, too.
        self.crowded = crowded
        self.tool = tool


CASES = [
    Case(bursts),
    Case(slow_bodies),
    Case(slow_readers),
    Case(half_heads),
    Case(silent),
    Case(unread_pipelines),
    Case(pipeline_overrun, crowded=True),
    Case(deep_pipelines, crowded=True),
    Case(header_lines, growth_mib=20, crowded=True),
    Case(header_line, growth_mib=20, crowded=True),
    Case(chunk_size, growth_mib=20, crowded=True),
    Case(floods_again, growth_mib=20, crowded=True),
    Case(huge_lengths, crowded=True),
    Case(smuggling, crowded=True),
    Case(truncated_uploads, crowded=True),
    Case(small_windows),
    Case(expect_pipelines),
    Case(reused_ports, crowded=True),
    Case(refused_upload, crowded=True),
    Case(http2_prefaces, crowded=True),
    Case(no_requests, crowded=True),
    Case(beyond_ascii, crowded=True),
    Case(resets, crowded=True),
    Case(slowhttptest_heads, tool="slowhttptest"),
    Case(slowhttptest_bodies, tool="slowhttptest"),
    Case(slowhttptest_reads, tool="slowhttptest"),
    Case(apache_bench, tool="ab"),
]


# Running them.


def judged(case, plan, p99_max):
    """Runs a case: what went wrong, and its row of the table."""
    server = plan.server
    before = (server.memory(), server.threads(), server.descriptors()) if server.pid else None
    if before:
        server.forget_peak()
    honest = Honest(server)
    start = time.monotonic()
    try:
        result = case.run(plan)
    except (OSError, subprocess.SubprocessError) as err:
        result = [f"a hostile client could not go on: {err!r}"]
    wrong, remark = result if isinstance(result, tuple) else (result, "")
    # A percentile of a handful of requests would say nothing.
    time.sleep(max(0, start + 1.2 - time.monotonic()))
    times, faults = honest.end()
    wrong = list(wrong)
    if faults and not plan.few:
        wrong.append(f"{len(faults)} of {len(times)} honest requests failed: {faults[0]}")
    p50, p99, most = (percentile(times, percent) for percent in (50, 99, 100))
    if p99 > p99_max and not plan.few:
        wrong.append(f"the honest client's p99 is {p99:.0f} ms, over {p99_max}")
    row = [f"{p50:.1f}", f"{p99:.1f}", f"{most:.1f}"]
    if before:
        allowed = before[2] + 8
        if not wait_for(lambda: server.descriptors() <= allowed, 3):
            wrong.append(f"{server.descriptors()} descriptors, {before[2]} before")
        growth = server.memory_peak() - before[0]
        growth_max = case.growth_mib * plan.pick(4, 1)
        if growth > growth_max:
            wrong.append(f"it grew by {growth:.0f} MiB, over {growth_max}")
        row += [f"{growth:.1f}", f"{before[1]} {server.threads()}", f"{before[2]} {server.descriptors()}"]
    else:
        row += ["-"] * 3
    return wrong, row, remark


WIDTHS = "{:<20} {:<45} {:<7} {:>6} {:>7} {:>7} {:>7} {:>9} {:>10}  {}"


def show(*columns):
    print(WIDTHS.format(*columns).rstrip(), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--honest", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--few", action="store_true", help="the server has few descriptors")
    parser.add_argument("--tool", action="append", default=[])
    parser.add_argument("--request-timeout", type=float, default=30)
    parser.add_argument("--idle-timeout", type=float, default=60)
    parser.add_argument("--count")
    parser.add_argument("case", nargs="*", help="the cases to run, all if none is named")
    options = parser.parse_args()
    server = Server(options.url, options.pid)
    if options.honest:
        be_honest(server)
        return

    # A thousand sockets of our own; and on a real network the hostile clients
    # would not take the processor from the server.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    os.nice(5)

    server.store(b"hostile:victim", b"unharmed")
    server.store(b"hostile:big", b"b" * BIG_BYTES)
    plan = Plan(server, options)
    show("case", "what the hostile clients do", "verdict", "p50", "p99", "max", "MiB", "threads",
         "fds", "")
    show("", "", "", "ms", "ms", "ms", "growth", "from to", "from to", "")
    passed = failed = 0
    for case in CASES:
        name = case.run.__name__
        if options.case and name not in options.case:
            continue
        if options.few and not case.crowded:
            continue
        if case.tool and (case.tool not in options.tool or not shutil.which(case.tool)):
            continue
        wrong, row, remark = judged(case, plan, P99_MAX_MS_NOISY if options.short else P99_MAX_MS)
        passed, failed = passed + (not wrong), failed + bool(wrong)
        show(name, case.run.__doc__, "FAILED" if wrong else "ok", *row, remark)
        for line in wrong[:5]:
            print(f"    {line}")
        if len(wrong) > 5:
            print(f"    and {len(wrong) - 5} more")
        try:
            if not wait_for(lambda: server.ask(HEALTH, 5)[0] == 200, 10):
                raise ConnectionError("not 200")
        except OSError as err:
            failed += 1
            print(f"    it serves nobody any more: {err!r}")
            break
    for key in (b"victim", b"big", b"medium"):
        try:
            server.ask(b"DELETE /kv/hostile:%s HTTP/1.1\r\n%s\r\n" % (key, HOST))
        except OSError:
            break  # It is down, which has been counted.
    if options.count:
        with open(options.count, "w") as file:
            file.write(f"{passed} {failed}\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
