"""What a VM that floods costs its neighbour in the same two processes: the neighbour's p99 at a fixed rate, with each flood and without any.

The floods are those of tests/lib/flood.py. Those that hold connections are at rest while it is measured. What floods, and what it reaches behind the
proxies, is not what is measured: both run where the load runs, but only when nothing else wants that processor, so that the figure is the proxies' part
as far as two processors allow it. For that the kernel must not group processes by session (kernel.sched_autogroup_enabled), which would make
priorities count among the threads of one process only.
"""

import os
import random
import subprocess
import sys
import time

import contenders as known
from lab import LOAD_CPU, TOP
from two_hop import TwoHop

FLOOD = os.path.join(TOP, "tests", "lib", "flood.py")
RATE, CONNECTIONS = 2000, 50
REST_S = 2                  # until a flood that holds has got what it holds
ASK = "GET /1m HTTP/1.1\r\nHost: x\r\n\r\n" * 4

# name: (what, who is dialled, how many, more)
FLOODS = {
    "none": None,
    "10,000 idle connections": ("idle", "service", 10000),
    "1,000 slow readers": ("slow", "service", 1000, ASK),
    "500 silent strangers": ("strangers", "tunnel", 500),
    "senseless bytes": ("garbage", "tunnel", 20),
    "new connections without end": ("dials", "service", 50),
}


WHEN_NOTHING_ELSE = ["chrt", "--idle", "0"]


def in_turns(report, scenario, floods, rounds, seed, once):
    """What @once(flood) measures of a neighbour, each round in another order; its p99 against the one without in the same round."""
    order = random.Random(seed)
    for _ in range(rounds):
        turn = list(floods)
        order.shuffle(turn)
        found = {name: once(floods[name]) for name in turn}
        for name, r in found.items():
            for q in ("p50", "p99"):
                report.add(scenario, report.ours, "neighbour's %s, %s" % (q, name), "us", r[q + "_us"])
            if "cpu" in r:
                report.add(scenario, report.ours, "cpu of agents and proxies, " + name, "s per s", r["cpu"])
            if name != "none":
                report.add(scenario, report.ours, "p99 / p99 without, " + name, "x", r["p99_us"] / found["none"]["p99_us"])


class NoGroups:
    """Of processes by session, until close()."""
    PATH = "/proc/sys/kernel/sched_autogroup_enabled"

    def __init__(self):
        self.before = None
        if os.path.exists(self.PATH):
            self.before = self.swap("0")

    def swap(self, value):
        with open(self.PATH, "r+") as f:
            before = f.read()
            f.write(value)
        return before

    def close(self):
        if self.before:
            self.swap(self.before)


class Neighbours(known.Outrigger):
    """Two VMs on each side, each with a backend of its own."""
    def names(self, i):
        return dict(super().names(i), backend=known.BACKEND + i)


class Isolation(TwoHop):
    def __init__(self, report, rounds, seconds, seed):
        super().__init__(report, [], rounds, seconds, seed)
        argv = WHEN_NOTHING_ELSE + self.backend_argv(self.ns, known.BACKEND + 1)
        self.ns.wait_listening(known.BACKEND + 1, self.ns.popen(argv, LOAD_CPU, "flooded"))
        self.groups = NoGroups()

    def close(self):
        self.groups.close()
        super().close()

    def start(self, flood):
        what, where, count, *more = flood
        host, port = ("127.1.1.1", known.Outrigger.SERVICE_PORT) if where == "service" else ("127.3.1.3", 15008)
        argv = WHEN_NOTHING_ELSE + [sys.executable, FLOOD, what, host, port, count, *more]
        p = self.ns.popen(argv, LOAD_CPU, "flood", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if p.stdout.readline() != b"ready\n":
            raise RuntimeError("the flood ended: " + open(p.log).read()[-2000:])
        time.sleep(REST_S)
        return p

    def once(self, flood):
        """The neighbour's p99 in proxies of their own, so that no flood is felt by what is measured next."""
        c = Neighbours(self.ns, 2000, 2)
        self.contenders.append(c)
        c.start()
        self.load("isolation", c, ["rounds", c.addresses[0], CONNECTIONS, 2])      # warm
        p = self.start(flood) if flood else None
        r, _ = self.load("isolation", c, ["rate", c.addresses[0], CONNECTIONS, RATE, self.seconds])
        if p:
            p.stdin.close()
            self.ns.stop(p)
        self.contenders.remove(c)
        c.stop()
        return r

    def run(self):
        in_turns(self.report, "isolation", FLOODS, self.rounds, self.seed, self.once)
