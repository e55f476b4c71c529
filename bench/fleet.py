"""Many VMs on one host at the same total load: a rival runs a pair of processes for each, ours one pair for all."""

import time

import contenders as known
from lab import interleaved
from two_hop import TwoHop

SIZES = (1, 10, 50)
RATE = 4000             # requests a second, of all VMs together
CONNECTIONS = 100       # likewise


class Fleet(TwoHop):
    def __init__(self, report, names, rounds, seconds, seed):
        super().__init__(report, [], rounds, seconds, seed)
        self.names = [n for n in names if n is not known.Direct and not n.missing()]
        self.private = {}

    def run(self):
        for size in SIZES:
            self.fleet("fleet-%d" % size, size)
        for name, by in self.private.items():
            self.report.add("fleet", name, "each further VM, A + B", "KiB private", (by[SIZES[-1]] - by[1]) / (SIZES[-1] - 1))

    def fleet(self, scenario, size):
        """One contender at a time: 100 processes of each at once would measure the machine's memory."""
        for n, cls in interleaved(self.names, self.rounds, self.seed):
            c = cls(self.ns, 2000, size)
            self.contenders.append(c)   # so that close() ends it if what follows fails
            c.start()
            time.sleep(1)               # what starting costs is not what idling costs
            if n == 0:
                self.private.setdefault(c.name, {})[size] = c.memory_kb()[0]
                self.report.add(scenario, c.name, "idle, A + B", "KiB private per VM", c.memory_kb()[0] / size)
            self.load(scenario, c, ["rounds", ",".join(c.addresses), CONNECTIONS, 2])       # warm
            r, cpu = self.load(scenario, c, ["rate", ",".join(c.addresses), CONNECTIONS, RATE, self.seconds])
            self.report.add(scenario, c.name, "cpu", "s per 100k requests", cpu / max(r["requests"], 1) * 1e5)
            self.report.add(scenario, c.name, "p99", "us", r["p99_us"])
            self.contenders.remove(c)
            c.stop()
