#!/usr/bin/env python3
"""Clients of the store behind a proxy, for a while. It is run by proxy.sh:

    proxy.py --url URL --ca FILE --seconds N [--count FILE]
    proxy.py --url URL --ca FILE --restart BEGUN DONE [--count FILE]
    proxy.py --deaf URL LOG

Each client has keys of its own, of which it knows every byte, so each answer
has to be a certain one: a request that a proxy sends twice shows in a counter,
or as a 412 or 404 for what has just been done by the same request.

With --restart the store is restarted by somebody else meanwhile: the file BEGUN
is made once the clients are at work, and they go on for a while once DONE is
there. Only then a 502, 503 or 504 may be seen, and what it was about may have
been done or not, but not twice.

With --deaf it is a store itself: it writes its own URL to a file, answers GET,
and of all else it hears every byte, notes it in the log and ends the connection.
"""

import argparse
import hashlib
import http.client
import http.server
import os
import random
import ssl
import sys
import threading
import time
import urllib.parse

from lib import Checks, Wrong, wait_for

CLIENTS = 6
KEYS_EACH = 6
SIZES = (1, 20, 1000, 5000, 70_000, 300_000)
# As many requests of each client before and after a restart, and at least.
REQUESTS_MIN = 50
PATIENCE_SECONDS = 180
GATEWAY = (502, 503, 504)

# Keys as they stand in a URL, which proxies may be tempted to tidy up.
ODD_KEYS = ("a%20b", "a+b", "a%2Bb", "a%2Fb", "a/b", "a//b", "//a", "a/", "a%25b", "a%2541",
            "a%3Fb", "a%23b", "a%26b=c", "a&b=c", "a;b", "a:b@c", "a,b", "~a!$'()*", "%C3%A9",
            "%F0%9F%94%91", "a%0Ab", "a%22b", "a%5Cb", "a%7Cb", "%5Ba%5D", "a.", "...", "a%C2%A0")


class Tally:
    """What all clients have seen."""

    def __init__(self):
        self.lock = threading.Lock()
        self.right = self.outages = 0
        self.wrong = []

    def add(self, right=0, outages=0, wrong=None):
        with self.lock:
            self.right += right
            self.outages += outages
            if wrong:
                self.wrong.append(wrong)


class Answer:
    def __init__(self, response, body):
        self.status, self.body = response.status, body
        self.etag = response.getheader("ETag")
        self.length = response.getheader("Content-Length")


class Client:
    """One client on one connection, with keys of its own."""

    def __init__(self, options, index, seed):
        self.options, self.index = options, index
        self.dice = random.Random(seed * 100 + index)
        self.connection = None
        # What may be stored under each key: None for nothing. More than one
        # after an answer that did not tell.
        self.values = {f"proxy:{seed}:{index}:{number}": {None} for number in range(KEYS_EACH)}
        self.counts = {f"proxy:{seed}:{index}:count": {None}}
        self.requests = 0

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def ask(self, method, target, body=None, fields=None, chunked=False):
        """The answer, or None if there was none that tells anything."""
        fields = dict(fields or {})
        try:
            if not self.connection:
                self.connection = http.client.HTTPSConnection(
                    self.options.host, self.options.port, timeout=60, context=self.options.context)
            if chunked:
                fields["Transfer-Encoding"] = "chunked"
                pieces = [body[at:at + 9000] for at in range(0, len(body), 9000)]
                self.connection.request(method, target, iter(pieces), fields, encode_chunked=True)
            else:
                self.connection.request(method, target, body, fields)
            response = self.connection.getresponse()
            answer = Answer(response, response.read())
        except (OSError, http.client.HTTPException) as err:
            self.close()
            if not self.options.restart:
                raise Wrong(f"{method} {target}: {err!r}") from err
            return None
        if answer.status in GATEWAY and self.options.restart:
            return None
        return answer

    def expect(self, what, answer, *expected):
        """The answer is one of these pairs of a status and a body."""
        got = (answer.status, answer.body)
        if got not in expected:
            shown = [(status, len(body or b"")) for status, body in expected]
            raise Wrong(f"{what}: {got[0]} {got[1][:60]!r} of {len(got[1])} bytes, not {shown}")

    def settle(self, key, known):
        """Finds out what is stored under a key that may be several."""
        while len(known[key]) > 1:
            answer = self.ask("GET", f"/kv/{key}")
            if answer is None:
                time.sleep(0.02)
                continue
            found = None if answer.status == 404 else answer.body
            if known is self.counts and found is not None:
                found = int(found)
            if found not in known[key]:
                raise Wrong(f"{key}: what was not answered left {answer.body[:40]!r}")
            known[key] = {found}
        (value,) = known[key]
        return value

    def step(self):
        """One request, whose answer is known. Says whether there was one."""
        self.requests += 1
        verb = self.dice.choice(("put", "put", "create", "replace", "get", "get", "again", "part",
                                 "head", "delete", "take", "append", "count", "count"))
        if verb == "count":
            return self.count()
        key = self.dice.choice(list(self.values))
        old = self.settle(key, self.values)
        new = self.dice.randbytes(self.dice.choice(SIZES))
        target, what = f"/kv/{key}", f"{verb} {key}"
        missing = (404, b"key not found\n")
        failed = (412, b"precondition failed\n")
        chunked = self.dice.random() < 0.2

        if verb in ("put", "create", "replace", "append"):
            fields, method, done = {}, "PUT", (200, b"")
            if verb == "create":
                fields["If-None-Match"] = "*"
                expected, after = ((201, b""), new) if old is None else (failed, old)
            elif verb == "replace":
                tag = etag(old or b"none")
                fields["If-Match"] = tag
                expected, after = (failed, old) if old is None else (done, new)
            elif verb == "append":
                method, target = "POST", target + "?append"
                if len(old or b"") + len(new) > 1_000_000:
                    return True
                expected, after = done, (old or b"") + new
            else:
                expected, after = done, new
            self.values[key] = {old, after}
            answer = self.ask(method, target, new, fields, chunked)
        elif verb in ("delete", "take"):
            expected, after = (200, b""), None
            if verb == "take":
                target += "?return"
                expected = missing if old is None else (200, old)
            self.values[key] = {old, None}
            answer = self.ask("DELETE", target)
        else:
            return self.read(verb, key, old)
        if answer is None:
            return False
        self.expect(what, answer, expected)
        self.values[key] = {after}
        return True

    def read(self, verb, key, old):
        """A request that changes nothing."""
        fields, method = {}, "GET"
        expected = (404, b"key not found\n") if old is None else (200, old)
        if verb == "again" and old is not None:
            fields["If-None-Match"] = etag(old)
            expected = (304, b"")
        elif verb == "part" and old is not None:
            first = self.dice.randrange(len(old))
            fields["Range"] = f"bytes={first}-{first + 999}"
            expected = (206, old[first:first + 1000])
        elif verb == "head":
            method, expected = "HEAD", (expected[0], b"")
        if self.dice.random() < 0.5:
            fields["Accept-Encoding"] = "gzip"
        answer = self.ask(method, f"/kv/{key}", None, fields)
        if answer is None:
            return False
        self.expect(f"{verb} {key}", answer, expected)
        if old is not None:
            if answer.etag != etag(old):
                raise Wrong(f"{verb} {key}: the ETag is {answer.etag}, not {etag(old)}")
            if verb == "head" and answer.length != str(len(old)):
                raise Wrong(f"{verb} {key}: its length is {answer.length}, not {len(old)}")
        return True

    def count(self):
        (key,) = self.counts
        old = self.settle(key, self.counts)
        self.counts[key] = {old, (old or 0) + 1}
        answer = self.ask("POST", f"/kv/{key}?incr")
        if answer is None:
            return False
        self.expect(f"count {key}", answer, (200, b"%d\n" % ((old or 0) + 1)))
        self.counts[key] = {(old or 0) + 1}
        return True

    def look_at_all(self):
        """Every key holds what it has to, at the end."""
        for key in self.values:
            old = self.settle(key, self.values)
            while not self.read("get", key, old):
                time.sleep(0.02)
        for key in self.counts:
            self.settle(key, self.counts)

    def odd_keys(self):
        """Values come back under keys that may be written in several ways."""
        for number, key in enumerate(ODD_KEYS):
            value = b"%d" % number
            self.expect(f"put {key}", self.ask("PUT", f"/kv/{key}", value), (200, b""))
        for number, key in enumerate(ODD_KEYS):
            same = [ODD_KEYS.index(other) for other in ODD_KEYS if named(other) == named(key)]
            value = b"%d" % max(same)
            self.expect(f"get {key}", self.ask("GET", f"/kv/{key}"), (200, value))


def etag(value):
    return f'"{hashlib.sha256(value).hexdigest()[:32]}"'


def named(key):
    return urllib.parse.unquote(key)


def work(client, tally, is_over):
    """Has a client at work until it is over, and then looks at all."""
    try:
        if client.index == 0 and not client.options.restart:
            client.odd_keys()
            tally.add(right=2 * len(ODD_KEYS))
        while not is_over(client):
            if client.step():
                tally.add(right=1)
            else:
                tally.add(outages=1)
                time.sleep(0.02)
        client.look_at_all()
    except Wrong as wrong:
        tally.add(wrong=str(wrong))
    except Exception as err:  # Else the thread would end without a word.
        tally.add(wrong=repr(err))
    finally:
        client.close()


class Deaf(http.server.BaseHTTPRequestHandler):
    """A store that answers GET alone."""

    protocol_version = "HTTP/1.1"
    log_path = None

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def note(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with open(self.log_path, "a") as log:
            log.write(f"{self.command} {self.path}\n")
        self.close_connection = True

    do_PUT = do_POST = do_DELETE = note

    def log_message(self, *_):
        pass


class DeafServer(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """A proxy resets the connections of its probes."""


def be_deaf(url_path, log_path):
    Deaf.log_path = log_path
    with DeafServer(("127.0.0.1", 0), Deaf) as server:
        with open(url_path, "w") as url:
            url.write(f"http://127.0.0.1:{server.server_port}\n")
        server.serve_forever()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url")
    parser.add_argument("--ca")
    parser.add_argument("--deaf", nargs=2, metavar=("URL", "LOG"))
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--restart", nargs=2, metavar=("BEGUN", "DONE"))
    parser.add_argument("--count")
    parser.add_argument("--pid", help="is not needed")
    options = parser.parse_args()
    if options.deaf:
        return options
    url = urllib.parse.urlsplit(options.url)
    options.host, options.port = url.hostname, url.port
    options.context = ssl.create_default_context(cafile=options.ca)
    return options


def main():
    options = parse()
    if options.deaf:
        return be_deaf(*options.deaf)
    seed = random.randrange(10 ** 6)
    tally, started = Tally(), time.monotonic()
    last = {}

    def is_over(client):
        if tally.wrong or time.monotonic() > started + PATIENCE_SECONDS:
            return True
        if not options.restart:
            return client.requests >= REQUESTS_MIN and time.monotonic() > started + options.seconds
        if not os.path.exists(options.restart[1]):
            return False
        last.setdefault(client.index, client.requests + REQUESTS_MIN)
        return client.requests >= last[client.index]

    clients = [Client(options, index, seed) for index in range(CLIENTS)]
    threads = [threading.Thread(target=work, args=(client, tally, is_over)) for client in clients]
    for thread in threads:
        thread.start()
    if options.restart:
        wait_for(lambda: tally.right >= REQUESTS_MIN * CLIENTS
                 or not any(thread.is_alive() for thread in threads), PATIENCE_SECONDS, 0.01)
        open(options.restart[0], "w").close()
    for thread in threads:
        thread.join()

    took = time.monotonic() - started
    checks = Checks()
    checks.check(f"every answer is the store's own (seed {seed})", not tally.wrong,
                  "; ".join(tally.wrong[:3]))
    checks.check("all have come to their end", took < PATIENCE_SECONDS, f"{took:.0f} s")
    print(f"        {tally.right} requests, {tally.outages} without an answer, {took:.1f} s")
    return checks.end(options.count)


if __name__ == "__main__":
    sys.exit(main())
