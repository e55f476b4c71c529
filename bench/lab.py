"""What every benchmark stands on: a namespace of its own, pinned processes, CPU and memory by the kernel's books, a report.

Rules: one run holds all contenders, repetitions are interleaved in random order, ratios are made of medians of one run,
and a contender that made an error or returned other bytes gets no ratio.
"""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(TOP, "build"))
LOAD = os.path.join(BUILD, "bench", "load")
PROXY_CPU, LOAD_CPU = "0", "1"

# Raw loopback with BBR is half as fast and noisy; short connections must not run out of ports.
SYSCTLS = {
    "net.ipv4.tcp_congestion_control": "reno", "net.ipv4.ip_local_port_range": "10000 65500", "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.tcp_max_syn_backlog": "8192", "net.core.somaxconn": "8192",
}


class Namespace:
    """One of its own, or with @borrowed one that others made and remove."""

    def __init__(self, name="og-bench", borrowed=False):
        self.name = name if borrowed else os.environ.get("OUTRIGGER_LAB", "") + name
        self.borrowed = borrowed
        if not borrowed:
            subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL, check=False)
            subprocess.run(["ip", "netns", "add", self.name], check=True)
            subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
        for key, value in SYSCTLS.items():
            self.run(["sh", "-c", "echo '%s' > /proc/sys/%s" % (value, key.replace(".", "/"))], check=False)
        self.dir = tempfile.mkdtemp(prefix="og-bench-")
        self.processes = []

    def argv(self, argv, cpu=None):
        return ["ip", "netns", "exec", self.name] + (["taskset", "-c", cpu] if cpu else []) + [str(a) for a in argv]

    def run(self, argv, cpu=None, check=True, timeout=300):
        r = subprocess.run(self.argv(argv, cpu), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
        if check and r.returncode:
            raise RuntimeError("%s: exit %d: %s%s" % (" ".join(map(str, argv)), r.returncode, r.stderr[-2000:], r.stdout[-2000:]))
        return r.stdout

    def popen(self, argv, cpu=None, name="process", **kw):
        log = open(os.path.join(self.dir, name + ".log"), "ab")
        kw.setdefault("stdout", log)
        kw.setdefault("stdin", subprocess.DEVNULL)
        p = subprocess.Popen(self.argv(argv, cpu), stderr=log, start_new_session=True, **kw)
        p.log = log.name
        self.processes.append(p)
        return p

    def stop(self, p):
        if p.poll() is None:
            for signo in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(p.pid, signo)
                    p.wait(3)
                    break
                except subprocess.TimeoutExpired:
                    continue
                except ProcessLookupError:
                    break
        if p in self.processes:
            self.processes.remove(p)

    def wait_listening(self, port, process=None, timeout_s=20):
        deadline = time.monotonic() + timeout_s
        hexport = ":%04X" % port
        while time.monotonic() < deadline:
            for table in ("tcp", "tcp6"):
                for line in self.run(["cat", "/proc/net/" + table]).splitlines()[1:]:
                    f = line.split()
                    if f[3] == "0A" and f[1].endswith(hexport):
                        return
            if process is not None and process.poll() is not None:
                with open(process.log) as f:
                    raise RuntimeError("it ended: " + f.read()[-2000:])
            time.sleep(0.02)
        raise TimeoutError("nobody listens on port %d" % port)

    def close(self):
        for p in list(self.processes):
            self.stop(p)
        if not self.borrowed:
            subprocess.run(["ip", "netns", "del", self.name], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def family(pid):
    """@pid and all that descend from it."""
    pids = [pid]
    for p in pids:
        try:
            for task in os.listdir("/proc/%d/task" % p):
                with open("/proc/%d/task/%s/children" % (p, task)) as f:
                    pids += [int(c) for c in f.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass
    return pids


def cpu_s(pids):
    """CPU seconds, user and system, exact to the nanosecond (schedstat), of all threads."""
    total = 0
    for p in pids:
        try:
            for task in os.listdir("/proc/%d/task" % p):
                with open("/proc/%d/task/%s/schedstat" % (p, task)) as f:
                    total += int(f.read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total / 1e9


def machine_s():
    """CPU seconds of the whole machine that were not idle, in ticks of 10 ms: interrupts and what the kernel did for nobody in particular, too."""
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq = (int(t) for t in f.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def memory_kb(pids):
    """(private, proportional) resident memory."""
    private = proportional = 0
    for p in pids:
        try:
            with open("/proc/%d/smaps_rollup" % p) as f:
                for line in f:
                    key, _, value = line.partition(":")
                    if key in ("Private_Clean", "Private_Dirty"):
                        private += int(value.split()[0])
                    elif key == "Pss":
                        proportional += int(value.split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return private, proportional


class Report:
    """Rows of measurements; ours_ratio > 1 is ahead: rival / ours for costs, ours / rival for rates."""

    def __init__(self, ours="outrigger"):
        self.ours = ours
        self.samples = {}
        self.broken = {}

    def add(self, scenario, contender, metric, unit, value, cost=True):
        self.samples.setdefault((scenario, metric, unit, cost), {}).setdefault(contender, []).append(value)

    def fail(self, scenario, contender, why):
        self.broken.setdefault((scenario, contender), why)

    def rows(self):
        out = []
        for (scenario, metric, unit, cost), by in self.samples.items():
            mine = by.get(self.ours)
            for contender, values in by.items():
                median = statistics.median(values)
                ratio = None
                bad = self.broken.get((scenario, contender)) or self.broken.get((scenario, self.ours))
                if mine and contender != self.ours and contender != "direct" and not bad:
                    ours = statistics.median(mine)
                    if ours > 0 and median > 0:
                        ratio = round(median / ours if cost else ours / median, 3)
                out.append({"scenario": scenario, "contender": contender, "metric": metric, "unit": unit, "median": round(median, 4),
                            "min": round(min(values), 4), "max": round(max(values), 4), "n": len(values), "ours_ratio": ratio})
        return out

    def write(self, path):
        """Keeps the rows of other scenarios that an earlier run left."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        mine = self.rows()
        names = {r["scenario"] for r in mine}
        try:
            with open(path) as f:
                old = [r for r in json.load(f) if r["scenario"] not in names]
        except (FileNotFoundError, ValueError):
            old = []
        with open(path + ".new", "w") as f:
            json.dump(old + mine, f, indent=1)
        os.rename(path + ".new", path)

    def show(self):
        last = None
        for r in self.rows():
            head = (r["scenario"], r["metric"])
            if head != last:
                print("\n%s: %s [%s]" % (r["scenario"], r["metric"], r["unit"]))
                last = head
            print("  %-16s %12.3f  (%.3f .. %.3f, n=%d)%s" % (
                r["contender"], r["median"], r["min"], r["max"], r["n"], "   x%.2f" % r["ours_ratio"] if r["ours_ratio"] else ""))
        for (scenario, contender), why in self.broken.items():
            print("\n%s, %s: no ratio: %s" % (scenario, contender, why))


def interleaved(contenders, rounds, seed):
    """Every contender once a round, in random order."""
    order = random.Random(seed)
    for n in range(rounds):
        turn = list(contenders)
        order.shuffle(turn)
        for c in turn:
            yield n, c
