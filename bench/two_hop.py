"""The two-hop path in one namespace: small requests, fixed rate, new connections, bulk, memory."""

import json
import os
import re
import subprocess
import time

import contenders as known
from lab import LOAD, LOAD_CPU, Namespace, interleaved

NGINX_BACKEND = """worker_processes 1; daemon off; error_log /dev/null; pid %(dir)s/backend%(port)d.pid;
events { worker_connections 19900; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; sendfile on; tcp_nodelay on;
  server { listen %(port)d backlog=8192; root %(dir)s/www; default_type text/plain;
    location = / { return 200 "a body of sixty-six bytes, as many a small service answers with...\\n"; } } }
"""


FEW_CONNECTIONS = 4000      # that one VM of ours may have at 20,000 descriptors, and what it leaves to others
REST_S = 4                  # until connections are idle in every contender's eyes


class TwoHop:
    def __init__(self, report, names, rounds, seconds, seed):
        self.report = report
        self.rounds = rounds
        self.seconds = seconds
        self.seed = seed
        self.ns = Namespace()
        known.make_certs(self.ns.dir)
        self.make_pages(self.ns)
        self.start_backend()
        self.contenders = []
        port = 2000
        for cls in names:
            why = cls.missing()
            if why:
                print("not measured: %s: %s" % (cls.name, why), flush=True)
                continue
            self.contenders.append(cls(self.ns, port).start())
            port += 10

    @staticmethod
    def make_pages(ns):
        www = os.path.join(ns.dir, "www")
        os.makedirs(www)
        os.chmod(ns.dir, 0o755)
        for name, size in (("64k", 65536), ("1m", 1048576)):
            with open(os.path.join(www, name), "wb") as f:
                f.write(os.urandom(size))

    @staticmethod
    def backend_argv(ns, port=known.BACKEND):
        conf = os.path.join(ns.dir, "backend%d.conf" % port)
        with open(conf, "w") as f:
            f.write(NGINX_BACKEND % {"dir": ns.dir, "port": port})
        return ["nginx", "-p", ns.dir, "-c", conf]

    def start_backend(self):
        self.backend_process = self.ns.popen(self.backend_argv(self.ns), LOAD_CPU, "backend")
        self.ns.wait_listening(known.BACKEND, self.backend_process)

    def close(self):
        for c in self.contenders:
            c.stop()
        self.ns.close()

    # --- the parts ---

    def measure(self, scenario, c, argv):
        """Runs a load against @c; returns (standard output, CPU seconds of A and B)."""
        before = c.cpu_s()
        out = self.ns.run(argv, LOAD_CPU)
        return out, c.cpu_s() - before

    def wrk(self, scenario, path, connections):
        for n, c in interleaved(self.contenders, self.rounds, self.seed):
            out, cpu = self.measure(scenario, c, ["wrk", "-t1", "-c%d" % connections, "-d%ds" % self.seconds, "http://%s%s" % (c.addresses[0], path)])
            requests, rate, bad = self.read_wrk(out)
            if bad:
                self.report.fail(scenario, c.name, bad)
            if not requests:
                self.report.fail(scenario, c.name, "no request was answered")
                continue
            self.report.add(scenario, c.name, "rate", "requests/s", rate, cost=False)
            if c.name != "direct":
                self.report.add(scenario, c.name, "cpu", "s per 100k requests", cpu / requests * 1e5)
            if n == 0:
                self.same_bytes(scenario, c, path)

    @staticmethod
    def read_wrk(out):
        """(requests, requests a second, what went wrong or None)"""
        bad = re.search(r"Socket errors: (.*)|Non-2xx or 3xx responses: (\d+)", out)
        requests = int(re.search(r"(\d+) requests in", out).group(1))
        return requests, float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), bad.group(0) if bad else None

    def same_bytes(self, scenario, c, path):
        got = [subprocess.run(self.ns.argv(["curl", "-s", "http://%s%s" % (a, path)]), stdout=subprocess.PIPE, check=False).stdout
               for a in (c.addresses[0], "127.0.0.1:%d" % known.BACKEND)]
        if got[0] != got[1]:
            self.report.fail(scenario, c.name, "other bytes than the backend's")

    def small(self):
        self.wrk("small", "/", 64)

    def bulk(self):
        self.wrk("body-64k", "/64k", 8)
        self.wrk("body-1m", "/1m", 8)

    def load(self, scenario, c, argv):
        out, cpu = self.measure(scenario, c, [LOAD, *argv])
        result = json.loads(out)
        if result["errors"] or not result["requests"]:
            self.report.fail(scenario, c.name, "%d errors, %d requests" % (result["errors"], result["requests"]))
        return result, cpu

    def rate(self):
        """Open loop at a rate that nobody saturates at: what is added to the direct path."""
        direct = {}
        for n, c in interleaved(self.contenders, self.rounds, self.seed):
            r, cpu = self.load("rate-4000", c, ["rate", c.addresses[0], 64, 4000, self.seconds])
            direct.setdefault(n, {})[c.name] = (r, cpu)
        for by in direct.values():
            base = by.get("direct", ({"p50_us": 0, "p99_us": 0, "p999_us": 0}, 0))[0]
            for name, (r, cpu) in by.items():
                for q in ("p50_us", "p99_us", "p999_us"):
                    value = r[q] if name == "direct" else max(r[q] - base[q], 1)
                    self.report.add("rate-4000", name, q[:-3] + (" added"), "us", value)
                if name != "direct":
                    self.report.add("rate-4000", name, "cpu", "s per 100k requests", cpu / max(r["requests"], 1) * 1e5)

    def conn(self):
        for _, c in interleaved(self.contenders, self.rounds, self.seed):
            r, cpu = self.load("connections", c, ["conn", c.addresses[0], 16, self.seconds])
            self.report.add("connections", c.name, "rate", "connections/s", r["rate"], cost=False)
            if c.name != "direct":
                self.report.add("connections", c.name, "cpu", "us per connection", cpu / max(r["requests"], 1) * 1e6)

    def iperf(self):
        """One stream and four, the server in the backend's place."""
        self.ns.stop(self.backend_process)
        server = self.ns.popen(["iperf3", "-s", "-p", known.BACKEND], LOAD_CPU, "iperf3")
        self.ns.wait_listening(known.BACKEND, server)
        for streams in (1, 4):
            scenario = "iperf3-%d" % streams
            for _, c in interleaved(self.contenders, self.rounds, self.seed):
                host, port = c.addresses[0].split(":")
                try:
                    out, cpu = self.measure(scenario, c, ["iperf3", "-c", host, "-p", port, "-t", self.seconds, "-P", streams, "-J"])
                except RuntimeError as e:
                    self.report.fail(scenario, c.name, str(e)[-200:])
                    continue
                got = json.loads(out)["end"]["sum_received"]
                self.report.add(scenario, c.name, "rate", "Gbit/s", got["bits_per_second"] / 1e9, cost=False)
                if c.name != "direct":
                    self.report.add(scenario, c.name, "cpu", "s per GB", cpu / got["bytes"] * 1e9)
        self.ns.stop(server)
        self.start_backend()

    def hold(self, addresses, count):
        """Processes that hold @count idle connections, each of which has carried a request; None when they cannot."""
        holders = [self.ns.popen([LOAD, "hold", a, count // len(addresses)], LOAD_CPU, "hold", stdin=subprocess.PIPE, stdout=subprocess.PIPE) for a in addresses]
        if all([p.stdout.readline().startswith(b"held") for p in holders]):
            return holders
        self.let_go(holders)
        return None

    def let_go(self, holders):
        for p in holders:
            p.stdin.close()
        for p in holders:
            p.wait(30)
            self.ns.stop(p)

    def memory_of(self, c, counts):
        time.sleep(1)
        idle = c.memory_kb()[0]
        self.report.add("memory", c.name, "idle, A + B", "KiB private", idle)
        for count in counts:
            holders = self.hold(c.addresses if count > FEW_CONNECTIONS else c.addresses[:1], count)
            if not holders:
                self.report.fail("memory", c.name, "could not hold %d connections" % count)
                continue
            time.sleep(REST_S)
            grown = c.memory_kb()[0] - idle
            self.report.add("memory", c.name, "%d idle connections, A + B" % count, "bytes each", max(grown, 0) * 1024 / count)
            self.let_go(holders)
            time.sleep(REST_S)
        self.report.add("memory", c.name, "after all were closed, A + B", "KiB private", c.memory_kb()[0])

    def memory(self, counts=(1000, 9000)):
        for c in self.contenders:
            if c.name == "direct":
                continue
            c.stop()        # nothing of the parts before
            fresh = type(c)(self.ns, c.ports[0][0], c.memory_pairs)
            try:
                self.memory_of(fresh.start(), counts)
            finally:
                fresh.stop()
                c.start()



PARTS = ("small", "rate", "conn", "bulk", "iperf", "memory")
