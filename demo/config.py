"""The configurations that the demo writes: what a user would write."""

import os

import meshconf
from topology import ADDRESS, GUESTS

TRUST_DOMAIN = "demo.mesh"

# A container and its service, which nobody announces; and addresses that containers have.
DECLARED = """containers:
  - { prefix: %(container)s/32, what: "pod shop/reports-1" }
  - { prefix: %(cart)s/32, what: "pod shop/cart-1" }
workloads:
  - name: cart-1
    namespace: shop
    service_account: cart
    addresses: [%(cart)s]
    tunnel: hbone
    services: [cart]
services:
  - name: cart
    namespace: shop
    ports: [{ port: 8080, target_port: 8080, protocol: http }]
"""
REGISTRIES = """discovery:
  zookeeper: [2181]
  consul: [8500]
"""


def controller(folder):
    return meshconf.controller(folder, ADDRESS["edge"], trust_domain=TRUST_DOMAIN, more=DECLARED % ADDRESS)


def agent(folder, build, name):
    run = "%s/run-%s" % (folder, name)
    proxy = {"path": build + "/src/proxy/outrigger-proxy", "access_log": run + "/proxies/access.log", "access_log_json": "true"}
    return meshconf.agent(folder, "server-" + name, ADDRESS["edge"], {mac: guest for guest, (server, _, mac, _) in GUESTS.items() if server == name},
                          "/sys/fs/bpf/%s-%s" % (os.path.basename(folder), name), proxy, join="%s/join-%s" % (folder, name),
                          state="%s/agent-%s" % (folder, name), run=run, ports=("tap*", "vethc*"), more=REGISTRIES)
