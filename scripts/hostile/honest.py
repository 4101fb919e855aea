"""The honest client, in a process of its own: small requests on kept and on new
connections, each of which is timed."""

import json
import os
import select
import subprocess
import sys
import time

from lib import answer

from .server import HEALTH, HOST, PATIENCE


def be_honest(server, idle_timeout):
    """Makes small requests until its standard input ends, and prints what
    each took in ms and what went wrong."""
    times, faults, turn = {"kept": [], "new": []}, [], 0
    kept, used = None, 0
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.003)[0]:
        turn += 1
        kind = "new" if turn % 2 else "kept"
        value = b"%d" % turn
        client = None
        start = time.perf_counter()
        try:
            if kind == "new":
                status, body = server.ask(HEALTH)
                fine = (status, body) == (200, b"ok\n")
            else:
                # Where the one on the new connection has taken so long, it may be cut as idle.
                if kept and time.perf_counter() - used > idle_timeout / 2:
                    kept.close()
                    kept = None
                client, kept = kept or server.connect(), None
                client.sendall(b"PUT /kv/honest HTTP/1.1\r\n" + HOST)
                client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(value), value))
                status, _ = answer(client)
                client.sendall(b"GET /kv/honest HTTP/1.1\r\n" + HOST + b"\r\n")
                status, body = answer(client)
                fine = (status, body) == (200, value)
                kept, used = client, time.perf_counter()
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

    def __init__(self, server, idle_timeout):
        command = [sys.executable, "-B", self.PROGRAM, "--honest", "--url", server.url,
                   "--idle-timeout", str(idle_timeout)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def end(self):
        """Its times in ms, in order, and its faults."""
        seen = json.loads(self.process.communicate(b"\n", timeout=3 * PATIENCE)[0])
        return sorted(seen["times"]["kept"] + seen["times"]["new"]), seen["faults"]


def percentile(times, percent):
    return times[min(len(times) - 1, len(times) * percent // 100)] if times else float("inf")
