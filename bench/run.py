#!/usr/bin/python3
"""make bench: measures Outrigger and its rivals in one run, prints ratios, writes build/bench/report.json.

    run.py [--only PART[,PART...]] [--rounds N] [--seconds S] [--seed N] [--contenders a,b,...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import config  # noqa: E402
import contenders  # noqa: E402
import deployed  # noqa: E402
import fleet  # noqa: E402
import hostile_guest  # noqa: E402
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
    subprocess.run([os.path.join(TOP, "tools", "fetch-grpcio")], check=False)


def hold(name, report, make, parts=("run",)):
    """One bench; what goes wrong in it takes the others' figures not away. False: it went wrong."""
    try:
        bench = make()
        try:
            for part in parts:
                print("== %s" % (part if part != "run" else name), flush=True)
                getattr(bench, part)()
        finally:
            bench.close()
    except Exception:
        traceback.print_exc()
        print("== %s: broken off" % name, flush=True)
        return False
    finally:
        report.write(os.path.join(BUILD, "bench", "report.json"))
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    every = two_hop.PARTS + ("fleet", "isolation", "hostile", "deployed", "sniff", "config", "join")
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
    chosen = [c for c in ALL if not wanted or c.name in wanted or c.name in ("direct", report.ours)]
    rounds = (args.rounds, args.seconds, args.seed)
    makers = {
        "fleet": lambda: fleet.Fleet(report, chosen, *rounds),
        "isolation": lambda: isolation.Isolation(report, *rounds),
        "hostile": lambda: hostile_guest.HostileGuest(report, *rounds),
        "deployed": lambda: deployed.Deployed(report, chosen, *rounds),
        "sniff": lambda: sniff.Sniff(report, args.rounds),
        "config": lambda: config.Config(report, args.rounds),
        "join": lambda: join.Join(report),
    }
    hop = [p for p in parts if p in two_hop.PARTS]
    ok = not hop or hold("two-hop", report, lambda: two_hop.TwoHop(report, chosen, *rounds), hop)
    for name in makers:
        if name in parts:
            ok = hold(name, report, makers[name]) and ok
    report.show()
    sys.exit(not ok)


main()
