#!/usr/bin/python3
"""Prints build/bench/report.json as a Markdown table: `bench/table.py [report.json]`."""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lab import BUILD, Report  # noqa: E402

ORDER = ("direct", "outrigger", "haproxy", "nginx", "envoy", "envoy-hbone")


def number(value):
    return "%.0f" % value if value >= 100 else "%.3g" % value


def cell(row):
    if not row:
        return "-"
    return number(row["median"]) + (" (%.2fx)" % row["ours_ratio"] if row["ours_ratio"] else "")


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(BUILD, "bench", "report.json")
    with open(path) as f:
        rows = json.load(f)
    by = {}
    for r in rows:
        by.setdefault((r["scenario"], "%s, %s" % (r["metric"], r["unit"])), {})[r["contender"]] = r
    names = [n for n in ORDER if any(n in cells for cells in by.values())]
    print("| scenario | metric | %s |" % " | ".join("**%s**" % n if n == Report().ours else n for n in names))
    print("|" + "---|" * (len(names) + 2))
    for (scenario, metric), cells in by.items():
        print("| %s | %s | %s |" % (scenario, metric, " | ".join(cell(cells.get(n)) for n in names)))


main()
