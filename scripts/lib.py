"""What the Python scripts share, as lib.sh does for those of the shell: a store
on a port of its own, raw requests and their answers, waits with a bound, and
the count of checks that lib.sh adds to its own.
"""

import ctypes
import http.client
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time


class Wrong(Exception):
    """What was seen is not what has to be; the text says what."""


def wait_for(condition, seconds, pause=0.05):
    """What `condition` gives once that is true, or in the end."""
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(pause)
    return held


def end_with_parent(number=signal.SIGTERM):
    """Has the system send this process a signal once its parent is gone."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(number))


def allow_many_sockets():
    """Has this process open some thousand."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))


# The program.


class Store:
    """The program on a directory and a port of the system's choice."""

    def __init__(self, program, directory, log_level, patience_seconds):
        self.command = [program, "--port", "0", "--log-level", log_level,
                        "--working-dir", directory]
        self.patience_seconds = patience_seconds
        self.environment = {}
        self.process = None
        self.port = None

    def spawn(self, stderr=None):
        """Starts it, with no flags of the caller's environment, and waits for nothing."""
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("LKV_")} | self.environment
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=stderr,
                                        stdin=subprocess.DEVNULL, env=environment)

    def start(self, stderr=None):
        """Starts it and waits until it listens or ends; gives whether it listens."""
        self.spawn(stderr)
        timer = threading.Timer(self.patience_seconds, self.process.kill)
        timer.start()
        lines = [self.process.stdout.readline() for _ in range(2)]
        timer.cancel()
        address = lines[1].partition(b"http://")[2].split(b" ")[0]
        self.port = int(address.rpartition(b":")[2]) if address else None
        return self.port is not None

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.patience_seconds)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def ask(connection, method, target, body=None, headers=None):
    """The status and the body of an answer."""
    connection.request(method, target, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


# Raw answers.


def parsed(data):
    """The status and the body of a whole answer, else None."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    status = int(data[9:12])
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data[:end + 2])
    length = int(length.group(1)) if length and status != 204 else 0
    return (status, bytes(data[end + 4:])) if len(data) - end - 4 >= length else None


def answer(client, piece_bytes=1 << 16):
    """Reads one answer from a socket, its status and its body."""
    data = bytearray()
    while not (found := parsed(data)):
        piece = client.recv(piece_bytes)
        if not piece:
            raise ConnectionError("closed before the answer's end")
        data += piece
    return found


# Checks.


class Checks:
    """Counts checks, and prints each as lib.sh prints its own."""

    def __init__(self):
        self.passed = self.failed = 0

    def count(self, fine):
        self.passed, self.failed = self.passed + bool(fine), self.failed + (not fine)

    def check(self, what, fine, otherwise=""):
        self.count(fine)
        if fine:
            print(f"ok      {what}", flush=True)
        else:
            print(f"FAILED  {what}{': ' if otherwise else ''}{otherwise}", flush=True)

    def end(self, path):
        """Leaves the count in a file, if there is a path; gives the exit code. A script that
        waits for the file has its folder, and takes it along if it is ended first."""
        if path and os.path.isdir(os.path.dirname(path) or "."):
            with open(path, "w") as file:
                file.write(f"{self.passed} {self.failed}\n")
        return 1 if self.failed else 0


def run_to_end(start, count):
    """Runs what `start` gives until it ends, or a signal or the end of its parent ends it,
    and exits by its checks: the count goes to that file, if there is one. What it has
    started ends in any case."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_):
        # Another one is not to end it before what it has started.
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, interrupt)
    if sys.platform == "linux":
        end_with_parent()
    work = start()
    try:
        work.run()
    except Wrong as err:
        work.checks.check("it comes to its end", False, str(err))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        work.end()
    sys.exit(work.checks.end(count))
