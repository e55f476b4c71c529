"""agentlab.py's mesh with Istio as the mesh controller.

              10.66.0.0/24, one wire ("net")
    cp .9        kube-apiserver and istiod (kubelab.py)
    edge .2      outrigger-controller, as an account of the cluster
    nic .3       agent and proxies; vm0, vm1 behind it
    client .51   a pod, by what Kubernetes knows; HBONE by python-h2
    server .52   another one, with the service server.demo
"""

import http.client
import json
import os
import threading
import time
import types

import hbonepy
from agentlab import EDGE, WEB, AgentLab
from envoyhbone import envoy_client, envoy_server, envoy_sidecar
from kubelab import wait_for_account
from netlab import wait_until

CONTROL = "10.66.0.9"
PODS = {"client": "10.66.0.51", "server": "10.66.0.52"}
SERVER_VIP = "10.96.0.52"

CONTROLLER_YAML = """trust_domain: cluster.local
state_dir: %(dir)s/controller
listen:
  provisioner: %(edge)s:15030
  rest: %(rest)s
  rest_socket: %(dir)s/controller.sock
advertise: { mesh: "10.66.0.9:15012", server_names: [istiod.istio-system.svc] }
mesh: { kind: istio, cluster_id: %(cluster_id)s, tokens: %(tokens)s%(mesh)s }
kubernetes: { kubeconfig: %(kubeconfig)s, timeout: 2s%(kubernetes)s }
%(controller)s
session_grace: 1s
log_level: debug
onboarding:
%(onboarding)s
"""
ONBOARDING = """  - { name: orders, match: { guest_name: "orders-*" }, mode: strict, namespace: shop, service_account: orders, workload_group: orders, services: [orders] }
  - { name: shoppers, match: { guest_name: "shopper-*" }, mode: permissive, namespace: shop, service_account: orders, workload_group: orders, client: true }
"""
DEMO = """
apiVersion: v1
kind: Namespace
metadata: { name: demo, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: client, namespace: demo }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: server, namespace: demo }
---
apiVersion: v1
kind: Service
metadata: { name: server, namespace: demo }
spec: { clusterIP: %s, selector: { app: server }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: demo }
spec: { mtls: { mode: STRICT } }
""" % SERVER_VIP


class Load:
    """Requests, one after the other, in a thread of its own for as long as the block lasts. Everything but @want is a failure."""

    def __init__(self, request, want, pause_s=0.02):
        self.request, self.want, self.pause_s = request, want, pause_s
        self.answers = 0
        self.failures = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.over.is_set():
            try:
                got = self.request()
            except Exception as e:      # the test says which
                got = "%s: %s" % (type(e).__name__, e)
            self.answers += 1
            if got != self.want and got not in self.want:
                self.failures.append((time.strftime("%H:%M:%S"), got))
            self.over.wait(self.pause_s)

    def more(self, n=3):
        """Waits for @n further answers: whatever happens, it goes on."""
        so_far = self.answers
        wait_until("further answers", lambda: self.answers >= so_far + n, 60)

    def __enter__(self):
        self.thread.start()
        self.more(1)
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.thread.join(60)
        assert exc[0] or not self.failures, (len(self.failures), self.answers, self.failures[:5])


def get(host, address, port=80, timeout_s=15):
    """The body of an HTTP answer to a new connection from @host."""
    c = http.client.HTTPConnection(address, port, timeout=timeout_s)
    with host.inside():
        c.connect()
    try:
        c.request("GET", "/", headers={"Connection": "close"})
        return c.getresponse().read().decode()
    finally:
        c.close()


class IstioLab(AgentLab):
    def __init__(self, kube, prefix="ogi", vms=2, names=("orders-1", "shopper-1"), onboarding=ONBOARDING, tokens="token_request", cluster_id="Kubernetes", controller="", mesh="", kubernetes="", rest="127.0.0.1:15031", **more):
        super().__init__(prefix, vms=vms, names=names, onboarding=onboarding, **more)
        self.values = {"dir": self.dir, "edge": EDGE, "onboarding": onboarding, "tokens": tokens, "cluster_id": cluster_id, "controller": controller, "mesh": mesh,
                       "kubernetes": kubernetes, "rest": rest}
        self.kube = kube
        self.cable(kube.cp, "lab", self.net, "cp", CONTROL + "/24", master_b="br0")
        kube.write("controller-token", kube.token("outrigger-system", "outrigger-controller"))
        self.values["kubeconfig"] = kube.write_kubeconfig("controller", "https://%s:6443" % CONTROL, tokenFile=kube.path("controller-token"))
        kube.apply(DEMO)
        wait_for_account(kube, "demo")
        for name, address in PODS.items():
            pod = self.host(name)
            pod.address = address
            self.cable(pod, "eth0", self.net, name, address + "/24", master_b="br0")
            kube.pod("demo", name + "-1", name, address, "node-a", {"app": name})
            setattr(self, name, pod)
        for vm in self.vms:
            vm.ip("route", "replace", "default", "via", CONTROL)

    def controller_yaml(self):
        return CONTROLLER_YAML % self.values

    # --- asking ---

    def entries(self):
        return self.kube.get("-n", "shop", "workloadentries.networking.istio.io") or []

    def entry(self, vm):
        found = [e for e in self.entries() if e["spec"]["address"] == vm.address]
        return found[0] if found else None

    def checks(self, section):
        return [c for c in self.ask(self.edge, "controller.sock", "/v1/check")["checks"] if c["section"] == section]

    # --- pods ---

    def certificate(self, pod):
        """From istiod, for a pod's account."""
        with pod.inside():
            return hbonepy.issue(self.dir, pod.name, CONTROL, self.kube.roots, self.kube.token("demo", pod.name, "istio-ca"))

    def tunnel(self, pod, vm):
        """From the pod to a VM's HBONE port."""
        cert = getattr(pod, "cert", None) or self.certificate(pod)
        pod.cert = cert
        with pod.inside():
            return hbonepy.Tunnel(vm.address, cert, self.kube.roots)

    def call(self, pod, vm, port=8080):
        t = self.tunnel(pod, vm)
        try:
            return (*t.fetch("%s:%d" % (vm.address, port)), t.identity)
        finally:
            t.close()

    def hbone_server(self, pod):
        cert = self.certificate(pod)
        with pod.inside():
            return hbonepy.Server(pod.address, pod.name, cert, self.kube.roots)

    def envoy(self, pod, program, vm, port=8080):
        """An unmodified Envoy as the pod's sidecar: 127.0.0.1:15001 leads to the VM; what comes by HBONE goes to 127.0.0.1:8080."""
        cert, key = self.certificate(pod)
        leaf = types.SimpleNamespace(cert=cert, key=key, roots=self.kube.roots)
        client = envoy_client(leaf, ("127.0.0.1", 15001), (vm.address, 15008), "%s:%d" % (vm.address, port))
        server = envoy_server(leaf, (pod.address, 15008), ("127.0.0.1", 8080))
        path = os.path.join(self.dir, pod.name + "-envoy.json")
        with open(path, "w") as f:
            json.dump({"static_resources": envoy_sidecar(client, server)}, f)
        pod.popen(["python3", "-c", WEB, "127.0.0.1", "8080"], "app")
        pod.popen([program, "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"], "envoy")
        wait_until("Envoy", lambda: ":15008 " in pod.run("ss", "-Hltn"), 60)

    def guest_machine(self, guest):
        """To be ended with the lab."""
        self.guests.append(guest)
        return guest

    def kill_vm(self, vm):
        """Its port goes, as when its hypervisor's process dies."""
        self.nic.ip("link", "del", vm.port)

    def close(self):
        super().close()
        for name in PODS:
            self.kube.end_pod("demo", name + "-1")
        self.kube.kubectl("-n", "shop", "delete", "workloadentries.networking.istio.io", "--all")
        self.kube.kubectl("-n", "demo", "delete", "authorizationpolicies.security.istio.io", "--all")
