"""What a stranger in a VM tries: addresses that are the NIC's, names that command terminals, compressed floods, the agent as his messenger."""

import gzip
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

from agentlab import AGENT, NIC, OUTRIGGER, REGISTRY, AgentLab  # noqa: E402
from faultlab import children, rss_kib  # noqa: E402
from netlab import wait_until  # noqa: E402
import rawnet  # noqa: E402
import steerlab  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture(name="mesh")
def _mesh():
    lab = AgentLab("ost")
    try:
        yield lab.start()
    finally:
        print(lab.log("nic.agent")[-8000:])
        lab.close()


def arp(vm, address):
    """The VM says that the address is its own, for the agent to hear: to a MAC of nobody's, since misleading neighbours is another matter."""
    mac, ip = rawnet.mac(vm.mac), rawnet.packed(address)
    s = steerlab.raw_socket(vm, "eth0")
    s.send(rawnet.mac("02:00:00:66:ff:ff") + mac + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + mac + ip + b"\xff" * 6 + ip)
    s.close()


def test_a_guest_cannot_become_the_nic(mesh):
    """Who has an address in the agent's eyes has its flows diverted to his proxy: the NIC's own services would be his."""
    stranger = mesh.vms[0]
    mesh.serve(stranger)
    mesh.serve(mesh.nic, 8080, NIC)
    assert mesh.fetch(mesh.reg, NIC) == "this is " + NIC
    mesh.register(stranger, instance="orders-3", port=8082)
    wait_until("the guest", lambda: mesh.guest(stranger))
    arp(stranger, NIC)
    mesh.register(stranger, address=NIC)
    mesh.register(stranger, instance="orders-2", port=8081)
    wait_until("the honest claim", lambda: mesh.service("orders", port=8081))
    assert NIC not in mesh.guest(stranger)["addresses"]
    assert not mesh.service("orders", address=NIC)
    assert mesh.fetch(mesh.reg, NIC) == "this is " + NIC
    assert "a guest claims an address that it may not have" in mesh.log("nic.agent")


def test_an_address_that_the_nic_gets_is_no_guests_any_more(mesh):
    stranger, extra = mesh.vms[0], "10.66.0.77"
    mesh.register(stranger)
    arp(stranger, extra)
    wait_until("the address", lambda: extra in mesh.guest(stranger)["addresses"])
    mesh.nic.ip("addr", "add", extra + "/24", "dev", "br0")
    wait_until("it is gone", lambda: extra not in mesh.guest(stranger)["addresses"])
    arp(stranger, extra)
    mesh.register(stranger, instance="orders-2", port=8081)
    wait_until("the honest claim", lambda: mesh.service("orders", port=8081))
    assert extra not in mesh.guest(stranger)["addresses"]


BAD_TEXT = "web\x1b[2J\x9b31m\x7f\u2028<script>\"{}'"


def is_control(c):
    return c != "\n" and (ord(c) < 0x20 or 0x7f <= ord(c) < 0xa0 or ord(c) in (0x2028, 0x2029))


def test_a_name_commands_no_terminal(mesh):
    """By the wire, by the registry's answer to the agent, in tables, explanations, metrics and the log."""
    stranger = mesh.vms[0]
    mesh.serve(stranger)
    for i, (name, instance, address) in enumerate((("orders", BAD_TEXT, None), (BAD_TEXT, "orders-2", None), ("orders", "orders-3", "host" + BAD_TEXT))):
        mesh.register(stranger, name=name, instance=instance, port=8080 + i, address=address, meta={"k" + BAD_TEXT: BAD_TEXT})
    wait_until("the claims", lambda: len(mesh.get("/v1/services")["services"]) == 3)
    wait_until("the registry's answer", lambda: [e for s in mesh.service("orders", port=8082) for e in s["evidence"] if "at host" in e["detail"]])
    for command in (["services"], ["guests"], ["proxies"], ["status"], ["explain", "orders"], ["check"]):
        out = subprocess.run(mesh.nic.argv(OUTRIGGER, *command, "--agent", mesh.dir + "/run/agent.sock"), stdout=subprocess.PIPE, timeout=30).stdout.decode()
        assert out and not [c for c in out if is_control(c)], (command, out)
        out = subprocess.run(mesh.nic.argv(OUTRIGGER, *command, "--json", "--agent", mesh.dir + "/run/agent.sock"), stdout=subprocess.PIPE, timeout=30).stdout.decode()
        assert json.loads(out) and not [c for c in out if is_control(c)], (command, out)
    for path in ("/v1/services", "/v1/explain/orders", "/v1/check"):
        out = mesh.nic.run("curl", "-sS", "--unix-socket", mesh.dir + "/run/agent.sock", "http://x" + path)
        assert json.loads(out) and not [c for c in out if is_control(c)], (path, out)
    metrics = mesh.nic.run("curl", "-sS", "--unix-socket", mesh.dir + "/run/agent.sock", "http://x/metrics")
    assert "\x1b" not in metrics and "\x9b" not in metrics
    assert not [c for c in mesh.log("nic.agent") + mesh.log("edge.controller") if c in "\x1b\x9b\x7f\u2028"]


def test_nothing_is_connected_to_in_a_strangers_name(mesh):
    """What a guest says is its own, or behind it, may be somebody's whom only the NIC can reach."""
    stranger, port = mesh.vms[0], 7777
    targets = ["10.66.0.8%d" % i for i in (1, 2)]
    for target in targets:
        mesh.reg.ip("addr", "add", target + "/24", "dev", "eth0")
    there = steerlab.Server(mesh.reg, port, greet=False)
    mesh.register(stranger)
    wait_until("the guest", lambda: mesh.guest(stranger))
    spoof_registration(mesh, stranger, targets[0], targets[0], port)	# by the source of its packets
    wait_until("the claim", lambda: mesh.service("orders", address=targets[0]))
    raw = steerlab.raw_socket(stranger, "eth0")
    raw.settimeout(30)
    arp(stranger, targets[1])
    wait_until("the address", lambda: targets[1] in mesh.guest(stranger)["addresses"])
    mesh.register(stranger, instance="orders-2", address=targets[1], port=port)
    # The agent asks once from an address of nobody's, and then from the NIC's own: the guest alone.
    want = rawnet.packed(NIC) + rawnet.packed(targets[1])
    frame, deadline = b"", time.monotonic() + 30
    while not (frame[26:34] == want and frame[36:38] == port.to_bytes(2, "big")) and time.monotonic() < deadline:
        frame = raw.recv(2048)
    assert frame[26:34] == want and not there.peers
    assert [s["verdict"] for s in mesh.service("orders", address=targets[0])] == ["container"]
    there.close()


# Registers at one address after the other that nobody has been seen with.
UNPROVEN = """
import http.client, itertools, json, sys
c = http.client.HTTPConnection(sys.argv[1], 8500)
for i in itertools.count():
    c.request("PUT", "/v1/agent/service/register", json.dumps({"Name": "orders", "ID": str(i), "Address": "10.66.%d.%d" % (1 + i // 250 % 200, 1 + i % 250), "Port": 80}))
    c.getresponse().read()
    if i == 100:
        print("on", flush=True)
"""


def test_a_stranger_does_not_keep_the_agent_from_asking_for_others(mesh):
    """Who has registered an address that nobody has seen yet is asked for, once; the others' claims wait for nobody."""
    stranger, honest = mesh.vms
    for i, host in enumerate((mesh.nic, honest)):
        host.ip("addr", "add", "fd66::%d/64" % (i + 1), "dev", "eth0" if host is honest else "br0", "nodad")
    mesh.register(honest)
    wait_until("the guest", lambda: mesh.guest(honest))
    flood = stranger.popen(["python3", "-c", UNPROVEN, REGISTRY], "unproven")
    wait_until("the flood", lambda: "on" in mesh.log("vm0.unproven"))
    mesh.register(honest, instance="orders-6", address="fd66::2", port=8086)
    wait_until("the claim", lambda: mesh.service("orders", address="fd66::2"))
    flood.terminate()
    flood.wait(10)


def test_a_guest_without_a_default_route_is_probed_all_the_same(mesh):
    vm = mesh.vms[0]
    vm.ip("route", "del", "default")
    mesh.serve(vm)
    mesh.register(vm)
    wait_until("its answer", lambda: [e for s in mesh.service("orders") for e in s["evidence"] if e["method"] == "probe" and e["finding"] == "vm"], 60)


def spoof_registration(mesh, vm, source, address, port):
    """A whole conversation with a registry in @source's name, both sides of it from the two ends: a confederate answers."""
    body = json.dumps({"Name": "orders", "ID": "spoofed-" + source, "Address": address, "Port": port}).encode()
    request = b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: c\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    out, back = steerlab.raw_socket(vm, "eth0"), steerlab.raw_socket(mesh.reg, "eth0")
    guest, registry = (source, 45000), (REGISTRY, 8500)
    to_registry, to_guest = back.getsockname()[4] + rawnet.mac(vm.mac), rawnet.mac(vm.mac) + back.getsockname()[4]
    for s, macs, ends, flags, seq, ack, data in (
            (out, to_registry, (guest, registry), rawnet.SYN, 0, 0, b""),
            (back, to_guest, (registry, guest), rawnet.SYN | rawnet.ACK, 0, 1, b""),
            (out, to_registry, (guest, registry), rawnet.ACK, 1, 1, request),
            (back, to_guest, (registry, guest), rawnet.ACK, 1, 1 + len(request), answer)):
        s.send(macs + rawnet.ip4(ends[0][0], ends[1][0], rawnet.tcp(*ends, flags, seq, ack, data)))
    out.close()
    back.close()


def test_what_is_small_on_the_wire_is_not_large_in_the_agent(mesh):
    """Compressed registrations, pipelined, to a server that never answers."""
    stranger, honest = mesh.vms
    rng = random.Random(1)
    blanks = "".join(rng.choice(" \t\r\n") + " " * 39 for _ in range(100000))      # not too well compressed to be believed
    body = gzip.compress((json.dumps({"Name": "orders", "ID": "o", "Address": stranger.address, "Port": 8080}) + blanks).encode())
    request = b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: c\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    worker, = [p for p in children(mesh.agent.pid) if os.readlink("/proc/%d/exe" % p) == AGENT]
    steerlab.in_netns(mesh.reg, lambda: silent_server(8500, "10.66.0.9", mesh))
    before = rss_kib(worker)
    connections = [steerlab.tcp_connect(stranger, "10.66.0.9", 8500) for _ in range(3)]
    for c in connections:
        c.settimeout(20)
        for _ in range(40):
            c.sendall(request)
    mesh.register(honest, name="orders", instance="honest", port=9090)
    wait_until("the honest claim", lambda: mesh.service("orders", port=9090))
    assert rss_kib(worker) - before < 100 << 10
    for c in connections:
        c.close()


def silent_server(port, address, mesh):
    """Reads all, says nothing; for as long as the process lives."""
    mesh.reg.ip("addr", "add", address + "/24", "dev", "eth0")
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    s.listen(16)

    def swallow(c):
        while c.recv(65536):
            pass

    def accept():
        while True:
            c, _ = s.accept()
            threading.Thread(target=swallow, args=(c,), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
