"""Cases of tools that others wrote: slowhttptest and ab."""

import re
import subprocess


def slowhttptest(plan, *mode):
    seconds = plan.pick(4, 15)
    # Its own probe has to be answered in time.
    patience = plan.pick(20, 2)
    command = ["slowhttptest", *mode, "-c", "200", "-r", "200", "-l", str(seconds),
               "-p", str(patience), "-v", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    available = re.findall(r"service available:\s+(\w+)", text)
    if not available:
        return [f"slowhttptest says nothing of the service: {text[-200:]!r}"]
    wrong = ["slowhttptest finds the service unavailable"] if "NO" in available else []
    return wrong, (re.findall(r"[Ee]xit status:\s+(.*)", text) or [""])[-1]


def slowhttptest_heads(plan):
    """slowhttptest -H, 200 connections"""
    return slowhttptest(plan, "-H", "-i", "1", "-u", plan.server.url + "/kv/hostile:victim")


def slowhttptest_bodies(plan):
    """slowhttptest -B, 200 connections"""
    return slowhttptest(plan, "-B", "-i", "1", "-t", "PUT", "-u", plan.server.url + "/kv/hostile:slow")


def slowhttptest_reads(plan):
    """slowhttptest -X, 200 connections"""
    return slowhttptest(plan, "-X", "-w", "256", "-y", "512", "-n", "1", "-z", "64",
                        "-u", plan.server.url + "/kv/hostile:big")


def apache_bench(plan):
    """ab -k, 16 connections"""
    requests = plan.pick(5000, 50_000)
    done = subprocess.run(["ab", "-k", "-q", "-s", str(plan.patience), "-n", str(requests), "-c", "16",
                           plan.server.url + "/kv/hostile:victim"],
                          capture_output=True, text=True, timeout=120)
    figures = dict(re.findall(r"(?m)^([\w /-]+):\s+(\d+)", done.stdout))
    wanted = {"Complete requests": str(requests), "Failed requests": "0",
              "Keep-Alive requests": str(requests)}
    wrong = [f"ab: {name} {figures.get(name)}, not {value}"
             for name, value in wanted.items() if figures.get(name) != value]
    if "Non-2xx responses" in figures:
        wrong.append(f"ab: {figures['Non-2xx responses']} answers are not 200")
    return wrong, f"{figures.get('Requests per second', '?')} requests/s" if not wrong else ""
