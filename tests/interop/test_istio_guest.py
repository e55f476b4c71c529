"""A real virtual machine in an Istio ambient mesh: QEMU, Debian's kernel, nginx and curl that have never heard of a mesh."""
import json
import os
import types

import pytest

from agentlab import BUILD, REGISTRY
from guest import Guest, GuestImage
from istiolab import SERVER_VIP, IstioLab
from netlab import wait_until

MAC, ADDRESS = "02:00:00:66:00:21", "10.66.0.21"
NGINX = """worker_processes 1; error_log /dev/null; pid /run/nginx.pid;
events { worker_connections 64; }
http { access_log off; server { listen 8080; location / { default_type text/plain; return 200 "this is $hostname"; } } }
"""


@pytest.fixture
def mesh(kube):
    kube.ensure_istiod()
    with IstioLab(kube, vms=0) as lab:
        lab.names = {MAC: "orders-1"}
        yield lab.start()


def test_a_virtual_machine_joins_serves_calls_and_leaves(mesh):
    image = GuestImage(os.path.join(BUILD, "cache", "guests"), "istio", init="mkdir -p /var/log/nginx /var/lib/nginx; nginx -c /etc/nginx.conf\n",
                       programs=["/usr/sbin/nginx", "/usr/bin/curl"], files={"/etc/nginx.conf": NGINX}).build()
    mesh.nic.tap("tap0", "br0")
    vm = types.SimpleNamespace(address=ADDRESS, mac=MAC, name="orders-1")
    guest = mesh.guest_machine(Guest(image, "orders-1", netns=mesh.nic.ns, tap="tap0", mac=MAC, cmdline="vmip=%s/24 gw=10.66.0.9" % ADDRESS, run_dir=mesh.dir))
    guest.start().wait_for("vm up")

    body = json.dumps({"Name": "orders", "ID": "orders-1", "Address": ADDRESS, "Port": 8080})
    status, out = guest.run("curl -sS -m 10 -X PUT -d '%s' http://%s:8500/v1/agent/service/register" % (body, REGISTRY))
    assert status == 0, out
    wait_until("the WorkloadEntry", lambda: mesh.entry(vm))
    wait_until("the proxy", lambda: mesh.proxy(vm))
    assert mesh.call(mesh.client, vm) == ("200", "this is orders-1", "spiffe://cluster.local/ns/shop/sa/orders")

    server = mesh.hbone_server(mesh.server)
    assert wait_until("an answer in the guest", lambda: guest.run("curl -s -m 5 http://%s/" % SERVER_VIP)[1]) == "this is server"
    assert set(server.seen) == {("spiffe://cluster.local/ns/shop/sa/orders", mesh.server.address + ":8080")}
    server.close()

    guest.kill()
    wait_until("the entry is gone", lambda: not mesh.entry(vm), 60)
    wait_until("who did it", lambda: "a WorkloadEntry without its VM was removed" in mesh.log("edge.controller"))      # istiod itself would have taken 10 s
