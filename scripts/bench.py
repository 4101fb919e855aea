#!/usr/bin/env python3
"""The store beside other servers: rounds of measurements, and a table.

It is run by bench.sh:

    bench.py --bin PROGRAM --output FILE [--short] [--count FILE] [ROW...]

One function is one row, and one row may be several lines of the table. The
servers that a row compares take turns within each round, so that whatever else
the machine does hits all of them. wrk and ab make the load; as neither notices
connections that nobody serves, each is looked at here as well.

    bench/memory_rows.py   the rows of the engine in memory
    bench/durable_rows.py  the rows of the durable engine
    bench/leader_rows.py   the rows of several leaders
    bench/collection_rows.py  the rows of many keys: lists, counts, batches, takes
    bench/cache_rows.py    the rows of a store that is too small and evicts
    bench/stream_rows.py   the rows of streams: watches, imports, exports
    bench/cluster_rows.py  the rows of the engine in front of a cluster
    bench/race.py          the settings, and how servers take turns
    bench/loads.py         a load: wrk on so many connections
    bench/requests.lua     what wrk sends
    bench/requests.py      requests in bytes, clients that look at each answer
    bench/servers.py       nginx, Redis, Webdis, etcd and ours: start, look, stop
    bench/cluster.py       the nodes of a cluster, and fronts to them
    bench/cache/           plays the workload of a cache
    bench/store.go         the store as one would write it in Go in an hour
    bench/table.py         metrics, lines, the table
    bench/run.py           the list of rows, options, a run

A new row is a function in one of the first seven files, with what it measures as
its documentation, and a line in run.py.
"""

from bench.run import main

if __name__ == "__main__":
    main()
