"""Requests in bytes, and clients that look at each answer."""

import itertools
import select
import socket
import time

from lib import Wrong, answer, parsed

KIB, MIB = 1 << 10, 1 << 20
VALUE = b"v" * 100
# How long a connection may wait to be served, on a machine that has much else to do.
PATIENCE_SECONDS = 60


def get_request(path):
    return b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path


def put_request(path, body, method=b"PUT"):
    head = b"%s %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n"
    return head % (method, path, len(body)) + body


def marked(requests):
    """The same requests, each of which differs from all others."""
    return [request.replace(b"\r\n", b"\r\nX-Turn: %06d\r\n" % turn, 1)
            for turn, request in enumerate(requests)]


def delete_request(path):
    return b"DELETE %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path


def path_of(number, key_bytes=16):
    """The path of a key of so many bytes."""
    return b"/kv/" + key_of(number, key_bytes)


def key_of(number, key_bytes=16):
    return b"key:%0*d" % (key_bytes - 4, number)


def ask(port, request):
    """The status and the body of the answer on a new connection."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
        client.sendall(request)
        return answer(client, MIB)


def received(client):
    """What has come on a socket."""
    piece = client.recv(MIB)
    if not piece:
        raise ConnectionError("the server has closed a connection")
    return piece


class Client:
    """One of many connections: its socket, what is left to send, what came."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
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
            self.data += received(self.socket)
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
        starved = drive(clients, lambda client: parsed(client.data), PATIENCE_SECONDS)
        if starved:
            raise Wrong(f"{len(starved)} of {count} connections got no whole answer in "
                        f"{PATIENCE_SECONDS} s")
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


def store_value(server, path, value):
    status, body = ask(server.port, put_request(path, value))
    if status not in (200, 201, 204):
        raise Wrong(f"{server.name} does not store {path!r}: {status} {body[:60]!r}")


def load_keys(server, count, connections=16, depth=100):
    change_keys(server, ((key_of(number), VALUE) for number in range(count)), connections, depth)


def change_keys(server, changes, connections=16, depth=100):
    """Stores each of these keys with its value, or deletes it if that is None."""
    send_all(server.port, (
        delete_request(b"/kv/" + key) if value is None else put_request(b"/kv/" + key, value)
        for key, value in changes), connections, depth)


def check_stored(server, keys):
    """Looks at a few of the keys that were written."""
    for number in range(0, keys, max(1, keys // 100)):
        if ask(server.port, get_request(path_of(number))) != (200, VALUE):
            raise Wrong(f"{server.name} has lost key {number}")
