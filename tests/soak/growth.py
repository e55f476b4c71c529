"""What may not grow: measured at quiet points, and told from noise."""

import contextlib
import glob
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile

from faultlab import children

# What a value may lie above what it was before: (absolute, part of it). Anything else may not grow at all.
SLACK = {"private_kib": (512, 0.05), "descriptors": (4, 0), "sockets": (8, 0), "map_entries": (8, 0), "rows": (8, 0)}
SANITIZED_SLACK = {"private_kib": (8192, 0.10)}
ENOUGH = 6      # samples after the first pass


def grown(values, slack=(0, 0)):
    """Whether @values, in the order of time, grow: each of the second half lies above all of the first, by more than the slack.

    A value that swings does not, nor one that has found its level; one that rises with the work that is done does.
    """
    if len(values) < ENOUGH:
        return False
    middle = len(values) // 2
    level = max(values[:middle])
    return min(values[middle:]) > level + slack[0] + slack[1] * level


def private_kib(pid):
    with open("/proc/%d/smaps_rollup" % pid) as f:
        return sum(int(n) for n in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", f.read(), re.M))


def process_values(pid):
    with open("/proc/%d/status" % pid) as f:
        threads = int(re.search(r"^Threads:\s+(\d+)", f.read(), re.M).group(1))
    return {"private_kib": private_kib(pid), "descriptors": len(os.listdir("/proc/%d/fd" % pid)), "threads": threads}


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
            counts[os.path.basename(path)] = len(entries)
    return counts


def rows(folder):
    """Rows of each table of the controller's store: of a copy, for the controller shares it with nobody."""
    counts = {}
    with tempfile.TemporaryDirectory() as copy:
        for path in glob.glob(folder + "/controller.db*"):
            shutil.copy(path, copy)
        with contextlib.closing(sqlite3.connect(copy + "/controller.db")) as db:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall():
                counts[table] = db.execute('SELECT count(*) FROM "%s"' % table).fetchone()[0]
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

    def add(self, what, whom, value):
        self.series.setdefault((what, whom), []).append(value)

    def sample(self):
        lab = self.lab
        for role, pid in processes(lab).items():
            for what, value in process_values(pid).items():
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

    def found(self):
        """What grows, in words."""
        return ["%s of %s: %s" % (what, whom, " ".join(map(str, values))) for (what, whom), values in sorted(self.series.items())
                if grown(values, self.slack.get(what, (0, 0)))]

    def enough(self):
        """Whether the run was long enough to tell: programs that were there all the time, NICs, the store."""
        return max((len(v) for v in self.series.values()), default=0) >= ENOUGH

    def table(self):
        """First and last of what was measured more than once."""
        return ["%-12s %-34s %s" % (what, whom, " ".join(map(str, v))) for (what, whom), v in sorted(self.series.items()) if len(v) > 1 and len(set(v)) > 1]
