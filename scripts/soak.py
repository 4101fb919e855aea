#!/usr/bin/env python3
"""Honest and hostile clients together, for a while. It is run by soak.sh:

    soak.py --url URL [--pid PID] --seconds N [--count FILE]

The honest ones, in a process of their own, store, read and delete keys that
are theirs alone and compare every byte. The hostile ones are those of
hostile.py that leave nothing behind. In the end the server's descriptors,
threads and memory have to be about where they began.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time

from hostile import floods
from hostile.cases import CASES
from hostile.plan import Plan
from hostile.server import HEALTH, HOST, Server
from lib import Checks, allow_many_sockets, answer, wait_for

HONEST_CLIENTS = 4
KEYS_EACH = 8
# The allocator keeps what the deepest case has needed, a heap for each of some
# threads. It stays at that, where a leak would go on.
GROWTH_MIB = 192
# tiny_http keeps four threads without work, and the last ones are slow to go.
THREADS_MORE = 8
DESCRIPTORS_MORE = 8
PATIENCE_SECONDS = 60


# The honest clients.


class Tally:
    """What the honest clients have seen, all together."""

    def __init__(self):
        self.lock = threading.Lock()
        self.right = self.busy = 0
        self.wrong = []
        self.slowest = 0.0

    def add(self, what, status, expected, got, wanted, took):
        with self.lock:
            self.slowest = max(self.slowest, took)
            if status == 503:
                self.busy += 1
            elif status == expected and got == wanted:
                self.right += 1
            else:
                self.wrong.append(f"{what}: {status} and {len(got)} bytes {got[:30]!r}, "
                                  f"not {expected} and {len(wanted)} bytes {wanted[:30]!r}")


def honest_client(server, index, tally, end, seed):
    """Works on its own keys, of which it knows every byte."""
    dice = random.Random(seed * 1000 + index)
    known = {}
    client = None
    while time.monotonic() < end:
        key = b"soak:%d:%d" % (index, dice.randrange(KEYS_EACH))
        verb = dice.choice(("PUT", "PUT", "GET", "GET", "GET", "DELETE"))
        value = dice.randbytes(dice.choice((1, 20, 1000, 5000, 70_000, 300_000)))
        start = time.monotonic()
        what = f"{verb} {key.decode()}"
        try:
            client = client or server.connect(20)
            if verb == "PUT":
                client.sendall(upload(key, value, chunked=dice.random() < 0.2))
                status, body = answer(client)
                tally.add(what, status, 200, body, b"", time.monotonic() - start)
                if status == 200:
                    known[key] = value
            else:
                client.sendall(b"%s /kv/%s HTTP/1.1\r\n%s\r\n" % (verb.encode(), key, HOST))
                status, body = answer(client)
                if verb == "DELETE":
                    expected, wanted = 200, b""
                    if status == 200:
                        known.pop(key, None)
                else:
                    expected = 200 if key in known else 404
                    wanted = known.get(key, b"key not found\n")
                tally.add(what, status, expected, body, wanted, time.monotonic() - start)
            # A 503 may close the connection; asking anew is what it asks for.
            if status == 503:
                client.close()
                client = None
                time.sleep(0.1)
        except OSError as err:
            with tally.lock:
                tally.wrong.append(f"{what}, {len(value)} bytes: {err!r}")
            if client:
                client.close()
            client = None
            # Whether it took effect is not known: begin anew.
            known.pop(key, None)
            try:
                server.ask(b"DELETE /kv/%s HTTP/1.1\r\n%s\r\n" % (key, HOST))
            except OSError as err:
                with tally.lock:
                    tally.wrong.append(f"DELETE {key.decode()} anew: {err!r}")
        if dice.random() < 0.05 and client:
            client.close()
            client = None
        time.sleep(0.002)
    if client:
        client.close()
    for key in known:
        server.ask(b"DELETE /kv/%s HTTP/1.1\r\n%s\r\n" % (key, HOST))


def upload(key, value, chunked):
    head = b"PUT /kv/%s HTTP/1.1\r\n%s" % (key, HOST)
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n%s" % (len(value), value)
    pieces = [value[at:at + 30_000] for at in range(0, len(value), 30_000)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def be_honest(server, seconds, seed):
    tally = Tally()
    end = time.monotonic() + seconds
    clients = [threading.Thread(target=honest_client, args=(server, index, tally, end, seed))
               for index in range(HONEST_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    json.dump(vars(tally) | {"lock": None}, sys.stdout)


# The hostile ones.


def hostile_rounds(plan, end):
    """Case after case until the time is up; how often each came, and what
    the cases themselves found wrong."""
    # One that leaves the allocator with memory that it keeps would hide whether
    # anything leaks.
    runs = [case.run for case in CASES if not case.tool and case.run is not floods.floods_again]
    done, wrong = {}, []
    while time.monotonic() < end:
        random.shuffle(runs)
        for run in runs:
            # One that waits for a deadline is not begun when time is up.
            if time.monotonic() >= end:
                break
            try:
                result = run(plan)
            except OSError as err:
                result = [f"a hostile client could not go on: {err!r}"]
            found = result[0] if isinstance(result, tuple) else result
            wrong += [f"{run.__name__}: {line}" for line in found]
            done[run.__name__] = done.get(run.__name__, 0) + 1
    return done, wrong


# Both, and the end.


def settled(server, checks, name, read, before, more):
    wait_for(lambda: read() <= before + more, PATIENCE_SECONDS, 0.25)
    now = read()
    checks.check(f"{name}: {before} before, {now} after", now <= before + more,
                  f"more than {more} above the beginning for {PATIENCE_SECONDS} s")


def parsed_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--honest", action="store_true")
    parser.add_argument("--request-timeout", type=float, default=30)
    parser.add_argument("--idle-timeout", type=float, default=60)
    parser.add_argument("--count")
    # As a case of hostile.py is told.
    parser.set_defaults(few=False, short=True)
    return parser.parse_args()


def main():
    options = parsed_arguments()
    server = Server(options.url, options.pid)
    if options.honest:
        be_honest(server, options.seconds, options.seed)
        return

    allow_many_sockets()
    random.seed(options.seed)
    print(f"seed {options.seed}, {options.seconds:.0f} s", flush=True)
    unused = server.descriptors() if options.pid else 0
    server.set_up()
    # The first requests have what each thread allocates once behind them.
    for _ in range(50):
        server.ask(HEALTH)
    if options.pid:
        # Those connections are gone from the server as well.
        wait_for(lambda: server.descriptors() <= unused, PATIENCE_SECONDS)
        before = (server.descriptors(), server.threads(), server.memory())

    command = [sys.executable, "-B", os.path.abspath(__file__), "--honest", "--url", options.url,
               "--seconds", str(options.seconds), "--seed", str(options.seed)]
    honest = subprocess.Popen(command, stdout=subprocess.PIPE)
    if options.pid:
        # A case counts descriptors, so the honest connections come first.
        each = 3
        wait_for(lambda: server.descriptors() >= before[0] + each * HONEST_CLIENTS,
                 PATIENCE_SECONDS, 0.05)
    os.nice(5)
    done, wrong = hostile_rounds(Plan(server, options), time.monotonic() + options.seconds)
    seen = json.loads(honest.communicate(timeout=120)[0])

    checks = Checks()
    print("hostile rounds: " + ", ".join(f"{name} {count}" for name, count in done.items()))
    checks.check("each offender is dealt with", not wrong, "; ".join(wrong[:5]))
    checks.check(f"{seen['right']} honest requests answered rightly, {seen['busy']} told to come "
                  f"again (503), the slowest after {seen['slowest'] * 1000:.0f} ms",
                  seen["right"] > 0 and not seen["wrong"],
                  f"{len(seen['wrong'])} wrongly: " + "; ".join(seen["wrong"][:5]))
    checks.check("the victim is unharmed", server.load(b"hostile:victim") == (200, b"unharmed"))
    server.clean_up()
    if options.pid:
        settled(server, checks, "descriptors", server.descriptors, before[0], DESCRIPTORS_MORE)
        settled(server, checks, "threads", server.threads, before[1], THREADS_MORE)
        growth = server.memory() - before[2]
        checks.check(f"memory grew by {growth:.1f} MiB", growth <= GROWTH_MIB,
                      f"over {GROWTH_MIB} MiB")
    sys.exit(checks.end(options.count))


if __name__ == "__main__":
    main()
