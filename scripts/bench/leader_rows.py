"""The rows of several leaders. Each is a function that returns lines.

The work of a leader is its thread's; that of a connection is spread over as many
threads as there are connections. So the store grows with the processors until one
thread has all that one of them can do: its share of the store's time says how far
that is away, on a machine with few processors too."""

import os
import statistics
import threading

from .loads import gets, puts
from .requests import VALUE, path_of, store_value
from .servers import CORES, Servers
from .table import BUSIEST, CPU, RATE

# The seconds between two looks at the threads.
WINDOW = 0.05


def leaders(bench):
    """GET and durable PUT of 100 bytes with 4 leaders, beside other numbers of them"""
    numbers = [4, 1, *bench.pick([], [2, 8, *(n for n in (16, 32, 64) if n <= CORES // 2)])]
    lines = []
    with Servers(*(bench.store("--leaders", str(number), name=label(number))
                   for number in numbers)) as servers:
        for server in servers:
            store_value(server, path_of(0), VALUE)
        lines += race(bench, "GET", [gets(server, path_of(0), VALUE) for server in servers])
    with Servers(*(bench.durable_store(bench.folder(True), "--leaders", str(number), name=label(number))
                   for number in numbers)) as servers:
        lines += race(bench, "PUT, durable", [puts(server) for server in servers])
    return lines


def label(number):
    return f"{number} leader{'s' * (number > 1)}"


def race(bench, what, loads):
    what = f"{what}, {loads[0].connections} connections, {loads[0].name}"
    return bench.race(what, [RATE, CPU, BUSIEST], [
        (load.name, lambda load=load: observed(bench, load)) for load in loads])


def observed(bench, load):
    """Figures of a run, with the busiest thread's share of the time in each window."""
    shares = []

    def look():
        over = threading.Event()
        timer = threading.Timer(bench.seconds, over.set)
        timer.start()
        before = run_times(load.server)
        while not over.wait(WINDOW):
            now = run_times(load.server)
            ran = [time - before.get(thread, 0) for thread, time in now.items()]
            if sum(ran):
                shares.append(max(ran) / sum(ran))
            before = now

    figures = load.run_while(look)
    return {**figures, "busiest": statistics.median(shares)}


def run_times(server):
    """The nanoseconds that each thread has run."""
    folder, times = f"/proc/{server.popen.pid}/task", {}
    for thread in os.listdir(folder):
        try:
            with open(f"{folder}/{thread}/schedstat") as file:
                times[thread] = int(file.read().split()[0])
        except OSError:
            # It has ended.
            pass
    return times
