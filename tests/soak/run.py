#!/usr/bin/python3
"""Faults in random order under load, with every request counted.

    run.py SECONDS [--seed N] [--only EXPRESSION] [--keep] [--prefix P]

A pass is each fault once, in an order that the seed draws; passes follow each other until the time is over; a run of ten minutes or more goes on,
up to as long again, until every program has been there long enough to tell whether it grows. Ends at the first thing that does not hold,
with the seed and the fault; the same seed draws the same order. Programs come from $OUTRIGGER_BUILD (one flavour).
"""

import argparse
import itertools
import os
import random
import re
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]

from faults import order  # noqa: E402
from soak import Failed, Soak  # noqa: E402

QUIET_EVERY = 3     # faults
LONG_S = 600        # a run that tells growth


def say(text):
    print(time.strftime("%H:%M:%S ") + text, flush=True)


def passes(soak, rng, seconds, only):
    """At least one pass; then for as long as there is time."""
    begin = time.monotonic()
    n = 0

    def over():
        lasted = time.monotonic() - begin
        return lasted >= seconds and (seconds < LONG_S or lasted >= 2 * seconds or not soak.too_young())

    first = True
    soak.start_traffic()
    for spared in itertools.cycle((None, "controller")):
        if not first and over():
            break
        for fault in order(rng, spared):
            if only and not re.search(only, fault.name):
                continue
            soak.put(fault)
            n += 1
            if n % QUIET_EVERY == 0:
                soak.quiet()
                soak.start_traffic()
            if not first and over():
                break
        if first:
            soak.growth.first_pass_over()
            first = False
    soak.quiet()
    return n


def run(seconds, seed, only=None, keep=False, prefix="ogx", rate=8):
    """Returns whether everything held."""
    rng = random.Random(seed)
    soak = Soak(prefix, rng, say, rate)
    say("seed %d: the elder NIC is %s, logs in %s" % (seed, soak.elder, soak.lab.dir))
    ok = False
    try:
        n = passes(soak, rng, seconds, only)
        say("%d faults; %s" % (n, soak.counts()))
        for line in soak.growth.table():
            say("  " + line)
        young = soak.too_young()
        if young:
            say("too short to tell the growth of: " + ", ".join(young))
            if seconds >= LONG_S:
                raise Failed("so long a run is to tell growth")
        ok = True
    except Exception as e:      # whatever it is, it is said with the seed
        say("FAILED, seed %d, fault: %s: %s" % (seed, soak.fault, e))
        if not isinstance(e, Failed):
            traceback.print_exc()
        for line in soak.last_words():
            say(line)
    finally:
        keep = keep or (not ok and os.environ.get("KEEP"))
        if keep:
            say("kept: %s" % soak.lab.dir)
        else:
            try:
                soak.close()
            except (Failed, TimeoutError) as e:
                say("FAILED, seed %d, %s: %s" % (seed, soak.fault, e))
                ok = False
    return ok


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--only", help="only faults whose name fits this expression")
    parser.add_argument("--prefix", default="ogx", help="of the namespaces, so that two can run")
    parser.add_argument("--keep", action="store_true", help="leave everything as it is at the end")
    args = parser.parse_args()
    sys.exit(0 if run(args.seconds, args.seed, args.only, args.keep, args.prefix) else 1)


if __name__ == "__main__":
    main()
