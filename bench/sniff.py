"""What it costs the NIC to watch: the BPF program for each packet, the agent for each that is sniffed and for each registration.

Counted by the kernel: the program's own run time (bpf_stats), the agent's CPU (schedstat), divided by what was sent. The guest's
work is not in it. "none" is the same guest traffic when there is nothing to sniff.
"""

import json
import os
import subprocess
import time

from installation import REGISTRY, Installation, policy, wait_until
from lab import PROXY_CPU, cpu_s, family

import agentlab

DNS, REGISTRATIONS, PLAIN_MB = 20000, 2000, 200
NO_BUDGETS = "limits: { observations_per_second: 1000000, sniffed_per_second: 1GiB, claims_per_second: 1000 }\n"

# Each is run in the guest, ends when all was sent, and prints how many packets or registrations that were.
SEND_DNS = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
for i in range(int(sys.argv[2])):
    name = b"".join(bytes([len(p)]) + p for p in (b"svc%d" % (i % 500), b"shop", b"example"))
    try:
        s.send(i.to_bytes(2, "big") + b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\0\\1\\0\\1")
    except ConnectionRefusedError:
        pass
    if i % 50 == 0:
        time.sleep(0.002)       # as many resolvers do, not as a flood
print(sys.argv[2])
"""
REGISTER = """
import http.client, json, socket, sys
c = http.client.HTTPConnection(sys.argv[1], 8500, timeout=20)
c.connect()
for i in range(int(sys.argv[2])):
    body = json.dumps({"Name": "svc%d" % (i % 50), "ID": "svc-%d" % (i % 200), "Address": sys.argv[3], "Port": 8000 + i % 200, "Tags": ["a", "b"], "Meta": {"version": "1"}})
    c.request("PUT", "/v1/agent/service/register", body)
    c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)     # or the agent's idle time is counted, too: 40 ms for each
    c.getresponse().read()
print(sys.argv[2])
"""
SINK = """
import socket
s = socket.create_server(("0.0.0.0", 9000))
while True:
    c, _ = s.accept()
    while c.recv(1 << 20):
        pass
    c.close()
"""
SEND_PLAIN = """
import socket, sys
s = socket.create_connection((sys.argv[1], 9000))
for _ in range(int(sys.argv[2])):
    s.sendall(bytes(1 << 20))
s.shutdown(socket.SHUT_WR)
s.recv(1)
print(0)
"""


class Sniff(Installation):
    def __init__(self, report, rounds):
        super().__init__("ogbsniff", policy("all", "*", mode="shadow", services=["*"]), {"02:00:77:00:01:01": "api"}, agent=NO_BUDGETS, workers=1)
        self.report, self.rounds = report, rounds
        self.guest = self.vm("a", "tap0", "10.77.1.1", "02:00:77:00:01:01")
        self.registry.popen(["python3", "-c", agentlab.CONSUL, REGISTRY], "consul")
        self.registry.popen(["python3", "-c", SINK], "sink")
        self.agent = self.start_agent("a")
        subprocess.run(["taskset", "-acp", PROXY_CPU, str(self.agent.pid)], stdout=subprocess.DEVNULL, check=True)
        for port in ("2134", "2328"):
            wait_until("the servers", lambda: ":%s " % port in self.registry.run("cat", "/proc/net/tcp"))
        wait_until("the session", lambda: json.loads(self.og_get("/v1/nics"))["nics"][0]["state"] == "connected")
        self.stats("1")

    def stats(self, on):
        with open("/proc/sys/kernel/bpf_stats_enabled", "r+") as f:
            before = f.read().strip()
            f.seek(0)
            f.write(on)
        return before

    def programs(self):
        """{id: (ns, runs)} of the programs that this agent's monitor holds."""
        found = {}
        for fd in os.listdir("/proc/%d/fdinfo" % self.agent.pid):
            with open("/proc/%d/fdinfo/%s" % (self.agent.pid, fd)) as f:
                info = dict(line.split(":", 1) for line in f.read().splitlines() if ":" in line)
            if "run_cnt" in info:
                found[int(info["prog_id"])] = (int(info["run_time_ns"]), int(info["run_cnt"]))
        return found

    def measure(self, what, script, *args):
        self.settle()
        cpu, programs = cpu_s(family(self.agent.pid)), self.programs()
        count = int(self.guest.run("python3", "-c", script, REGISTRY, *args, timeout=300))
        self.settle()
        cpu = cpu_s(family(self.agent.pid)) - cpu
        spent = [(ns - programs.get(i, (0, 0))[0], n - programs.get(i, (0, 0))[1]) for i, (ns, n) in self.programs().items()]
        ns, runs = map(sum, zip(*spent))
        if runs:
            self.report.add("sniff", "outrigger", "BPF at the port, %s" % what, "ns per packet", ns / runs)
        return cpu, count

    def settle(self):
        """Until the agent has worked off what it has."""
        last = -1.0
        while True:
            now = cpu_s(family(self.agent.pid))
            if now - last < 0.0005:
                return
            last = now
            time.sleep(0.1)

    def run(self):
        for _ in range(self.rounds):
            self.measure("a plain connection", SEND_PLAIN, PLAIN_MB)
            cpu, n = self.measure("DNS queries", SEND_DNS, DNS)
            self.report.add("sniff", "outrigger", "agent, a DNS query", "us", cpu / n * 1e6)
            cpu, n = self.measure("registrations at Consul", REGISTER, REGISTRATIONS, self.guest.address)
            self.report.add("sniff", "outrigger", "agent, a registration at Consul", "us", cpu / n * 1e6)

    def close(self):
        self.stats("0")
        super().close()
