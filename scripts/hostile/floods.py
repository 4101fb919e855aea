"""Cases of very many connections, and of bytes without an end."""

import select
import socket
import threading
import time

from lib import answer

from .plan import MIB, push, reset_when_closed
from .server import HEALTH, HOST


def bursts(plan):
    """4 to 1,000 connections at once"""
    wrong, remarks = [], []
    for clients in (4, 8, 64, 256, 1000):
        # The second follows on the end of the first's connections.
        for turn in range(2):
            answered, slowest = burst(plan.server, clients, 5 + plan.patience)
            if answered != clients:
                wrong.append(f"{clients} at once: {answered} are answered")
            elif slowest > 1500 and not plan.short:
                wrong.append(f"{clients} at once: the slowest after {slowest:.0f} ms")
        remarks.append(f"{clients}: {slowest:.0f}")
    return wrong, "slowest ms " + ", ".join(remarks)


def burst(server, count, seconds):
    """How many of so many are answered in time, all staying open, and the slowest."""
    clients, poll, answered, refused = {}, select.poll(), set(), set()
    start = time.perf_counter()
    slowest = 0
    try:
        for _ in range(count):
            client = socket.socket(socket.AF_INET6 if ":" in server.addr[0] else socket.AF_INET)
            client.setblocking(False)
            client.connect_ex(server.addr)
            clients[client.fileno()] = client
            poll.register(client, select.POLLOUT)
        while len(answered | refused) < count and time.perf_counter() - start < seconds:
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
                        refused.add(number)
                        poll.unregister(number)
                except OSError:
                    refused.add(number)
                    poll.unregister(number)
    finally:
        for client in clients.values():
            client.close()
    return len(answered), slowest


def flood(plan, start, piece, seconds, again=False):
    """4 flooders who send as fast as they can until they are cut, which has to
    come in so many seconds; or `again` and again for as long as that."""
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


def header_lines(plan):
    """4 flood with `a:` lines"""
    return flood(plan, b"GET /kv/a HTTP/1.1\r\n" + HOST, b"a:\r\n" * 4096, plan.cut_by())


def header_line(plan):
    """4 flood with one endless line"""
    return flood(plan, b"GET /kv/a HTTP/1.1\r\n" + HOST + b"X: ", b"y" * 65536, plan.cut_by())


def chunk_size(plan):
    """4 flood with an endless chunk-size line"""
    head = b"PUT /kv/hostile:chunk HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    return flood(plan, head + b"5;x=", b"y" * 65536, plan.cut_by())


def floods_again(plan):
    """4 flood with `a:` lines, again and again"""
    head = b"GET /kv/a HTTP/1.1\r\n" + HOST
    return flood(plan, head, b"a:\r\n" * 4096, plan.pick(1.5, 5), again=True)


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
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client = plan.server.connect()
        if count % 2:
            push(client, HEALTH)
        reset_when_closed(client)
        client.close()
        count += 1
    return [], f"{count / seconds:.0f} a second"
