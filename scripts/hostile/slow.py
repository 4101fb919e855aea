"""Cases of clients that are slow, silent or deaf. The server has to cut each of
them in time."""

import threading

from lib import answer

from .plan import push
from .server import GET_BIG, HEALTH, HOST


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
    return plan.expect_cut(clients, plan.idle_timeout + plan.patience, "connections")


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
