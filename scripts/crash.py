#!/usr/bin/env python3
"""Kills the durable store again and again while it is written to. It is run
by crash.sh:

    crash.py --program PROGRAM --directory DIR --rounds N [--large | --evict] [--seed N]
             [--count FILE]

Each client writes numbered values under keys of its own, deletes them, and now
and then clears everything, while others read. After each kill -9 the store is
started again, and every key has to be as the last acknowledged write left it, or
a later one that was not acknowledged. A value that a reader has seen counts as
acknowledged. Between two rounds it is killed while it starts, and while it clears.
With --large so much is written that the kill comes during a flush or compaction, or
while journals are begun and removed. With --evict that is in a small directory which
evicts, and any key may be gone, but no value comes back.
"""

import argparse
import http.client
import itertools
import random
import sys
import threading
import time

from lib import Checks, Store, ask

CLIENTS = 6
READERS = 2
KEYS_EACH = 6
KEYS_EACH_IF_EVICTING = 100
PATIENCE_SECONDS = 60
KILLED_AFTER_SECONDS = (0.02, 0.5)
KILLED_AFTER_SECONDS_IF_LARGE = (0.5, 4)

# One of these at most, and any time within it: a start and a clear take longer on some
# disks than on others.
KILLED_IN_START_SECONDS = (0.01, 0.03, 0.1, 0.3)
KILLED_IN_CLEAR_SECONDS = (0.005, 0.01, 0.02, 0.06)
CLEARS_MAX = 3

EVICTING = ["--max-disk", "16MiB", "--when-full", "evict"]

LENGTHS = (0, 1, 20, 300, 5000, 70_000)
LENGTHS_IF_LARGE = (20, 300, 5000, 60_000, 60_000, 60_000)
# Few of them are in files of their own.
LENGTHS_IF_EVICTING = (20, 20, 300, 300, 3000, 3000, 3000, 5000, 60_000, 200_000)

FOREVER = float("inf")
clock = itertools.count(1)


class Write:
    """A set, a delete or a clear: from when to when, and what it left behind."""

    def __init__(self, value):
        self.value = value
        self.begun = next(clock)
        # When it was known to have taken effect.
        self.done = FOREVER


class Key:
    """What was written under a key since it was last read with nobody writing."""

    def __init__(self):
        self.writes = []
        self.reads = []
        self.settle(None)

    def settle(self, value):
        first = Write(value)
        first.done = next(clock)
        self.writes = [first]
        self.reads = []


def number_in(value):
    return value and value.split(b" ", 1)[0]


def target_of(name, number):
    """Where it is put. Some of the values expire, though not before the end."""
    ttl = ("", "", "?ttl=1d", f"?ttl={1 + number % 9}h")[number % 4]
    return f"/kv/{name}{ttl}"


def value_of(number, lengths):
    """The number, and so many bytes more that a torn value is known by them."""
    length = random.Random(number).choice(lengths)
    return b"%d %d " % (number, length) + b"%d" % (number % 10) * length


def answer_to(connection, method, target, body=None):
    """The status and the body; None if the store is gone."""
    try:
        return ask(connection, method, target, body)
    except (OSError, http.client.HTTPException):
        return None


class Rounds:
    """What is known over all rounds."""

    def __init__(self, store, seed, is_large, is_evicting):
        self.store = store
        self.is_evicting = is_evicting
        self.lengths = LENGTHS_IF_EVICTING if is_evicting else (
            LENGTHS_IF_LARGE if is_large else LENGTHS)
        self.killed_after = KILLED_AFTER_SECONDS_IF_LARGE if is_large else KILLED_AFTER_SECONDS
        self.random = random.Random(seed)
        self.keys_each = KEYS_EACH_IF_EVICTING if is_evicting else KEYS_EACH
        self.keys = {f"{client}:{index}": Key()
                     for client in range(CLIENTS) for index in range(self.keys_each)}
        self.clears = []
        self.numbers = itertools.count(1)
        self.acknowledged = self.recovered = self.unacknowledged = self.read = self.kills = 0
        self.wrong = []

    def writes_to(self, key):
        return key.writes + self.clears

    # While it runs.

    def write(self, client, seed, stop):
        choice = random.Random(seed)
        connection = self.store.connect()
        while not stop.is_set():
            name = f"{client}:{choice.randrange(self.keys_each)}"
            kind = choice.random()
            if kind < 0.005:
                write, call = Write(None), ("DELETE", "/clear")
                self.clears.append(write)
            elif kind < 0.25:
                write, call = Write(None), ("DELETE", f"/kv/{name}")
                self.keys[name].writes.append(write)
            else:
                number = next(self.numbers)
                value = value_of(number, self.lengths)
                write, call = Write(value), ("PUT", target_of(name, number), value)
                self.keys[name].writes.append(write)
            answer = answer_to(connection, *call)
            if answer is None:
                return
            if answer[0] == 200:
                write.done = next(clock)
                self.acknowledged += 1
            elif answer[0] != 503:
                self.wrong.append(f"{call[:2]} is answered with {answer}")

    def look(self, seed, stop):
        choice = random.Random(seed)
        connection = self.store.connect()
        names = list(self.keys)
        while not stop.is_set():
            name = choice.choice(names)
            begun = next(clock)
            answer = answer_to(connection, "GET", f"/kv/{name}")
            if answer is None:
                return
            value = answer[1] if answer[0] == 200 else None
            self.keys[name].reads.append((begun, next(clock), value))

    # Once it is dead.

    def may_be_gone(self, value):
        return self.is_evicting and value is None

    def judge_reads(self, name, key):
        for begun, done, value in key.reads:
            writes = self.writes_to(key)
            # What had an end before another began, that had one before the read.
            last = max((write.begun for write in writes if write.done < begun), default=0)
            if not self.may_be_gone(value) and not any(
                    write.value == value and write.begun < done and write.done > last
                    for write in writes):
                self.wrong.append(f"{name}: a read saw {number_in(value)}, which was not there")
            self.read += 1
        for begun, done, value in key.reads:
            for write in key.writes:
                if value is not None and write.value == value:
                    write.done = min(write.done, done)

    def judge(self):
        """Reads every key of a store that was started again."""
        for name, key in self.keys.items():
            self.judge_reads(name, key)
        connection = self.store.connect()
        for name, key in self.keys.items():
            answer = answer_to(connection, "GET", f"/kv/{name}")
            if answer is None or answer[0] not in (200, 404):
                self.wrong.append(f"{name}: cannot be read: {answer}")
                continue
            value = answer[1] if answer[0] == 200 else None
            writes = self.writes_to(key)
            last = max(write.begun for write in writes if write.done < FOREVER)
            possible = [write for write in writes if write.done > last]
            self.unacknowledged += sum(write.done == FOREVER for write in key.writes)
            if self.may_be_gone(value) or any(write.value == value for write in possible):
                self.recovered += 1
            else:
                self.wrong.append(f"{name}: holds {number_in(value)}, and should hold one of "
                                  f"{[number_in(write.value) for write in possible]}")
            key.settle(value)
        self.clears = []

    # The rounds.

    def kill(self):
        self.store.kill()
        self.kills += 1

    def start(self):
        """Kills some starts, and judges what the last one has; gives whether it starts."""
        for _ in range(self.random.choice((0, 0, 0, 1, 2))):
            self.store.spawn()
            time.sleep(self.random.uniform(0, self.random.choice(KILLED_IN_START_SECONDS)))
            self.kill()
        if not self.store.start():
            self.wrong.append("the store does not start")
            return False
        self.judge()
        return True

    def clear_and_kill(self):
        """Kills the store in the middle of a clear, or just behind one."""
        write = Write(None)
        self.clears.append(write)

        def clear():
            answer = answer_to(self.store.connect(), "DELETE", "/clear")
            if answer and answer[0] == 200:
                write.done = next(clock)

        thread = threading.Thread(target=clear)
        thread.start()
        time.sleep(self.random.uniform(0, self.random.choice(KILLED_IN_CLEAR_SECONDS)))
        self.kill()
        thread.join()

    def load_and_kill(self):
        stop = threading.Event()
        threads = [threading.Thread(target=self.write,
                                    args=(client, self.random.random(), stop))
                   for client in range(CLIENTS)]
        threads += [threading.Thread(target=self.look, args=(self.random.random(), stop))
                    for _ in range(READERS)]
        for thread in threads:
            thread.start()
        time.sleep(self.random.uniform(*self.killed_after))
        self.kill()
        stop.set()
        for thread in threads:
            thread.join()

    def run(self):
        """One round; gives whether the store starts each time."""
        if not self.start():
            return False
        self.load_and_kill()
        for _ in range(self.random.randint(0, CLEARS_MAX)):
            if not self.start():
                return False
            self.clear_and_kill()
        return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--large", action="store_true")
    size.add_argument("--evict", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--count")
    options = parser.parse_args()

    print(f"seed {options.seed}, {options.rounds} rounds", flush=True)
    store = Store(options.program, options.directory, "warn", PATIENCE_SECONDS)
    if options.evict:
        store.command += EVICTING
    rounds = Rounds(store, options.seed, options.large or options.evict, options.evict)
    done = 0
    try:
        while done < options.rounds and not rounds.wrong and rounds.run():
            done += 1
        if not rounds.wrong:
            rounds.start()
    finally:
        if store.process.poll() is None:
            store.kill()
    for wrong in rounds.wrong[:10]:
        print(f"        {wrong}")
    checks = Checks()
    checks.check(f"{done} rounds, and {rounds.kills} times killed and started again",
                 done == options.rounds)
    checks.check(
        f"{rounds.acknowledged} writes acknowledged, {rounds.unacknowledged} not; "
        f"{rounds.recovered} values as they should be, {len(rounds.wrong)} lost or wrong; "
        f"{rounds.read} reads", rounds.acknowledged > 0 and not rounds.wrong)
    sys.exit(checks.end(options.count))


if __name__ == "__main__":
    main()
