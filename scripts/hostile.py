#!/usr/bin/env python3
"""Hostile clients against a running server, and an honest one beside them.

It is run by hostile.sh, which starts a server; python3 is all it needs:

    hostile.py --url URL [--pid PID] [--short] [--tool ab] [--count FILE] [CASE...]

One function is one case. While it runs, an honest client in a process of its
own makes small requests, on kept and on new connections, and measures each.
With --pid the server's memory, threads and descriptors are read from /proc.

    hostile/cases.py      the list of all cases, and what each may cost
    hostile/slow.py       clients that are slow, silent or deaf
    hostile/pipelines.py  many requests on one connection
    hostile/floods.py     very many connections, bytes without an end
    hostile/framing.py    requests whose end is in doubt, uploads that break off
    hostile/tools.py      slowhttptest and ab
    hostile/plan.py       what the cases are given, and share
    hostile/server.py     the server, as its clients and /proc see it
    hostile/honest.py     the honest client
    hostile/run.py        options, judging a case, the table

A new case is a function in one of the first five files, with a line for the
table as its documentation, and a row in cases.py.
"""

from hostile.run import main

if __name__ == "__main__":
    main()
