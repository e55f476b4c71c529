"""Steering, end to end: the real BPF programs and root monitor, VMs as namespaces, routed and bridged, both families."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

from netlab import Lab, wait_until  # noqa: E402
import rawnet  # noqa: E402
import steerlab  # noqa: E402
from steerlab import (BEHIND, BRIDGE, CUT, DROP_SPOOFED, FAIL_CLOSED, IN, LEARN, ROUTED, SAME_NIC, UNVERIFIED,  # noqa: E402
                      DriverError, Server, everywhere, raw_socket, read_line, tcp_connect, udp_socket)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")

TOPOLOGIES = pytest.mark.parametrize("topology", [ROUTED, BRIDGE], ids=["routed", "bridge"])
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(name="make")
def _make():
    """make(topology): a NIC; everything goes away with the test."""
    with Lab("steer") as lab:
        nics = []

        def make(topology):
            nics.append(steerlab.Nic(lab, topology))
            return nics[-1]
        yield make
        for n in nics:
            n.close()


def port_of(s):
    return s.getsockname()[1]


def text(address, port):
    return "[%s]:%d" % (address, port) if ":" in address else "%s:%d" % (address, port)


def greeting(host, address, port, **more):
    s = tcp_connect(host, address, port, **more)
    line = read_line(s)
    return s, line.strip()


def echoes(s, n=200000):
    """All that is sent comes back, in order."""
    data = os.urandom(n)
    s.settimeout(10)
    got = b""
    sent = 0
    s.setblocking(False)
    deadline = time.monotonic() + 10
    while len(got) < n and time.monotonic() < deadline:
        try:
            if sent < n:
                sent += s.send(data[sent:sent + 65536])
        except BlockingIOError:
            pass
        try:
            part = s.recv(65536)
            if not part:
                break
            got += part
        except BlockingIOError:
            time.sleep(0.001)
    s.setblocking(True)
    s.settimeout(3)
    return got == data


# --- diverting ---


@TOPOLOGIES
@FAMILIES
@pytest.mark.parametrize("clsact", [0, 1], ids=["tcx", "clsact"])
def test_outbound_reaches_the_proxy_with_both_addresses(make, topology, family, clsact):
    n = make(topology)
    Server(n.peer, 80)
    Server(n.peer, 81)
    d = n.driver("--clsact", str(clsact))
    assert d.loaded["tcx"] != bool(clsact)
    d.listen(vm=1)
    everywhere(d, 1, 80)
    dst, vm = n.peer_addresses[family], n.addresses[1][family]

    s, line = greeting(n.vm[1], dst, 80)
    assert line == "out1 peer %s dst %s" % (text(vm, port_of(s)), text(dst, 80))
    assert echoes(s)
    s, line = greeting(n.vm[1], dst, 81)		# another port
    assert line == "real " + text(vm, port_of(s))
    s, line = greeting(n.vm[2], dst, 80)		# another VM
    assert line.startswith("real ")
    assert d.counters(vm=1)["divert_new"] == 1


@TOPOLOGIES
@FAMILIES
def test_inbound_reaches_the_proxy_from_the_uplink_and_from_another_vm(make, topology, family):
    n = make(topology)
    Server(n.vm[1], 80)
    d = n.driver()
    d.listen(vm=1)
    vm = n.addresses[1][family]
    d.divert(vm=1, direction=IN, dst=vm, port=80)

    for client in (n.peer, n.vm[2]):
        s, line = greeting(client, vm, 80)
        assert line == "in1 peer %s dst %s" % (text(s.getsockname()[0], port_of(s)), text(vm, 80))
        assert echoes(s)


@TOPOLOGIES
def test_answers_follow_a_peer_that_gets_another_mac_address(make, topology):
    n = make(topology)
    Server(n.vm[1], 80)
    d = n.driver()
    d.listen(vm=1)
    vm = n.addresses[1][0]
    d.divert(vm=1, direction=IN, dst=vm, port=80)
    s, line = greeting(n.peer, vm, 80)
    assert line.startswith("in1 ") and echoes(s, 1000)
    # As when a router fails over, or a Linux bridge loses the port that gave it its address.
    n.peer.ip("link", "set", "dev", "eth0", "address", "02:00:00:fa:11:0e")
    assert echoes(s)


@TOPOLOGIES
@FAMILIES
def test_the_proxy_connects_on_in_the_name_of_the_client(make, topology, family):
    """Outbound with the VM's address and port, inbound with the client's, by sockets of the unprivileged helper."""
    n = make(topology)
    there, here = Server(n.peer, 80), Server(n.vm[1], 8080)
    d = n.driver()
    d.listen(vm=1, relay=1)
    everywhere(d, 1, 80)
    vm = n.addresses[1][family]
    d.divert(vm=1, direction=IN, dst=vm, port=8080)

    s, line = greeting(n.vm[1], n.peer_addresses[family], 80)
    assert line == "real " + text(vm, port_of(s))
    assert echoes(s)
    assert there.peers == [text(vm, port_of(s))]
    s, line = greeting(n.peer, vm, 8080)
    assert line == "real " + text(s.getsockname()[0], port_of(s))
    assert echoes(s)
    if topology == BRIDGE:		# a client that is not on the VM's link
        source = ("10.99.0.1", "fd99::1")[family]
        s, line = greeting(n.peer, vm, 8080, source=(source, 0))
        assert line == "real " + text(source, port_of(s))
        assert echoes(s)
    assert len(here.peers) == (2 if topology == BRIDGE else 1)
    assert d.counters(vm=1)["divert_new"] == 1 + len(here.peers)


@TOPOLOGIES
def test_connections_that_were_there_before_are_left_alone(make, topology):
    n = make(topology)
    Server(n.peer, 80)
    d = n.driver()
    old, line = greeting(n.vm[1], n.peer_addresses[0], 80)
    assert line.startswith("real ")
    d.listen(vm=1)
    everywhere(d, 1, 80, flags=FAIL_CLOSED)
    assert echoes(old)
    assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("out1 ")
    assert echoes(old)


@FAMILIES
def test_handshakes_by_syn_cookie_are_completed(make, family):
    n = make(BRIDGE)
    Server(n.peer, 80)
    n.nic.sysctl("net.ipv4.tcp_syncookies", 2)
    d = n.driver()
    d.listen(vm=1)
    everywhere(d, 1, 80)
    for _ in range(5):
        s, line = greeting(n.vm[1], n.peer_addresses[family], 80)
        assert line.startswith("out1 ")
        assert echoes(s, 5000)
    assert d.counters(vm=1)["divert_cookie"] == 5


def test_a_port_is_used_again_at_once_after_the_proxy_closed(make):
    n = make(BRIDGE)
    d = n.driver()
    d.listen(vm=1)
    everywhere(d, 1, 80)
    linger = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(5):
        s, line = greeting(n.vm[1], n.peer_addresses[0], 80, source=("", 45000), timeout=1, options=[linger])
        assert line.startswith("out1 ")
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""
        s.close()


@pytest.mark.parametrize("clsact", [0, 1], ids=["tcx", "clsact"])
def test_a_killed_agent_means_pass_and_its_successor_starts(make, clsact):
    n = make(BRIDGE)
    Server(n.peer, 80)
    d = n.driver("--clsact", str(clsact))
    d.listen(vm=1)
    everywhere(d, 1, 80)
    assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("out1 ")
    d.kill()
    assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("real ")
    d = n.driver("--clsact", str(clsact))
    d.listen(vm=1)
    everywhere(d, 1, 80)
    assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("out1 ")


def test_without_a_listener_the_entry_decides(make):
    n = make(BRIDGE)
    Server(n.peer, 80)
    Server(n.peer, 81)
    d = n.driver()
    d.listen(vm=1)
    everywhere(d, 1, 80)
    everywhere(d, 1, 81, flags=FAIL_CLOSED)
    assert greeting(n.vm[1], n.peer_addresses[0], 81)[1].startswith("out1 ")
    d.unlisten(vm=1)
    assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("real ")
    with pytest.raises(TimeoutError):
        tcp_connect(n.vm[1], n.peer_addresses[0], 81, timeout=0.5)
    c = d.counters(vm=1)
    assert c["no_listener_pass"] >= 1 and c["no_listener_drop"] >= 1


@FAMILIES
@TOPOLOGIES
def test_the_nics_own_processes_reach_a_vms_proxy(make, topology, family):
    """As a proxy's tunnel to another VM of the same NIC does; ports that are not asked for stay the VM's."""
    n = make(topology)
    d = n.driver()
    d.listen(vm=2)
    vm = n.addresses[2][family]
    d.divert(vm=2, direction=IN, dst=vm, port=15008, flags=SAME_NIC)
    s, line = greeting(n.nic, vm, 15008)
    assert line.startswith("in2 peer ") and line.endswith("dst " + text(vm, 15008))
    assert echoes(s)
    if topology == ROUTED:
        Server(n.vm[2], 8080)
        assert greeting(n.nic, vm, 8080)[1].startswith("real ")
    d.divert_remove(vm=2, direction=IN, dst=vm, port=15008, flags=SAME_NIC)
    s.close()
    assert "15008" not in n.nic.run("ip", "rule") + n.nic.run("ip", "-6", "rule")


def test_a_fail_closed_vm_is_not_reached_around_its_proxy(make):
    """VM 1's proxy passes a connection on to VM 2 in the clear: VM 2 insists on its own proxy."""
    n = make(BRIDGE)
    Server(n.vm[2], 80)
    d = n.driver()
    d.listen(vm=1, relay=1)
    d.listen(vm=2)
    everywhere(d, 1, 80)
    d.divert(vm=2, direction=IN, dst=n.addresses[2][0], port=80, flags=FAIL_CLOSED)
    s = tcp_connect(n.vm[1], n.addresses[2][0], 80, timeout=1)
    with pytest.raises(TimeoutError):
        s.recv(1)
    assert d.counters()["answer_refused"] > 0


def disguises(vm, peer):
    """What a VM with Linux makes a SYN of, by name: a list of packets each, behind the MAC addresses."""
    (vm4, vm6), (peer4, peer6) = vm, peer
    options = b"\x01" * 20

    def syn(family, port, flags=rawnet.SYN, **more):
        return rawnet.tcp((peer[family], port), (vm[family], 80), flags, 1, **more)

    def in_two(segment, at, ident, padding=b""):
        return [rawnet.ip4(peer4, vm4, segment[:at], 0, True, ident) + padding, rawnet.ip4(peer4, vm4, segment[at:], at // 8, False, ident)]

    cut, padded, chain, hop, tagged, tagged6 = syn(0, 5001, options=options), syn(0, 5002), syn(1, 5003), syn(1, 5004), syn(0, 5005), syn(1, 5006)
    innocent = struct.pack(">HHIIBBHHH", 5002, 9999, 1, 1, 5 << 4, rawnet.ACK, 1, 0, 0)
    blank = struct.pack(">BBBB4x", 6, 0, 1, 4)		# destination or hop-by-hop options: nothing
    return {
        "TCP options in the next fragment": (5001, in_two(cut, 24, 1)),
        "padding that looks like a header": (5002, in_two(padded, 16, 2, innocent[16:] + b"\0" * 18)),
        "headers that go on in the next fragment": (5003, [
            rawnet.ip6(peer6, vm6, rawnet.ip6_fragment(blank, 60, 0, True), 44),
            rawnet.ip6(peer6, vm6, rawnet.ip6_fragment(chain, 60, 1), 44)]),
        "hop-by-hop options and no length": (5004, [rawnet.ip6(peer6, vm6, blank + hop, 0, 0)]),
        "two tags of no VLAN": (5005, [b"\x81\x00\0\0" * 2 + rawnet.ip4(peer4, vm4, tagged)]),
        "three, IPv6": (5006, [b"\x81\x00\0\0" * 3 + rawnet.ip6(peer6, vm6, tagged6)]),
    }


def answered(raw, last):
    """The ports that get a SYN-ACK, up to that to @last."""
    found, deadline = set(), time.monotonic() + 30
    while last not in found and time.monotonic() < deadline:
        frame = raw.recv(2048)
        at = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], len(frame))
        if len(frame) >= at + 20 and frame[at + 13] & 18 == 18:
            found.add(struct.unpack(">H", frame[at + 2:at + 4])[0])
    return found


def test_known_disguises_do_not_get_around_a_fail_closed_proxy(make):
    """First without a proxy, which shows that the VM takes them for what they are."""
    n = make(BRIDGE)
    for port in (80, 81):
        Server(n.vm[2], port)
    d = n.driver()
    vm, peer = n.addresses[2], n.peer_addresses
    assert all(greeting(n.peer, a, 81)[1].startswith("real ") for a in vm)		# neighbours know each other
    todo = disguises(vm, peer)
    macs = rawnet.mac("02:00:00:00:00:02") + rawnet.mac("02:00:00:00:00:09")
    raw = raw_socket(n.peer, "eth0")
    raw.settimeout(30)
    found = []
    for last in (6000, 6001):
        for _, packets in todo.values():
            for packet in packets:
                raw.send((macs + packet).ljust(60, b"\0"))
        raw.send(macs + rawnet.ip4(peer[0], vm[0], rawnet.tcp((peer[0], last), (vm[0], 81), rawnet.SYN, 1)))
        found.append(answered(raw, last) - {last})
        for address in vm:
            d.divert(vm=2, direction=IN, dst=address, port=80, flags=FAIL_CLOSED)
    assert {5001, 5002, 5005, 5006} <= found[0]	# the others are for older kernels
    assert not found[1], [name for name, (port, _) in todo.items() if port in found[1]]


def test_an_empty_tag_inside_its_own_does_not_get_around_a_tagged_vms_proxy(make):
    """Linux takes that off, too, and then the packet is its VLAN's."""
    n = make(BRIDGE)
    n.tag(n.vm[2], n.peer)
    for port in (80, 81):
        Server(n.vm[2], port)
    vm, peer = n.addresses[2][0], n.peer_addresses[0]
    assert greeting(n.peer, vm, 81)[1].startswith("real ")
    macs = rawnet.mac("02:00:00:00:00:02") + rawnet.mac("02:00:00:00:00:09")
    raw = raw_socket(n.peer, "eth0")		# what it sends gets the VLAN's tag in front
    raw.settimeout(30)
    found = []
    for port in (5001, 5002):
        raw.send(macs + b"\x81\x00\0\0" + rawnet.ip4(peer, vm, rawnet.tcp((peer, port), (vm, 80), rawnet.SYN, 1)))
        raw.send(macs + rawnet.ip4(peer, vm, rawnet.tcp((peer, port + 1000), (vm, 81), rawnet.SYN, 1)))
        found.append(answered(raw, port + 1000) - {port + 1000})
        if port == 5001:
            n.driver(vms=(2,), vlan=10).divert(vm=2, direction=IN, dst=vm, port=80, flags=FAIL_CLOSED)
    assert found == [{5001}, set()]


@FAMILIES
def test_a_tagged_vm_is_diverted_and_the_untagged_one_beside_it_is_not(make, family):
    """Outbound, on in the VM's name, inbound and a probe, all with the tag taken off and put back."""
    n = make(BRIDGE)
    n.tag(n.vm[1], n.peer)
    there = Server(n.peer, 80)
    Server(n.vm[1], 8080)
    d = n.driver(vms=(1,), vlan=10)
    d.sniff(ports=["udp/53"])
    d.listen(vm=1)
    everywhere(d, 1, 80)
    vm, dst = n.addresses[1][family], n.peer_addresses[family]
    s, line = greeting(n.vm[1], dst, 80)
    assert line == "out1 peer %s dst %s" % (text(vm, port_of(s)), text(dst, 80))
    assert echoes(s)
    udp_socket(n.vm[1], steerlab.family_of(vm)).sendto(b"tagged", (dst, 53))
    assert d.wait_record(data=b"tagged".hex())[0]["vlan"] == 10

    d.listen(vm=1, relay=1)
    d.divert(vm=1, direction=IN, dst=vm, port=8080)
    s, line = greeting(n.vm[1], dst, 80)
    assert line == "real " + text(vm, port_of(s)) and there.peers == [text(vm, port_of(s))]
    assert echoes(s)
    s, line = greeting(n.peer, vm, 8080)
    assert line == "real " + text(s.getsockname()[0], port_of(s))
    assert echoes(s)
    a = d.probe(target=text(vm, 8080), source=("192.0.0.8", "100::8")[family])
    assert (a["vm"], a["vlan"], a["mac"]) == (1, 10, "020000000001")


def test_another_vlan_of_the_same_port_is_none_of_our_business(make):
    n = make(BRIDGE)
    Server(n.peer, 80)			# untagged, as the VM is
    d = n.driver(vms=(1,), vlan=10)
    d.listen(vm=1)
    everywhere(d, 1, 80, flags=FAIL_CLOSED)
    assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("real ")


# --- what outlives the agent ---


def test_pinned_steering_goes_on_without_the_agent_and_is_adopted(make, tmp_path):
    n = make(BRIDGE)
    Server(n.peer, 80)
    pins = str(tmp_path)
    subprocess.run(["mount", "-t", "bpf", "bpf", pins], check=True)
    try:
        d = n.driver("--pin", pins + "/og")
        assert not d.loaded["adopted"]
        d.listen(vm=1)
        everywhere(d, 1, 80, flags=FAIL_CLOSED)
        assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("out1 ")
        d.kill()
        with pytest.raises(TimeoutError):		# the toy proxy died with it; the programs are there, and strict
            tcp_connect(n.vm[1], n.peer_addresses[0], 80, timeout=0.5)
        d = n.driver("--pin", pins + "/og")
        assert d.loaded["adopted"]
        d.listen(vm=1)
        assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("out1 ")
        d.close()
    finally:
        subprocess.run(["umount", "-l", pins], check=False)


def test_what_a_predecessor_diverted_is_whole_or_gone(make, tmp_path):
    n = make(BRIDGE)
    Server(n.peer, 80)
    Server(n.peer, 81)
    pins = str(tmp_path)
    subprocess.run(["mount", "-t", "bpf", "bpf", pins], check=True)
    try:
        d = n.driver("--pin", pins + "/og")
        d.listen(vm=1)
        d.listen(vm=2)
        for vm in (1, 2):
            d.divert(vm=vm, direction=IN, dst=n.addresses[vm][0], port=15008, flags=SAME_NIC)
        everywhere(d, 1, 80)
        everywhere(d, 1, 81)
        d.kill()
        d = n.driver("--pin", pins + "/og")
        assert d.loaded["adopted"]
        d.listen(vm=1)
        d.listen(vm=2)
        # Nobody has said anything about these again: they are there, with their routes.
        assert greeting(n.nic, n.addresses[2][0], 15008)[1].startswith("in2 ")
        assert greeting(n.vm[1], n.peer_addresses[0], 81)[1].startswith("out1 ")
        # VM 1 is to have one of its two, and not the tunnels' port.
        everywhere(d, 1, 80)
        d.settle(vm=1)
        assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("out1 ")
        assert greeting(n.vm[1], n.peer_addresses[0], 81)[1].startswith("real ")
        assert greeting(n.nic, n.addresses[2][0], 15008)[1].startswith("in2 ")
        with pytest.raises(OSError):
            greeting(n.nic, n.addresses[1][0], 15008)
        d.divert(vm=2, direction=IN, dst=n.addresses[2][0], port=15008, flags=SAME_NIC)
        d.settle(vm=2)
        assert greeting(n.nic, n.addresses[2][0], 15008)[1].startswith("in2 ")
        d.divert_remove(vm=2, direction=IN, dst=n.addresses[2][0], port=15008, flags=SAME_NIC)
        assert "15008" not in n.nic.run("ip", "rule")
        d.close()
    finally:
        subprocess.run(["umount", "-l", pins], check=False)


# --- who speaks for whom ---


@TOPOLOGIES
def test_a_spoofed_source_is_neither_diverted_nor_sniffed(make, topology):
    n = make(topology)
    other = ("10.61.1.77", "10.63.0.77")[topology]
    n.vm[1].ip("addr", "add", other + "/24", "dev", "eth0")
    Server(n.peer, 80)
    d = n.driver()
    d.listen(vm=1)
    everywhere(d, 1, 80)
    d.sniff(ports=["udp/53"])
    s, line = greeting(n.vm[1], n.peer_addresses[0], 80, source=(other, 0))
    assert line == "real " + text(other, port_of(s))
    udp = udp_socket(n.vm[1], bind=(other, 0))
    udp.sendto(b"spoofed", (n.peer_addresses[0], 53))
    udp_socket(n.vm[1], bind=(n.addresses[1][0], 0)).sendto(b"honest", (n.peer_addresses[0], 53))
    d.wait_record(kind="udp", data=b"honest".hex())
    assert not d.records(data=b"spoofed".hex())
    assert d.counters(vm=1)["spoofed"] > 0


def test_spoofed_sources_are_dropped_when_asked(make):
    n = make(BRIDGE)
    n.vm[1].ip("addr", "add", "10.63.0.77/24", "dev", "eth0")
    d = n.driver(flags=DROP_SPOOFED)
    there = udp_socket(n.peer, bind=("10.63.0.1", 9))
    udp_socket(n.vm[1], bind=("10.63.0.77", 0)).sendto(b"spoofed", ("10.63.0.1", 9))
    udp_socket(n.vm[1], bind=("10.63.0.11", 0)).sendto(b"honest", ("10.63.0.1", 9))
    assert there.recv(100) == b"honest"
    assert d.counters(vm=1)["spoofed"] > 0



PODS, POD = "10.64.0.0/24", "10.64.0.5"


def with_pods(n):
    """VM 2 is a node: a pod is behind it, to which everybody has a route."""
    n.vm[2].ip("addr", "add", POD + "/32", "dev", "lo")
    for host in (n.nic,) if n.topology == ROUTED else (n.vm[1], n.peer):
        host.ip("route", "replace", PODS, "via", n.addresses[2][0])
    Server(n.vm[2], 80)


@TOPOLOGIES
def test_a_proxy_reaches_what_is_behind_another_vm_of_the_nic(make, topology):
    n = make(topology)
    with_pods(n)
    d = n.driver()
    d.listen(vm=1, relay=1)
    everywhere(d, 1, 0)
    with pytest.raises(OSError):        # as from anybody who has not this address
        greeting(n.vm[1], POD, 80, timeout=1)
    d.divert(vm=2, direction=BEHIND, dst=PODS)
    s, line = greeting(n.vm[1], POD, 80)
    assert line == "real " + text(n.addresses[1][0], port_of(s)) and echoes(s)
    assert d.counters(vm=1)["divert_new"] == 2
    d.divert_remove(vm=2, direction=BEHIND, dst=PODS)
    with pytest.raises(OSError):
        greeting(n.vm[1], POD, 80, timeout=1)


def test_what_is_behind_a_vm_is_not_the_vm_and_not_dropped(make):
    """Its calls are not its VM's, so nobody diverts them; to another VM they come by that one's proxy, as anybody's."""
    n = make(BRIDGE)
    with_pods(n)
    Server(n.peer, 80)
    Server(n.vm[1], 80)
    d = n.driver(flags=DROP_SPOOFED)
    d.listen(vm=1)
    d.listen(vm=2)
    everywhere(d, 2, 80)
    d.divert(vm=1, direction=IN, dst=n.addresses[1][0], port=80)
    with pytest.raises(OSError):
        greeting(n.vm[2], n.peer_addresses[0], 80, source=(POD, 0), timeout=1)
    d.divert(vm=2, direction=BEHIND, dst=POD)
    spoofed = d.counters(vm=2)["spoofed"]
    assert spoofed > 0
    s, line = greeting(n.vm[2], n.peer_addresses[0], 80, source=(POD, 0))
    assert line == "real " + text(POD, port_of(s)) and echoes(s)
    s, line = greeting(n.vm[2], n.addresses[1][0], 80, source=(POD, 0))
    assert line == "in1 peer %s dst %s" % (text(POD, port_of(s)), text(n.addresses[1][0], 80)) and echoes(s)
    s, line = greeting(n.vm[2], n.peer_addresses[0], 80)
    assert line.startswith("out2 ")
    assert d.counters(vm=2)["spoofed"] == spoofed


def test_a_guests_address_is_never_behind_another(make):
    n = make(BRIDGE)
    n.vm[2].ip("addr", "add", n.addresses[1][0] + "/32", "dev", "lo")
    d = n.driver(flags=DROP_SPOOFED)
    d.divert(vm=2, direction=BEHIND, dst="10.63.0.0/24")
    there = udp_socket(n.peer, bind=("0.0.0.0", 9))
    before = d.counters(vm=2)["spoofed"]
    udp_socket(n.vm[2], bind=(n.addresses[1][0], 0)).sendto(b"stolen", (n.peer_addresses[0], 9))
    udp_socket(n.vm[2], bind=(n.addresses[2][0], 0)).sendto(b"own", (n.peer_addresses[0], 9))
    assert there.recv(100) == b"own"
    assert d.counters(vm=2)["spoofed"] > before
    for wrong in ("0.0.0.0/0", "0.0.0.0/7", "::/7"):
        with pytest.raises(DriverError, match="annot assign"):
            d.divert(vm=2, direction=BEHIND, dst=wrong)


def test_an_address_has_one_owner(make):
    n = make(BRIDGE)
    d = n.driver()
    with pytest.raises(DriverError, match="exists"):
        d.addr(vm=2, addr=n.addresses[1][0], mac="02:00:00:00:00:02")
    with pytest.raises(DriverError):
        d.divert(vm=1, direction=IN, dst=n.addresses[1][0], port=80)
        d.divert(vm=2, direction=IN, dst=n.addresses[1][0], port=80)


def test_learning_shows_arp_nd_and_what_is_not_verified(make):
    n = make(BRIDGE)
    d = n.driver(vms=(1,), flags=LEARN)
    d.sniff(ports=["udp/53"])
    s = udp_socket(n.vm[1])
    s.sendto(b"who is it", ("10.63.0.1", 53))
    s6 = udp_socket(n.vm[1], socket.AF_INET6)
    s6.sendto(b"who is it", ("fd63::1", 53))
    arp = d.wait_record(kind="learn")[0]
    assert arp["src_mac"] == "020000000001"
    assert wait_until("both", lambda: len(d.records(kind="udp", flags=UNVERIFIED)) == 2, 5)
    d.addr(vm=1, addr="10.63.0.11", mac="02:00:00:00:00:01")
    s.sendto(b"it is me", ("10.63.0.1", 53))
    d.wait_record(kind="udp", flags=0, data=b"it is me".hex())


def test_unverified_packets_are_limited(make):
    n = make(BRIDGE)
    d = n.driver(vms=(1,), flags=LEARN)
    d.sniff(ports=["udp/53"])
    s = udp_socket(n.vm[1])
    s.sendto(b"x", ("10.63.0.1", 53))
    d.wait_record(kind="udp")
    for _ in range(3000):
        s.sendto(b"x", ("10.63.0.1", 53))
    assert wait_until("limit", lambda: d.counters(vm=1)["rate_limited"] > 0, 5)


# --- sniffing ---


@TOPOLOGIES
@FAMILIES
def test_a_sniffed_stream_is_complete_in_both_directions(make, topology, family):
    """Super-frames included: veth hands over segments of up to 64 KiB."""
    n = make(topology)
    Server(n.peer, 2181)
    d = n.driver()
    d.sniff(ports=["tcp/2181"])
    s, line = greeting(n.vm[1], n.peer_addresses[family], 2181)
    data = os.urandom(300000)
    s.settimeout(10)
    got = b""
    for at in range(0, len(data), 50000):
        s.sendall(data[at:at + 50000])
        want = len(got) + 50000
        while len(got) < want:
            got += s.recv(65536)
    me = text(n.addresses[1][family], port_of(s))
    s.close()
    wait_until("the end", lambda: any(r["tcp_flags"] & 1 for r in d.records(kind="tcp", src=me)), 5)

    def stream(**match):
        records = d.records(kind="tcp", **match)
        start = [r for r in records if r["tcp_flags"] & 2][0]["seq"] + 1
        out = bytearray()
        for r in records:
            if r["data"]:
                at = (r["seq"] + r["offset"] - start) % 2**32
                piece = bytes.fromhex(r["data"])
                out.extend(b"\0" * max(0, at + len(piece) - len(out)))
                out[at:at + len(piece)] = piece
        return bytes(out), records
    sent, records = stream(src=me)
    assert sent == data
    assert max(r["total"] for r in records) > 2048, "no super-frame came by: the test shows less than it says"
    assert all(not r["to_vm"] and not r["flags"] & CUT for r in records)
    received, records = stream(dst=me)
    assert received == (line + "\n").encode() + data
    assert all(r["to_vm"] for r in records)
    assert d.counters(vm=1)["ring_full"] == 0


def test_what_the_proxy_has_is_not_sniffed(make):
    n = make(BRIDGE)
    Server(n.peer, 2181)
    d = n.driver()
    d.listen(vm=1, relay=1)
    everywhere(d, 1, 2181)
    d.sniff(ports=["tcp/2181"])
    s, line = greeting(n.vm[1], n.peer_addresses[0], 2181)
    assert line.startswith("real ") and echoes(s)
    s, line = greeting(n.vm[2], n.peer_addresses[0], 2181)
    d.wait_record(vm=2)
    assert not d.records(vm=1, kind="tcp")


def test_dns_is_seen_both_ways_and_multicast_too(make):
    n = make(BRIDGE)
    d = n.driver()
    d.sniff(ports=["udp/53", "udp/5353"])
    server = udp_socket(n.peer, bind=("10.63.0.1", 53))
    s = udp_socket(n.vm[1], bind=("10.63.0.11", 0))
    s.sendto(b"question", ("10.63.0.1", 53))
    server.sendto(b"answer" * 500, server.recvfrom(100)[1])
    assert len(s.recv(4096)) == 3000
    (q,) = d.wait_record(data=b"question".hex())
    assert not q["to_vm"] and q["vm"] == 1 and q["dst"] == "10.63.0.1:53"
    pieces = sorted(d.wait_record(vm=1, to_vm=True, src="10.63.0.1:53"), key=lambda r: r["offset"])
    if len(pieces) > 1 or not pieces[0]["flags"] & CUT:		# whole, or the first fragment and told so
        assert bytes.fromhex("".join(r["data"] for r in pieces)) == b"answer" * 500
    m = udp_socket(n.peer, bind=("10.63.0.1", 5353))
    m.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.63.0.1"))
    m.sendto(b"announce", ("224.0.0.251", 5353))
    d.wait_record(vm=1, to_vm=True, data=b"announce".hex())
    d.wait_record(vm=2, to_vm=True, data=b"announce".hex())


# --- probes ---


@FAMILIES
@pytest.mark.parametrize("own", [True, False], ids=["own-address", "spare-address"])
def test_a_probe_tells_port_and_mac_of_the_answer(make, family, own):
    n = make(ROUTED if own else BRIDGE)
    Server(n.vm[1], 80)
    d = n.driver()
    source = {} if own else {"source": ("192.0.0.8", "100::8")[family]}
    for port, refused in ((80, False), (81, True)):
        a = d.probe(target=text(n.addresses[1][family], port), **source)
        assert (a["vm"], a["mac"], a["refused"], a["vlan"]) == (1, "020000000001", refused, 0)
        assert bool(a["error"]) == refused
    if own:
        assert d.probe(target=text(n.peer_addresses[family], 81))["vm"] == 0
        with pytest.raises(DriverError, match="Invalid argument"):
            d.probe(target=("127.0.0.1:80", "[::1]:80")[family])


# --- the life of ports, of VMs, of the monitor ---


def test_a_port_comes_and_goes(make):
    n = make(BRIDGE)
    d = n.driver(vms=(1,))
    d.watch_ports(pattern="tap*")
    names = lambda what: [e["name"] for e in d.events if e["ev"] == "port" and e["what"] == what]	# noqa: E731
    wait_until("those that are there", lambda: sorted(names("new")) == ["tap1", "tap2"], 5)
    assert all(e["master_kind"] == "bridge" for e in d.events if e["ev"] == "port")
    n.nic.ip("link", "add", "tap7", "type", "veth", "peer", "name", "x7")
    wait_until("the new one", lambda: "tap7" in names("new"), 5)
    index = [e["ifindex"] for e in d.events if e["ev"] == "port" and e["name"] == "tap7"][0]
    d.port(dev="tap7", vm=7, topology=BRIDGE, out="br0")
    n.nic.ip("link", "set", "tap7", "up")
    n.nic.ip("link", "set", "x7", "up")
    wait_until("its carrier", lambda: any(e["ev"] == "port" and e["name"] == "tap7" and e["carrier"] for e in d.events), 5)
    n.nic.ip("link", "del", "tap7")
    wait_until("its end", lambda: names("gone") == ["tap7"], 5)
    d.port_remove(ifindex=index)
    d.listen(vm=1)
    everywhere(d, 1, 80)
    assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("out1 ")
    d.clear(vm=1)
    Server(n.peer, 80)
    assert greeting(n.vm[1], n.peer_addresses[0], 80)[1].startswith("real ")


def test_a_clean_end_leaves_nothing_behind(make):
    n = make(BRIDGE)
    state = lambda: (n.nic.run("ip", "rule"), n.nic.run("ip", "-6", "rule"), n.nic.run("ip", "-br", "link"),	# noqa: E731
                     n.nic.run("sysctl", "net.ipv4.conf.all.rp_filter", "net.ipv4.tcp_max_tw_buckets"))
    before = state()
    d = n.driver()
    d.divert(vm=1, direction=IN, dst="10.63.0.11", port=15008, flags=SAME_NIC)
    assert all(c["ok"] for c in d.checks()["checks"])
    n.nic.sysctl("net.ipv4.conf.all.rp_filter", 1)
    (bad,) = [c for c in d.checks()["checks"] if not c["ok"]]
    assert "rp_filter" in bad["what"] and bad["found"] == "it is 1" and bad["fatal"]
    n.nic.ip("rule", "del", "pref", "5100")
    assert [c["what"] for c in d.checks()["checks"] if not c["ok"]][0] == "routing rules for IPv4 are there"
    d.close()
    assert state() == before


def test_a_flood_of_one_vm_takes_only_its_own_flows(make):
    n = make(BRIDGE)
    d = n.driver("--max-flows-per-vm", "20")
    for vm in (1, 2):
        d.listen(vm=vm)
        everywhere(d, vm, 80)
    mine = [greeting(n.vm[2], n.peer_addresses[0], 80)[0]]
    Server(n.peer, 80)
    flood = [greeting(n.vm[1], n.peer_addresses[0], 80) for _ in range(30)]
    assert [line.split()[0] for _, line in flood].count("out1") == 20	# the others pass
    assert d.counters(vm=1)["flow_limit"] == 10
    assert echoes(mine[0])
    assert greeting(n.vm[2], n.peer_addresses[0], 80)[1].startswith("out2 ")
    assert all(echoes(s, 100) for s, _ in flood)


def test_who_floods_a_vm_of_the_same_nic_uses_up_his_own_flows(make):
    n = make(BRIDGE)
    d = n.driver("--max-flows-per-vm", "20")
    d.listen(vm=2)
    vm = n.addresses[2][0]
    d.divert(vm=2, direction=IN, dst=vm, port=80, flags=FAIL_CLOSED)
    assert greeting(n.vm[1], vm, 80)[1].startswith("in2 ")		# neighbours know each other
    raw = raw_socket(n.vm[1], "eth0")
    for i in range(100):
        segment = rawnet.tcp((n.addresses[1][0], 20000 + i), (vm, 80), rawnet.SYN, 1)
        raw.send(rawnet.mac("02:00:00:00:00:02") + rawnet.mac("02:00:00:00:00:01") + rawnet.ip4(n.addresses[1][0], vm, segment))
    assert greeting(n.peer, vm, 80)[1].startswith("in2 ")
    wait_until("the flood to be told", lambda: d.counters(vm=1)["flow_limit"] >= 80)
    assert not d.counters(vm=2)["flow_limit"]


@pytest.mark.parametrize("raw", [{"op": 99, "len": 12}, {"op": 1, "len": 16}, {"op": 0, "len": 5}, {"op": 5, "len": 16}],
                         ids=["unknown", "short", "no header", "slot 0"])
def test_the_monitor_stops_on_anything_odd(make, raw):
    n = make(BRIDGE)
    d = n.driver()
    before = n.nic.run("ip", "-br", "link", "show", "dvt0")
    assert before
    d.process.stdin.write('{"cmd": "raw", "op": %(op)d, "len": %(len)d}\n' % raw)
    d.process.stdin.flush()
    assert d.process.wait(5) == 1
    assert "cannot have made" in d.errors
    assert "dvt0" not in n.nic.run("ip", "-br", "link")		# it cleaned up all the same


def test_only_named_devices_are_attached(make):
    n = make(BRIDGE)
    with pytest.raises(DriverError, match="not permitted"):
        n.driver("--only", "tap*")              # its VM ports were attached; an uplink has not been named
    d = n.drivers[-1]
    for dev in ("up0", "lo", "br0"):
        with pytest.raises(DriverError, match="not permitted"):
            d.port(dev=dev, vm=3, topology=BRIDGE, out="br0")


def test_a_vms_frames_leave_by_named_devices_only(make):
    """By its own bridge, an uplink, or what `out` names: not by whatever the worker says."""
    n = make(BRIDGE)
    d = n.driver("--only", "tap*", "--uplink", "up0", "--out", "out0", vms=(1,))
    n.nic.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
    for out in ("out1", "lo", "tap1"):
        with pytest.raises(DriverError, match="not permitted"):
            d.port(dev="tap2", vm=2, topology=BRIDGE, out=out)
    for out in ("br0", "up0", "out0"):
        d.port(dev="tap2", vm=2, topology=BRIDGE, out=out)


def test_a_group_keeps_its_user_whoever_asks(make, tmp_path):
    """The worker says for which group, never as whom; monitors that come later know it still."""
    n = make(BRIDGE)
    folder = tempfile.mkdtemp()
    proxy = os.path.join(folder, "proxy.py")
    with open(proxy, "w") as f:
        f.write("#!/usr/bin/python3\nimport os, signal, sys\nos.write(2, ('%s is %d\\n' % (sys.argv[2], os.getuid())).encode())\nsignal.pause()\n")
    os.chmod(proxy, 0o755)
    os.chmod(folder, 0o755)
    subprocess.run(["mount", "-t", "bpf", "bpf", str(tmp_path)], check=True)
    pin = str(tmp_path) + "/og"
    pids = []

    def users(d, *groups):
        for g in groups:
            pids.append(d.spawn(group=g)["pid"])
        wait_until("them all", lambda: len([l for l in d.errors.splitlines() if " is " in l]) == len(groups))
        found = dict(l.split(" is ") for l in d.errors.splitlines() if " is " in l)
        assert {g: str(d.user(group=g)["uid"]) for g in groups} == found
        return found
    try:
        first = users(n.driver("--proxy", proxy, "--pin", pin, vms=()), "a", "b", "a")
        assert len(set(first.values())) == 2
        n.drivers[-1].close()
        d = n.driver("--proxy", proxy, "--pin", pin, vms=())
        second = users(d, "c", "b", "a")
        assert {g: second[g] for g in first} == first and second["c"] not in first.values()
        with pytest.raises(DriverError, match="No such file"):
            d.user(group="d")
        with pytest.raises(DriverError, match="Invalid argument"):     # from a file's name, say: nothing to end for
            d.user(group="no group")
        for _ in range(5):
            pids.append(d.spawn(group="a")["pid"])
        with pytest.raises(DriverError, match="temporarily unavailable"):
            d.spawn(group="a")          # eight of them are alive
        d.close()
        third = users(n.driver("--proxy", proxy, "--pin", "", vms=()), "c")
        assert third["c"] == first["a"]     # nothing was to outlive the monitor
    finally:
        for pid in pids:
            os.kill(pid, 9)
        subprocess.run(["umount", "-l", str(tmp_path)], check=False)
        shutil.rmtree(folder)


def test_the_monitor_opens_the_access_log_and_no_other_file(make):
    n = make(BRIDGE)
    folder = tempfile.mkdtemp()     # root's: the worker could not make a file there
    log, other = os.path.join(folder, "access.log"), os.path.join(folder, "other")
    d = n.driver("--access-log", log, vms=())
    for path in (other, "/etc/passwd", log + "/", folder + "/../" + os.path.basename(folder) + "/access.log"):
        with pytest.raises(DriverError, match="not permitted"):
            d.access_log(path=path)
    assert os.listdir(folder) == []
    for _ in range(2):
        d.access_log(path=log)
    with open(log) as f:
        assert f.read() == "a line\n" * 2
    os.rename(log, other)
    os.symlink(other, log)
    with pytest.raises(DriverError, match="symbolic links"):
        d.access_log(path=log)
    os.unlink(log)
    os.link(other, log)
    with pytest.raises(DriverError, match="links"):
        d.access_log(path=log)
    os.unlink(log)
    os.mkdir(log)
    with pytest.raises(DriverError, match="directory"):
        d.access_log(path=log)
    with open(other) as f:
        assert f.read() == "a line\n" * 2
    shutil.rmtree(folder)


def test_a_proxy_process_has_a_uid_of_its_own_and_two_capabilities(make):
    n = make(BRIDGE)
    folder = tempfile.mkdtemp()
    proxy = os.path.join(folder, "proxy.py")
    with open(proxy, "w") as f:
        f.write("#!/usr/bin/python3\nimport os, signal, sys\nos.write(2, (' '.join(sys.argv[1:]) + '\\n').encode())\n"
                "os.write(2, open('/proc/self/status', 'rb').read())\nsignal.pause()\n")
    os.chmod(proxy, 0o755)
    os.chmod(folder, 0o755)
    d = n.driver("--proxy", proxy)
    a = d.spawn(group="tenant-a")
    b = d.spawn(group="tenant-b")
    wait_until("their status", lambda: d.errors.count("Seccomp:") == 2, 5)
    lines = [l.split() for l in d.errors.splitlines()]
    assert sorted(l[1:] for l in lines if l and l[0] == "Uid:") == [["61000"] * 4, ["61001"] * 4]
    assert {l[1] for l in lines if l and l[0] in ("CapPrm:", "CapEff:", "CapAmb:")} == {"%016x" % (1 << 12 | 1 << 13)}
    # The worker has no say in its command line but for the name, which is checked, and the number of threads.
    assert "--group tenant-a --mark-base 23296 --workers 1" in d.errors
    d.signal(proxy=a["proxy"], signo=15)
    wait_until("its end", lambda: [e for e in d.events if e["ev"] == "exit" and e["proxy"] == a["proxy"] and e["status"] == 15], 5)
    with pytest.raises(DriverError, match="No such process"):
        d.signal(proxy=a["proxy"], signo=15)
    d.signal(proxy=b["proxy"], signo=9)
    with pytest.raises(DriverError, match="No such file"):
        n.driver("--proxy", "/nowhere", vms=()).spawn(group="x")
    shutil.rmtree(folder)
