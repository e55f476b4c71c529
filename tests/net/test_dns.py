"""Queries of a VM for names: what the mesh answers, what goes on to its server, and what is left alone when somebody is gone."""

import contextlib
import json
import os
import signal
import socket
import struct
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import dns.flags  # noqa: E402
import dns.message  # noqa: E402
import dns.rcode  # noqa: E402

from agentlab import OUTRIGGER, alive  # noqa: E402
from dnslab import Asker, DnsLab, Stream, burst, dropped, query  # noqa: E402
from netlab import Lab, wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

NAME, OUTSIDE = "orders.shop.mesh.internal", "www.outside.example"


@pytest.fixture
def mesh(request):
    options = dict(getattr(request, "param", {}))
    server = options.pop("server", "named")
    with DnsLab(**options) as lab:
        yield lab.start(server)


def modes(*which, **more):
    return pytest.mark.parametrize("mesh", [dict(mode=m, **more) for m in which], indirect=True, ids=which)


def known(mesh):
    """The mesh has been asked for the name already."""
    return wait_until("the mesh's answer", lambda: mesh.dig(NAME).split() == [mesh.vip()])


@modes("fill", "answer")
def test_the_mesh_answers_for_its_names_and_for_no_others(mesh):
    assert mesh.dig(NAME).split() == [mesh.vip()]      # also the first time that somebody asks
    assert mesh.dig(OUTSIDE).split() == ["192.0.2.80"]
    assert mesh.dig(OUTSIDE, "AAAA").split() == ["2001:db8::80"]
    for t in "AAAA", "TXT", "MX", "SRV", "HTTPS":       # the name exists: no error, and no record
        assert mesh.status(NAME, t) == "NOERROR" and mesh.dig(NAME, t) == "", t
    for name in "nothing.shop.mesh.internal", "mesh.internal", "shop.mesh.internal", "web.demo.svc.cluster.local", "gone.example":
        assert mesh.status(name) == "NXDOMAIN", name
    assert mesh.status("nothing.shop.mesh.internal") == "NXDOMAIN"
    # The guest sees no difference to a server that it has asked itself.
    asker = Asker(mesh.vms[1])
    for edns in None, 512, 4096:
        m = dns.message.from_wire(asker.ask("oRDeRs.shOP.mesh.INTERNAL", qid=77, edns=edns))
        assert m.id == 77 and m.rcode() == 0 and m.flags & dns.flags.AA and not m.flags & dns.flags.TC
        assert b"\x06oRDeRs\x04shOP" in m.to_wire() and str(m.question[0].name) == "oRDeRs.shOP.mesh.INTERNAL."
        assert [r.address for r in m.answer[0]] == [mesh.vip()] and m.answer[0].ttl == 30 and (m.edns == 0) == (edns is not None)
    asker.close()
    # A service that nobody had heard of when its name was asked for.
    assert mesh.status("orders-2.shop.mesh.internal") == "NXDOMAIN"


@modes("answer")
def test_a_name_leads_to_its_service(mesh):
    conf = mesh.dir + "/resolv.conf"
    with open(conf, "w") as f:
        f.write("nameserver %s\nsearch shop.mesh.internal\n" % mesh.ns)
    fetch = "mount --bind %s /etc/resolv.conf && curl -sS -m 10 http://%%s:8080/" % conf
    for name in NAME, "orders":
        wait_until("an answer over the mesh", lambda: mesh.vms[1].run("unshare", "-m", "sh", "-c", fetch % name, check=False) == "this is " + mesh.vms[0].address)
    wait_until("the access log", lambda: "src.identity=spiffe://test.mesh/ns/shop/sa/shopper" in mesh.log("nic.agent"))


@modes("observe")
def test_observing_changes_nothing(mesh):
    assert mesh.status(NAME) == "NXDOMAIN" and mesh.dig(OUTSIDE).split() == ["192.0.2.80"]
    assert mesh.dns_metrics() == {}


@modes("fill", "answer", server="dnsmasq")
def test_dnsmasq_is_a_server_like_any_other(mesh):
    assert mesh.dig(NAME).split() == [mesh.vip()]
    assert mesh.dig(OUTSIDE).split() == ["192.0.2.80"]
    assert mesh.status("nothing.shop.mesh.internal") == "NXDOMAIN"
    assert mesh.status("elsewhere.example") == "REFUSED"      # dnsmasq has nobody to ask


@modes("fill", "answer")
def test_a_silent_server_takes_only_its_own_names_along(mesh):
    known(mesh)
    mesh.server.send_signal(signal.SIGSTOP)
    assert mesh.dig(NAME).split() == [mesh.vip()]
    before = mesh.dns_metrics()["istio_dns_upstream_requests_total"]
    assert mesh.status(OUTSIDE) is None                      # nobody made anything up
    assert mesh.dns_metrics()["istio_dns_upstream_requests_total"] > before
    assert mesh.dig(NAME).split() == [mesh.vip()]
    mesh.server.send_signal(signal.SIGCONT)
    wait_until("the server again", lambda: mesh.dig(OUTSIDE).split() == ["192.0.2.80"])


@modes("fill", "answer")
def test_big_answers_come_whole(mesh):
    assert len(mesh.dig("many.outside.example", "+bufsize=4096", "+ignore").split()) == 40
    assert len(mesh.dig("many.outside.example", "+noedns").split()) == 40          # by TCP, after TC
    assert len(mesh.dig("many.outside.example", "+tcp").split()) == 40
    asker = Asker(mesh.vms[1])
    m = dns.message.from_wire(asker.ask("many.outside.example"))
    assert m.flags & dns.flags.TC
    asker.close()


@modes("fill", "answer")
def test_not_one_of_a_thousand_queries_a_second_is_lost(mesh):
    known(mesh)
    before = mesh.dns_metrics()
    names = ["n%d.outside.example" % (i % 1000) if i % 2 else NAME for i in range(2000)]
    seen = burst(mesh.vms[1], names, 2)
    assert len(seen) == len(names)
    for i, m in seen.items():
        m = dns.message.from_wire(m)
        assert str(m.question[0].name) == names[i] + "." and len(m.answer[0]) == 1
        assert m.answer[0][0].address == (mesh.vip() if i % 2 == 0 else "192.0.2.%d" % (i % 1000 % 250 + 1))
    after = mesh.dns_metrics()
    assert after["istio_dns_requests_total"] - before["istio_dns_requests_total"] == 2000
    assert after["outrigger_dns_answered_total"] - before["outrigger_dns_answered_total"] == 1000
    assert after["outrigger_dns_malformed_total"] == after["outrigger_dns_strays_total"] == after["outrigger_dns_send_errors_total"] == 0


@modes("fill", "answer")
def test_without_agent_and_proxy_queries_pass(mesh):
    known(mesh)
    asker = Asker(mesh.vms[1])              # one socket all the time, as a resolver that keeps its own
    pid = mesh.proxy(mesh.vms[1])[0]["pid"]
    mesh.stop_agent(signal.SIGKILL)
    assert dns.message.from_wire(asker.ask(OUTSIDE, qid=1)).answer[0][0].address == "192.0.2.80"
    os.kill(pid, signal.SIGKILL)
    wait_until("the proxy's end", lambda: not alive(pid))
    assert dns.message.from_wire(asker.ask(OUTSIDE, qid=2)).answer[0][0].address == "192.0.2.80"
    assert dns.message.from_wire(asker.ask(NAME, qid=3)).rcode() == 3
    mesh.start_agent()
    wait_until("the mesh's answer", lambda: (mesh.discover(mesh.vms[0]), mesh.discover(mesh.vms[1]), mesh.dig(NAME).split())[2], 60)
    assert len(dns.message.from_wire(asker.ask(NAME, qid=4)).answer) == 1
    asker.close()


@modes("fill", "answer")
def test_a_proxy_that_is_killed_costs_no_name(mesh):
    known(mesh)
    pid = mesh.proxy(mesh.vms[1])[0]["pid"]
    asker = Asker(mesh.vms[1], timeout=2)
    os.kill(pid, signal.SIGKILL)
    lost = 0
    for i in range(100):
        try:
            assert dns.message.from_wire(asker.ask(OUTSIDE, qid=i)).answer[0][0].address == "192.0.2.80"
        except TimeoutError:
            lost += 1
    assert lost <= 1                        # what was in its hands when it died
    wait_until("another process", lambda: mesh.proxy(mesh.vms[1]) and mesh.proxy(mesh.vms[1])[0]["pid"] != pid, 30)
    known(mesh)
    asker.close()


@modes("fill", "answer")
def test_a_proxy_that_hangs_does_not_take_names_along(mesh):
    known(mesh)
    pid = mesh.proxy(mesh.vms[1])[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        # what it has been given for a second is lost; a resolver's second attempt gets through
        wait_until("names again", lambda: mesh.dig(OUTSIDE).split() == ["192.0.2.80"], 60)
        seen = burst(mesh.vms[1], ["n%d.outside.example" % i for i in range(300)], 0.3)
        assert len(seen) >= 298
    finally:
        os.kill(pid, signal.SIGCONT)
    known(mesh)


@modes("fill", "answer")
def test_ip6(mesh):
    a = mesh.vms[1]
    mesh.reg.ip("addr", "add", "fd66::1/64", "dev", "eth0", "nodad")
    a.ip("addr", "add", "fd66::12/64", "dev", "eth0", "nodad")
    wait_until("the address", lambda: (a.run("ping", "-6", "-c", "1", "-W", "1", "fd66::1", check=False), "fd66::12" in mesh.guest(a)["addresses"])[1])
    before = mesh.dns_metrics()["istio_dns_requests_total"]
    wait_until("the proxy knows it, too", lambda: mesh.dig(OUTSIDE, server="fd66::1") and mesh.dns_metrics()["istio_dns_requests_total"] > before)
    assert mesh.dig(NAME, server="fd66::1").split() == [mesh.vip()]
    assert mesh.dig(OUTSIDE, server="fd66::1").split() == ["192.0.2.80"]
    assert mesh.status(NAME, "AAAA", server="fd66::1") == "NOERROR"
    assert mesh.dns_metrics()["outrigger_dns_strays_total"] == 0


@modes("answer")
def test_hostile_datagrams_go_on_or_are_dropped(mesh):
    asker = Asker(mesh.vms[1], timeout=1)
    good = query(NAME)
    for bad in [b"", b"\0", good[:11], good[:-1], good[:12] + b"\xc0\x0c\0\1\0\1", good[:12] + b"\xff" * 40, good + good, os.urandom(700),
                good[:2] + b"\x81" + good[3:], good[:4] + b"\xff\xff" + good[6:]]:
        asker.sock.send(bad)
    asker.close()
    # From outside to the proxy's own port: found by guessing, and worth nothing.
    ports = [line.split()[3].rsplit(":", 1)[1] for line in mesh.nic.run("ss", "-Hlnu").splitlines() if line.split()[3].startswith("*:")]
    assert ports
    for port in ports:
        sender = Asker(mesh.reg, "10.66.0.3", timeout=1)
        sender.sock.connect(("10.66.0.3", int(port)))
        sender.sock.send(good)
        sender.close()
    wait_until("they are counted", lambda: mesh.dns_metrics()["outrigger_dns_strays_total"] > 0)
    known(mesh)
    assert mesh.dig(OUTSIDE).split() == ["192.0.2.80"]
    m = mesh.dns_metrics()
    assert m["outrigger_dns_malformed_total"] >= 9 and mesh.proxy(mesh.vms[1])


@modes("fill", "answer")
def test_the_agent_still_sees_what_is_asked_and_answered(mesh):
    mesh.dig("www.watched.example")
    mesh.dig("_orders._tcp.outside.example", "SRV")
    wait_until("the queries", lambda: "protocol=dns service=www.watched.example" in mesh.log("nic.agent") or "kind=discover protocol=dns" in mesh.log("nic.agent"))


@modes("fill", "answer")
def test_a_server_on_the_nic_or_in_another_vm_is_like_one_far_away(mesh):
    for host, address in (mesh.nic, "10.66.0.3"), (mesh.vms[0], mesh.vms[0].address):
        host.popen(["dnsmasq", "-k", "-h", "-R", "--no-hosts", "-u", "root", "-x", "%s/dnsmasq-%s.pid" % (mesh.dir, host.name), "-C", "/dev/null", "--bind-interfaces",
                    "--listen-address=" + address, "--address=/outside.example/192.0.2.81", "--local=/mesh.internal/"], "dnsmasq-" + host.name)
        wait_until("its server", lambda: mesh.dig(OUTSIDE, server=address).split() == ["192.0.2.81"])
        before = mesh.dns_metrics()
        assert mesh.dig(NAME, server=address).split() == [mesh.vip()]
        assert mesh.status("nothing.shop.mesh.internal", server=address) == "NXDOMAIN"
        assert mesh.dig(OUTSIDE, server=address).split() == ["192.0.2.81"]
        after = mesh.dns_metrics()
        assert after["istio_dns_requests_total"] == before["istio_dns_requests_total"] + 3
        assert after["outrigger_dns_answered_total"] == before["outrigger_dns_answered_total"] + 1


def answers(message):
    m = dns.message.from_wire(message)
    return [r.address for r in m.answer[0]] if m.answer else m.rcode()


@modes("fill", "answer")
def test_connections_are_answered_as_datagrams_are(mesh):
    vip = mesh.vip()
    assert mesh.dig(NAME, "+tcp").split() == [vip]         # also the first time that somebody asks
    assert mesh.dig(OUTSIDE, "+tcp").split() == ["192.0.2.80"]
    assert mesh.status("nothing.shop.mesh.internal", "+tcp") == "NXDOMAIN"
    assert mesh.status(NAME, "AAAA", "+tcp") == "NOERROR" and mesh.dig(NAME, "AAAA", "+tcp") == ""
    # Both kinds of names on one connection, all at once, and the answers in any order.
    s = Stream(mesh.vms[1])
    s.send(*[query("oRDERs.shop.mesh.INTERNAL" if i % 2 else "n%d.outside.example" % i, qid=i, edns=None if i % 3 else 1232) for i in range(100)])
    seen = [s.receive() for _ in range(100)]
    assert {struct.unpack("!H", m[:2])[0]: answers(m) for m in seen} == {i: [vip] if i % 2 else ["192.0.2.%d" % (i + 1)] for i in range(100)}
    assert sum(b"\x06oRDERs\x04shop" in m for m in seen) == 50
    for byte in struct.pack("!H", len(query(NAME))) + query(NAME, qid=200):
        s.sock.sendall(bytes([byte]))
    assert answers(s.receive()) == [vip]
    s.send(query(NAME, qid=201), query(OUTSIDE, qid=202))     # and what was asked before the end is answered after it
    s.sock.shutdown(socket.SHUT_WR)
    assert sorted(answers(s.receive()) for _ in range(2)) == sorted([[vip], ["192.0.2.80"]])
    with pytest.raises(EOFError):
        s.receive()
    s.close()
    m = mesh.dns_metrics()
    assert m["outrigger_dns_connections_total"] == 6 and m["outrigger_dns_malformed_total"] == 0
    many = [Stream(mesh.vms[1]) for _ in range(40)]        # those over the budget go straight to the server
    got = [answers(s.ask(OUTSIDE)) for s in many]
    assert got == [["192.0.2.80"]] * 40
    for s in many:
        s.close()


@modes("fill", "answer")
def test_a_connection_to_a_silent_server_or_to_none_gets_the_names_of_the_mesh(mesh):
    known(mesh)
    mesh.server.send_signal(signal.SIGSTOP)
    s = Stream(mesh.vms[1])
    assert answers(s.ask(NAME)) == [mesh.vip()]
    mesh.server.send_signal(signal.SIGCONT)
    # What the server says when it is late is not heard any more: the next answer is that to the next question.
    assert answers(s.ask(OUTSIDE, qid=7)) == ["192.0.2.80"]
    s.close()
    mesh.stop_server()
    wait_until("nobody listens", lambda: mesh.status(OUTSIDE, "+tcp") is None)
    assert mesh.dig(NAME, "+tcp").split() == [mesh.vip()]


@modes("answer")
def test_a_listeners_port_is_the_vms_too(mesh):
    """A VM may have any port: those of its proxy's listeners, which are the NIC's, are in nobody's way, and nobody reaches them."""
    listeners = [line.split()[3].rsplit(":", 1) for line in mesh.nic.run("ss", "-Hltn").splitlines()]
    ports = [int(port) for address, port in listeners if "192.0.0.8" in address]
    assert len(ports) == 4                  # two VMs, two directions
    for port in ports:
        s = Stream(mesh.vms[1], port=port)
        assert answers(s.ask(OUTSIDE)) == ["192.0.2.80"], port
        s.close()
        with mesh.reg.inside(), pytest.raises(ConnectionRefusedError):
            socket.create_connection(("10.66.0.3", port), 30)
    assert "result=connect-failed" not in mesh.log("nic.agent")


@modes("answer")
def test_what_is_no_dns_is_passed_on(mesh):
    """Port 53 may be anybody's: those who speak first, those who say something else, and floods of nonsense."""
    script = """
import socket
l = socket.create_server(("%s", 53))
while True:
    c, _ = l.accept()
    c.sendall(b"220 hello\\n")
    with c, c.makefile("rb") as f:
        for line in f:
            c.sendall(line.upper())
""" % mesh.vms[0].address
    mesh.vms[0].popen([sys.executable, "-c", script], "echo")

    def talk(first):
        with mesh.vms[1].inside():
            c = socket.create_connection((mesh.vms[0].address, 53), 30)
        with c, c.makefile("rb") as f:
            heard = [] if first else [f.readline()]
            c.sendall(b"SSH-2.0 some banner that is no length of anything\n" * 3000)
            heard += [f.readline() for _ in range(3000 + len(first and "x"))]
            c.shutdown(socket.SHUT_WR)
            return heard == [b"220 hello\n"] + [b"SSH-2.0 SOME BANNER THAT IS NO LENGTH OF ANYTHING\n"] * 3000 and f.read() == b""

    wait_until("the server", lambda: mesh.vms[0].run("ss", "-Hltn", "sport = :53"))
    assert talk("") and talk("me")
    s = Stream(mesh.vms[1])
    s.sock.sendall(struct.pack("!H", 40) + query(NAME)[:12] + b"\xff" * 28)       # a message, and no query: the server's
    with pytest.raises((EOFError, ConnectionResetError, TimeoutError)):
        while dns.message.from_wire(s.receive()).rcode() == dns.rcode.FORMERR:
            s.sock.settimeout(2)
    s.close()
    for end in range(2, len(query(NAME)) + 2):        # cut anywhere
        s = Stream(mesh.vms[1])
        s.sock.sendall((struct.pack("!H", len(query(NAME))) + query(NAME))[:end - 1])
        s.close()
    assert mesh.dig(NAME, "+tcp").split() == [mesh.vip()] and mesh.proxy(mesh.vms[1])


def set_mode(mesh, old, new):
    """In the policy; the controller reads it again."""
    with open(mesh.dir + "/controller.yaml") as f:
        text = f.read()
    assert "dns: " + old in text
    with open(mesh.dir + "/controller.yaml", "w") as f:
        f.write(text.replace("dns: " + old, "dns: " + new))
    mesh.controller.send_signal(signal.SIGHUP)


@modes("observe")
def test_a_change_of_the_policy_counts_at_once(mesh):
    vip = mesh.vip()
    for old, new, want in ("observe", "answer", [vip]), ("answer", "fill", [vip]), ("fill", "observe", []), ("observe", "fill", [vip]):
        set_mode(mesh, old, new)
        wait_until(new, lambda: mesh.dig(NAME).split() == want and mesh.dig(OUTSIDE).split() == ["192.0.2.80"])
    orders, shopper = mesh.get("/v1/explain/orders")["instances"]
    assert (orders["canonical_name"], orders["dns_names"]) == ("orders", [NAME]) and (shopper["canonical_name"], shopper["dns_names"]) == ("shopper-1", None)
    assert "canonical name orders  reachable as " + NAME in mesh.nic.run(OUTRIGGER, "explain", "orders", "--agent", mesh.dir + "/run/agent.sock")
    steps = [c["text"] for i in mesh.get("/v1/explain/orders")["instances"] for c in i["chain"] if c["step"] == "policy"]
    assert steps == ['"orders": mode permissive, as shop/orders, names: observe', '"shoppers": mode permissive, as shop/shopper, names: fill']


def test_what_a_full_queue_drops_is_counted():
    """The kernel's counters are what the next test excuses lost queries by."""
    with Lab("ogdq") as lab:
        host = lab.host("h")
        host.ip("link", "set", "lo", "up")
        before = dropped(lab)
        with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as full, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            full.bind(("127.0.0.1", 0))
            full.setblocking(False)
            for _ in range(200):
                sender.sendto(bytes(512), full.getsockname())
            kept = []

            def accounted_for():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        kept.append(full.recv(1024))
                return len(kept) + dropped(lab) - before >= 200
            wait_until("that each was kept or dropped", accounted_for)
        assert 0 < len(kept) < 200


@modes("fill", "answer", pin=True)
def test_agents_and_proxies_are_replaced_without_a_lost_query(mesh):
    known(mesh)
    names = ["n%d.outside.example" % (i % 1000) if i % 2 else NAME for i in range(3000)]
    pid = mesh.proxy(mesh.vms[1])[0]["pid"]
    before = dropped(mesh)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:       # asks all the while
        seen = burst(mesh.vms[1], names, 12)
        os.write(writer, json.dumps([i for i in range(len(names)) if i not in seen]).encode())
        os._exit(0)
    os.close(writer)
    mesh.stop_agent(signal.SIGKILL)
    mesh.start_agent()
    wait_until("the adopted proxy", lambda: mesh.proxy(mesh.vms[1]))
    assert mesh.proxy(mesh.vms[1])[0]["pid"] == pid
    group = mesh.get("/v1/processes")["processes"][0]["group"]
    mesh.ask(mesh.nic, "run/agent.sock", "/v1/processes/%s/upgrade" % group, {})
    wait_until("the successor", lambda: mesh.proxy(mesh.vms[1]) and mesh.proxy(mesh.vms[1])[0]["pid"] != pid)
    with open(reader) as f:
        lost = json.loads(f.read())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # What a socket's queue had no room for, because nobody was given the time to read it, a resolver asks for again. Nothing else is lost.
    drops = dropped(mesh) - before
    assert len(lost) <= drops, "lost %s, of which the kernel dropped %d" % (lost, drops)
    assert len(burst(mesh.vms[1], [names[i] for i in lost], 1)) == len(lost)
    known(mesh)
