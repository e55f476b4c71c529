"""Configuration: 10,000 endpoints in 1000 services are loaded, then one endpoint changes.

Ours is bench/config.c: from the bytes that the mesh controller sends to the published snapshot, in CPU and allocated memory, without the
socket: fifty changes in one answer, and one at a time. HAProxy reads its file, and changes an address by the runtime API: fifty commands in
one write, so that its socket costs next to nothing either, and one command at a time. nginx (open source) has no such thing and is reloaded.
"""

import json
import os
import socket
import time

import contenders as known
from lab import BUILD, PROXY_CPU, Namespace

SERVICES, EACH, CHANGES, TOGETHER = 1000, 10, 10000, 50


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
