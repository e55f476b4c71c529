"""controller.yaml and agent.yaml as a user would write them: one text for the demo, the tests' labs and the benchmarks."""

TRUST_DOMAIN = "test.mesh"

CONTROLLER = """trust_domain: %(trust_domain)s
state_dir: %(state)s
listen:
  mesh: %(edge)s:15012
  provisioner: %(edge)s:15030
  rest: 127.0.0.1:15031
  rest_socket: %(dir)s/controller.sock
advertise:
  mesh: %(edge)s:15012
  server_names: [%(edge)s]
virtual_addresses: 10.99.0.0/16
namespaces: [%(namespace)s]
onboarding:
%(onboarding)s%(more)s"""
POLICY = """  - name: %(name)s
    match: { %(match)s }
    mode: %(mode)s
    namespace: %(namespace)s
    service_account: %(account)s
"""
AGENT = """nic: %(nic)s
controller:
  address: %(edge)s:15030
  roots: %(dir)s/roots.pem
  join_token_file: %(join)s
ports:
%(ports)s
uplinks: [up0]
guests:
%(guests)s
proxy:
%(proxy)s
steering:
  pin_dir: "%(pin)s"
state_dir: %(state)s
run_dir: %(run)s
%(more)s"""


def policy(name, match, mode="strict", namespace="shop", account=None, services=(), client=False, more=""):
    """A row of `onboarding`. @match: a glob over the guests' names, or the words of a match."""
    text = POLICY % dict(name=name, match=match if ":" in match else 'guest_name: "%s"' % match, mode=mode, namespace=namespace, account=account or name)
    if services:
        text += "    services: [%s]\n" % ", ".join('"%s"' % s if "*" in s else s for s in services)
    return text + ("    client: true\n" if client else "") + more


ORDERS = policy("orders", "orders-*", services=["orders"])
BILLING = policy("billing", "billing-*", services=["billing"])
SHOPPERS = policy("shoppers", "shopper-*", mode="permissive", account="shopper", client=True)


def controller(folder, edge, onboarding=ORDERS + BILLING + SHOPPERS, trust_domain=TRUST_DOMAIN, state=None, namespace="shop", more=""):
    """@edge: its address. @more: further sections."""
    return CONTROLLER % dict(dir=folder, edge=edge, onboarding=onboarding, trust_domain=trust_domain, state=state or folder + "/controller", namespace=namespace, more=more)


def guests(names):
    """@names: {MAC: name}."""
    return "\n".join('  - { mac: "%s", name: %s }' % x for x in names.items()) or "  []"


def agent(folder, nic, edge, names, pin, proxy, join=None, state=None, run=None, ports=("tap*",), more=""):
    """@names: {MAC: name} of the guests; @proxy: the items of that section; @more: further sections."""
    return AGENT % dict(dir=folder, nic=nic, edge=edge, guests=guests(names), pin=pin, join=join or "%s/join-%s" % (folder, nic), state=state or "%s/state-%s" % (folder, nic),
                        run=run or "%s/run-%s" % (folder, nic), ports="\n".join('  - match: "%s"' % p for p in ports),
                        proxy="\n".join("  %s: %s" % x for x in proxy.items()), more=more)
