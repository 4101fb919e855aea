"""What every case is given and what several of them do: how long things may
take, a cut that has to come, reading all there is."""

import re
import select
import socket
import sys
import time

from lib import wait_for

MIB = 1 << 20
CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR if hasattr(select, "POLLRDHUP") else 0


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
        # Seconds beyond a deadline: in a short run enough for a machine that does
        # much else.
        self.patience = self.pick(30, 3)

    def pick(self, short, long):
        return short if self.short else long

    def expect_cut(self, clients, within, what):
        """The server closes all of these in time; they have nothing to read."""
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
        """By when one who is too slow has to be cut: two windows of a timeout."""
        return 2 * self.request_timeout + self.patience


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


# The bytes of a status line up to the space behind its code.
STATUS_BYTES = len(b"HTTP/1.1 200 ")


def statuses(data):
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", data)]


def has_begun(count):
    """For `everything`: true once so many answers have begun to come."""
    found, rest = 0, b""

    def is_there(pieces):
        nonlocal found, rest
        data = rest + pieces[-1]
        found += len(statuses(data))
        # One that is cut in two is found with the next piece.
        rest = data[1 - STATUS_BYTES:]
        return found >= count

    return is_there


def push(client, data):
    """Sends to a server that may have closed the connection."""
    try:
        client.sendall(data)
        return True
    except OSError:
        return False


def reset_when_closed(client):
    """Has the connection end by a reset once it is closed."""
    at_once = (1).to_bytes(4, sys.byteorder) + bytes(4)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


def harmed(plan, after):
    status, body = plan.server.load(b"hostile:victim")
    if (status, body) == (200, b"unharmed"):
        return []
    plan.server.store(b"hostile:victim", b"unharmed")
    return [f"the victim is gone after {after}: {status} {body[:40]!r}"]
