"""What programs that were built with a sanitizer need around them, and how their reports are found."""

import json
import os
import re

from agentlab import BUILD

# Leaks are looked for at exit, which the jail would not let happen (ptrace): the shim keeps seccomp filters from being loaded,
# and hands the environment down to proxies, which the agent starts with one of its own.
OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=1:halt_on_error=1:quarantine_size_mb=1:thread_local_quarantine_size_kb=16:allocator_release_to_os_interval_ms=500",
                "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=1:history_size=2:second_deadlock_stack=1"},
}
# And of the C library. "FATAL: ThreadSanitizer", "AddressSanitizer: CHECK failed", "LeakSanitizer has encountered a fatal error": whatever they say is one.
REPORT = re.compile(r"^.*(?:\w+Sanitizer[: ]|: runtime error: |Assertion .* failed|\*\*\* .* detected \*\*\*|^(?:free|malloc|realloc|double free)\b.*(?:\(\): |corruption)).*$", re.M)


def sanitizer():
    """Of the build under test: "address", "thread" or None."""
    with open(os.path.join(BUILD, "meson-info", "intro-buildoptions.json")) as f:
        value = {o["name"]: o["value"] for o in json.load(f)}["b_sanitize"]
    return next((s for s in OPTIONS if s in value), None)


def environment(heaps):
    """@heaps: a folder, in which each process keeps the number of bytes that it has allocated."""
    kind = sanitizer()
    return dict(OPTIONS[kind], HEAP_FOLDER=heaps, LD_PRELOAD=os.path.abspath(os.path.join(BUILD, "tests", "lib", "no-seccomp.so"))) if kind else {}


class Reports:
    """The reports in a folder's logs; each byte is read once."""

    def __init__(self, folder):
        self.folder = folder
        self.offsets = {}

    def read(self, whole_lines=True):
        """What is new, as text: each report with what follows it. Not @whole_lines: who was to end a line is dead."""
        found = []
        for name in sorted(os.listdir(self.folder)):
            if not name.endswith(".log"):
                continue
            path = os.path.join(self.folder, name)
            with open(path, "rb") as f:
                f.seek(self.offsets.get(name, 0))
                text = f.read()
            whole = text[:text.rfind(b"\n") + 1] if whole_lines else text
            self.offsets[name] = self.offsets.get(name, 0) + len(whole)
            whole = whole.decode(errors="replace")
            match = REPORT.search(whole)
            if match:
                found.append("%s: %s" % (path, whole[match.start():match.start() + 6000]))
        return found
