"""What may not grow: measured at quiet points, and told from noise."""

import contextlib
import glob
import json
import os
import re
import shutil
import sqlite3
import statistics
import struct
import subprocess
import tempfile
import time

from faultlab import children

# By how much a value may have risen in all: (absolute, part of it). Anything else may not grow at all. Tunnels, a descriptor each, come and go with peers.
# Two VMs more or less behind a NIC, as they are moved, are 200 KiB of its proxy's heap with their tunnels; ten bytes a request, lost, are more.
# A sanitizer's own memory (shadow, quarantine, stacks of allocations) grows by megabytes for reasons of its own: there the heap is what counts.
SLACK = {"private_kib": (512, 0.05), "heap_kib": (256, 0.02), "descriptors": (8, 0), "spare_sockets": (192, 0), "sockets": (8, 0), "map_entries": (8, 0), "rows": (8, 0), "files": (2, 0)}
SANITIZED_SLACK = {"private_kib": (65536, 0)}
ENOUGH = 6      # samples after the first pass
SWEPT_S = 60    # a flow without a connection is gone after 40 s (src/agent/monitor.c)
FILLS_S = 300   # so long a proxy keeps a tunnel that nobody uses (HBONE_IDLE_MS): a younger one still fills up, with those of each fault
STEADY = 1 / 6  # of the whole rise: the least that each quarter of the time has to do with it (its share would be a third)


def grown(values, slack=(0, 0)):
    """Whether @values, in the order of time, grow: from quarter to quarter their median rises, steadily, by more than the slack in all.

    One that rises with the work that is done does. One that swings does not, nor one that has found its level, be it by steps or late.
    """
    if len(values) < ENOUGH:
        return False
    n = len(values)
    quarters = [statistics.median(values[i * n // 4:(i + 1) * n // 4]) for i in range(4)]
    rise = quarters[3] - quarters[0]
    if rise <= slack[0] + slack[1] * quarters[0]:
        return False
    return all(b - a >= rise * STEADY for a, b in zip(quarters, quarters[1:]))


def private_kib(pid):
    with open("/proc/%d/smaps_rollup" % pid) as f:
        return sum(int(n) for n in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", f.read(), re.M))


def descriptors(pid):
    """(sockets that are neither bound nor connected, all else): a proxy keeps some of the former in store, more or less full."""
    known = set()
    for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("unix", 6), ("netlink", 9), ("packet", 8)):
        try:
            with open("/proc/%d/net/%s" % (pid, table)) as f:
                known.update(line.split()[column] for line in f.readlines()[1:])
        except FileNotFoundError:
            pass        # a kernel without IPv6, say
    n = {True: 0, False: 0}
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            socket = re.match(r"socket:\[(\d+)\]", os.readlink("/proc/%d/fd/%s" % (pid, fd)))
        except FileNotFoundError:
            continue
        n[bool(socket and socket.group(1) not in known)] += 1
    return n[True], n[False]


def process_values(pid, heaps):
    with open("/proc/%d/status" % pid) as f:
        threads = int(re.search(r"^Threads:\s+(\d+)", f.read(), re.M).group(1))
    spare, others = descriptors(pid)
    values = {"private_kib": private_kib(pid), "descriptors": others, "spare_sockets": spare, "threads": threads}
    try:
        with open(os.path.join(heaps, str(pid)), "rb") as f:    # tests/lib/no-seccomp.c
            values["heap_kib"] = struct.unpack("=q", f.read(8))[0] // 1024
    except FileNotFoundError:
        pass            # no sanitizer, or a forked child
    return values


def map_entries(folder):
    """Entries of each pinned map, without those that an array always has."""
    counts = {}
    for path in sorted(glob.glob(folder + "/**", recursive=True)):
        r = subprocess.run(["bpftool", "-j", "map", "dump", "pinned", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        try:
            entries = json.loads(r.stdout)
        except ValueError:
            continue
        if isinstance(entries, list) and entries and "key" in entries[0]:
            counts[os.path.basename(path)] = sum(is_old(e) for e in entries)
    return counts


def is_old(entry):
    """Flows go in sweeps, and how many there are says how busy it was lately. Other entries have no age, and all count."""
    since = entry.get("formatted", {}).get("value", {})
    since = since.get("since_ns") if isinstance(since, dict) else None
    return since is None or since < time.clock_gettime_ns(time.CLOCK_MONOTONIC) - SWEPT_S * 10 ** 9


# What is over is no growth: it goes once an hour (src/control/authority.c).
VALID = {"certs": "not_after >= :now", "tokens": "expires_at >= :now AND NOT revoked_at", "revoked": "until >= :now"}


def rows(folder):
    """Rows of each table of the controller's store that still hold: of a copy, for the controller shares it with nobody."""
    counts = {}
    with tempfile.TemporaryDirectory() as copy:
        for path in glob.glob(folder + "/controller.db*"):
            shutil.copy(path, copy)
        with contextlib.closing(sqlite3.connect(copy + "/controller.db")) as db:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall():
                counts[table] = db.execute('SELECT count(*) FROM "%s" WHERE %s' % (table, VALID.get(table, "true")), {"now": int(time.time())}).fetchone()[0]
    return counts


def files(folder):
    return sum(len(names) for _, _, names in os.walk(folder))


def processes(lab):
    """{role: pid} of all programs that are up."""
    found = {}
    if lab.controller and lab.controller.poll() is None:
        found["controller"] = lab.controller.pid
    for name, nic in lab.nics.items():
        if nic.process.poll() is not None:
            continue
        found["monitor " + name] = nic.process.pid
        found["worker " + name] = nic.worker_pid()
        for pid in sorted({p["pid"] for p in nic.get("/v1/proxies")["proxies"] if p["pid"]}):
            role = "proxy %s %s" % (name, group(pid))
            found[role] = pid
            for i, child in enumerate(children(pid)):
                found["%s sockd %d" % (role, i)] = child
    return found


def group(pid):
    with open("/proc/%d/cmdline" % pid) as f:
        argv = f.read().split("\0")
    return argv[argv.index("--group") + 1] if "--group" in argv else "?"


class Growth:
    def __init__(self, lab, sanitized):
        self.lab = lab
        self.slack = dict(SLACK, **(SANITIZED_SLACK if sanitized else {}))
        self.series = {}        # (what, of whom): values in the order of time
        self.warm = False
        self.seen = {}          # pid: when first

    def add(self, what, whom, value):
        self.series.setdefault((what, whom), []).append(value)

    def sample(self):
        lab = self.lab
        for role, pid in processes(lab).items():
            if role.startswith("proxy") and time.monotonic() < self.seen.setdefault(pid, time.monotonic()) + FILLS_S:
                continue
            for what, value in process_values(pid, lab.heaps).items():
                self.add(what, "%s (%d)" % (role, pid), value)
        for name, nic in lab.nics.items():
            for m, n in map_entries(os.path.join(lab.dir, "bpf", name)).items():
                self.add("map_entries", "%s %s" % (m, name), n)
            for folder in ("run", "state"):
                self.add("files", "%s-%s" % (folder, name), files("%s/%s-%s" % (lab.dir, folder, name)))
        for host in [n.host for n in lab.nics.values()] + [lab.edge]:
            self.add("sockets", host.name, len(host.run("ss", "-Hantu", "exclude", "time-wait").splitlines()))
        self.add("files", "controller", files(lab.state))
        for table, n in rows(lab.state).items():
            self.add("rows", table, n)

    def first_pass_over(self):
        """What was measured before every fault has been on once is warming up."""
        self.series = {}
        self.warm = True

    def found(self):
        """What grows, in words."""
        if not self.warm:
            return []
        return ["%s of %s: %s" % (what, whom, " ".join(map(str, values))) for (what, whom), values in sorted(self.series.items())
                if grown(values, self.slack.get(what, (0, 0)))]

    def too_young(self, roles):
        """Those of @roles of which no process was there long enough to tell."""
        old = {whom for (what, whom), values in self.series.items() if what == "descriptors" and len(values) >= ENOUGH}
        return [r for r in roles if not any(whom.startswith(r) for whom in old)]

    def table(self):
        """First and last of what was measured more than once."""
        return ["%-12s %-34s %s" % (what, whom, " ".join(map(str, v))) for (what, whom), v in sorted(self.series.items()) if len(v) > 1 and len(set(v)) > 1]
