"""outrigger-controller, spoken to by a peer that shares no code with it (tests/lib/grpcpeer.py).

Everything is on loopback; nothing needs root but the disk that is full.
"""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))

from controller import (ADDRESS, AUTHORIZATION, CREATE_CERTIFICATE, ENDPOINTS, ENROLL, RENEW, REVOCATIONS, SESSION, TRUST_DOMAIN,  # noqa: E402
                        Controller, Discovery, Nic, wait_until)
from grpcpeer import Ended, decode, encode  # noqa: E402
from pbwire import field  # noqa: E402

BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(HERE, "..", "..", "build"))

CONFIG = """namespaces: [shop]
onboarding:
  - name: orders
    match: { guest_name: "orders-*" }
    mode: strict
    namespace: shop
    service_account: orders
    services: [orders, "orders-*"]
  - name: watched
    match: { guest_name: "shadow-*" }
    mode: shadow
    namespace: shop
containers:
  - { prefix: 10.244.0.0/16, what: "pod network of cluster k1" }
services:
  - name: cart
    namespace: shop
    ports: [{ port: 80, target_port: 8080, protocol: http }]
workloads:
  - name: cart-1
    namespace: shop
    service_account: cart
    addresses: [10.0.1.1]
    tunnel: hbone
    services: [cart]
  - name: plain-1
    namespace: shop
    addresses: [10.0.1.2]
    services: [cart]
authorization:
  - name: callers
    namespace: shop
    selector: { service_account: orders }
    rules:
      - from: [{ service_accounts: [cart] }]
        to: [{ ports: [8080] }]
  - name: nobody
    action: deny
    rules:
      - from: [{ principals: ["evil.mesh/*"] }]
"""

UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE, ABORTED, FAILED_PRECONDITION = 16, 7, 3, 8, 14, 10, 9


@pytest.fixture
def controller(tmp_path):
    c = Controller(BUILD, tmp_path)
    c.start(CONFIG)
    yield c
    code = c.stop()
    assert code in (0, None), c.log()[-3000:]
    assert "ERROR: " not in c.log(), c.log()[-5000:]


@pytest.fixture
def nic(controller):
    n = Nic(controller, "nic-a", controller.enroll("nic-a"))
    yield n
    n.close()


def refused(fn, status, *words):
    with pytest.raises(Ended) as e:
        fn()
    assert e.value.status == status, e.value
    for word in words:
        assert word in e.value.message, e.value.message
    return e.value.message


def row(controller, service="orders", instance=None):
    rows = [r for r in controller.get("/v1/services")["services"] if r["service"] == service and instance in (None, r["instance"])]
    return rows[0] if rows else None


def in_mesh(controller, service="orders", instance=None):
    r = row(controller, service, instance)
    return r if r and r["in_mesh"] and r["in_mesh_ms"] is not None else None


# --- enrolment ---

def test_a_nic_enrols_and_renews(controller):
    cert, key = controller.enroll("nic-a")
    text = subprocess.run(["openssl", "x509", "-in", cert, "-noout", "-text"], stdout=subprocess.PIPE, check=True).stdout.decode()
    assert "URI:spiffe://%s/nic/nic-a" % TRUST_DOMAIN in text
    subprocess.run(["openssl", "verify", "-CAfile", controller.roots, "-untrusted", cert, cert], check=True, stdout=subprocess.DEVNULL)

    _, csr = controller.key_and_csr("renewed")
    conn = controller.connect(controller.provisioner, (cert, key))
    chain = decode("outrigger.v1.EnrollResponse", conn.unary(RENEW, encode("outrigger.v1.RenewRequest", {"csr_pem": csr})))["cert_chain"]
    conn.close()
    new = controller.save_chain("renewed", chain), os.path.join(controller.dir, "renewed.key")
    Nic(controller, "nic-a", new).close()
    Nic(controller, "nic-a", (cert, key)).close()     # the answer might have been lost: what it renewed with is still good


def test_bad_join_tokens_are_refused_each_in_its_own_words(controller):
    def enroll(token, nic="nic-a", uri=None):
        return lambda: controller.enroll(nic, token, uri)

    for wrong in ("", "nonsense", "0123456789abcdef.x", "x" * 5000):
        refused(enroll(wrong), UNAUTHENTICATED, "not known")
    good = controller.join_token("nic-a")
    refused(enroll(good["token"][:-1] + "!"), UNAUTHENTICATED, "not known")

    refused(enroll(good["token"], "nic-b"), PERMISSION_DENIED, good["id"], "is for NIC 'nic-a'", "nic-b")
    controller.enroll("nic-a", good["token"])
    refused(enroll(good["token"]), PERMISSION_DENIED, good["id"], "used already", "nic-a")

    revoked = controller.join_token("nic-a")
    controller.post("/v1/tokens/%s/revoke" % revoked["id"], {})
    refused(enroll(revoked["token"]), PERMISSION_DENIED, revoked["id"], "revoked")

    expired = controller.join_token("nic-a", ttl_s=1)
    wait_until("the token to expire", lambda: [t for t in controller.get("/v1/tokens")["tokens"] if t["id"] == expired["id"] and t["state"] == "expired"])
    refused(enroll(expired["token"]), PERMISSION_DENIED, expired["id"], "expired")
    states = sorted(t["state"] for t in controller.get("/v1/tokens")["tokens"])
    assert states == ["expired", "revoked", "used"]


def test_a_request_for_somebody_else_is_refused(controller):
    token = controller.join_token("nic-a")["token"]
    refused(lambda: controller.enroll("nic-a", token, "spiffe://%s/nic/nic-b" % TRUST_DOMAIN), PERMISSION_DENIED, "nic/nic-b", "nic/nic-a")
    controller.enroll("nic-a", token)                  # and the token was not used up
    refused(lambda: controller.enroll("a b", controller.join_token()["token"], uri="spiffe://%s/nic/x" % TRUST_DOMAIN), INVALID_ARGUMENT, "not valid")


def test_enrolments_are_rate_limited(controller):
    conn = controller.connect(controller.provisioner)
    request = encode("outrigger.v1.EnrollRequest", {"join_token": "x", "nic_id": "a", "csr_pem": ""})
    codes = []
    for _ in range(40):
        with pytest.raises(Ended) as e:
            conn.unary(ENROLL, request)
        codes.append(e.value.status)
    assert codes[0] == UNAUTHENTICATED and RESOURCE_EXHAUSTED in codes
    conn.close()


# --- sessions ---

def test_a_session_needs_the_certificate_of_an_enrolled_nic(controller):
    assert controller.connect(controller.provisioner).stream(SESSION).status().status == UNAUTHENTICATED
    key, csr = controller.key_and_csr("cart", "spiffe://%s/ns/shop/sa/cart" % TRUST_DOMAIN)
    cert = controller.save_chain("cart", controller.certify(csr, controller.workload_token("shop/cart")))
    end = controller.connect(controller.provisioner, (cert, key)).stream(SESSION).status()
    assert end.status == UNAUTHENTICATED and "not a NIC's" in end.message

    mine = controller.enroll("nic-a")
    n = Nic(controller, "nic-a", mine, hello=False)
    n.say(synced={})
    assert n.call.status().status == FAILED_PRECONDITION
    n = Nic(controller, "nic-a", mine, hello=False)
    n.say(hello={"version": 2, "nic_id": "nic-a"})
    end = n.call.status()
    assert end.status == FAILED_PRECONDITION and "version 2" in end.message
    n = Nic(controller, "nic-a", mine, hello=False)
    n.say(hello={"version": 1, "nic_id": "nic-b"})
    assert n.call.status().status == PERMISSION_DENIED


def test_a_session_begins_with_all_that_the_nic_needs(controller, nic):
    assert nic.welcome["nic_id"] == ["nic-a"] and nic.welcome["trust_domain"] == [TRUST_DOMAIN]
    assert nic.welcome["mesh_controller"] == ["127.0.0.1:%d" % controller.mesh]
    assert "BEGIN CERTIFICATE" in nic.welcome["roots_pem"][0]
    assert [p["name"][0] for p in nic.policies["policies"]] == ["orders", "watched"]
    assert nic.policies["policies"][0]["services"] == ["orders", "orders-*"]
    assert [a["prefix"][0] for a in nic.containers["addresses"]] == ["10.244.0.0/16"]

    controller.write(CONFIG.replace("mode: strict", "mode: permissive"))
    assert nic.hear("policies")["policies"][0]["mode"] == ["permissive"]
    nic.hear("containers")


def test_a_newer_session_takes_over(controller, nic):
    second = Nic(controller, "nic-a", (os.path.join(controller.dir, "nic-a.crt"), os.path.join(controller.dir, "nic-a.key")))
    assert nic.call.status().status == ABORTED
    second.vm()
    assert wait_until("in the mesh", lambda: in_mesh(controller))
    second.close()


def test_tokens_only_for_guests_that_the_nic_hosts_and_policy_admits(controller, nic):
    gid = nic.guest()
    shadow = nic.guest("shadow-1", mac="52:54:00:00:00:02", addresses=("10.0.0.2",))
    unknown = nic.guest("other", mac="52:54:00:00:00:03", addresses=("10.0.0.3",))
    nic.synced()

    def ask(guest):
        nic.say(token_request={"guest_id": guest})
        return nic.hear("token")

    nic.say(token_request={"guest_id": gid, "audience": "https://kubernetes.default.svc"})
    assert "audience" in nic.hear("token")["refused"][0]
    nic.say(token_request={"guest_id": gid, "audience": "istio-ca"})
    assert nic.hear("token")["token"]
    token = ask(gid)["token"][0]
    assert ask(shadow).get("token") is None and "mode shadow" in ask(shadow)["refused"][0]
    assert "no onboarding policy" in ask(unknown)["refused"][0]
    assert "does not host" in ask("nic-b/tap0/52:54:00:00:00:01")["refused"][0]

    other = Nic(controller, "nic-b", controller.enroll("nic-b"))
    other.say(token_request={"guest_id": gid})
    assert "does not host" in other.hear("token")["refused"][0]
    other.say(guest={"guest_id": gid, "name": "orders-1", "addresses": ["10.0.0.9"]})      # somebody else's guest
    other.say(token_request={"guest_id": gid})
    assert "does not host" in other.hear("token")["refused"][0]
    other.close()

    # what it is good for: the identity of the policy, nothing else
    name = "spiffe://%s/ns/shop/sa/orders" % TRUST_DOMAIN
    key, csr = controller.key_and_csr("orders", name)
    chain = controller.certify(csr, token)
    assert len(chain) == 3
    cert = controller.save_chain("orders", chain)
    _, foreign = controller.key_and_csr("foreign", "spiffe://%s/ns/shop/sa/cart" % TRUST_DOMAIN)
    refused(lambda: controller.certify(foreign, token), PERMISSION_DENIED, "sa/cart", "sa/orders")
    # a stolen key of a VM ends with its certificate: that does not renew itself
    refused(lambda: controller.certify(csr, cert=(cert, key)), PERMISSION_DENIED, "renewed by a token")
    text = subprocess.run(["openssl", "x509", "-in", cert, "-noout", "-text"], stdout=subprocess.PIPE, check=True).stdout.decode()
    assert "URI:" + name in text

    # and only while the guest is there
    nic.say(guest_gone={"guest_id": gid, "reason": "port down"})
    wait_until("guest gone", lambda: len(controller.get("/v1/guests")["guests"]) == 2)
    refused(lambda: controller.certify(csr, token), UNAUTHENTICATED, "guest is not known any more")


def test_a_revoked_nic_is_told_cut_off_and_refused(controller, nic):
    nic.vm()
    nic.synced()
    wait_until("in the mesh", lambda: in_mesh(controller))
    controller.post("/v1/nics/nic-a/revoke", {"reason": "stolen"})
    assert nic.hear("revoked")["reason"] == ["stolen"]
    end = nic.call.status()
    assert end.status == PERMISSION_DENIED and "stolen" in end.message
    assert not controller.get("/v1/guests")["guests"]
    assert [w["uid"] for w in controller.get("/v1/workloads")["workloads"] if w["source"] == "agent"] == []

    mine = os.path.join(controller.dir, "nic-a.crt"), os.path.join(controller.dir, "nic-a.key")
    end = Nic(controller, "nic-a", mine, hello=False).call.status()
    assert end.status == PERMISSION_DENIED and "revoked" in end.message
    conn = controller.connect(controller.provisioner, mine)
    refused(lambda: conn.unary(RENEW, encode("outrigger.v1.RenewRequest", {"csr_pem": controller.key_and_csr("x")[1]})), PERMISSION_DENIED, "revoked")
    assert controller.get("/v1/nics")["nics"][0]["state"] == "revoked"

    Nic(controller, "nic-a", controller.enroll("nic-a")).close()       # a new join token brings it back ...
    end = Nic(controller, "nic-a", mine, hello=False)                    # (the files were replaced by the new ones)
    end.close()


def vms_certificate(controller, nic, gid, name="orders"):
    """What an agent can have for a VM of its own: (token, (certificate, key))."""
    nic.say(token_request={"guest_id": gid})
    token = nic.hear_any("token")["token"][0]
    key, csr = controller.key_and_csr(name, "spiffe://%s/ns/shop/sa/orders" % TRUST_DOMAIN)
    return token, (controller.save_chain(name, controller.certify(csr, token)), key)


def serial_of(cert):
    out = subprocess.run(["openssl", "x509", "-in", cert, "-noout", "-serial"], stdout=subprocess.PIPE, check=True).stdout.decode()
    return bytes.fromhex(out.strip().split("=")[1])


def test_what_a_revoked_nic_was_issued_is_revoked_with_it(controller, nic):
    gid = nic.vm()
    nic.synced()
    wait_until("in the mesh", lambda: in_mesh(controller))
    token, mine = vms_certificate(controller, nic, gid)
    other = Nic(controller, "nic-b", controller.enroll("nic-b"))
    theirs = vms_certificate(controller, other, other.guest(mac="52:54:00:00:00:09", addresses=("10.0.0.9",)), "theirs")[1]
    serial = serial_of(mine[0])
    assert len(serial) == 20 and serial[:8] != serial_of(theirs[0])[:8]

    peer = Discovery(controller, controller.workload_token("shop/cart"))
    peer.ask(REVOCATIONS)
    assert not peer.hear(REVOCATIONS)["resources"]
    streams = [Discovery(controller, token), Discovery(controller, cert=mine), Discovery(controller, cert=theirs)]
    for s in streams:
        s.ask(AUTHORIZATION)
        s.hear(AUTHORIZATION)

    controller.post("/v1/nics/nic-a/revoke", {"reason": "stolen"})
    (told,) = peer.hear(REVOCATIONS)["resources"]["revocations"]["revoked"]         # pushed, not asked for
    origin = told["origin"][0]
    assert (origin.encode() if isinstance(origin, str) else origin) == serial[:8] and told["until"][0] > time.time() + 24 * 3600
    for s in streams[:2]:
        assert s.call.status().status == PERMISSION_DENIED
    streams[2].ask(ADDRESS)
    streams[2].hear(ADDRESS)                           # another NIC's is as before

    def discover(**how):
        return Discovery(controller, **how).call.status()

    for _ in range(2):
        end = discover(cert=mine)
        assert end.status == UNAUTHENTICATED and "was revoked" in end.message
        assert discover(token=token).status == UNAUTHENTICATED
        _, csr = controller.key_and_csr("again", "spiffe://%s/ns/shop/sa/orders" % TRUST_DOMAIN)
        refused(lambda: controller.certify(csr, token), UNAUTHENTICATED)
        refused(lambda: controller.certify(csr, cert=mine), UNAUTHENTICATED, "was revoked")
        controller.stop()
        controller.start()                             # and a restart forgets nothing

    # The NIC comes back by a new join token: its old certificates and tokens do not.
    again = Nic(controller, "nic-a", controller.enroll("nic-a"))
    back = again.guest()
    again.synced()
    wait_until("the guest", lambda: [g for g in controller.get("/v1/guests")["guests"] if g["id"] == back])     # others are there, from before
    end = discover(token=token)
    assert end.status == UNAUTHENTICATED and "older than the enrolment" in end.message
    assert "was revoked" in discover(cert=mine).message
    fresh = vms_certificate(controller, again, gid, "fresh")[1]
    assert serial_of(fresh[0])[:8] != serial[:8]
    s = Discovery(controller, cert=fresh)
    s.ask(REVOCATIONS)
    assert len(s.hear(REVOCATIONS)["resources"]["revocations"]["revoked"]) == 1


def test_certificate_requests_are_rate_limited(controller, nic):
    gid = nic.guest()
    nic.synced()
    token, _ = vms_certificate(controller, nic, gid)
    _, csr = controller.key_and_csr("more", "spiffe://%s/ns/shop/sa/orders" % TRUST_DOMAIN)
    conn = controller.connect(controller.mesh)
    request, metadata = encode("istio.v1.auth.IstioCertificateRequest", {"csr": csr}), {"authorization": "Bearer " + token}
    end = None
    for _ in range(40):
        try:
            conn.unary(CREATE_CERTIFICATE, request, metadata)
        except Ended as e:
            end = e
            break
    assert end and end.status == RESOURCE_EXHAUSTED and "wait" in end.message
    assert 0 < int(end.trailers["grpc-retry-pushback-ms"]) <= 11000
    conn.close()
    _, csr = controller.key_and_csr("cart", "spiffe://%s/ns/shop/sa/cart" % TRUST_DOMAIN)
    controller.certify(csr, controller.workload_token("shop/cart"))                # others are served
    _, metrics = controller.call("GET", "/metrics")
    assert re.search(r"^outrigger_certificates_limited_total [1-9]", metrics, re.M)


def metric(controller, name):
    return int(re.search(r"^%s (\d+)$" % name, controller.call("GET", "/metrics")[1], re.M).group(1))


def test_what_one_nic_asks_for_is_rate_limited(controller):
    certs = {n: controller.enroll(n) for n in ("nic-a", "nic-b")}
    controller.write(CONFIG + "limits: { requests_per_minute: 6 }\n")
    wait_until("the limit", lambda: metric(controller, "outrigger_config_reloads_total") == 1)
    nic = Nic(controller, "nic-a", certs["nic-a"])
    gid = nic.guest()

    def ask(n, guest):
        n.say(token_request={"guest_id": guest})
        return n.hear_any("token")

    answers = [ask(nic, gid) for _ in range(40)]
    assert "token" in answers[0]
    limited = [a for a in answers if "refused" in a]
    assert limited and all("RESOURCE_EXHAUSTED" in a["refused"][0] and "limits.requests_per_minute" in a["refused"][0] for a in limited)
    assert all(0 < a["retry_after_ms"][0] <= 10001 for a in limited)
    assert metric(controller, "outrigger_nic_limited_total") >= len(limited)

    # Renewals and sessions are among what is counted; a session that is there goes on.
    _, csr = controller.key_and_csr("more", "spiffe://%s/nic/nic-a" % TRUST_DOMAIN)
    request = encode("outrigger.v1.RenewRequest", {"csr_pem": csr})
    conn = controller.connect(controller.provisioner, certs["nic-a"])
    end = None
    for _ in range(40):
        try:
            conn.unary(RENEW, request)
        except Ended as e:
            end = e
            break
    assert end and end.status == RESOURCE_EXHAUSTED and "limits.requests_per_minute" in end.message
    assert 0 < int(end.trailers["grpc-retry-pushback-ms"]) <= 10001
    ends = [conn.stream(SESSION).status().status for _ in range(3)]
    assert RESOURCE_EXHAUSTED in ends
    conn.close()
    nic.claim(gid)
    wait_until("its reports are heard", lambda: row(controller))

    other = Nic(controller, "nic-b", certs["nic-b"])       # others are served
    assert "token" in ask(other, other.guest(addresses=("10.0.0.2",), mac="52:54:00:00:00:02"))
    other.close()

    controller.write(CONFIG + "limits: { requests_per_minute: 1000000 }\n")
    wait_until("more may be asked", lambda: metric(controller, "outrigger_config_reloads_total") == 2)
    wait_until("a token", lambda: "token" in ask(nic, gid))
    nic.close()


def test_reports_that_flap_are_not_told_to_the_mesh_without_end(controller):
    certs = {n: controller.enroll(n) for n in ("nic-a", "nic-b")}
    controller.write(CONFIG + "limits: { reports_per_second: 5 }\n")
    wait_until("the limit", lambda: metric(controller, "outrigger_config_reloads_total") == 1)
    nics = {n: Nic(controller, n, certs[n]) for n in certs}
    gid = nics["nic-a"].vm()
    nics["nic-a"].synced()
    wait_until("the service", lambda: row(controller))
    for _ in range(180):       # a minute's worth are 300 reports
        nics["nic-a"].say(claim_gone={"guest_id": gid, "service": "orders", "instance": "orders-1", "port": 8080, "reason": "flapping"})
        nics["nic-a"].claim(gid)
    nics["nic-a"].claim(gid, instance="orders-9", port=8090)
    wait_until("it has to wait", lambda: metric(controller, "outrigger_reports_delayed_total") > 0)
    nics["nic-b"].vm(name="orders-2", address="10.0.0.2", mac="52:54:00:00:00:02")         # others are heard
    nics["nic-b"].synced()
    wait_until("another NIC's", lambda: [s for s in controller.get("/v1/services")["services"] if s["nic"] == "nic-b" and s["in_mesh_ms"] is not None])
    wait_until("the last word", lambda: [s for s in controller.get("/v1/services")["services"] if s["instance"] == "orders-9"], 60)
    for n in nics.values():
        n.close()


def test_tokens_that_are_nobodys_are_limited_by_address(controller):
    _, csr = controller.key_and_csr("x", "spiffe://%s/ns/shop/sa/orders" % TRUST_DOMAIN)
    conn = controller.connect(controller.mesh)
    request, good = encode("istio.v1.auth.IstioCertificateRequest", {"csr": csr}), controller.workload_token("shop/orders")
    head, body, signature = good.split(".")
    bad = {"authorization": "Bearer %s.%s.%s" % (head, body, signature[::-1])}
    seen = {}
    while not seen.get(RESOURCE_EXHAUSTED):
        calls = [conn.stream(CREATE_CERTIFICATE, bad) for _ in range(50)]
        for c in calls:
            c.send(request)
            c.half_close()
        for end in [c.status() for c in calls]:
            seen[end.status] = seen.get(end.status, 0) + 1
            if end.status == RESOURCE_EXHAUSTED:
                assert 0 < int(end.trailers["grpc-retry-pushback-ms"]) <= 1000
    assert seen[UNAUTHENTICATED] >= 1000 and len(seen) == 2
    conn.close()
    assert metric(controller, "outrigger_callers_limited_total") >= 1

    def certified():
        try:
            return controller.certify(csr, good)
        except Ended:
            return None

    wait_until("a good one after the wait", certified)


def test_one_nic_has_its_share_of_the_services(controller):
    nics = [Nic(controller, n, controller.enroll(n)) for n in ("nic-a", "nic-b")]
    controller.write(CONFIG + "limits: { services_per_nic: 2 }\n")
    wait_until("the limit", lambda: metric(controller, "outrigger_config_reloads_total") == 1)
    for i, nic in enumerate(nics):
        gid = nic.vm("orders-%d" % i, "orders-%d-0" % i, address="10.0.0.%d" % (i + 1), mac="52:54:00:00:00:0%d" % i)
        for k in range(1, 4):
            nic.claim(gid, "orders-%d-%d" % (i, k), "orders-%d" % i, "10.0.0.%d" % (i + 1))
            nic.verdict(gid, "orders-%d-%d" % (i, k), "orders-%d" % i)

    def rows(i, why):
        return [r for r in controller.get("/v1/services")["services"] if r["service"].startswith("orders-%d-" % i) and why in (r["why_not"] or "")]

    for i in range(2):
        wait_until("two are in the mesh, two are not", lambda i=i: len(rows(i, "")) == 4 and len(rows(i, "limits.services_per_nic")) == 2)
        assert len([r for r in rows(i, "") if r["in_mesh"]]) == 2
    assert metric(controller, "outrigger_services_over_share_total") >= 4
    controller.write(CONFIG + "limits: { services_per_nic: 4 }\n")
    for i in range(2):
        wait_until("all are", lambda i=i: len([r for r in rows(i, "") if r["in_mesh"]]) == 4)
    for nic in nics:
        nic.close()


def test_the_listeners_certificates_are_renewed_while_running(tmp_path):
    c = Controller(BUILD, tmp_path)
    (tmp_path / "rest-token").write_text("a token of the REST API\n")
    c.write("", base=base_with(c, "rest: 127.0.0.1:%d" % c.rest, "rest: 0.0.0.0:%d\n  rest_token_file: %s" % (c.rest, tmp_path / "rest-token")) +
            "ca: { server_ttl: 2s }\n" + CONFIG)
    c.start()
    try:
        def shown(port):
            context = ssl._create_unverified_context()
            context.set_alpn_protocols(["http/1.1" if port == c.rest else "h2"])
            with socket.create_connection(("127.0.0.1", port), 10) as raw, context.wrap_socket(raw) as s:
                return s.getpeercert(True)

        for port in (c.rest, c.mesh, c.provisioner):
            first = shown(port)
            wait_until("another certificate on port %d" % port, lambda: shown(port) != first, 60)
    finally:
        assert c.stop() == 0, c.log()


def base_with(controller, old, new):
    base = controller.base()
    assert old in base
    return base.replace(old, new)


def test_an_old_certificate_is_refused_after_a_new_enrolment(controller):
    old = controller.enroll("nic-a")
    for path in old:
        os.rename(path, path + ".old")
    controller.enroll("nic-a")
    end = Nic(controller, "nic-a", tuple(p + ".old" for p in old), hello=False).call.status()
    assert end.status == PERMISSION_DENIED and "replaced by a newer one" in end.message


# --- a NIC that was cut off for longer than its certificate lives ---

class CutOff:
    """A NIC whose certificate has expired, and that asks for another one."""

    def __init__(self, controller, name="nic-a"):
        self.controller, self.name, self.n = controller, name, 0
        self.set("nic_ttl: 2s")
        self.cert, self.key = controller.enroll(name)
        with open(self.cert) as f:
            self.chain = f.read()
        with open(os.path.join(controller.dir, name + ".csr")) as f:
            self.csr = f.read()
        wait_until("its end", lambda: subprocess.run(["openssl", "x509", "-in", self.cert, "-noout", "-checkend", "0"], stdout=subprocess.DEVNULL).returncode)
        self.set("nic_ttl: 1h")

    def set(self, ca):
        """In force at once."""
        self.controller.write(CONFIG + "ca: { %s }\n" % ca)
        self.controller.post("/v1/reload", {})

    def ask(self, **other):
        """Returns what the files of the next certificate are called."""
        request = encode("outrigger.v1.EnrollRequest", {"nic_id": self.name, "csr_pem": self.csr, "expired_cert_pem": self.chain, **other})
        conn = self.controller.connect(self.controller.provisioner)
        try:
            reply = conn.unary(ENROLL, request)
        finally:
            conn.close()
        self.n += 1
        return self.controller.save_chain("%s-%d" % (self.name, self.n), decode("outrigger.v1.EnrollResponse", reply)["cert_chain"]), self.key


def test_an_expired_certificate_gets_another_one(controller):
    nic = CutOff(controller)
    before = controller.get("/v1/nics")["nics"][0]
    with pytest.raises((ssl.SSLError, OSError, Ended)):
        Nic(controller, "nic-a", (nic.cert, nic.key))
    first = nic.ask()
    second = nic.ask()          # the answer might have been lost
    after = controller.get("/v1/nics")["nics"][0]
    assert after["enrolled_at"] == before["enrolled_at"] and after["certificate_not_after"] > time.time() + 3000
    Nic(controller, "nic-a", second).close()
    end = Nic(controller, "nic-a", first, hello=False).call.status()
    assert end.status == PERMISSION_DENIED and "replaced by a newer one" in end.message
    assert "a NIC came with an expired certificate and has another one" in controller.log()
    _, metrics = controller.call("GET", "/metrics")
    assert "outrigger_nic_recovered_total 2\n" in metrics


def test_an_older_certificate_or_a_message_that_is_repeated_gets_nothing(controller):
    nic = CutOff(controller)
    new = nic.ask()
    Nic(controller, "nic-a", new).close()
    refused(nic.ask, PERMISSION_DENIED, "replaced by a newer one")
    controller.stop()
    controller.start()
    refused(nic.ask, PERMISSION_DENIED, "replaced by a newer one")
    Nic(controller, "nic-a", new).close()       # and does no harm to who has the newer one
    controller.enroll("nic-a")
    refused(nic.ask, PERMISSION_DENIED, "replaced by a newer one")


def test_a_stolen_expired_certificate_is_nothing_without_its_key_and_name(controller):
    nic = CutOff(controller)
    thief_key, thief_csr = controller.key_and_csr("thief", "spiffe://%s/nic/nic-a" % TRUST_DOMAIN)
    refused(lambda: nic.ask(csr_pem=thief_csr), PERMISSION_DENIED, "not signed by the expired certificate's key")
    refused(lambda: nic.ask(csr_pem=nic.csr.replace("M", "N", 1)), INVALID_ARGUMENT)
    controller.enroll("nic-b")
    refused(lambda: nic.ask(nic_id="nic-b"), PERMISSION_DENIED, "'nic-a'", "'nic-b'")
    refused(lambda: nic.ask(expired_cert_pem="x"), PERMISSION_DENIED, "cannot be read")
    refused(lambda: nic.ask(expired_cert_pem="x" * 300000), PERMISSION_DENIED, "cannot be read")
    # One that the thief made: it says all that it should.
    own = os.path.join(controller.dir, "own.crt")
    subprocess.run(["openssl", "req", "-x509", "-key", thief_key, "-subj", "/", "-days", "1", "-addext",
                    "subjectAltName=critical,URI:spiffe://%s/nic/nic-a" % TRUST_DOMAIN, "-out", own], check=True, stderr=subprocess.DEVNULL)
    with open(own) as f:
        refused(lambda: nic.ask(csr_pem=thief_csr, expired_cert_pem=f.read()), PERMISSION_DENIED, "not valid")
    Nic(controller, "nic-a", nic.ask()).close()


def test_a_revoked_or_forgotten_nic_does_not_come_back_by_an_expired_certificate(controller):
    nic, other = CutOff(controller), CutOff(controller, "nic-b")
    controller.post("/v1/nics/nic-a/revoke", {"reason": "stolen"})
    refused(nic.ask, PERMISSION_DENIED, "revoked: stolen")
    controller.stop()
    controller.start()
    refused(nic.ask, PERMISSION_DENIED, "revoked: stolen")
    controller.stop()
    for name in os.listdir(controller.dir + "/state"):
        if name.startswith("controller.db"):
            os.unlink(controller.dir + "/state/" + name)
    controller.start()
    refused(other.ask, UNAUTHENTICATED, "not enrolled here")


def test_the_grace_for_expired_certificates_is_a_setting(controller):
    nic = CutOff(controller)
    nic.set("nic_ttl: 1h, nic_grace: 0s")
    refused(nic.ask, PERMISSION_DENIED, "ca.nic_grace is 0")
    nic.set("nic_ttl: 1h, nic_grace: 1s")
    wait_until("the end of the grace", lambda: time.time() > controller.get("/v1/nics")["nics"][0]["certificate_not_after"] + 2)
    refused(nic.ask, PERMISSION_DENIED, "more than ca.nic_grace", "new join token")
    nic.set("nic_ttl: 1h, nic_grace: 1h")
    Nic(controller, "nic-a", nic.ask()).close()


def test_an_expired_certificate_of_an_authority_that_is_gone_is_nobodys(controller):
    nic = CutOff(controller)
    old = controller.dir + "/old-root.pem"
    os.rename(controller.roots, old)
    controller.stop()
    os.rename(controller.dir + "/state/ca", controller.dir + "/old-ca")
    controller.start()
    refused(nic.ask, PERMISSION_DENIED, "not valid")
    controller.stop()
    controller.start(CONFIG + "ca: { extra_roots: [%s] }\n" % old)      # a rotation that is under way
    Nic(controller, "nic-a", nic.ask()).close()


def test_asking_for_expired_certificates_is_rate_limited(controller):
    nic = CutOff(controller)
    _, csr = controller.key_and_csr("thief")
    request = encode("outrigger.v1.EnrollRequest", {"nic_id": "nic-a", "csr_pem": csr, "expired_cert_pem": nic.chain})
    conn = controller.connect(controller.provisioner)
    codes = []
    for _ in range(40):
        with pytest.raises(Ended) as e:
            conn.unary(ENROLL, request)
        codes.append(e.value.status)
    conn.close()
    assert codes[0] == PERMISSION_DENIED and RESOURCE_EXHAUSTED in codes


# --- the registry ---

def test_a_vm_is_in_the_mesh_only_while_everything_holds(controller, nic):
    gid = nic.guest()
    nic.claim(gid)
    nic.verdict(gid)
    wait_until("waiting for the proxy", lambda: (row(controller) or {}).get("why_not") == "its proxy is not ready")
    nic.proxy(gid, "starting")
    nic.proxy(gid)
    entry = wait_until("in the mesh", lambda: in_mesh(controller))
    assert entry["verdict"] == "vm" and entry["proxy"] == "ready" and entry["found_ms"] == 1 and entry["in_mesh_ms"] >= 3
    assert entry["identity"] == "spiffe://%s/ns/shop/sa/orders" % TRUST_DOMAIN
    assert entry["evidence"][0]["detail"] == "it is behind tap0"
    mesh = controller.get("/v1/workloads")
    service = [s for s in mesh["services"] if s["name"] == "orders"][0]
    assert service["hostname"] == "orders.shop.mesh.internal" and service["endpoints"][0]["address"] == "10.0.0.1:8080"
    assert service["addresses"][0].startswith("10.99.")

    def out(why):
        wait_until(why, lambda: (lambda r: r and not r["in_mesh"] and r["in_mesh_ms"] is None and r["why_not"] == why)(row(controller)))

    def back():
        wait_until("back", lambda: in_mesh(controller))

    nic.proxy(gid, "draining"); out("its proxy is not ready")
    nic.proxy(gid); back()
    nic.verdict(gid, verdict="container"); out("it was judged a container")
    nic.verdict(gid); back()
    nic.claim(gid, admitted=False, refusal="no"); out("the NIC has refused the claim")
    nic.claim(gid); back()
    nic.claim(gid, address="10.0.1.1"); out("the claimed address is not the guest's own")
    nic.claim(gid); back()

    def healthy(yes):
        (w,) = [w for w in controller.get("/v1/workloads")["workloads"] if w["source"] == "agent"]
        return w["healthy"] == yes

    # What is unhealthy stays a member: clients are told to leave it out.
    for state in ("critical", "waiting"):
        nic.claim(gid, health=state, health_reason="http check of port 8080: HTTP status 500", health_since_ms=1)
        wait_until("unhealthy", lambda: healthy(False))
        entry = row(controller)
        assert in_mesh(controller) and entry["health"] == state and "status 500" in entry["health_reason"] and entry["health_since_s"] > 0
        nic.claim(gid); wait_until("healthy", lambda: healthy(True))
    nic.claim(gid, service="cart", instance="x"); nic.verdict(gid, "cart", "x")
    assert wait_until("refused name", lambda: row(controller, "cart"))["why_not"] == "the policy does not let the guest claim this name"
    explain = controller.get("/v1/explain/orders")["instances"][0]
    assert [s["step"] for s in explain["chain"]] == ["found", "port", "verdict", "policy", "proxy", "health", "mesh"]
    nic.say(claim_gone={"guest_id": gid, "service": "orders", "instance": "orders-1", "port": 8080, "reason": "deregistered"})
    wait_until("gone", lambda: row(controller) is None)
    assert not [w for w in controller.get("/v1/workloads")["workloads"] if w["source"] == "agent"]


def test_a_nic_that_comes_back_says_everything_again(controller, nic):
    nic.vm("orders-1")
    nic.vm("orders-2", address="10.0.0.2", mac="52:54:00:00:00:02")
    nic.synced()
    wait_until("both", lambda: in_mesh(controller, instance="orders-1") and in_mesh(controller, instance="orders-2"))
    nic.close()
    mine = os.path.join(controller.dir, "nic-a.crt"), os.path.join(controller.dir, "nic-a.key")
    again = Nic(controller, "nic-a", mine)
    assert in_mesh(controller, instance="orders-1") and in_mesh(controller, instance="orders-2")
    again.vm("orders-1")
    again.synced()
    wait_until("the other is gone", lambda: row(controller, instance="orders-2") is None)
    assert in_mesh(controller, instance="orders-1")
    again.close()
    wait_until("gone after the grace", lambda: row(controller) is None)


def test_a_vm_that_moves_is_never_in_the_mesh_twice(controller, nic):
    watcher = Discovery(controller, controller.workload_token("shop/cart"))
    watcher.ask(ADDRESS)
    watcher.hear(ADDRESS)
    old = nic.vm()
    uid = "vm/" + old
    while uid not in watcher.hear(ADDRESS)["resources"]:
        pass
    other = Nic(controller, "nic-b", controller.enroll("nic-b"))
    new = other.guest()
    other.claim(new)
    other.verdict(new)
    other.proxy(new, "starting")
    assert watcher.call.quiet(0.3)                     # the old one serves until the new one can
    other.proxy(new)
    change = watcher.hear(ADDRESS)
    assert "vm/" + new in change["resources"] and uid in change["removed"]
    moved = wait_until("says so", lambda: [g for g in controller.get("/v1/guests")["guests"] if g["id"] == old and not g["in_mesh"]])[0]
    assert "moved" in moved["why_not"]
    other.close()
    watcher.close()


def test_a_guest_cannot_take_anothers_address(controller, nic):
    nic.vm()
    wait_until("in the mesh", lambda: in_mesh(controller))
    thief = nic.vm("orders-9", mac="52:54:00:00:00:09")
    got = wait_until("refused", lambda: [g for g in controller.get("/v1/guests")["guests"] if g["id"] == thief and g["why_not"]])[0]
    assert "has one of its addresses" in got["why_not"] and in_mesh(controller, instance="orders-1")
    fixed = nic.vm("orders-8", mac="52:54:00:00:00:08", address="10.0.1.1")      # cart's, of the configuration
    wait_until("refused", lambda: [g for g in controller.get("/v1/guests")["guests"] if g["id"] == fixed and "config/shop/cart-1" in (g["why_not"] or "")])
    nic.say(guest_gone={"guest_id": nic.guest_id(), "reason": "gone"})
    wait_until("the address is free", lambda: in_mesh(controller, instance="orders-9"))


def test_odd_reports_are_refused_and_nothing_else_is_disturbed(controller, nic):
    gid = nic.vm()
    wait_until("in the mesh", lambda: in_mesh(controller))
    nic.say(guest={"guest_id": gid, "addresses": ["no address"]})
    nic.say(guest={"guest_id": gid, "addresses": ["10.0.0.%d" % i for i in range(1, 60)]})
    nic.say(guest={"guest_id": "nic-a", "name": "orders-x"})
    nic.say(guest={"guest_id": "nic-a/", "name": "orders-x"})
    nic.claim("nic-a/nothing/here")
    nic.claim(gid, port=70000)
    nic.claim(gid, service="x" * 2000)
    nic.claim(gid, service="a\nb")
    nic.say(verdict={"guest_id": gid, "service": "orders", "verdict": "maybe"})
    nic.say(load={"connections": 7})
    wait_until("all are read", lambda: controller.get("/v1/nics")["nics"][0].get("connections") == 7)
    assert in_mesh(controller) and controller.get("/v1/nics")["nics"][0]["reports_refused"] == 9
    nic.call.send(b"\xff\xff\xff")
    assert nic.call.status().status == INVALID_ARGUMENT


# --- discovery ---

def test_delta_by_wildcard(controller, nic):
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(ADDRESS)
    first = d.hear(ADDRESS)
    assert set(first["resources"]) == {"config/shop/cart-1", "config/shop/plain-1", "shop/cart.shop.mesh.internal"}
    cart = first["resources"]["config/shop/cart-1"]["workload"][0]
    assert cart["addresses"] == [b"\x0a\x00\x01\x01"] or cart["addresses"] == ["\n\x00\x01\x01"]
    assert cart["tunnel_protocol"] == ["HBONE"] and cart["trust_domain"] == [TRUST_DOMAIN]
    assert cart["services"][0]["key"] == ["shop/cart.shop.mesh.internal"]
    assert cart["services"][0]["value"][0]["ports"][0] == {"service_port": [80], "target_port": [8080], "app_protocol": ["HTTP11"]}
    d.ask(AUTHORIZATION)
    policies = d.hear(AUTHORIZATION)["resources"]
    assert set(policies) == {"shop/callers", "outrigger-system/nobody"}
    assert policies["shop/callers"]["scope"] == ["WORKLOAD_SELECTOR"]
    assert policies["outrigger-system/nobody"]["groups"][0]["rules"][0]["matches"][0]["principals"][0] == {"prefix": ["evil.mesh/"]}

    gid = nic.vm()
    seen = {}
    while "vm/" + gid not in seen:
        seen.update(d.hear(ADDRESS)["resources"])
    assert seen["vm/" + gid]["workload"][0]["authorization_policies"] == ["shop/callers"]
    assert "shop/orders.shop.mesh.internal" in seen
    wait_until("timed", lambda: in_mesh(controller))
    nic.say(guest_gone={"guest_id": gid, "reason": "port down"})
    gone = []
    while "vm/" + gid not in gone:
        gone += d.hear(ADDRESS)["removed"]
    d.close()


def test_delta_on_demand(controller, nic):
    d = Discovery(controller, controller.workload_token("shop/cart"), ip="10.0.1.1")
    d.ask(ADDRESS, subscribe=["*"], unsubscribe=["*"])
    first = d.hear(ADDRESS)
    assert set(first["resources"]) == {"config/shop/cart-1"}       # its own workload, unasked

    d.ask(ADDRESS, subscribe=["/10.0.0.1"])
    answer = d.hear(ADDRESS)
    assert not answer["resources"] and answer["removed"] == ["/10.0.0.1"]
    gid = nic.vm()                                                   # it is told when there is something
    answer = d.hear(ADDRESS)
    assert set(answer["resources"]) == {"vm/" + gid} and answer["aliases"]["vm/" + gid] == ["/10.0.0.1"]

    d.ask(ADDRESS, subscribe=["/10.0.1.2"])
    answer = d.hear(ADDRESS)
    assert set(answer["resources"]) == {"config/shop/plain-1"} and answer["removed"] == ["/10.0.1.2"]

    vip = [s for s in controller.get("/v1/workloads")["services"] if s["name"] == "orders"][0]["addresses"][0]
    d.ask(ADDRESS, subscribe=["/" + vip])
    answer = d.hear(ADDRESS)                                          # a service, and what serves it
    assert "shop/orders.shop.mesh.internal" in answer["resources"] and answer["removed"] == ["/" + vip]
    second = nic.vm("orders-2", address="10.0.0.2", mac="52:54:00:00:00:02")
    seen = {}
    while "vm/" + second not in seen:
        seen.update(d.hear(ADDRESS)["resources"])

    d.ask(ADDRESS, unsubscribe=["/" + vip, "shop/orders.shop.mesh.internal", "vm/" + second])
    d.ask(ADDRESS, subscribe=["shop/none.shop.mesh.internal"])
    assert d.hear(ADDRESS)["removed"] == ["shop/none.shop.mesh.internal"]
    d.ask(AUTHORIZATION, subscribe=["x/none"])
    assert d.hear(AUTHORIZATION)["removed"] == ["x/none"]
    d.close()


def test_a_client_that_comes_back_is_told_what_changed(controller, nic):
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(ADDRESS)
    versions = d.hear(ADDRESS)["versions"]
    d.close()
    gid = nic.vm()
    wait_until("in the mesh", lambda: in_mesh(controller))
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(ADDRESS, initial={**versions, "vm/gone": "1"})
    answer = d.hear(ADDRESS)
    assert set(answer["resources"]) == {"vm/" + gid, "shop/orders.shop.mesh.internal"} and answer["removed"] == ["vm/gone"]
    d.close()
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(AUTHORIZATION, initial={})
    policies = d.hear(AUTHORIZATION)["versions"]
    d.close()
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(AUTHORIZATION, initial=policies)
    answer = d.hear(AUTHORIZATION)
    assert not answer["resources"] and not answer["removed"]       # answered all the same
    d.close()


def test_endpoints_for_envoy(controller, nic):
    for delta in (True, False):
        name = "outbound|8080||orders.shop.mesh.internal"
        d = Discovery(controller, controller.workload_token("shop/cart"), delta=delta)
        d.names = [name, "outbound|80||cart.shop.mesh.internal"]
        if delta:
            d.ask(ENDPOINTS, subscribe=d.names)
        else:
            d.ask(ENDPOINTS, names=d.names)
        found = {r["cluster_name"][0]: r for r in d.hear(ENDPOINTS)["resources"].values()}
        assert "endpoints" not in found[name]                       # nobody yet: said so, or Envoy would wait
        cart = found[d.names[1]]["endpoints"][0]["lb_endpoints"]
        by_address = {}
        for e in cart:
            address = e["endpoint"][0]["address"][0]
            if "envoy_internal_address" in address:
                by_address[address["envoy_internal_address"][0]["endpoint_id"][0]] = e
            else:
                by_address["%s:%d" % (address["socket_address"][0]["address"][0], address["socket_address"][0]["port_value"][0])] = e
        assert set(by_address) == {"10.0.1.1:8080", "10.0.1.2:8080"}
        hbone = by_address["10.0.1.1:8080"]
        assert hbone["endpoint"][0]["address"][0]["envoy_internal_address"][0]["server_listener_name"] == ["connect_originate"]
        metadata = {m["key"][0]: m["value"][0]["fields"][0] for m in hbone["metadata"][0]["filter_metadata"]}
        assert metadata["envoy.filters.listener.original_dst"]["value"][0] == {"string_value": ["10.0.1.1:8080"]}
        assert metadata["envoy.transport_socket_match"] == {"key": ["tunnel"], "value": [{"string_value": ["http"]}]}
        assert "envoy.transport_socket_match" not in str(by_address["10.0.1.2:8080"]["metadata"])

        gid = nic.vm()
        answer = d.hear(ENDPOINTS)
        found = [r for r in answer["resources"].values() if r["cluster_name"] == [name]]
        assert len(found[0]["endpoints"][0]["lb_endpoints"]) == 1
        nic.say(guest_gone={"guest_id": gid, "reason": "port down"})
        found = [r for r in d.hear(ENDPOINTS)["resources"].values() if r["cluster_name"] == [name]]
        assert "endpoints" not in found[0]                          # Envoy ignores removals: it is told "none"
        d.close()


def test_state_of_the_world(controller, nic):
    d = Discovery(controller, controller.workload_token("shop/cart"), delta=False)
    d.ask(ADDRESS)
    assert len(d.hear(ADDRESS)["resources"]) == 3
    assert d.call.quiet(0.3)
    nic.vm()
    answer = d.hear(ADDRESS)
    assert len(answer["resources"]) == 5
    d.close()


def test_a_refusal_is_noted(controller):
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(ADDRESS)
    answer = d.hear(ADDRESS, ack=False)
    d.ask(ADDRESS, nonce=answer["nonce"], error="config/shop/cart-1: strange")
    stream = wait_until("noted", lambda: [s for s in controller.get("/v1/streams")["streams"] if s["last_refusal"]])[0]
    assert stream["last_refusal"] == "config/shop/cart-1: strange" and stream["identity"].endswith("/ns/shop/sa/cart")
    assert any("strange" in c["found"] for c in controller.get("/v1/check")["checks"] if not c["ok"])
    d.close()


def test_the_time_into_the_mesh_waits_for_subscribers(controller, nic):
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(ADDRESS)
    d.hear(ADDRESS)
    gid = nic.vm()
    pending = []
    seen = {}
    while "vm/" + gid not in seen:
        answer = d.hear(ADDRESS, ack=False)
        pending.append(answer["nonce"])
        seen.update(answer["resources"])
    assert row(controller)["in_mesh"] and row(controller)["in_mesh_ms"] is None
    for nonce in pending:
        d.ask(ADDRESS, nonce=nonce)
    assert wait_until("acknowledged", lambda: in_mesh(controller))
    d.close()


def test_discovery_needs_an_identity(controller):
    d = Discovery(controller)
    d.ask(ADDRESS)
    end = d.call.status()
    assert end.status == UNAUTHENTICATED and "neither a token nor" in end.message
    d = Discovery(controller, "abc.def.ghi")
    assert d.call.status().status == UNAUTHENTICATED
    d = Discovery(controller, controller.workload_token("shop/cart"), metadata={"NAMESPACE": "other", "SERVICE_ACCOUNT": "cart"})
    d.ask(ADDRESS)
    end = d.call.status()
    assert end.status == PERMISSION_DENIED and "other" in end.message
    d = Discovery(controller, cert=controller.enroll("nic-a"))
    end = d.call.status()
    assert end.status == UNAUTHENTICATED and "not a workload's" in end.message


def test_bad_certificate_requests(controller):
    token = controller.workload_token("shop/cart")
    refused(lambda: controller.certify("nonsense", token), INVALID_ARGUMENT)
    refused(lambda: controller.certify(controller.key_and_csr("a")[1]), UNAUTHENTICATED, "neither a token")
    refused(lambda: controller.certify(controller.key_and_csr("a")[1], token + "x"), UNAUTHENTICATED)
    subprocess.run(["openssl", "genrsa", "-out", os.path.join(controller.dir, "weak.key"), "1024"], check=True, stderr=subprocess.DEVNULL)
    weak = subprocess.run(["openssl", "req", "-new", "-key", os.path.join(controller.dir, "weak.key"), "-subj", "/"], stdout=subprocess.PIPE, check=True).stdout
    refused(lambda: controller.certify(weak.decode(), token), INVALID_ARGUMENT)
    controller.certify(controller.key_and_csr("b")[1], token)       # a request without any name gets the caller's


# --- configuration ---

@pytest.mark.parametrize("text, line, words", [
    ("trust_domain: Bad_Domain!\n", 1, "is not a trust domain"),
    ("trust_domain: a.b\nonboarding:\n  - name: x\n    mode: strikt\n", 4, "is not one of off, shadow, permissive, strict"),
    ("namespaces: [shop]\nonboarding:\n  - {name: x, mode: strict, namespace: other}\n", 3, "namespace 'other' is not listed"),
    ("onboarding:\n  - name: x\n    mode: strict\n", 2, "needs a namespace"),
    ("workloads:\n  - {name: a, namespace: shop, addresses: [10.0.0.1], services: [x]}\n", 2, "there is no service 'x'"),
    ("workloads:\n- {name: a, namespace: shop, addresses: [10.0.0.1]}\n- {name: b, namespace: shop, addresses: [10.0.0.1]}\n", 3, "twice, first in line 2"),
    ("services:\n- {name: a, namespace: shop, ports: [{port: 0}]}\n", 2, "out of range"),
    ("listen: {rets: '127.0.0.1:1'}\n", 1, "did you mean 'rest'?"),
    ("authorization:\n- name: a\n  rules: [{from: [{}]}]\n", 3, "would match everybody"),
    ("a: b: c\n", 1, ""),
    ("\t\n", 1, ""),
])
def test_a_wrong_configuration_is_refused_with_its_line(tmp_path, text, line, words):
    c = Controller(BUILD, tmp_path)
    c.write(base="", more=text)
    r = subprocess.run([c.binary, "--check", "--config", c.path], stderr=subprocess.PIPE, text=True)
    assert r.returncode == 1 and "%s:%d: " % (c.path, line) in r.stderr and words in r.stderr, r.stderr
    assert subprocess.run([c.binary, "--config", c.path], stderr=subprocess.PIPE).returncode == 1


def test_a_bad_file_keeps_the_last_good_one_in_force(controller, nic):
    nic.vm()
    wait_until("in the mesh", lambda: in_mesh(controller))
    controller.write(CONFIG + "nonsense: 1\n")
    error = wait_until("refused", lambda: controller.get("/v1/status")["config"]["error"])
    assert re.search(r"controller.yaml:\d+: controller.yaml has no 'nonsense'", error)
    assert in_mesh(controller) and controller.get("/v1/check")["ok"] is False
    os.unlink(controller.path)
    wait_until("says that it is gone", lambda: "No such file" in controller.get("/v1/status")["config"]["error"])
    assert in_mesh(controller)
    controller.write(CONFIG.replace("10.0.1.2", "10.0.1.3"))
    wait_until("good again", lambda: not controller.get("/v1/status")["config"]["error"])
    wait_until("in force", lambda: "10.0.1.3" in str(controller.get("/v1/workloads")))
    assert in_mesh(controller)
    controller.write(CONFIG, base=controller.base().replace("10.99.0.0", "10.98.0.0"))
    wait_until("waits", lambda: controller.get("/v1/status")["config"]["restart_needed_for"] == "virtual_addresses")
    status, answer = controller.call("POST", "/v1/reload", {})
    assert status == 409 and '"virtual_addresses" has changed, which takes a restart' in answer["error"]


@pytest.mark.parametrize("text", ["", "\n", "# all of it is a comment, and a long one: %s\n---\n" % ("x" * 600)])
def test_an_empty_file_takes_nobody_out(controller, nic, text):
    nic.vm()
    wait_until("in the mesh", lambda: in_mesh(controller))
    controller.write(text, base="")
    wait_until("refused", lambda: "the file is empty" in controller.get("/v1/status")["config"]["error"])
    assert in_mesh(controller)
    controller.write(CONFIG)
    wait_until("good again", lambda: not controller.get("/v1/status")["config"]["error"])
    assert in_mesh(controller)


def test_a_changed_policy_takes_vms_out_and_in(controller, nic):
    nic.vm()
    wait_until("in the mesh", lambda: in_mesh(controller))
    controller.write(CONFIG.replace("mode: strict", "mode: shadow"))
    wait_until("out", lambda: row(controller)["why_not"] == "its policy's mode is shadow")
    controller.write(CONFIG)
    wait_until("in", lambda: in_mesh(controller))


# --- restarts, ports, disks, size ---

def test_a_restart_keeps_the_state(controller, nic):
    nic.vm()
    nic.synced()
    before = wait_until("in the mesh", lambda: in_mesh(controller))
    vip = [s for s in controller.get("/v1/workloads")["services"] if s["name"] == "orders"][0]["addresses"]
    used = controller.join_token("nic-z")
    controller.enroll("nic-z", used["token"])
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(ADDRESS)
    versions = {}
    while "vm/" + nic.guest_id() not in versions:
        versions.update(d.hear(ADDRESS)["versions"])
    token = controller.workload_token("shop/cart")
    assert controller.stop() == 0                       # a clean end writes what is owed to the store
    controller.start()
    after = in_mesh(controller)
    assert after and after["in_mesh_ms"] == before["in_mesh_ms"] and not controller.get("/v1/guests")["guests"][0]["nic_connected"]
    assert [s for s in controller.get("/v1/workloads")["services"] if s["name"] == "orders"][0]["addresses"] == vip
    d = Discovery(controller, token)                    # the signing key is the same
    d.ask(ADDRESS, initial=versions)
    answer = d.hear(ADDRESS)
    assert not answer["resources"] and not answer["removed"]       # nobody loses a VM by our restart
    d.close()
    refused(lambda: controller.enroll("nic-z", used["token"]), PERMISSION_DENIED, "used already")
    mine = os.path.join(controller.dir, "nic-a.crt"), os.path.join(controller.dir, "nic-a.key")
    again = Nic(controller, "nic-a", mine)
    again.synced()
    wait_until("what is not said again is gone", lambda: not controller.get("/v1/guests")["guests"])
    again.close()


def test_kill_9_loses_nothing_that_was_promised(controller):
    token = controller.join_token("nic-a")
    mine = controller.enroll("nic-a", token["token"])
    controller.post("/v1/nics/nic-a/revoke", {})
    controller.stop(signal.SIGKILL)
    controller.start()
    assert Nic(controller, "nic-a", mine, hello=False).call.status().status == PERMISSION_DENIED
    refused(lambda: controller.enroll("nic-a", token["token"]), PERMISSION_DENIED, "used already")


@pytest.mark.parametrize("which", ["provisioner", "mesh", "rest"])
def test_a_port_in_use_is_named(tmp_path, which):
    import socket
    c = Controller(BUILD, tmp_path)
    with socket.socket() as s:
        s.bind(("127.0.0.1", getattr(c, which)))
        s.listen()
        c.write(CONFIG)
        r = subprocess.run([c.binary, "--config", c.path], stderr=subprocess.PIPE, text=True, timeout=20)
    assert r.returncode == 1
    assert "listen.%s: " % which in r.stderr and str(getattr(c, which)) in r.stderr and "Address already in use" in r.stderr, r.stderr


def test_two_controllers_do_not_share_a_store(controller, tmp_path_factory):
    other = Controller(BUILD, tmp_path_factory.mktemp("other"))
    other.write(CONFIG, base=other.base().replace("state_dir: %s/state" % other.dir, "state_dir: %s/state" % controller.dir))
    r = subprocess.run([other.binary, "--config", other.path], stderr=subprocess.PIPE, text=True, timeout=20)
    assert r.returncode == 1 and "in use by another process" in r.stderr, r.stderr


def test_a_newer_store_is_refused(tmp_path):
    import sqlite3
    c = Controller(BUILD, tmp_path)
    c.start(CONFIG)
    c.stop()
    db = sqlite3.connect(os.path.join(c.dir, "state", "controller.db"))
    db.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
    db.commit()
    db.close()
    r = subprocess.run([c.binary, "--config", c.path], stderr=subprocess.PIPE, text=True, timeout=20)
    assert r.returncode == 1 and "schema version 99" in r.stderr and "controller.db" in r.stderr, r.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_said_and_serving_goes_on(tmp_path):
    c = Controller(BUILD, tmp_path)
    state = os.path.join(c.dir, "state")
    os.mkdir(state, 0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", state], check=True)
    try:
        c.start(CONFIG)
        nic = Nic(c, "nic-a", c.enroll("nic-a"))
        token = c.join_token("nic-b")
        ballast = os.open(os.path.join(state, "ballast"), os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError):
            while True:
                os.write(ballast, b"x" * 4096)
        os.close(ballast)

        def fill():
            status, answer = c.call("POST", "/v1/tokens", {"nic": "x", "note": "y" * 200})
            return status == 507 and "full" in answer["error"]
        wait_until("the store is full", fill, 30)
        refused(lambda: c.enroll("nic-b", token["token"]), UNAVAILABLE, "cannot record", "full")
        nic.vm()
        wait_until("VMs still join", lambda: in_mesh(c))
        c.certify(c.key_and_csr("cart")[1], c.workload_token("shop/cart"))
        wait_until("it is said", lambda: c.get("/v1/check")["ok"] is False)
        assert "the store cannot be written, serving continues" in c.log()
        os.unlink(os.path.join(state, "ballast"))
        wait_until("room again", lambda: c.get("/v1/check")["ok"], 20)
        c.enroll("nic-b", token["token"])               # and the token had not been used up
        nic.close()
        assert c.stop() == 0
    finally:
        c.stop(signal.SIGKILL)
        subprocess.run(["umount", state], check=True)


def rss_kb(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_it_has_no_rights(tmp_path_factory):
    import tempfile
    folder = tempfile.mkdtemp(prefix="og-control-", dir="/tmp")
    os.chmod(folder, 0o755)
    try:
        c = Controller(BUILD, folder)
        os.mkdir(os.path.join(folder, "run"))
        os.chown(os.path.join(folder, "run"), 65534, 65534)
        c.socket = os.path.join(folder, "run", "c.sock")
        c.write(CONFIG, base=c.base() + "user: nobody\n")
        c.start()
        with open("/proc/%d/status" % c.process.pid) as f:
            status = dict(line.split(":\t", 1) for line in f if ":\t" in line)
        assert status["Uid"].split() == ["65534"] * 4 and int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1" and (sanitized(c) or status["Seccomp"].strip() == "2")
        c.enroll("nic-a")
        c.write(CONFIG + "# again\n", base=c.base() + "user: nobody\n")
        assert c.stop() == 0, c.log()
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def sanitized(controller):
    with open("/proc/%d/maps" % controller.process.pid) as f:
        return "libasan" in f.read() or b"__asan_init" in open(controller.binary, "rb").read()


def test_a_thousand_workloads_fit(controller, nic):
    for i in range(1000):
        a, b = divmod(i, 250)
        mac = "52:54:00:01:%02x:%02x" % (a, b)
        gid = nic.guest_id("tap%d" % i, mac)
        address = "10.1.%d.%d" % (a, b + 1)
        report = [
            {"guest": {"guest_id": gid, "port": "tap%d" % i, "mac": mac, "addresses": [address], "name": "orders-%d" % i}},
            {"claim": {"guest_id": gid, "service": "orders-%d" % (i % 100), "instance": "i%d" % i, "address": address, "port": 8080, "admitted": True}},
            {"verdict": {"guest_id": gid, "service": "orders-%d" % (i % 100), "instance": "i%d" % i, "verdict": "vm"}},
            {"proxy": {"guest_id": gid, "state": "ready", "ready_ms": 1}},
        ]
        if i == 0:
            for r in report:
                nic.say(**r)
            continue
        for r in report:                                # protoc a message would take minutes
            nic.call.send(fast_report(r))
    nic.synced()
    wait_until("all are in", lambda: controller.get("/v1/status")["workloads"]["vms"] == 1000, 60)
    d = Discovery(controller, controller.workload_token("shop/cart"))
    d.ask(ADDRESS)
    names = set()
    while len(names) < 1000 + 100 + 3:
        names |= set(grab_names(d.call.receive()))
    if not sanitized(controller):
        assert rss_kb(controller.process.pid) < 64 * 1024, rss_kb(controller.process.pid)
    d.close()


def fast_report(r):
    """The few fields above, by hand."""
    kind, v = next(iter(r.items()))
    if kind == "guest":
        body = field(1, v["guest_id"]) + field(2, v["port"]) + field(4, v["mac"]) + field(5, v["addresses"][0]) + field(6, v["name"])
    elif kind == "claim":
        body = field(1, v["guest_id"]) + field(2, v["service"]) + field(3, v["instance"]) + field(4, v["address"]) + field(5, v["port"]) + field(13, 1)
    elif kind == "verdict":
        body = field(1, v["guest_id"]) + field(2, v["service"]) + field(3, v["instance"]) + field(4, v["verdict"])
    else:
        body = field(1, v["guest_id"]) + field(2, v["state"]) + field(8, v["ready_ms"])
    return field({"guest": 3, "claim": 5, "verdict": 7, "proxy": 8}[kind], body)


def grab_names(data):
    """Names of the resources of a DeltaDiscoveryResponse."""
    return [r["name"][0] for r in decode("envoy.service.discovery.v3.DeltaDiscoveryResponse", data).get("resources", [])]


# --- REST ---

def test_the_api_describes_all_its_routes(controller):
    described = {(m.upper(), p) for p, methods in controller.get("/v1/openapi.json")["paths"].items() for m in methods}
    with open(os.path.join(HERE, "..", "..", "src", "control", "rest.c")) as f:
        routes = {(m, p.replace("*}", "}")) for m, p in re.findall(r'\{ "([A-Z]+)", "([^"]+)",', f.read())}
    assert described == routes and len(routes) > 20
    with open(os.path.join(HERE, "..", "..", "docs", "rest.md")) as f:
        text = f.read()
    for method, path in routes:
        assert "`%s %s`" % (method, path) in text, (method, path)


def test_rest_over_tcp_only_reads(controller):
    import urllib.error
    import urllib.request
    url = "http://127.0.0.1:%d" % controller.rest
    assert b"outrigger-controller" in urllib.request.urlopen(url + "/v1/status", timeout=5).read()
    assert b"ES256" in urllib.request.urlopen(url + "/jwks.json", timeout=5).read()
    for path, data in (("/v1/tokens", None), ("/v1/tokens", b"{}"), ("/v1/nics/x/revoke", b"{}")):
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=5)
        assert e.value.code == 403


def test_rest_with_a_bearer_token(tmp_path):
    import urllib.error
    import urllib.request
    c = Controller(BUILD, tmp_path)
    secret = "s3cret-of-sixteen-or-more"
    with open(os.path.join(c.dir, "token"), "w") as f:
        f.write(secret + "\n")
    c.write(CONFIG, base=c.base().replace("  rest_socket", "  rest_token_file: %s/token\n  rest_socket" % c.dir))
    c.start()
    url = "http://127.0.0.1:%d/v1/tokens" % c.rest
    for auth in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(urllib.request.Request(url, b"{}", auth), timeout=5)
        assert e.value.code == 401
    answer = urllib.request.urlopen(urllib.request.Request(url, b"{}", {"Authorization": "Bearer " + secret}), timeout=5)
    assert answer.status == 201
    c.stop()


def test_bad_rest_requests(controller):
    for method, path, body, status in (
            ("POST", "/v1/tokens", {"nic": "a/b"}, 400), ("POST", "/v1/tokens", {"ttl_s": -1}, 400), ("POST", "/v1/tokens", {"workload": "x"}, 400),
            ("POST", "/v1/nics/none/revoke", {}, 404), ("DELETE", "/v1/tokens/none", None, 404), ("GET", "/v1/explain/none", None, 404),
            ("POST", "/v1/guests/a/b", {"action": "drain"}, 404), ("POST", "/v1/guests/a/b", {"action": "dance"}, 400), ("PUT", "/v1/status", {}, 405)):
        code, answer = controller.call(method, path, body)
        assert code == status and answer["error"], (method, path, code, answer)


def test_a_guest_can_be_drained(controller, nic):
    gid = nic.vm()
    wait_until("in the mesh", lambda: in_mesh(controller))
    controller.post("/v1/guests/" + gid, {"action": "drain", "drain_ms": 100})
    assert nic.hear("drain") == {"guest_id": [gid], "drain_ms": [100]}


def test_the_manual_is_printed_from_the_table():
    out = subprocess.run([os.path.join(BUILD, "src", "control", "outrigger-controller"), "--manual"], stdout=subprocess.PIPE, text=True, check=True).stdout
    with open(os.path.join(HERE, "..", "..", "docs", "config-controller.md")) as f:
        assert f.read() == out, "run: outrigger-controller --manual > docs/config-controller.md"


def test_the_examples_are_good():
    for name in ("controller.yaml",):
        path = os.path.join(HERE, "..", "..", "packaging", "examples", name)
        subprocess.run([os.path.join(BUILD, "src", "control", "outrigger-controller"), "--check", "--config", path], check=True, stdout=subprocess.DEVNULL)


# What a program of another release may put into any message: a field of each wire type that this one does not know.
UNKNOWN = b"\xc8\x3e\x01" + b"\xd1\x3e" + bytes(8) + b"\xda\x3e\x03new" + b"\xe5\x3e" + bytes(4)


def test_a_newer_agent_is_understood_as_far_as_it_goes(controller, nic):
    """Unknown fields, at the top and inside, cost nothing; a report of an unknown kind is refused alone; an older agent leaves fields out."""
    guest = encode("outrigger.v1.Guest", {"guest_id": nic.guest_id(), "port": "tap0", "mac": "52:54:00:00:00:01",
                                          "addresses": ["10.0.0.1"], "name": "orders-1"}) + UNKNOWN
    size = bytes([len(guest) & 127 | 128, len(guest) >> 7])         # a varint of two bytes, whatever the size
    nic.call.send(b"\x08\x07\x1a" + size + guest + UNKNOWN)
    nic.call.send(b"\x08\x08" + b"\xfa\x3e\x02\x08\x01")             # a kind of report that nobody knows
    gid = nic.guest_id()
    nic.say(claim={"guest_id": gid, "service": "orders", "instance": "i", "address": "10.0.0.1", "port": 8080, "admitted": True})
    nic.verdict(gid, instance="i")
    nic.proxy(gid)
    nic.synced()
    wait_until("it is in the mesh", lambda: [g for g in controller.get("/v1/guests")["guests"] if g["id"] == gid and g["in_mesh"]])
    wait_until("what was not understood is said", lambda: "a report of an unknown kind" in controller.log())
    nic.say(token_request={"guest_id": gid})
    assert nic.hear("token")["token"]
