"""Cases of many requests on one connection: more than the server takes, as many
as it has to take, and answers that nobody reads."""

import threading

from .plan import everything, has_begun, push, statuses
from .server import GET_BIG, HEALTH, HOST


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
            with plan.server.connect(timeout=plan.patience) as client:
                sender = threading.Thread(target=push, args=(client, HEALTH * count))
                sender.start()
                data, ended = everything(client, until=has_begun(count))
                sender.join(10)
                codes = statuses(data)
                if len(codes) < count and not ended:
                    wrong.append(f"{count}: {len(codes)} answered, the rest waits, not cut")
                if set(codes) - {200, 431, 503}:
                    wrong.append(f"{count}: answered {sorted(set(codes))}")
        remarks.append(f"{count}: {len(codes)}")
    return wrong, "answered of " + ", ".join(remarks)


def deep_pipelines(plan):
    """none: 1,000 requests of 250 bytes, read"""
    wrong = []
    request = HEALTH[:-2] + b"X: " + b"y" * (250 - len(HEALTH) - 5) + b"\r\n\r\n"
    for _ in range(plan.pick(4, 40)):
        with plan.server.connect(timeout=plan.patience) as client:
            sender = threading.Thread(target=push, args=(client, request * 1000))
            sender.start()
            codes = statuses(everything(client, until=has_begun(1000))[0])
            sender.join(10)
        if codes != [200] * 1000:
            others = [code for code in codes if code != 200]
            wrong.append(f"{codes.count(200)} of 1,000 answered with 200, others: {others[:5]}")
    return wrong


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
