"""The configurations that the demo writes: what a user would write."""

import os

from topology import ADDRESS, GUESTS

TRUST_DOMAIN = "demo.mesh"

CONTROLLER = """trust_domain: %(td)s
state_dir: %(dir)s/controller
listen:
  mesh: %(edge)s:15012
  provisioner: %(edge)s:15030
  rest: 127.0.0.1:15031
  rest_socket: %(dir)s/controller.sock
advertise:
  mesh: %(edge)s:15012
  server_names: [%(edge)s]
virtual_addresses: 10.99.0.0/16
namespaces: [shop]
onboarding:
  - name: orders
    match: { guest_name: "orders-*" }
    mode: strict
    namespace: shop
    service_account: orders
    services: [orders]
  - name: billing
    match: { guest_name: "billing-*" }
    mode: strict
    namespace: shop
    service_account: billing
    services: [billing]
  - name: shoppers
    match: { guest_name: "shopper-*" }
    mode: permissive
    namespace: shop
    service_account: shopper
    client: true
containers:
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

AGENT = """nic: server-%(name)s
controller:
  address: %(edge)s:15030
  roots: %(dir)s/roots.pem
  join_token_file: %(dir)s/join-%(name)s
ports:
  - match: "tap*"
  - match: "vethc*"
uplinks: [up0]
guests:
%(guests)s
discovery:
  zookeeper: [2181]
  consul: [8500]
proxy:
  path: %(build)s/src/proxy/outrigger-proxy
  access_log: %(dir)s/run-%(name)s/proxies/access.log
  access_log_json: true
steering:
  pin_dir: /sys/fs/bpf/%(lab)s-%(name)s
state_dir: %(dir)s/agent-%(name)s
run_dir: %(dir)s/run-%(name)s
"""


def controller(folder):
    return CONTROLLER % dict(ADDRESS, td=TRUST_DOMAIN, dir=folder)


def agent(folder, build, name):
    guests = "\n".join('  - { mac: "%s", name: %s }' % (mac, guest) for guest, (server, _, mac, _) in GUESTS.items() if server == name)
    return AGENT % dict(edge=ADDRESS["edge"], dir=folder, build=build, lab=os.path.basename(folder), name=name, guests=guests or "  []")
