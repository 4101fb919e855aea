"""Runs the cases beside the honest client, and shows the table."""

import argparse
import os
import shutil
import subprocess
import sys
import time

from lib import Checks, allow_many_sockets, wait_for

from .cases import CASES
from .honest import Honest, be_honest, percentile
from .plan import Plan
from .server import HEALTH, Server

# What 99 of 100 honest requests keep to, on a quiet machine. A short run is for any
# machine, and shows their times without a verdict.
P99_MAX_MS = 50


def judged(case, plan):
    """Runs a case: what went wrong, and its row of the table."""
    server = plan.server
    before = (server.memory(), server.threads(), server.descriptors()) if server.pid else None
    if before:
        server.forget_peak()
    honest = Honest(server, plan.idle_timeout)
    start = time.monotonic()
    try:
        result = case.run(plan)
    except (OSError, subprocess.SubprocessError) as err:
        result = [f"a hostile client could not go on: {err!r}"]
    wrong, remark = result if isinstance(result, tuple) else (result, "")
    # A percentile of a handful of requests would say nothing; in a short run it is not judged.
    time.sleep(max(0, start + plan.pick(0.3, 1.2) - time.monotonic()))
    times, faults = honest.end()
    wrong = list(wrong)
    if faults and not plan.few:
        wrong.append(f"{len(faults)} of {len(times)} honest requests failed: {faults[0]}")
    p50, p99, most = (percentile(times, percent) for percent in (50, 99, 100))
    if p99 > P99_MAX_MS and not plan.few and not plan.short:
        wrong.append(f"the honest client's p99 is {p99:.0f} ms, over {P99_MAX_MS}")
    row = [f"{p50:.1f}", f"{p99:.1f}", f"{most:.1f}"]
    if before:
        allowed = before[2] + 8
        if not wait_for(lambda: server.descriptors() <= allowed, plan.patience):
            wrong.append(f"{server.descriptors()} descriptors, {before[2]} before")
        growth = server.memory_peak() - before[0]
        growth_max = case.growth_mib * plan.pick(4, 1)
        if growth > growth_max:
            wrong.append(f"it grew by {growth:.0f} MiB, over {growth_max}")
        row += [f"{growth:.1f}", f"{before[1]} {server.threads()}", f"{before[2]} {server.descriptors()}"]
    else:
        row += ["-"] * 3
    return wrong, row, remark


WIDTHS = "{:<20} {:<45} {:<7} {:>6} {:>7} {:>7} {:>7} {:>9} {:>10}  {}"


def show(*columns):
    print(WIDTHS.format(*columns).rstrip(), flush=True)


def parsed_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--honest", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--few", action="store_true", help="the server has few descriptors")
    parser.add_argument("--tool", action="append", default=[])
    parser.add_argument("--request-timeout", type=float, default=30)
    parser.add_argument("--idle-timeout", type=float, default=60)
    parser.add_argument("--count")
    parser.add_argument("case", nargs="*", help="the cases to run, all if none is named")
    return parser.parse_args()


def chosen_cases(options):
    """Those that were asked for, and that can be run here."""
    for case in CASES:
        is_named = not options.case or case.run.__name__ in options.case
        has_tool = not case.tool or (case.tool in options.tool and shutil.which(case.tool))
        if is_named and has_tool and (case.with_few or not options.few):
            yield case


def run_cases(plan, cases, checks):
    """Runs them all, unless one of them ends the server, and shows a line for each."""
    show("case", "what the hostile clients do", "verdict", "p50", "p99", "max", "MiB", "threads",
         "fds", "")
    show("", "", "", "ms", "ms", "ms", "growth", "from to", "from to", "")
    for case in cases:
        wrong, row, remark = judged(case, plan)
        checks.count(not wrong)
        show(case.run.__name__, case.run.__doc__, "FAILED" if wrong else "ok", *row, remark)
        for line in wrong[:5]:
            print(f"    {line}")
        if len(wrong) > 5:
            print(f"    and {len(wrong) - 5} more")
        try:
            if not wait_for(lambda: plan.server.ask(HEALTH)[0] == 200, 10 + plan.patience):
                raise ConnectionError("not 200")
        except OSError as err:
            checks.count(False)
            print(f"    it serves nobody any more: {err!r}")
            break


def main():
    options = parsed_arguments()
    server = Server(options.url, options.pid)
    if options.honest:
        be_honest(server, options.idle_timeout)
        return

    allow_many_sockets()
    # On a real network the hostile clients would not take the processor from
    # the server.
    os.nice(5)

    server.set_up()
    checks = Checks()
    run_cases(Plan(server, options), chosen_cases(options), checks)
    server.clean_up()
    sys.exit(checks.end(options.count))
