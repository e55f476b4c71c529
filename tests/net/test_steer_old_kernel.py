"""Steering on Debian 12's kernel (6.1, no TCX, an older verifier), in a guest: programs load, are attached as clsact
filters, and divert and sniff. Slow: a guest is booted without KVM."""

import json
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))

from guest import Guest, GuestImage  # noqa: E402
from steerlab import BUILD, DRIVER  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

COMMANDS = [
    {"cmd": "load"},
    {"cmd": "port", "dev": "tap1", "vm": 1, "topology": 0},
    {"cmd": "addr", "vm": 1, "addr": "10.61.1.2", "mac": "02:00:00:00:00:01"},
    {"cmd": "addr", "vm": 1, "addr": "fd61:1::2", "mac": "02:00:00:00:00:01"},
    {"cmd": "sniff", "ports": ["tcp/2181"]},
    {"cmd": "listen", "vm": 1},
    {"cmd": "divert", "vm": 1, "direction": 0, "dst": "0.0.0.0/0", "port": 80},
    {"cmd": "divert", "vm": 1, "direction": 0, "dst": "::/0", "port": 80},
    {"cmd": "checks"},
]

TOPOLOGY = """
IP=/sbin/ip; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; mkdir -p /run/netns
$IP netns add vm; $IP link add tap1 type veth peer name eth0 netns vm
$IP addr add 10.61.1.1/24 dev tap1; $IP addr add fd61:1::1/64 dev tap1; $IP link set tap1 up
$IP -n vm link set eth0 address 02:00:00:00:00:01; $IP -n vm link set eth0 up
$IP -n vm addr add 10.61.1.2/24 dev eth0; $IP -n vm addr add fd61:1::2/64 dev eth0
$IP -n vm route add default via 10.61.1.1; $IP -n vm -6 route add default via fd61:1::1
nc -ll -p 2181 -e cat &
mkfifo /tmp/in; steer-driver < /tmp/in > /tmp/out 2> /tmp/err &
sleep 3600 > /tmp/in &
true
""".strip().replace("\n", "; ").replace("&; ", "& ")


@pytest.fixture(name="vm", scope="module")
def _vm(tmp_path_factory):
    image = GuestImage(os.path.join(BUILD, "guests"), "steer", "cp %s /bin/steer-driver\n" % os.path.abspath(DRIVER),
                       programs=[os.path.abspath(DRIVER), "/sbin/ip"],
                       modules=["dummy", "veth", "sch_ingress", "cls_bpf"]).build()
    vm = Guest(image, "steer", memory_mb=256, run_dir=str(tmp_path_factory.mktemp("steer")))
    vm.start()
    try:
        vm.wait_for("vm up", 90)
        yield vm
    finally:
        vm.kill()


def test_programs_load_and_work_on_linux_6_1(vm):
    status, release = vm.run("uname -r")
    assert status == 0 and release.startswith("6.1.")
    script = TOPOLOGY + "; " + "; ".join("echo '%s' > /tmp/in; sleep 1" % json.dumps(c) for c in COMMANDS)
    status, out = vm.run(script + "; cat /tmp/out; cat /tmp/err >&2", 120)
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    answers = [a for a in answers if "r" in a]
    assert [a["r"] for a in answers] == [0] * len(COMMANDS), out
    assert answers[0]["tcx"] is False
    assert [c["what"] for c in answers[-1]["checks"] if not c["ok"]] == ["BPF programs are attached by TCX"]
    assert "dummy" in vm.run("/sbin/ip -d link show dvt0")[1]

    for address in ("10.62.0.2", "fd62::2"):
        out = vm.run("/sbin/ip netns exec vm nc -w 5 %s 80 < /dev/null" % address, 30)[1]
        assert out.startswith("out1 peer ") and out.endswith(":80"), out
    vm.run("echo register | /sbin/ip netns exec vm nc -w 2 10.61.1.1 2181", 30)
    assert b"register\n".hex() in vm.run("cat /tmp/out")[1]
    vm.run("echo '%s' > /tmp/in" % json.dumps({"cmd": "counters", "vm": 1}))
    out = vm.run("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do tail -n 1 /tmp/out | grep 'divert_new.*}$' && break; sleep 1; done", 60)[1]
    counters = json.loads(out)
    assert counters["divert_new"] == 2 and counters["sniffed"] >= 3
