"""Cases of requests whose end is in doubt: doubtful lengths and codings, uploads
that break off or are refused, and what may be hidden behind them."""

import socket
import time

from lib import answer

from .plan import everything, harmed, has_begun, push, reset_when_closed, statuses
from .server import DELETE_VICTIM, HEALTH, HOST


def huge_lengths(plan):
    """Content-Length from 10^10 to 10^30"""
    wrong = []
    lengths = [10**10, 10**12, 2 * 10**14, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**65, 10**30]
    for method in (b"PUT", b"GET", b"DELETE"):
        for length in lengths:
            with plan.server.connect(timeout=plan.patience) as client:
                client.sendall(method + b" /kv/hostile:huge HTTP/1.1\r\n" + HOST)
                push(client, b"Content-Length: %d\r\n\r\nx" % length + DELETE_VICTIM)
                data, ended = everything(client)
            if statuses(data) not in ([413], [400]) or not ended:
                wrong.append(f"{method.decode()} {length}: {statuses(data)} {data[:60]!r} {ended}")
    return wrong + harmed(plan, "huge lengths")


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
            with plan.server.connect(timeout=plan.request_timeout + plan.patience) as client:
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
                with plan.server.connect(timeout=plan.request_timeout + plan.patience) as client:
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
                        reset_when_closed(client)
                wrong += harmed(plan, f"{upload[60:120]!r}, {ending}")
    return wrong, f"{len(uploads)} uploads"


def refused_upload(plan):
    """8 refused uploads that go on for seconds"""
    wrong, seconds = [], 3
    clients = []
    for _ in range(8):
        client = plan.server.connect(timeout=plan.request_timeout + plan.patience)
        client.sendall(b"PUT /nowhere HTTP/1.1\r\n%sContent-Length: 100000000\r\n\r\n" % HOST)
        # It is cut once it has sent for too long, and that may throw away what is unread.
        heard = everything(client, until=has_begun(1))[0]
        clients.append((client, heard))
    end = time.monotonic() + min(seconds, plan.request_timeout - 0.5)
    while time.monotonic() < end:
        for client, _ in clients:
            push(client, b"x" * 10_000)
        time.sleep(0.05)
    for client, heard in clients:
        codes = statuses(heard + everything(client)[0])
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
        with plan.server.connect(timeout=plan.patience) as client:
            own = client.getsockname()
            push(client, attack)
            everything(client)
            reset_when_closed(client)
        with socket.socket(client.family) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.settimeout(plan.patience)
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
