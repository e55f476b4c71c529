"""What a VM that floods costs its neighbour in the same two processes, by flood.

A p99 of milliseconds that comes and goes with the machine's mood hides 5 %. So the same load goes in windows of half a second, in random order, to the
flooded pair of proxies and to one beside it that nobody floods; each window with the flood is compared with the one without it that is next to it, and the
median of those ratios is told with the interval in which it lies at 95 % (by the binomial distribution: nothing is assumed of how they are spread).
"none" goes through the same as a flood: how far it is from 1 says what this machine can tell just now.

The floods are those of tests/lib/flood.py. Those that hold connections are at rest while it is measured, those that go on are stopped for windows without.
What floods, and what it reaches behind the proxies, is not what is measured: both run where the load runs, but only when nothing else wants that processor,
so that the figure is the proxies' part as far as two processors allow it. For that the kernel must not group processes by session
(kernel.sched_autogroup_enabled), which would make priorities count among the threads of one process only.
"""

import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import contenders as known
from lab import LOAD, LOAD_CPU, TOP
from two_hop import TwoHop

FLOOD = os.path.join(TOP, "tests", "lib", "flood.py")
RATE, CONNECTIONS = 2000, 50
REST_S = 2                  # until a flood that holds has got what it holds
WINDOW_S = 0.5
SETTLE_S = 0.1              # until one that goes on is felt, or is not any more
PAIRS_A_SECOND = 2          # so many windows of each sort stand for a second of what the command line asks for
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


def interval(values):
    """Where the median of what they are drawn from lies at 95 %, or else at what so few of them can tell."""
    ordered, n = sorted(values), len(values)
    cut = max((k for k in range((n + 1) // 2) if sum(math.comb(n, i) for i in range(k + 1)) / 2 ** n <= 0.025), default=0)
    return ordered[cut], ordered[n - 1 - cut]


class Windows:
    """A load whose connections stay, and that goes where it is told, half a second each time."""

    def __init__(self, ns, addresses):
        argv = [LOAD, "windows", ",".join(addresses), CONNECTIONS, RATE, WINDOW_S]
        self.ns = ns
        self.process = ns.popen(argv, LOAD_CPU, "load", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def once(self, index):
        self.process.stdin.write(b"%d\n" % index)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            with open(self.process.log) as f:
                raise RuntimeError("the load ended: " + f.read()[-2000:])
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.ns.stop(self.process)


class Comparison:
    """Windows with and without a flood, in pairs; @window(on) measures one."""

    def __init__(self, report, scenario, flood, order):
        self.report, self.scenario, self.flood, self.order = report, scenario, flood, order
        self.ratios = {"p50": [], "p99": []}

    def pair(self, window):
        found = {}
        for on in self.order.sample((True, False), 2):
            r = found[on] = window(on)
            if r["errors"] or not r["requests"]:
                self.report.fail(self.scenario, self.report.ours, "%s: %d errors, %d requests" % (self.flood, r["errors"], r["requests"]))
        for q, ratios in self.ratios.items():
            ratios.append(found[True][q + "_us"] / max(found[False][q + "_us"], 1))
            self.report.add(self.scenario, self.report.ours, "neighbour's %s, %s" % (q, self.flood), "us", found[True][q + "_us"])
            self.report.add(self.scenario, self.report.ours, "the same without, beside %s: %s" % (self.flood, q), "us", found[False][q + "_us"])

    def end(self):
        for q, ratios in self.ratios.items():
            low, high = interval(ratios)
            self.report.add(self.scenario, self.report.ours, "%s / %s without, %s" % (q, q, self.flood), "x", statistics.median(ratios))
            for end, value in (("at least", low), ("at most", high)):
                self.report.add(self.scenario, self.report.ours, "%s / %s without, %s, %s" % (q, q, self.flood, end), "x", value)
            print("  %-32s %s / %s without: %.2f  (%.2f .. %.2f at 95 %%, n=%d)" % (self.flood, q, q, statistics.median(ratios), low, high, len(ratios)), flush=True)


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
    """Two VMs on each side, the neighbour and who may flood, each with a backend of its own. There may be another pair of processes beside them."""

    def __init__(self, ns, first):
        super().__init__(ns, 2000, 2)
        self.first = first

    def names(self, i):
        return dict(super().names(self.first + i), backend=known.BACKEND + i)

    def file(self, name, text):
        return super().file("%d-%s" % (self.first, name), text)

    @property
    def addresses(self):
        return ["127.1.%d.1:%d" % (self.first + i, self.SERVICE_PORT) for i in range(self.pairs)]

    def warm(self):
        """Until it answers."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return self.ns.run([LOAD, "rounds", self.addresses[0], CONNECTIONS, 20], LOAD_CPU)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


class Isolation(TwoHop):
    def __init__(self, report, rounds, seconds, seed):
        super().__init__(report, [], rounds, seconds, seed)
        argv = WHEN_NOTHING_ELSE + self.backend_argv(self.ns, known.BACKEND + 1)
        self.ns.wait_listening(known.BACKEND + 1, self.ns.popen(argv, LOAD_CPU, "flooded"))
        self.groups = NoGroups()

    def close(self):
        self.groups.close()
        super().close()

    def start(self, flood, first):
        what, where, count, *more = flood
        host, port = ("127.1.%d.1" % (first + 1), known.Outrigger.SERVICE_PORT) if where == "service" else ("127.3.%d.3" % (first + 1), 15008)
        argv = WHEN_NOTHING_ELSE + [sys.executable, FLOOD, what, host, port, count, *more]
        p = self.ns.popen(argv, LOAD_CPU, "flood", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if p.stdout.readline() != b"ready\n":
            raise RuntimeError("the flood ended: " + open(p.log).read()[-2000:])
        time.sleep(REST_S)
        return p

    def compare(self, name, flood, order):
        """In proxies of their own, so that no flood is felt by what is measured next."""
        flooded, quiet = self.contenders = [Neighbours(self.ns, 0), Neighbours(self.ns, 2)]
        for c in (flooded, quiet):
            c.start()
            c.warm()
        p = self.start(flood, flooded.first) if flood else None
        load = Windows(self.ns, [c.addresses[0] for c in (flooded, quiet)])
        found = Comparison(self.report, "isolation", name, order)

        def window(on):
            if p:
                os.killpg(p.pid, signal.SIGCONT if on else signal.SIGSTOP)
            time.sleep(SETTLE_S)
            return load.once(0 if on else 1)
        for _ in range(PAIRS_A_SECOND * self.rounds * self.seconds):
            found.pair(window)
        found.end()
        load.close()
        if p:
            os.killpg(p.pid, signal.SIGCONT)
            p.stdin.close()
            self.ns.stop(p)
        for c in (flooded, quiet):
            c.stop()
        self.contenders = []

    def run(self):
        order = random.Random(self.seed)
        for name, flood in FLOODS.items():
            self.compare(name, flood, order)
