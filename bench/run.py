#!/usr/bin/python3
"""make bench: measures Outrigger and its rivals in one run, prints ratios, writes build/bench/report.json.

    run.py [--only PART[,PART...]] [--rounds N] [--seconds S] [--seed N] [--contenders a,b,...]
"""

import argparse
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import config  # noqa: E402
import contenders  # noqa: E402
import deployed  # noqa: E402
import fleet  # noqa: E402
import isolation  # noqa: E402
import join  # noqa: E402
import sniff  # noqa: E402
import two_hop  # noqa: E402
from lab import BUILD, TOP, Report  # noqa: E402

ALL = [contenders.Direct, contenders.HAProxy, contenders.Nginx, contenders.Envoy, contenders.EnvoyHbone, contenders.Outrigger]


def prepare():
    if os.geteuid():
        sys.exit("bench: needs root, for namespaces and for the kernel's books")
    missing = [p for p in ("wrk", "haproxy", "nginx", "iperf3") if not shutil.which(p)]
    if missing:
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "wrk", "haproxy", "nginx-light", "libnginx-mod-stream", "iperf3"],
                       stdout=subprocess.DEVNULL, check=False)
    subprocess.run([os.path.join(TOP, "tools", "fetch-envoy")], check=False)


def run(bench, parts):
    try:
        for part in parts:
            print("== %s: %s" % (type(bench).__name__, part), flush=True)
            getattr(bench, part)()
    finally:
        bench.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    every = two_hop.PARTS + ("fleet", "isolation", "deployed", "sniff", "config", "join")
    parser.add_argument("--only", default=",".join(every))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--contenders", default="")
    args = parser.parse_args()
    parts = args.only.split(",")
    unknown = [p for p in parts if p not in every]
    if unknown:
        sys.exit("bench: no such part: %s; there are %s" % (", ".join(unknown), ", ".join(every)))
    prepare()
    wanted = args.contenders.split(",") if args.contenders else []
    report = Report()
    hop = [p for p in parts if p in two_hop.PARTS]
    chosen = [c for c in ALL if not wanted or c.name in wanted or c.name in ("direct", report.ours)]
    if hop:
        run(two_hop.TwoHop(report, chosen, args.rounds, args.seconds, args.seed), hop)
    if "fleet" in parts:
        run(fleet.Fleet(report, chosen, args.rounds, args.seconds, args.seed), ["run"])
    if "isolation" in parts:
        run(isolation.Isolation(report, args.rounds, args.seconds, args.seed), ["run"])
    if "deployed" in parts:
        run(deployed.Deployed(report, chosen, args.rounds, args.seconds, args.seed), ["run"])
    if "sniff" in parts:
        run(sniff.Sniff(report, args.rounds), ["run"])
    if "config" in parts:
        run(config.Config(report, args.rounds), ["run"])
    if "join" in parts:
        run(join.Join(report), ["run"])
    report.show()
    report.write(os.path.join(BUILD, "bench", "report.json"))


main()
