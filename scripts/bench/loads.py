"""Loads: wrk on so many connections, each of which has to be served."""

import bisect
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

from lib import Wrong, end_with_parent, wait_for

from .requests import PATIENCE_SECONDS, VALUE, check_served, get_request, path_of, put_request
from .servers import CORES, HERE

CONNECTIONS = 64
# How many different keys the requests of a PUT row go to.
PUT_KEYS = 1000
# How many numbers a run may give to requests that are forms.
NUMBERS_OF_RUN = 1_000_000_000
# As in YCSB.
ZIPF_EXPONENT = 0.99


class Load:
    """So many connections that ask a server the same things without a pause.

    `is_right` judges an answer to the first of the requests. Where each request has to be
    another, as `is_form` says, they are forms that take a number."""

    def __init__(self, server, requests, connections=CONNECTIONS, is_right=None, name=None,
                 is_form=False):
        self.server = server
        self.name = name or server.name
        self.connections = connections
        self.first = requests[0] % 0 if is_form else requests[0]
        # The number that the next run begins with.
        self.number = 1 if is_form else None
        self.is_right = is_right or (lambda status, _: status in (200, 201, 204))
        self.file = tempfile.NamedTemporaryFile(dir=server.folder, suffix=".requests")
        for request in requests:
            self.file.write(b"%d\n%s" % (len(request), request))
        self.file.flush()

    def check(self):
        check_served(self.server.port, self.connections, self.first, self.is_right)

    def run(self, seconds):
        """Figures of one run in which each connection was served."""
        return self.run_while(lambda: time.sleep(seconds))

    def run_while(self, act):
        """The same while something else is done."""
        self.check()
        cpu = self.server.cpu_seconds()
        seen = self.wrk(act)
        cpu = self.server.cpu_seconds() - cpu
        self.check()
        if seen["refused"] or seen["socket_errors"]:
            raise Wrong(f"{self.name}: {seen['refused']} refused, "
                        f"{seen['socket_errors']} socket errors")
        if not seen["requests"]:
            raise Wrong(f"{self.name}: no request was answered")
        return {"requests": seen["requests"], "rate": seen["requests"] / seen["us"] * 1e6,
                "p50": seen["p50"], "p99": seen["p99"], "p999": seen["p999"], "cpu": cpu / seen["requests"] * 1e6}

    def settings(self):
        """What requests.lua is told."""
        if self.number is None:
            return {"BENCH_REQUESTS": self.file.name}
        self.number += NUMBERS_OF_RUN
        return {"BENCH_REQUESTS": self.file.name, "BENCH_NUMBER": str(self.number)}

    def wrk(self, act):
        threads = min(self.connections, max(1, CORES // 2))
        command = ["wrk", f"-t{threads}", f"-c{self.connections}", "-d600s",
                   "--timeout", f"{PATIENCE_SECONDS}s", "-s", os.path.join(HERE, "requests.lua"),
                   f"http://127.0.0.1:{self.server.port}/"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent,
            env={**os.environ, **self.settings()})
        try:
            # It takes whole seconds only; interrupted, it reports all the same.
            act()
            served = 0

            def all_served():
                nonlocal served
                served = connections_served(self.server.port)
                return served is None or served >= self.connections

            wait_for(all_served, PATIENCE_SECONDS, 0.1)
            process.send_signal(signal.SIGINT)
            text = process.communicate(timeout=30)[0]
        finally:
            process.kill()
            process.wait()
        if served is not None and served < self.connections:
            raise Wrong(f"{self.name}: {served} of {self.connections} connections served")
        found = re.search(r"(?m)^\{.*\}$", text)
        if not found:
            raise Wrong(f"wrk says nothing of {self.name}")
        return json.loads(found.group())


def connections_served(port):
    """How many connections to this port have got at least a byte."""
    if not shutil.which("ss"):
        return None
    command = ["ss", "-HtinO", "state", "established", f"( dport = :{port} )"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    return sum("bytes_received:" in line for line in text.splitlines())


def gets(server, path, value, connections=CONNECTIONS, name=None):
    return Load(server, [get_request(path)], connections,
                lambda status, body: (status, body) == (200, value), name)


def puts(server, value=VALUE, connections=CONNECTIONS, name=None):
    requests = [put_request(path_of(number), value)
                for number in range(PUT_KEYS if len(value) < 10_000 else 8)]
    return Load(server, requests, connections, name=name)


def fresh_puts(server, value, connections=CONNECTIONS, name=None):
    """PUTs, each of a key that none has had before."""
    return Load(server, [put_request(b"/kv/new:%012d", value)], connections, name=name, is_form=True)


def zipfian(count, samples):
    """Keys of which a few are asked for often, the same in each run."""
    weights = list(itertools.accumulate((rank + 1) ** -ZIPF_EXPONENT for rank in range(count)))
    chance = random.Random(1)
    return [bisect.bisect(weights, chance.random() * weights[-1]) for _ in range(samples)]
