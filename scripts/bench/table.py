"""What is measured, and the table of it."""

import contextlib
import os
import platform
import re
import statistics

from .servers import CORES


class Metric:
    def __init__(self, key, unit, better):
        self.key = key
        self.unit = unit
        self.better = better


RATE = Metric("rate", "requests/s", "more")
P50 = Metric("p50", "p50, us", "less")
P99 = Metric("p99", "p99, us", "less")
P999 = Metric("p999", "p99.9, us", "less")
KEYS = Metric("keys", "keys/s", "more")
LINES = Metric("lines", "lines/s", "more")
OPERATIONS = Metric("operations", "operations/s", "more")
CPU = Metric("cpu", "CPU us/request", "less")
BUSIEST = Metric("busiest", "busiest thread", "less")
# What the servers behind the one that is asked do.
NODES_CPU = Metric("nodes", "CPU us behind", "less")
OPEN = Metric("connections", "connections", "less")
THROUGHPUT = Metric("throughput", "MiB/s", "more")
MISSED = Metric("missed", "miss ratio", "less")
BYTES_EACH = Metric("each", "bytes each", "less")
MEBIBYTES = Metric("mib", "MiB", "less")
SECONDS = Metric("seconds", "s", "less")


class Line:
    """What was measured of the store, and of one that it stands beside."""

    def __init__(self, what, metric, ours, name=None, theirs=()):
        self.what = what
        self.metric = metric
        self.ours = ours
        self.name = name
        self.theirs = theirs

    def cells(self):
        there = [self.name, *spread(self.theirs)] if self.theirs else ["", "", ""]
        ratio = ""
        if self.theirs and statistics.median(self.theirs):
            ratio = f"{statistics.median(self.ours) / statistics.median(self.theirs):.2f}"
        return [self.what, self.metric.unit, self.metric.better, *spread(self.ours), *there, ratio]


def spread(values):
    """The median, and the least and the most."""
    return figure(statistics.median(values)), f"{figure(min(values))}-{figure(max(values))}"


def figure(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


HEADINGS = ["what", "unit", "better", "store", "min-max", "beside", "its", "min-max", "ratio"]
WIDTHS = "{:<62} {:<14} {:<6} {:>9} {:>17}  {:<20} {:>9} {:>17} {:>6}"


def show(cells):
    print(WIDTHS.format(*cells).rstrip(), flush=True)


def machine():
    """The machine that the figures are of, in a line."""
    model = "a processor without a name"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        model = (re.findall(r"(?m)^model name\s*: (.+)$", file.read()) or [model])[0]
    return f"{CORES} cores of {model}, {platform.system()} {platform.release()}"


def write_markdown(path, bench, lines, wrong):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w") as file:
        file.write(f"{machine()}, {bench.rounds} rounds of {bench.seconds:g} s. The ratio is that of the medians.\n\n")
        for cells in (HEADINGS, ["---"] * 3 + ["--:"] * 2 + ["---"] + ["--:"] * 3,
                      *(line.cells() for line in lines)):
            file.write("| " + " | ".join(cells) + " |\n")
        for text in wrong:
            file.write(f"\nFAILED {text}\n")
