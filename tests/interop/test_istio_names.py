"""A VM calls the cluster's services by their names, with nothing in the guest: what istiod knows fills what its own server does not."""
import os

import pytest

from agentlab import REGISTRY
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


@pytest.mark.parametrize("mode", ["fill", "answer"])
def test_services_of_the_cluster_have_their_names_in_the_vm(kube, mode):
    kube.ensure_istiod()
    mesh = IstioLab(kube, vms=1, names=("orders-1",), onboarding=with_names(mode))
    try:
        kube.apply(SERVICES)
        mesh.reg.popen(["dnsmasq", "-k", "-h", "-R", "--no-hosts", "-u", "root", "-x", mesh.dir + "/dnsmasq.pid", "-C", "/dev/null",
                        "--address=/outside.example/192.0.2.80", "--local=/cluster.local/partner.example/other.example/"], "dnsmasq")
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
