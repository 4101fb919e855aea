"""The rows of the engine in front of a cluster. Each is a function that returns lines.

The six nodes, the fronts and the load share the processors: the ratios tell more
than the figures. The keys are spread over all masters."""

import concurrent.futures
import contextlib
import shutil
import socket
import statistics
import subprocess
import time

from cluster.nodes import MASTERS, slot_of
from lib import Wrong, end_with_parent, wait_for

from .cluster import connections_to, front
from .durable_rows import webdis_puts
from .loads import CONNECTIONS, PUT_KEYS, Load, puts
from .requests import (
    MIB, PATIENCE_SECONDS, VALUE, get_request, load_keys, path_of, put_request, received,
    store_value)
from .servers import Servers, start_redis, start_webdis
from .table import CPU, MEBIBYTES, NODES_CPU, OPEN, P50, P99, RATE, Line

# How many different keys are counted up.
COUNTERS = 10_000
# More than redis-benchmark sends before it is stopped.
BENCHMARK_REQUESTS = 1_000_000_000


def cluster_get(bench):
    """GET of 100 bytes, 64 connections, before a cluster"""
    with beside_others(bench) as (ours, memory, webdis):
        for server in (ours, memory):
            load_keys(server, PUT_KEYS)
        contenders = [beside_nodes(bench, gets_of_keys(ours), bench.cluster())]
        for server, redis in webdis:
            redis.fill(PUT_KEYS)
            contenders.append(beside_nodes(bench, webdis_gets(server), redis))
        contenders += [alone(bench, gets_of_keys(memory)), *benchmarked(bench, "GET")]
        return bench.race(cluster_get.__doc__, [RATE, P99, CPU, NODES_CPU], contenders)


def cluster_put(bench):
    """PUT of 100 bytes, 64 connections, before a cluster"""
    with beside_others(bench) as (ours, memory, webdis):
        contenders = [beside_nodes(bench, puts(ours), bench.cluster())]
        for server, redis in webdis:
            contenders.append(beside_nodes(bench, webdis_puts(server), redis))
        contenders += [alone(bench, puts(memory)), *benchmarked(bench, "SET")]
        return bench.race(cluster_put.__doc__, [RATE, P99, CPU, NODES_CPU], contenders)


@contextlib.contextmanager
def beside_others(bench):
    """A front, the engine in memory, and a list of Webdis with its Redis, that is empty
    where there is none."""
    with Servers(front(bench)) as servers:
        [memory] = servers.add([bench.store()])
        webdis = []
        if shutil.which("webdis"):
            [redis] = servers.add(bench.peer("redis-server", start_redis))
            webdis = [(server, redis) for server in servers.add(
                bench.peer("webdis", start_webdis, redis))]
        yield servers.servers[0], memory, webdis


def beside_nodes(bench, load, nodes):
    """A contender with what its requests cost the nodes behind it."""
    def run():
        cpu = nodes.cpu_seconds()
        figures = load.run(bench.seconds)
        return {**figures, "nodes": (nodes.cpu_seconds() - cpu) / figures["requests"] * 1e6}

    return (load.name, run)


def alone(bench, load):
    return (load.name, lambda: load.run(bench.seconds))


def gets_of_keys(server, connections=CONNECTIONS):
    return Load(server, [get_request(path_of(number)) for number in range(PUT_KEYS)], connections,
                is_right=lambda status, body: (status, body) == (200, VALUE))


def webdis_gets(webdis):
    requests = [get_request(b"/GET/" + path_of(number)[4:] + b".txt") for number in range(PUT_KEYS)]
    return Load(webdis, requests,
                is_right=lambda status, body: status == 200 and body.startswith(VALUE))


# Redis' own benchmark.


def benchmarked(bench, command):
    """redis-benchmark on as many connections to the nodes, in a list, that is empty
    where there is none."""
    if not shutil.which("redis-benchmark"):
        return []
    words = {"SET": ["SET", "bench:{tag}", VALUE.decode()], "GET": ["GET", "bench:{tag}"]}
    nodes = bench.cluster()
    with redis_benchmark(nodes, words["SET"]):
        pass
    return [("redis-benchmark", lambda: benchmark_figures(nodes, words[command], bench.seconds))]


def benchmark_figures(nodes, words, seconds):
    """Figures of a run. The nodes count: its own clock has steps of 250 ms."""
    with redis_benchmark(nodes, words):
        begun, calls, cpu = time.monotonic(), nodes.calls(words[0]), nodes.cpu_seconds()
        time.sleep(seconds)
        calls, cpu = nodes.calls(words[0]) - calls, nodes.cpu_seconds() - cpu
        return {"rate": calls / (time.monotonic() - begun), "nodes": cpu / calls * 1e6}


@contextlib.contextmanager
def redis_benchmark(nodes, words):
    """redis-benchmark at work."""
    before = nodes.calls(words[0])
    command = ["redis-benchmark", "--cluster", "-p", str(nodes.all[0].port),
               "-c", str(CONNECTIONS), "-n", str(BENCHMARK_REQUESTS), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          preexec_fn=end_with_parent) as process:
        try:
            if not wait_for(lambda: nodes.calls(words[0]) > before + 1000, PATIENCE_SECONDS):
                raise Wrong("redis-benchmark sends nothing")
            yield
        finally:
            process.kill()


# One connection, one key, several fronts.


def cluster_one(bench):
    """a lone GET of 100 bytes before a cluster, beside a node's own round trip"""
    path = path_of(0)
    with front(bench) as ours:
        store_value(ours, path, VALUE)
        key = path[4:]
        node, command = bench.cluster().owner_of(slot_of(key)), b"GET %s\r\n" % key
        return bench.race(cluster_one.__doc__, [P50, P99], [
            (ours.name, lambda: round_trips(bench, ours.port, get_request(path))),
            ("GET of a node", lambda: round_trips(bench, node.port, command))])


def round_trips(bench, port, request):
    """Figures of one connection that asks and waits in turn."""
    times, end = [], time.monotonic() + bench.seconds
    with socket.create_connection(("127.0.0.1", port), 15) as client:
        while time.monotonic() < end:
            begun = time.perf_counter()
            client.sendall(request)
            data = received(client)
            while VALUE not in data:
                data += received(client)
            times.append((time.perf_counter() - begun) * 1e6)
    times.sort()
    return {"p50": statistics.median(times), "p99": times[len(times) * 99 // 100]}


def cluster_one_key(bench):
    """increments of one key by 64 connections before a cluster, beside 10,000 keys"""
    with front(bench) as ours:
        loads = [increments(ours, 1, "one key"), increments(ours, COUNTERS, f"{COUNTERS:,} keys")]
        return bench.race("increments of one key by 64 connections", [RATE, P99, CPU, NODES_CPU], [
            beside_nodes(bench, load, bench.cluster()) for load in loads])


def increments(server, keys, name):
    requests = [put_request(b"/kv/count:%d?incr" % number, b"", b"POST") for number in range(keys)]
    return Load(server, requests, is_right=lambda status, body: status == 200 and body.strip().isdigit(),
                name=name)


def cluster_fronts(bench):
    """GET of 100 bytes through two fronts, beside one"""
    with Servers(front(bench)) as fronts:
        fronts.add([front(bench)])
        load_keys(fronts.servers[0], PUT_KEYS)

        def through(servers, connections):
            loads = [gets_of_keys(server, connections) for server in servers]
            return lambda: together(bench, loads)

        one, two = fronts.servers[:1], fronts.servers
        lines = []
        # What a request costs a front falls with the number of its connections.
        for each in (CONNECTIONS, CONNECTIONS // 2):
            what = f"GET of 100 bytes through two fronts, {each} connections each"
            lines += bench.race(what, [RATE, CPU], [
                ("two", through(two, each)), ("one with 64", through(one, CONNECTIONS))])
        return lines


def together(bench, loads):
    """Figures of loads that run at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(loads)) as pool:
        parts = list(pool.map(lambda load: load.run(bench.seconds), loads))
    requests = sum(part["requests"] for part in parts)
    return {"rate": sum(part["rate"] for part in parts),
            "cpu": sum(part["cpu"] * part["requests"] for part in parts) / requests}


def cluster_wait(bench):
    """PUT of 100 bytes that a replica has to have, beside those that none has"""
    with Servers(front(bench, "--cluster-wait", "1", name="with --cluster-wait 1")) as fronts:
        fronts.add([front(bench, name="without")])
        return bench.race("PUT of 100 bytes, 64 connections, for a replica too",
                          [RATE, P99, CPU, NODES_CPU],
                          [beside_nodes(bench, puts(server), bench.cluster()) for server in fronts])


def cluster_rest(bench):
    """what a front holds: memory, connections to the nodes"""
    with front(bench) as ours:
        at_rest = {"connections": connections_to(bench.cluster(), ours),
                   "mib": ours.resident() / MIB}
        seen = []
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            load = pool.submit(puts(ours).run, bench.seconds)
            while not load.done():
                seen.append(connections_to(bench.cluster(), ours))
                time.sleep(0.02)
            load.result()
        bound = [MASTERS + 2]
        return [Line("connections of a front to the nodes at rest", OPEN,
                     [at_rest["connections"]], "masters + 2", bound),
                Line("connections of a front to the nodes under load, the most", OPEN,
                     [max(seen)], "masters + 2", bound),
                Line("resident memory of a front at rest", MEBIBYTES, [at_rest["mib"]])]
