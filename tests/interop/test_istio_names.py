"""A VM calls the cluster's services by their names, with nothing in the guest: what istiod knows fills what its own server does not."""
import json
import os
import signal
import types

import pytest

from agentlab import BUILD, REGISTRY, alive
from guest import Guest, GuestImage
from istiolab import ONBOARDING, SERVER_VIP, IstioLab
from netlab import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

SERVICES = """
apiVersion: v1
kind: Service
metadata: { name: headless, namespace: demo }
spec: { clusterIP: None, selector: { app: server }, ports: [{ name: http, port: 8080 }] }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: partner, namespace: shop }
spec: { hosts: [api.partner.example], addresses: [10.98.0.7], ports: [{ number: 80, name: http, protocol: HTTP }], resolution: STATIC, endpoints: [{ address: 10.66.0.77 }] }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: other, namespace: demo }
spec: { hosts: [api.other.example], addresses: [10.98.0.8], ports: [{ number: 80, name: http, protocol: HTTP }], resolution: STATIC, endpoints: [{ address: 10.66.0.78 }] }
"""
DOMAINS = "dns: %s, dns_domains: [svc.cluster.local, partner.example, demo/other.example] }"


def with_names(mode):
    return "\n".join(line.rstrip().removesuffix("}") + ", " + DOMAINS % mode for line in ONBOARDING.splitlines()).replace(" , dns", ", dns")


def start_server_of_names(mesh):
    mesh.reg.popen(["dnsmasq", "-k", "-h", "-R", "--no-hosts", "-u", "root", "-x", mesh.dir + "/dnsmasq.pid", "-C", "/dev/null",
                    "--address=/outside.example/192.0.2.80", "--local=/cluster.local/partner.example/other.example/"], "dnsmasq")


@pytest.mark.parametrize("mode", ["fill", "answer"])
def test_services_of_the_cluster_have_their_names_in_the_vm(kube, mode):
    kube.ensure_istiod()
    mesh = IstioLab(kube, vms=1, names=("orders-1",), onboarding=with_names(mode))
    try:
        kube.apply(SERVICES)
        start_server_of_names(mesh)
        mesh.start()
        vm = mesh.vms[0]
        mesh.join(vm)
        server = mesh.hbone_server(mesh.server)
        conf = mesh.dir + "/resolv.conf"
        with open(conf, "w") as f:
            f.write("nameserver %s\noptions timeout:2 attempts:3\n" % REGISTRY)

        def dig(name, *more):
            return vm.run("dig", "@" + REGISTRY, "+short", "+time=3", "+tries=3", name, *more, check=False).split()

        try:
            wait_until("the service's address", lambda: dig("server.demo.svc.cluster.local") == [SERVER_VIP], 60)
            assert wait_until("an answer by name", lambda: vm.run("unshare", "-m", "sh", "-c", "mount --bind %s /etc/resolv.conf && "
                              "curl -sS -m 10 http://server.demo.svc.cluster.local/" % conf, check=False), 60) == "this is server"
            assert set(server.seen) == {("spiffe://cluster.local/ns/shop/sa/orders", mesh.server.address + ":8080")}
            assert dig("server.demo.svc") == [SERVER_VIP] and dig("server.demo.svc.cluster.local", "AAAA") == []
            wait_until("the endpoints of a headless service", lambda: dig("headless.demo.svc.cluster.local") == [mesh.server.address], 60)
            wait_until("a ServiceEntry of its own namespace", lambda: dig("api.partner.example") == ["10.98.0.7"], 60)
            wait_until("one of another", lambda: dig("api.other.example") == ["10.98.0.8"], 60)
            assert dig("www.outside.example") == ["192.0.2.80"] and dig("nothing.demo.svc.cluster.local") == []
        finally:
            server.close()
    finally:
        print(mesh.log("nic.agent")[-6000:])
        mesh.close()
        kube.kubectl("-n", "shop", "delete", "serviceentries.networking.istio.io", "--all")
        kube.kubectl("-n", "demo", "delete", "serviceentries.networking.istio.io", "--all")
        kube.kubectl("-n", "demo", "delete", "service", "headless")


MAC, ADDRESS = "02:00:00:66:00:22", "10.66.0.22"
RESOLV = "nameserver %s\nsearch demo.svc.cluster.local svc.cluster.local cluster.local\noptions timeout:5 attempts:5%%s\n" % REGISTRY


@pytest.mark.parametrize("mode", ["fill", "answer"])
def test_a_virtual_machine_calls_services_by_their_names(kube, mode):
    """QEMU, with glibc's resolver (over UDP, and over TCP by "use-vc") and busybox's, and the search list of a Pod."""
    kube.ensure_istiod()
    image = GuestImage(os.path.join(BUILD, "cache", "guests"), "names", init="", programs=["/usr/bin/curl", "/usr/bin/getent"],
                       files={"/etc/udp.conf": RESOLV % "", "/etc/tcp.conf": RESOLV % " use-vc"}).build()
    with IstioLab(kube, vms=0, onboarding=with_names(mode)) as mesh:
        mesh.names = {MAC: "orders-1"}
        mesh.nic.tap("tap0", "br0")
        start_server_of_names(mesh)
        mesh.start()
        vm = types.SimpleNamespace(address=ADDRESS, mac=MAC, name="orders-1")
        guest = mesh.guest_machine(Guest(image, "orders-1", netns=mesh.nic.ns, tap="tap0", mac=MAC, cmdline="vmip=%s/24 gw=10.66.0.9" % ADDRESS, run_dir=mesh.dir))
        guest.start().wait_for("vm up", 120)

        def say(command):
            return guest.run(command, 120)[1]

        say("cp /etc/udp.conf /etc/resolv.conf")
        body = json.dumps({"Name": "orders", "ID": "orders-1", "Address": ADDRESS, "Port": 8080})
        assert guest.run("curl -sS -m 30 -X PUT -d '%s' http://%s:8500/v1/agent/service/register" % (body, REGISTRY), 60)[0] == 0
        wait_until("the proxy", lambda: mesh.proxy(vm), 60)
        server = mesh.hbone_server(mesh.server)
        try:
            wait_until("the service by its name", lambda: say("curl -s -m 10 http://server.demo.svc.cluster.local/") == "this is server", 90)
            for conf in "udp", "tcp":
                say("cp /etc/%s.conf /etc/resolv.conf" % conf)
                for name in "server.demo.svc.cluster.local", "server.demo.svc", "server.demo", "server":
                    assert say("curl -sS -m 30 http://%s/" % name) == "this is server", (conf, name)
                assert say("getent ahostsv4 www.outside.example").split()[0] == "192.0.2.80", conf
                assert guest.run("getent hosts nothing.demo.svc.cluster.local", 120) == (2, ""), conf
            assert say("getent hosts " + SERVER_VIP).split() == [SERVER_VIP, "server.demo.svc.cluster.local"]
            say("cp /etc/udp.conf /etc/resolv.conf")
            assert SERVER_VIP in say("busybox nslookup -type=a server.demo.svc.cluster.local").split()
            assert set(server.seen) == {("spiffe://cluster.local/ns/shop/sa/orders", mesh.server.address + ":8080")}
            pid = mesh.proxy(vm)[0]["pid"]          # and without agent and proxy it has the names that it has always had
            mesh.stop_agent(signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            wait_until("the proxy's end", lambda: not alive(pid))
            for conf in "udp", "tcp":
                say("cp /etc/%s.conf /etc/resolv.conf" % conf)
                assert say("getent ahostsv4 www.outside.example").split()[0] == "192.0.2.80", conf
        finally:
            server.close()
