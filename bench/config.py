"""Configuration: 10,000 endpoints in 1000 services are loaded, then one endpoint changes.

Ours is bench/config.c: from the bytes that the mesh controller sends to the published snapshot, in CPU and allocated memory, without the
socket: fifty changes in one answer, and one at a time. HAProxy reads its file, and changes an address by the runtime API: fifty commands in
one write, so that its socket costs next to nothing either, and one command at a time. Envoy gets its endpoints by delta ADS from bench/eds.py,
where what changes is a service's assignment with all its endpoints; its clusters have no TLS, and its start without them is not counted. nginx (open source) has no such thing and is reloaded.
"""

import json
import os
import socket
import subprocess
import time

import contenders as known
from lab import BUILD, LOAD_CPU, PROXY_CPU, Namespace

SERVICES, EACH, CHANGES, TOGETHER = 1000, 10, 10000, 50
EDS_PORT, EDS_CHANGES = 2100, 2000
GRPCIO = os.path.join(BUILD, "cache", "grpcio")


class Config:
    def __init__(self, report, rounds):
        self.report = report
        self.rounds = rounds
        self.ns = Namespace("og-bench-config")
        known.make_certs(self.ns.dir)

    def close(self):
        self.ns.close()

    def run(self):
        for _ in range(self.rounds):
            self.ours()
            if not known.HAProxy.missing():
                self.haproxy()
            if not known.Envoy.missing() and os.path.isdir(GRPCIO):
                self.envoy()

    def add(self, name, load_s, memory, change_us, alone_us):
        self.report.add("config", name, "10,000 endpoints loaded, CPU", "s", load_s)
        self.report.add("config", name, "memory", "bytes per endpoint", memory / (SERVICES * EACH))
        self.report.add("config", name, "one endpoint changed of %d together, CPU" % TOGETHER, "us", change_us)
        self.report.add("config", name, "one endpoint changed alone, CPU", "us", alone_us)

    def ours(self):
        together, alone = (json.loads(self.ns.run([os.path.join(BUILD, "bench", "config"), SERVICES, EACH, CHANGES, n], PROXY_CPU)) for n in (TOGETHER, 1))
        for out in (together, alone):
            if out["known"] != SERVICES * (EACH + 1):
                self.report.fail("config", self.report.ours, "knows %d resources" % out["known"])
        self.add(self.report.ours, together["load_s"], together["bytes"], together["change_us"], alone["change_us"])

    def envoy_file(self, services):
        ads = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}
        http2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
        where = {"socket_address": {"address": "127.0.0.1", "port_value": EDS_PORT}}
        clusters = [{"name": "ads", "type": "STATIC", "typed_extension_protocol_options": http2,
                     "load_assignment": {"cluster_name": "ads", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": where}}]}]}}]
        clusters += [{"name": "b%d" % s, "type": "EDS", "eds_cluster_config": ads} for s in range(services)]
        config = {"node": {"id": "bench", "cluster": "bench"}, "static_resources": {"clusters": clusters},
                  "dynamic_resources": {"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                                                       "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}]}}}
        path = os.path.join(self.ns.dir, "envoy-%d.json" % services)
        with open(path, "w") as f:
            json.dump(config, f)
        return path

    def start_envoy(self, services):
        """(Envoy with its endpoints, the server of them)"""
        eds = self.ns.popen(["/usr/bin/python3", os.path.join(os.path.dirname(os.path.abspath(__file__)), "eds.py"), EDS_PORT, services, EACH],
                            LOAD_CPU, "eds", stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=GRPCIO))
        self.heard(eds, b"ready")
        c = known.Envoy(self.ns, 2000)
        binary = os.environ.get("ENVOY_BIN", c.binary)
        c.processes["a"].append(self.ns.popen([binary, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c", self.envoy_file(services)],
                                              PROXY_CPU, "envoy-config"))
        self.heard(eds, b"loaded")
        time.sleep(0.5)
        return c, eds

    def heard(self, eds, word):
        line = eds.stdout.readline().strip()
        if line != word:
            self.report.fail("config", "envoy", "%s, not %s: see %s" % (line.decode(), word.decode(), eds.log))
            raise RuntimeError("Envoy's endpoints: %r" % line)

    def envoy(self):
        small, eds = self.start_envoy(1)
        private, start_s = small.memory_kb()[0], small.cpu_s()
        small.stop()
        self.ns.stop(eds)
        c, eds = self.start_envoy(SERVICES)
        load_s, grown = c.cpu_s() - start_s, c.memory_kb()[0] - private
        costs = []
        for together in (TOGETHER, 1):
            before = c.cpu_s()
            eds.stdin.write(b"%d %d\n" % (EDS_CHANGES, together))
            eds.stdin.flush()
            self.heard(eds, b"done")
            costs.append((c.cpu_s() - before) / EDS_CHANGES * 1e6)
        self.add("envoy", load_s, grown * 1024, *costs)
        c.stop()
        self.ns.stop(eds)

    def haproxy_file(self, services):
        d = self.ns.dir
        text = ["global", "  nbthread 1", "  stats socket %s/haproxy.sock level admin" % d, "  stats timeout 1m", "defaults", "  mode tcp",
                "  timeout connect 5s", "  timeout client 1m", "  timeout server 1m", "frontend f", "  bind 127.0.0.1:2000", "  default_backend b0"]
        for s in range(services):
            text.append("backend b%d" % s)
            text += ["  server e%d 10.1.%d.%d:8080 ssl crt %s/a.both ca-file %s/ca.pem verify required" % (e, (s * EACH + e) // 256, (s * EACH + e) % 256, d, d) for e in range(EACH)]
        path = os.path.join(d, "haproxy.cfg")
        with open(path, "w") as f:
            f.write("\n".join(text) + "\n")
        return path

    def haproxy(self):
        small = self.start_haproxy(1)
        private = small.memory_kb()[0]
        small.stop()
        c = self.start_haproxy(SERVICES)
        load_s, grown = c.cpu_s(), c.memory_kb()[0] - private
        together, alone = self.runtime_api(c, TOGETHER), self.runtime_api(c, 1)
        self.add("haproxy", load_s, grown * 1024, together, alone)
        c.stop()

    def start_haproxy(self, services):
        c = known.HAProxy(self.ns, 2000)
        p = self.ns.popen(["haproxy", "-db", "-f", self.haproxy_file(services)], PROXY_CPU, "haproxy-config")
        c.processes["a"].append(p)
        self.ns.wait_listening(2000, p, 60)
        time.sleep(0.5)
        return c

    def runtime_api(self, c, together):
        """CPU of a change in microseconds: one connection, @together commands a write."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.ns.dir + "/haproxy.sock")
            s.settimeout(30)
            s.sendall(b"prompt\n")
            self.answer(s, 1)
            before = c.cpu_s()
            for i in range(0, CHANGES, together):
                commands = (b"set server b%d/e5 addr 10.9.%d.%d port 8080" % (k % SERVICES, together, 1 + k // SERVICES % 2) for k in range(i, i + together))
                s.sendall(b";".join(commands) + b"\n")
                text = self.answer(s, together)
                if text.count(b"changed from") != together:
                    self.report.fail("config", "haproxy", text.decode("utf-8", "replace"))
            return (c.cpu_s() - before) / CHANGES * 1e6

    @staticmethod
    def answer(s, prompts):
        text = b""
        while text.count(b"\n> ") < prompts:
            more = s.recv(4096)
            if not more:
                raise RuntimeError("HAProxy's socket ended: %r" % text)
            text += more
        return text
