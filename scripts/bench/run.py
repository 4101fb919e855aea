"""The list of rows, the options, and a run of the rows that were asked for."""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile

from lib import Checks, Wrong, allow_many_sockets, end_with_parent

from . import (
    cache_rows, cluster_rows, collection_rows, durable_rows, leader_rows, memory_rows, stream_rows)
from .race import Bench
from .table import HEADINGS, machine, show, write_markdown


class Row:
    """A row, and what it cannot do without."""

    def __init__(self, run, tool="wrk", durable=False, cluster=False):
        self.run = run
        self.name = run.__name__.replace("_", "-")
        # Without it there is nothing to measure.
        self.tool = tool
        self.durable = durable
        self.cluster = cluster

    def missing(self):
        """The tool that it cannot do without and that is not here, or None."""
        for tool in (self.tool, "redis-server" if self.cluster else None):
            if tool and not shutil.which(tool):
                return tool
        return None


ROWS = [
    Row(memory_rows.get),
    Row(memory_rows.put),
    Row(memory_rows.one),
    Row(memory_rows.many),
    Row(memory_rows.new, tool="ab"),
    Row(memory_rows.sizes),
    Row(memory_rows.put_large),
    Row(memory_rows.mixed),
    Row(memory_rows.idle, tool=None),
    Row(memory_rows.entries, tool=None),
    Row(memory_rows.changed_entries, tool=None),
    Row(cache_rows.caches, tool="rustc"),
    Row(cache_rows.evicting),
    Row(cache_rows.evicting_sizes),
    Row(cache_rows.durable_evicting, durable=True),
    Row(durable_rows.durable_put, durable=True),
    Row(durable_rows.durable_get, durable=True),
    Row(durable_rows.durable_get_files, durable=True),
    Row(durable_rows.durable_peers, durable=True),
    Row(durable_rows.durable_one, durable=True),
    Row(durable_rows.durable_restart, tool=None, durable=True),
    Row(leader_rows.leaders, durable=True),
    Row(collection_rows.list_all, tool=None),
    Row(collection_rows.list_prefix),
    Row(collection_rows.beside_list),
    Row(collection_rows.wake_up, tool=None),
    Row(collection_rows.beside_waiters),
    Row(stream_rows.told, tool=None),
    Row(stream_rows.beside_watchers),
    Row(stream_rows.import_lines, tool="curl"),
    Row(stream_rows.beside_import),
    Row(stream_rows.export_lines, tool="curl"),
    Row(collection_rows.batches),
    Row(collection_rows.durable_list_all, tool=None, durable=True),
    Row(collection_rows.durable_list_prefix, durable=True),
    Row(collection_rows.durable_beside_list, durable=True),
    Row(collection_rows.durable_batches, durable=True),
    Row(collection_rows.durable_take, tool=None, durable=True),
    Row(stream_rows.durable_import_lines, tool="curl", durable=True),
    Row(stream_rows.durable_export_lines, tool="curl", durable=True),
    Row(cluster_rows.cluster_get, cluster=True),
    Row(cluster_rows.cluster_put, cluster=True),
    Row(cluster_rows.cluster_one, tool=None, cluster=True),
    Row(cluster_rows.cluster_one_key, cluster=True),
    Row(cluster_rows.cluster_fronts, cluster=True),
    Row(cluster_rows.cluster_wait, cluster=True),
    Row(cluster_rows.cluster_rest, cluster=True),
]


def chosen_rows(names):
    known = {row.name: row for row in ROWS}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such row: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else ROWS


def parsed_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--short", action="store_true", help="see that it works")
    parser.add_argument("--bin", default="")
    parser.add_argument("--output", default="bench.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=3)
    parser.add_argument("--disk", default=tempfile.gettempdir())
    parser.add_argument("--durable", choices=["disk", "memory"], default="disk")
    parser.add_argument("--count")
    parser.add_argument("row", nargs="*", help="the rows to run, all if none is named")
    return parser.parse_args()


def measure(bench, rows, checks):
    """Runs the rows, shows their lines, and returns these and what went wrong."""
    lines, wrong = [], []
    missing_engine = bench.no_durable_engine() if any(row.durable for row in rows) else None
    print(machine())
    show(HEADINGS)
    for row in rows:
        if missing := row.missing():
            print(f"skipped {row.name}: there is no {missing} here", flush=True)
            continue
        if row.durable and missing_engine:
            continue
        try:
            found = row.run(bench)
        except (Wrong, OSError, subprocess.SubprocessError) as err:
            checks.count(False)
            wrong.append(f"{row.name}: {err}")
            print(f"FAILED {wrong[-1]}", flush=True)
            continue
        checks.count(True)
        lines += found
        for line in found:
            show(line.cells())
    if missing_engine:
        print(missing_engine)
    return lines, wrong


def main():
    end_with_parent()
    # Each way to be stopped leaves through the blocks that hold servers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    options = parsed_arguments()
    rows = chosen_rows(options.row)
    if options.list:
        for row in rows:
            print(f"{row.name:<20} {row.run.__doc__}")
        return
    allow_many_sockets()
    bench, checks = Bench(options), Checks()
    try:
        lines, wrong = measure(bench, rows, checks)
        write_markdown(options.output, bench, lines, wrong)
    finally:
        bench.close()
    sys.exit(checks.end(options.count))
