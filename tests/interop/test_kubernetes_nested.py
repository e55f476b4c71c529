"""VMs that are Kubernetes nodes themselves: their own services join the mesh, what runs inside of them is containers and is left alone."""
import subprocess

import pytest

from agentlab import WEB
from netlab import wait_until
from test_kubernetes_mesh import MixedLab

NETWORK, BRIDGE, POD, OTHER_POD = "10.244.7.0/24", "10.244.7.1", "10.244.7.5", "10.244.7.6"
ONBOARDING = """  - { name: nodes, match: { guest_name: "cart-*" }, mode: strict, namespace: mix, service_account: node-vm, services: [cart, nested] }
  - { name: shoppers, match: { guest_name: "shopper-*" }, mode: permissive, namespace: mix, service_account: shopper, client: true }
"""


class NestedLab(MixedLab):
    """vm0 is the node node-v, the namespace "inner" a pod inside of it."""

    def __init__(self, kube):
        super().__init__(kube, "ogkn")
        self.onboarding = ONBOARDING
        self.node, self.shopper = self.vms
        kube.node("node-v", self.node.address, NETWORK)
        self.node.sysctl("net.ipv4.ip_forward", "1")
        self.node.bridge("cni0", BRIDGE + "/24")
        self.inner = self.inside(self.node, "inner", POD)

    def agent_yaml(self):
        return super().agent_yaml().replace('- match: "tap*"', '- match: "tap*"\n    drop_spoofed: true')

    def inside(self, node, name, address):
        pod = self.host(name)
        pod.address = address
        self.cable(pod, "eth0", node, "v" + name, address + "/24", master_b="cni0")
        pod.popen(["python3", "-c", WEB, address, "8080"], "app")
        wait_until("the pod's server", lambda: ":8080 " in pod.run("ss", "-Hltn"))
        return pod

    def close(self):
        super().close()
        self.kube.end_pod("mix", "nested-1")
        self.kube.kubectl("delete", "node", "node-v", "--ignore-not-found")

    def node_addresses(self):
        return [a for a in self.guest(self.node)["addresses"] if not a.startswith("fe80:")]

    def check_node(self):
        """The VM's own service is in the mesh, and strict."""
        self.join(self.node, name="cart", instance="node-1")
        self.start_shopper()
        wait_until("the node's own service by the mesh", lambda: self.fetch(self.shopper, self.node.address) == "this is " + self.node.address, 60)
        wait_until("plaintext to it to be refused", lambda: self.fetch(self.reg, self.node.address) == "", 60)


@pytest.fixture
def lab(kube):
    nested = NestedLab(kube)
    try:
        yield nested
    finally:
        nested.close()


def test_pods_of_a_node_that_is_a_vm_are_containers_and_reach_and_are_reached(lab):
    """Direct routing: packets with the pods' addresses at the VM's port."""
    for host in (lab.reg, lab.edge, lab.nic, lab.shopper):
        host.ip("route", "replace", NETWORK, "via", lab.node.address)
    lab.inner.ip("route", "replace", "default", "via", BRIDGE)
    lab.start()
    lab.kube.pod("mix", "nested-1", "default", POD, "node-v", {"app": "nested"}, hbone=False)
    lab.check_node()
    lab.register(lab.inner, name="nested", instance="nested-1")
    found = wait_until("the verdict", lambda: lab.service("nested", verdict="container"), 60)[0]
    evidence = {e["method"]: (e["finding"], e["detail"]) for e in found["evidence"]}
    assert evidence["containers"] == ("container", "%s is registered by a container: pod mix/nested-1 on node node-v" % POD)
    assert not found["proxy"]
    assert lab.node_addresses() == [lab.node.address]       # the pod's is not one of its own
    assert {s["verdict"] for s in lab.service("cart")} == {"vm"}
    wait_until("the pod to be counted", lambda: lab.guest(lab.node)["pods"] == 1, 60)
    assert lab.guest(lab.node)["kubernetes_node"] == "node-v" and lab.guest(lab.node)["pod_networks"] == [NETWORK]
    assert lab.guest(lab.shopper)["kubernetes_node"] is None
    (seen,) = [g for g in lab.ask(lab.edge, "controller.sock", "/v1/guests")["guests"] if g["kubernetes_node"]]
    assert lab.node.address in seen["addresses"] and (seen["kubernetes_node"], seen["pods"], seen["pod_networks"]) == ("node-v", 1, [NETWORK])
    assert any("the VM is the Kubernetes node node-v" in step["text"] for step in lab.get("/v1/explain/cart")["instances"][0]["chain"])
    # The mesh knows the pod from Kubernetes, under its own identity; it is reached past the VM's proxy, and so it reaches.
    assert lab.pods_in_mesh()["nested-1"]["addresses"] == [POD]
    assert {h.name: lab.fetch(h, POD) for h in (lab.reg, lab.shopper)} == {h.name: "this is " + POD for h in (lab.reg, lab.shopper)}
    lab.discover(lab.inner, "nested")       # it gets its answer from the registry
    assert "src.addr=" + POD not in lab.log("nic.agent")     # no proxy ever spoke for it
    assert lab.fetch(lab.shopper, lab.node.address) == "this is " + lab.node.address


def test_what_a_pod_of_the_hosts_network_registers_is_a_container(lab):
    """It has the VM's own address: the cluster knows its port."""
    lab.start()
    lab.kube.pod("mix", "nested-1", "default", lab.node.address, "node-v", {"app": "nested"}, hbone=False, host_network=True)
    lab.discover(lab.node, "nested")        # it says a word, so its address is known
    wait_until("the node", lambda: lab.guest(lab.node) and lab.guest(lab.node)["pods"] == 1, 60)
    lab.register(lab.node, name="nested", instance="nested-1")      # at 8080, which the pod has
    found = wait_until("the verdict", lambda: lab.service("nested", verdict="container"), 60)[0]
    (detail,) = [e["detail"] for e in found["evidence"] if e["method"] == "containers"]
    assert detail == "the VM is the Kubernetes node node-v, and %s:8080 is a container's: pod mix/nested-1 on node node-v" % lab.node.address
    assert not found["proxy"]
    lab.kube.end_pod("mix", "nested-1")     # and the port is the VM's again
    wait_until("the verdict", lambda: lab.service("nested", verdict="vm"), 60)


def test_an_overlay_between_nodes_passes(lab):
    """VXLAN: the VM's own packets outside, the pods' inside."""
    try:
        lab.net.ip("link", "add", "vxtry", "type", "vxlan", "id", "9", "dstport", "4789")
    except subprocess.CalledProcessError:
        pytest.skip("the kernel has no VXLAN")
    peer = lab.pods["cart-1"]       # a host on the same wire: the other node
    peer.bridge("cni0")
    other = lab.inside(peer, "other", OTHER_POD)
    for host, remote in ((lab.node, peer), (peer, lab.node)):
        host.ip("link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789", "local", host.address, "remote", remote.address)
        host.ip("link", "set", "vx0", "master", "cni0", "up")
    lab.start()
    lab.kube.pod("mix", "nested-1", "default", POD, "node-v", {"app": "nested"}, hbone=False)
    lab.check_node()
    for _ in range(3):
        assert lab.fetch(lab.inner, OTHER_POD) == "this is " + OTHER_POD
        assert lab.fetch(other, POD) == "this is " + POD
    assert lab.node_addresses() == [lab.node.address]
    assert {s["service"] for s in lab.get("/v1/services")["services"]} == {"cart"}
