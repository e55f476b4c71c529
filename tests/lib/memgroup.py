"""A control group with a limit on memory, of version 2 (memory.max) or 1 (memory.limit_in_bytes), whichever the machine has.

    g = MemoryGroup("og-test")          # or Unavailable, with the reason
    g.take(pid)
    g.limit(64 << 20)
    g.killed()
    g.close()
"""

import errno
import os
import time

ROOT = "/sys/fs/cgroup"


class Unavailable(Exception):
    """There is no memory controller here, or it may not be written to: says which."""


def text_of(path):
    with open(path) as f:
        return f.read()


def write(path, text):
    with open(path, "w") as f:
        f.write(str(text))


class MemoryGroup:
    def __init__(self, name):
        self.two = os.path.exists(ROOT + "/cgroup.controllers")
        root = ROOT if self.two else ROOT + "/memory"
        if self.two and "memory" not in text_of(ROOT + "/cgroup.controllers").split():
            raise Unavailable("the memory controller of cgroup v2 is not available at " + ROOT)
        if not os.path.isdir(root):
            raise Unavailable("neither cgroup v2 nor the memory controller of v1 at " + ROOT)
        self.path = os.path.join(root, name)
        self.procs = self.path + "/cgroup.procs"
        try:
            if self.two and "memory" not in text_of(root + "/cgroup.subtree_control").split():
                write(root + "/cgroup.subtree_control", "+memory")
            os.mkdir(self.path)
        except OSError as e:
            raise Unavailable("no memory group can be made: %s" % e) from None

    def file(self, two, one):
        return os.path.join(self.path, two if self.two else one)

    def take(self, pid):
        """What it takes from now on counts, and whatever it starts."""
        write(self.procs, pid)

    def limit(self, size):
        """None: none."""
        write(self.file("memory.max", "memory.limit_in_bytes"), ("max" if self.two else -1) if size is None else size)
        if self.two and os.path.exists(self.path + "/memory.swap.max"):
            write(self.path + "/memory.swap.max", 0)

    def tighten(self):
        """Next to nothing more than it has at the moment; what the kernel can take back, files' pages, goes first."""
        try:
            self.limit(self.used() + (128 << 10))
        except OSError as e:
            if e.errno != errno.EBUSY:      # version 1: it has more by now
                raise

    def used(self):
        return int(text_of(self.file("memory.current", "memory.usage_in_bytes")))

    def killed(self):
        """How many processes the kernel has killed for want of memory."""
        lines = text_of(self.file("memory.events", "memory.oom_control")).splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == "oom_kill")

    def release(self, but=None):
        """All of them but one go on outside."""
        for pid in text_of(self.procs).split():
            try:
                if int(pid) != but:
                    write(os.path.dirname(self.path) + "/cgroup.procs", pid)
            except OSError:
                pass            # it has just ended

    def close(self):
        end = time.monotonic() + 30
        while True:
            self.release()
            try:
                return os.rmdir(self.path)
            except OSError as e:
                if e.errno != errno.EBUSY or time.monotonic() > end:
                    raise
            time.sleep(0.05)
