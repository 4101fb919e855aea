#!/usr/bin/env python3
"""A cluster of six nodes behind two fronts, under a load while masters are killed. It
is run by cluster.sh:

    cluster.py --program PROGRAM --directory DIR --countries DIR [--replicas N]
               [--short] [--stay] [--soak SECONDS] [--seed N] [--count FILE]

Clients store the facts of the demo through both fronts, read them and count visits.
A master is killed, its replica takes its place, and it comes back as a replica. With
--soak that happens again and again.

What has to hold: each answer comes in time; 200 with what is stored, 503 if nothing was
done, 504 for a write that may have been done; the slots of a killed master are written to
again soon; each counter ends between the visits that were acknowledged and those and the
ones with 504, as far as acknowledged ones are kept (--replicas 1); and the fronts have
as many connections and threads as before.

    cluster/nodes.py    the nodes
    cluster/front.py    a front
    cluster/load.py     the clients and their notes
"""

import argparse
import random
import threading
import time

from lib import Checks, Wrong, run_to_end, wait_for
from cluster.front import Front
from cluster.load import ANSWER_SECONDS, Load, facts
from cluster.nodes import MASTERS, NODE_TIMEOUT_MILLIS, Nodes

PATIENCE_SECONDS = 60
# A load is under way after so many answers, and goes on for so many.
ANSWERS = 200
# The contract: so much later than a node is given up, its slots are written to again.
BACK_SECONDS = NODE_TIMEOUT_MILLIS / 1000 + 3
# What is taken of a busy machine besides.
MARGIN_SECONDS = 25
# A front's connections are one to each master, and two for what goes on beside.
CONNECTIONS_MORE = 2


class Play:
    """A cluster, its fronts, and what is checked of them."""

    def __init__(self, options):
        self.options = options
        self.dice = random.Random(options.seed)
        self.checks = Checks()
        self.nodes = Nodes(options.directory)
        self.fronts = []
        self.known = facts(options.countries)

    def start(self):
        begun = time.monotonic()
        self.nodes.start()
        say(f"A cluster of six nodes is up after {time.monotonic() - begun:.1f} s:")
        self.show_nodes()
        for _ in range(2):
            front = Front(self.options.program, self.nodes.addresses(), self.options.replicas)
            self.fronts.append(front)
            if not front.start():
                raise Wrong("a front does not start")
        say("\nTwo fronts before it, with --cluster-wait "
            f"{self.options.replicas}: " + " ".join(front.url for front in self.fronts))

    def show_nodes(self):
        for master, slots in self.nodes.masters().items():
            say(f"    {master}  slots {min(slots)} to {max(slots)}, "
                f"replica {self.nodes.replica_of(master)}")

    def load(self, counted=b"visits:"):
        ports = [front.port for front in self.fronts]
        return Load(ports, self.known, counted, self.options.seed)

    def wait_for_answers(self, tally):
        """Waits for some more answers of 200."""
        enough = tally.statuses()[200] + ANSWERS
        if not wait_for(lambda: tally.statuses()[200] >= enough, PATIENCE_SECONDS):
            raise Wrong(f"{tally.statuses()[200]} answers of 200, not {enough}")

    def lose_a_master(self, tally):
        """Kills a master, waits until its slots are written to again, and has it come back
        as a replica. Gives the outage."""
        masters = self.nodes.masters()
        victim = self.dice.choice(sorted(masters, key=str))
        heir = self.nodes.replica_of(victim)
        victim.kill()
        outage = tally.outage(masters[victim])
        if not wait_for(lambda: heir in self.nodes.masters(), PATIENCE_SECONDS):
            raise Wrong(f"{heir} does not take the place of {victim}")
        # Where a replica has to have each write, none is taken before there is one.
        if self.options.replicas == 0:
            wait_for(lambda: outage.ended, PATIENCE_SECONDS)
        time.sleep(self.dice.random())
        victim.start()
        self.nodes.expect_well()
        wait_for(lambda: outage.ended, PATIENCE_SECONDS)
        return victim, heir, outage

    # Checks.

    def check_answers(self, tally):
        for (status, text), count in sorted(tally.texts.items()):
            say(f"    {count:6} times {status} {text.decode().strip()}")
        self.checks.check(f"{tally.statuses()[200]} answers of 200, and each other one is right",
                          not tally.wrong and tally.statuses()[200] > 0,
                          f"{len(tally.wrong)} are not: " + "; ".join(tally.wrong[:5]))
        self.checks.check(f"the slowest came after {tally.slowest():.1f} s, of "
                          f"{ANSWER_SECONDS} s that they may take",
                          not any(" after " in line for line in tally.wrong))

    def check_outages(self, tally):
        bound = BACK_SECONDS + MARGIN_SECONDS
        taken = [outage.seconds() for outage in tally.outages]
        known = [seconds for seconds in taken if seconds is not None]
        shown = ", ".join(f"{seconds:.1f}" for seconds in known)
        self.checks.check(f"slots were written to again after {shown} s",
                          len(known) == len(taken) and max(known, default=0) <= bound,
                          f"{len(taken) - len(known)} never, of {len(taken)}")

    def number_of(self, key):
        """A counter's number, through either front, once the cluster answers."""
        front = self.dice.choice(self.fronts)
        connection = front.connect()
        seen = []

        def read():
            connection.request("GET", "/kv/" + key.decode())
            answer = connection.getresponse()
            seen[:] = [answer.status, answer.read()]
            return seen[0] in (200, 404)

        wait_for(read, PATIENCE_SECONDS)
        connection.close()
        status, body = seen
        return int(body) if status == 200 else 0

    def check_counters(self, tally):
        numbers = {key: self.number_of(key) for key in tally.counters}
        over, under, twice = [], [], []
        lost = acknowledged = perhaps = 0
        for key, counter in tally.counters.items():
            told = len(counter.numbers)
            acknowledged, perhaps = acknowledged + told, perhaps + counter.perhaps
            if numbers[key] > told + counter.perhaps:
                over.append(f"{key.decode()} is {numbers[key]}: {told} and {counter.perhaps}")
            if numbers[key] < told:
                lost += told - numbers[key]
                under.append(f"{key.decode()} is {numbers[key]}: {told}")
            if len(set(counter.numbers)) < told:
                twice.append(key.decode())
        self.checks.check(f"{len(numbers)} counters were counted up {acknowledged} times, and "
                          f"{perhaps} times perhaps: none is above that", not over,
                          "; ".join(over[:5]))
        if self.options.replicas:
            self.checks.check("none is below that", not under, "; ".join(under[:5]))
            self.checks.check("no number was given twice", not twice, "; ".join(twice[:5]))
        else:
            say(f"        {lost} acknowledged visits are lost: --cluster-wait 1 would keep them")

    def expect_rest(self, before):
        """The fronts have the descriptors and the threads that they had."""
        for front, (descriptors, threads) in zip(self.fronts, before):
            for what, read, bound in (("descriptors", front.descriptors, descriptors),
                                      ("threads", front.threads, threads)):
                wait_for(lambda: read() <= bound, PATIENCE_SECONDS)
                self.checks.check(f"{what} of a front: {bound} before, {read()} after",
                                  read() <= bound)
        masters = len(self.nodes.masters())
        bound = masters + CONNECTIONS_MORE

        def connections():
            return [self.connections_of(front) for front in self.fronts]

        wait_for(lambda: max(connections()) <= bound, PATIENCE_SECONDS)
        self.checks.check(f"connections of the fronts to the {masters} masters: "
                          + " and ".join(map(str, connections())), max(connections()) <= bound,
                          f"more than {bound}")

    def connections_of(self, front):
        """How many connections a front has to nodes."""
        ports = {node.port for node in self.nodes.all}
        own = front.sockets()
        with open("/proc/net/tcp") as file:
            lines = [line.split() for line in file.readlines()[1:]]
        return sum(1 for line in lines
                   if int(line[9]) in own and int(line[2].rpartition(":")[2], 16) in ports)

    def at_rest(self):
        """The descriptors and threads of each front with nobody connected to it."""
        wait_for(lambda: len({front.descriptors() for front in self.fronts}) == 1, 5)
        return [(front.descriptors(), front.threads()) for front in self.fronts]

    # Plays.

    def lose_one(self):
        """A master is killed under the load; shows what is answered meanwhile."""
        say("\nClients load the facts about countries through both, read them and count visits.")
        with self.load() as tally:
            self.wait_for_answers(tally)
            # Some more seconds for the table.
            time.sleep(0 if self.options.short else 3)
            victim, heir, outage = self.lose_a_master(tally)
            self.wait_for_answers(tally)
            time.sleep(0 if self.options.short else 2)
        killed = int(outage.begun - tally.begun)
        say(f"{victim} was killed in second {killed}; {heir} took its place, and it "
            "came back as a replica.\n")
        for line in tally.table(range(int(time.monotonic() - tally.begun))):
            say(line)
        say("")
        return tally

    def lose_many(self, seconds):
        """Masters are killed again and again."""
        end = time.monotonic() + seconds
        with self.load() as tally:
            self.wait_for_answers(tally)
            while time.monotonic() < end:
                victim, heir, outage = self.lose_a_master(tally)
                say(f"    {victim} killed, {heir} in its place: "
                    f"back after {outage.seconds() or -1:.1f} s, {tally.statuses()[504]} times 504 "
                    f"so far, {len(tally.wrong)} wrong")
        say(f"{len(tally.outages)} masters were killed in {seconds:.0f} s.")
        return tally

    def run(self):
        self.start()
        # What is made at the first requests is there before it is counted.
        with self.load(b"first:") as tally:
            self.wait_for_answers(tally)
        before = self.at_rest()
        soak = self.options.soak
        tally = self.lose_many(soak) if soak else self.lose_one()
        self.check_answers(tally)
        self.check_outages(tally)
        self.check_counters(tally)
        self.expect_rest(before)
        if self.options.stay:
            self.stay()
        codes = [front.end() for front in self.fronts]
        self.checks.check("the fronts stop with 0 and 0", codes == [0, 0], str(codes))

    def stay(self):
        say("\nThe cluster stays, until Ctrl-C:")
        self.show_nodes()
        for front in self.fronts:
            say(f"    curl {front.url}/kv/kenya:capital")
        say(f"    redis-cli -c -p {self.nodes.all[0].port} get kenya:capital")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("")

    def end(self):
        for front in self.fronts:
            if front.process and front.process.poll() is None:
                front.kill()
        self.nodes.end()


def say(line):
    print(line, flush=True)


def parsed_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--countries", required=True)
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--stay", action="store_true")
    parser.add_argument("--soak", type=float)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--count")
    return parser.parse_args()


def main():
    options = parsed_arguments()
    say(f"seed {options.seed}")
    run_to_end(lambda: Play(options), options.count)


if __name__ == "__main__":
    main()
