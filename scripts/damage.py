#!/usr/bin/env python3
"""Damages one file or folder of a small durable store at a time. It is run by
damage.sh:

    damage.py --program PROGRAM --directory DIR --step N [--count FILE]

A store is written, closed and copied; in each copy one file or folder is
missing, or one file is cut, or one bit of it is changed. The program has to
refuse the copy with exit code 1 and one line, and leave every byte of it as it
was, or to serve it: each key has its value, or is answered with 500. Positions
are N bytes apart; with 1 it is every byte.
"""

import argparse
import concurrent.futures
import http.client
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading

from lib import Checks, Store, ask, wait_for

KEYS = 40
PATIENCE_SECONDS = 60
# What the journal sets aside behind its end is all the same.
JOURNAL_ROOM_BYTES = 64


class Served(Store):
    """The program on a directory, started, with a connection to it."""

    def __init__(self, program, directory):
        super().__init__(program, directory, "off", PATIENCE_SECONDS)
        self.connection = self.connect() if self.start(subprocess.PIPE) else None

    def ask(self, method, target, body=None):
        return ask(self.connection, method, target, body)

    def end(self, signal="terminate"):
        """Ends it; gives its exit code and what it wrote to standard error."""
        if self.connection is not None:
            self.connection.close()
            getattr(self.process, signal)()
        complaint = self.process.communicate(timeout=PATIENCE_SECONDS)[1]
        return self.process.returncode, complaint.decode(errors="replace")


def value_of(number, round_):
    length = (10, 200, 700, 5000)[number % 4]
    return random.Random(f"{number} {round_}").randbytes(length)


def write_sample(program, directory):
    """Makes the store; gives what it holds."""
    store = Served(program, directory)
    held = {}

    def put(number, round_):
        target = f"/kv/{number}{'?ttl=1d' if number % 3 == 0 else ''}"
        held[number] = value_of(number, round_)
        status, text = store.ask("PUT", target, held[number])
        assert status == 200, text

    assert store.ask("PUT", "/kv/cleared", b"x")[0] == 200
    assert store.ask("DELETE", "/clear")[0] == 200
    for round_ in range(2):
        for number in range(KEYS):
            put(number, round_)
    # Left alone, it puts what it has into files.
    if not wait_for(lambda: kinds_of_files(directory) >= {"tables", "blobs"}, PATIENCE_SECONDS):
        raise RuntimeError("nothing is put into files")
    for number in range(0, KEYS, 5):
        put(number, 2)
    assert store.end()[0] == 0
    # A start removes what is left of earlier ones.
    assert Served(program, directory).end()[0] == 0
    cut_room(directory)
    return held


def kinds_of_files(directory):
    """In which folders of the trees that hold the keys there are files."""
    keyspaces = os.path.join(directory, "data/keyspaces")
    return {os.path.basename(folder) for folder, _, files in os.walk(keyspaces)
            if files and "/keyspaces/0/" not in folder} & {"tables", "blobs"}


def cut_room(directory):
    journal = os.path.join(directory, "data/0.jnl")
    with open(journal, "rb+") as file:
        used = len(file.read().rstrip(b"\0"))
        file.truncate(used + JOURNAL_ROOM_BYTES)


def contents(directory):
    """Every file and folder with its bytes and mode, but for the lock."""
    found = {}
    for folder, _, files in os.walk(directory):
        for path in [folder] + [os.path.join(folder, name) for name in files]:
            name = os.path.relpath(path, directory)
            if name == "lock":
                continue
            is_file = os.path.isfile(path)
            with open(path if is_file else os.devnull, "rb") as file:
                found[name] = (os.stat(path).st_mode, file.read())
    return found


def positions(length, step, random_):
    """Positions about so far apart, and more of them at the end."""
    if step == 1:
        return range(length)
    spread = [min(at + random_.randrange(step), length - 1) for at in range(0, length, step)]
    end = range(max(0, length - 60), length, max(1, min(step // 8, 15)))
    return sorted(set(spread) | set(end))


def damages(sample, step, random_):
    """Each is a text, a name, and what becomes of the bytes: none if they go."""
    for name, (_, data) in sample.items():
        if name != ".":
            yield f"{name} is missing", name, None
        for at in positions(len(data), step, random_) if data else ():
            bit = random_.randrange(8)
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            yield f"{name}: bit {bit} of byte {at} is another", name, bytes(changed)
        for at in positions(len(data), step * 8 if step > 1 else 1, random_) if data else ():
            yield f"{name} is cut at {at}", name, data[:at]


class Judge:
    def __init__(self, options, sample, held, base):
        self.options, self.sample, self.held, self.base = options, sample, held, base
        self.refused = self.served = self.unreadable = 0
        self.wrong = []
        self.lock = threading.Lock()

    def judge(self, damage):
        what, name, data = damage
        directory = tempfile.mkdtemp(dir=self.base)
        copy = os.path.join(directory, "store")
        try:
            shutil.copytree(os.path.join(self.base, "sample"), copy)
            path = os.path.join(copy, name)
            if data is not None:
                with open(path, "wb") as file:
                    file.write(data)
            elif os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)
            outcome = self.look(copy)
        except (OSError, http.client.HTTPException, subprocess.TimeoutExpired) as err:
            outcome = f"it fails: {err!r}"
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if outcome:
            with self.lock:
                self.wrong.append(f"{what}: {outcome}")

    def look(self, copy):
        """What is wrong with how the program takes it, if anything is."""
        before = contents(copy)
        store = Served(self.options.program, copy)
        if store.connection is None:
            code, complaint = store.end()
            if contents(copy) != before:
                return f"refused, and changed: {complaint}"
            if code != 1 or complaint.count("\n") != 1:
                return f"refused with {code}: {complaint}"
            with self.lock:
                self.refused += 1
            return None
        wrong = unreadable = 0
        for number, value in self.held.items():
            answer = store.ask("GET", f"/kv/{number}")
            wrong += answer != (200, value) and answer[0] != 500
            unreadable += answer[0] == 500
        wrong += store.ask("GET", "/kv/cleared")[0] == 200
        store.end("kill")
        with self.lock:
            self.served += 1
            self.unreadable += unreadable
        return f"{wrong} keys are wrong" if wrong else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--step", type=int, required=True)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--count")
    options = parser.parse_args()

    print(f"seed {options.seed}, every {options.step} bytes", flush=True)
    # Nothing here has to survive a power cut.
    memory = "/dev/shm"
    base = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else options.directory)
    try:
        held = write_sample(options.program, os.path.join(base, "sample"))
        sample = contents(os.path.join(base, "sample"))
        judge = Judge(options, sample, held, base)
        todo = list(damages(sample, options.step, random.Random(options.seed)))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(judge.judge, todo))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    for wrong in judge.wrong[:10]:
        print(f"        {wrong}")
    checks = Checks()
    checks.check(
        f"{len(todo)} kinds of damage to {len(sample)} files and folders: {judge.refused} are "
        f"refused and left as they were, {judge.served} served with no value wrong "
        f"({judge.unreadable} times 500), {len(judge.wrong)} not so", not judge.wrong)
    checks.check("some are refused, and some served", judge.refused > 0 and judge.served > 0)
    sys.exit(checks.end(options.count))


if __name__ == "__main__":
    main()
