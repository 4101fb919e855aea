"""The honest client, in a process of its own: small requests on kept and on new
connections, each of which is timed."""

import json
import os
import select
import subprocess
import sys
import time

from lib import answer

from .server import HEALTH, HOST


# An answer that takes so many seconds is none.
PATIENCE = 30


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
                status, body = server.ask(HEALTH, PATIENCE)
                fine = (status, body) == (200, b"ok\n")
            else:
                client, kept = kept or server.connect(PATIENCE), None
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

    PROGRAM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                           "hostile.py")

    def __init__(self, server):
        command = [sys.executable, "-B", self.PROGRAM, "--honest", "--url", server.url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def end(self):
        """Its times in ms, in order, and its faults."""
        seen = json.loads(self.process.communicate(b"\n", timeout=30)[0])
        return sorted(seen["times"]["kept"] + seen["times"]["new"]), seen["faults"]


def percentile(times, percent):
    return times[min(len(times) - 1, len(times) * percent // 100)] if times else float("inf")
