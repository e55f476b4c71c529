"""Checks of health by the gRPC protocol, against Google's implementation in a VM."""
import os

import pytest

from agentlab import ONBOARDING, AgentLab
from netlab import wait_until
from test_grpc import THEIRS, grpcio  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

CHECK = "    health: { kind: grpc, service: orders, interval: 200ms, timeout: 1s, failures: 2 }\n"


def test_a_grpc_server_says_how_it_is():
    lab = AgentLab("ogg", onboarding=ONBOARDING.replace("  - name: shoppers", CHECK + "  - name: shoppers"))
    path = lab.dir + "/status"

    def say(what):
        with open(path + ".new", "w") as f:
            f.write(what)
        os.rename(path + ".new", path)

    def becomes(health, reason):
        wait_until("%s: %s" % (health, reason), lambda: [s for s in lab.service("orders", health=health) if reason in (s["health_reason"] or "")], 60)

    try:
        lab.start()
        a, _ = lab.vms
        say("1")
        a.popen([*THEIRS, "health", a.address + ":8080", path], "grpc")
        lab.register(a)
        becomes("passing", "")
        say("2")
        becomes("critical", "grpc check of port 8080: it says NOT_SERVING")
        say("1")
        becomes("passing", "")
        say("UNAVAILABLE")
        becomes("critical", "UNAVAILABLE as it was told")
        say("1")
        becomes("passing", "")
    finally:
        print(lab.log("nic.agent")[-6000:])
        lab.close()
