"""The soak's faults that have no test of their own, once each; and the rule that tells growth from noise."""

import os
import subprocess
import sys

import pytest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path[:0] = [os.path.join(TOP, "tests", "soak"), os.path.join(TOP, "tests", "lib")]

from growth import grown  # noqa: E402

# What test_faults.py puts into a mesh, too, is left to it; certificates are renewed meanwhile anyway.
ALONE = "agent reloaded|hangs|upgraded alone|NIC revoked|proxy upgraded|controller killed|cut off|server lost|policy flips|VM silent|scaled|churn|floods|memory|Envoy|wire"
SEED = "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
def test_each_fault_costs_what_it_may():
    r = subprocess.run([sys.executable, os.path.join(TOP, "tests", "soak", "run.py"), "1", "--seed", SEED, "--prefix", "ogq", "--only", ALONE],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False)
    assert r.returncode == 0, r.stdout[-12000:]
    assert "19 faults" in r.stdout, r.stdout


@pytest.mark.parametrize("values, slack, is_growth", [
    ([5, 5, 5, 5, 5, 5], (0, 0), False),
    ([1, 2, 3, 4, 5, 6], (0, 0), True),
    ([1, 2, 3, 4, 5, 6], (5, 0), False),            # within its noise
    ([100, 110, 120, 130, 140, 150], (0, 0.05), True),
    ([100, 102, 101, 103, 104, 103], (0, 0.05), False),
    ([1, 9, 1, 9, 1, 9, 1, 9], (0, 0), False),      # swings
    ([1, 5, 9, 9, 9, 9, 9, 9], (0, 0), False),      # has found its level
    ([1, 1, 1, 1, 9, 9, 9, 9], (0, 0), False),      # a step
    ([1, 1, 1, 9, 9, 9, 9, 9], (0, 0), False),
    ([1, 1, 5, 5, 9, 9, 9, 9], (0, 0), False),      # two
    ([1, 3, 5, 7, 9, 9, 9, 9], (0, 0), False),      # late
    ([1000, 1800, 2200, 2400, 2500, 2550, 2575, 2580], (100, 0), False),    # ever slower
    ([9, 8, 7, 6, 5, 4, 3, 2], (0, 0), False),
    ([1, 1, 2, 2, 3, 3, 4, 4], (0, 0), True),       # goes on by steps
    ([10, 13, 11, 15, 14, 18, 16, 21], (4, 0), True),                       # swings, and rises
    ([1000 + 3 * i + 40 * (i % 2) for i in range(40)], (64, 0), True),      # little by little
    ([1000 + 40 * (i % 3) for i in range(40)], (0, 0), False),
    ([7, 7, 7, 7, 7, 7, 7, 8], (0, 0), False),
    ([32, 31, 35, 37, 35, 39, 36], (8, 0), False),  # descriptors of a proxy, some tunnels more or less
    ([1, 2, 3, 4, 5], (0, 0), False),               # too few to tell
])
def test_growth_is_what_lies_above_all_that_was_before(values, slack, is_growth):
    assert grown(values, slack) == is_growth
