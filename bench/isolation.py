"""What a VM that floods costs its neighbour in the same two processes: the neighbour's p99 at a fixed rate, with each flood and without any.

The floods are those of tests/lib/flood.py. Those that hold connections are still while it is measured; those that never end share the load's
processor with the load, at the lowest priority, so that what is measured is the proxies' part as far as two processors allow it.
"""

import os
import random
import subprocess
import sys

import contenders as known
from lab import LOAD_CPU, TOP
from two_hop import TwoHop

FLOOD = os.path.join(TOP, "tests", "lib", "flood.py")
RATE, CONNECTIONS = 2000, 50
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


class Isolation(TwoHop):
    def __init__(self, report, rounds, seconds, seed):
        super().__init__(report, [], rounds, seconds, seed)

    def start(self, flood):
        what, where, count, *more = flood
        host, port = ("127.1.1.1", known.Outrigger.SERVICE_PORT) if where == "service" else ("127.3.1.3", 15008)
        argv = ["nice", "-n", "19", sys.executable, FLOOD, what, host, port, count, *more]
        p = self.ns.popen(argv, LOAD_CPU, "flood", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if p.stdout.readline() != b"ready\n":
            raise RuntimeError("the flood ended: " + open(p.log).read()[-2000:])
        return p

    def once(self, flood):
        """The neighbour's p99 in proxies of their own, so that no flood is felt by what is measured next."""
        c = known.Outrigger(self.ns, 2000, 2)
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
        return r["p99_us"]

    def run(self):
        order = random.Random(self.seed)
        for _ in range(self.rounds):
            turn = list(FLOODS)
            order.shuffle(turn)
            found = {name: self.once(FLOODS[name]) for name in turn}
            for name, p99 in found.items():
                self.report.add("isolation", self.report.ours, "neighbour's p99, " + name, "us", p99)
                if name != "none":
                    self.report.add("isolation", self.report.ours, "p99 / p99 without, " + name, "x", p99 / found["none"])
