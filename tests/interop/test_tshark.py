"""What outrigger decode finds in the captures, judged by Wireshark's dissectors: each lookup, and what it was told."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTRIGGER = pathlib.Path(os.environ.get("OUTRIGGER_BUILD", ROOT / "build")) / "src/ctl/outrigger"
CAPTURES = sorted((ROOT / "tests/captures").glob("*dns-*.pcap"))
A, CNAME, PTR, TXT, AAAA, SRV = 1, 5, 12, 16, 28, 33

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="no tshark: tools/deps tools/deps-interop.txt")


def find(node, key):
    """All values of @key, wherever below."""
    for k, v in node:
        if k == key:
            yield v
        elif isinstance(v, list) and v and isinstance(v[0], tuple):
            yield from find(v, key)


def first(node, key, default=""):
    return next(iter(find(node, key)), default)


class Message:
    """A DNS message as tshark has it."""

    def __init__(self, dns):
        self.response = first(dns, "dns.flags.response", "0") in ("1", "True")
        self.questions = [(name(first(q, "dns.qry.name")), int(first(q, "dns.qry.type"))) for s in find(dns, "Queries") for _, q in s]
        self.records = []
        for section in ("Answers", "Authoritative nameservers", "Additional records"):
            for s in find(dns, section):
                self.records += [Record(r) for _, r in s if first(r, "dns.resp.type", None) is not None]


class Record:
    def __init__(self, r):
        self.type = int(first(r, "dns.resp.type"))
        # It takes the first two labels of an SRV's name for service and protocol, whatever they are.
        parts = [first(r, "dns.srv." + k) for k in ("service", "proto", "name")] if self.type == SRV else [first(r, "dns.resp.name")]
        self.name = name(".".join(parts))
        self.ttl = int(first(r, "dns.resp.ttl", "0"))
        self.address = first(r, "dns.a") or first(r, "dns.aaaa")
        self.port = int(first(r, "dns.srv.port", "0"))
        self.target = name(first(r, "dns.srv.target") or first(r, "dns.ptr.domain_name") or first(r, "dns.cname"))
        self.text = list(find(r, "dns.txt"))


def name(text):
    return "" if text == "<Root>" else text.rstrip(".")


def dissected(capture):
    """All messages, TCP put together."""
    r = subprocess.run(["tshark", "-n", "-r", capture, "-2", "-T", "json", "-Y", "dns || mdns"], check=True, capture_output=True, text=True, timeout=120)
    packets = json.loads(r.stdout, object_pairs_hook=list)      # keys are repeated: nothing may get lost
    return [Message(v) for p in packets for k, v in first(p, "layers") if k in ("dns", "mdns")]


def decoded(capture):
    r = subprocess.run([OUTRIGGER, "decode", "--json", capture], check=True, capture_output=True, text=True, timeout=60)
    return [o for o in map(json.loads, r.stdout.splitlines()) if o["protocol"] in ("dns", "mdns")]


def answers(message):
    """{(name asked for, address or name, port)} of a response, through its aliases."""
    found = set()
    for asked, kind in message.questions:
        names = {asked.lower()}
        for r in message.records:           # aliases come in order
            if r.type == CNAME and r.name.lower() in names:
                names.add(r.target.lower())
        if kind in (A, AAAA):
            found |= {(asked.lower(), r.address, None) for r in message.records if r.type == kind and r.name.lower() in names}
        for r in message.records:
            if kind == SRV and r.type == SRV and r.name.lower() in names:
                places = {a.address for a in message.records if a.type in (A, AAAA) and a.name.lower() == r.target.lower()}
                found |= {(asked.lower(), place, r.port) for place in places}
    return found


def whole(service, asked):
    """An instance is called by its label alone."""
    s = service.lower()
    return s if s in asked else next((n for n in asked if n.startswith(s + "._")), s)


@pytest.mark.parametrize("capture", [c for c in CAPTURES if c.stem.startswith("dns-")], ids=lambda c: c.stem)
def test_lookups_and_answers(capture):
    messages, observations = dissected(capture), decoded(capture)
    assert messages
    told = set().union(*(answers(m) for m in messages if m.response))
    asked = {n.lower() for m in messages for n, _ in m.questions}
    # HTTPS records say ports without addresses, and tshark does not take them apart.
    ours = {(whole(o["service"], asked), o["address"], o["port"]) for o in observations if o["kind"] == "answer" and o["address"]}
    assert ours - told == set()
    assert {t for t in told if not t[2]} - ours == set()
    assert {(t[0], t[2]) for t in told} == {(o[0], o[2]) for o in ours}        # of a host with two families, one address is enough
    looked_up = {whole(o["service"], asked) for o in observations if o["kind"] == "discover"}
    assert {t[0] for t in told} <= looked_up <= asked


@pytest.mark.parametrize("capture", [c for c in CAPTURES if c.stem.startswith("mdns-")], ids=lambda c: c.stem)
def test_mdns_registrations(capture):
    messages, observations = dissected(capture), decoded(capture)
    records = [r for m in messages if m.response for r in m.records]
    addresses = {}
    for r in records:
        if r.type in (A, AAAA):
            addresses.setdefault(r.name, set()).add(r.address)
    offered = {(r.name, r.port, a) for r in records if r.type == SRV and r.ttl for a in addresses.get(r.target, ())}
    texts = {(r.name, t) for r in records if r.type == TXT for t in r.text if t}
    registered = [o for o in observations if o["kind"] == "register"]
    assert registered
    assert {(o["instance"], o["port"], o["address"]) for o in registered} <= offered
    assert {(o["instance"], o["port"]) for o in registered} == {t[:2] for t in offered}
    assert {(o["instance"], "%s=%s" % kv) for o in registered for kv in o["metadata"].items() if kv[0] != "type"} <= {(n, t if "=" in t else t + "=") for n, t in texts}
    ended = {r.name for r in records if not r.ttl and r.type == SRV} | {r.target for r in records if not r.ttl and r.type == PTR}
    assert {o["instance"] for o in observations if o["kind"] == "deregister"} <= ended
