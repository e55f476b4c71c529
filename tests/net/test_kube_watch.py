"""List and watch against an API server that is played: bookmarks, versions that have expired (410) or never were, pages, answers that are cut, 429 and 5xx."""
import http.server
import json
import os
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest

from controller import Controller, Nic, wait_until

BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))


def pod(name, address):
    return {"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {"nodeName": "n"}, "status": {"phase": "Running", "podIPs": [{"ip": address}], "podIP": address}}


def page(version, *pods, more=None):
    meta = {"resourceVersion": version, **({"continue": more} if more else {})}
    return 200, json.dumps({"kind": "PodList", "metadata": meta, "items": list(pods)})


def event(what, **thing):
    return json.dumps({"type": what, "object": thing}) + "\n"


EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
GONE = (410, json.dumps(EXPIRED))
TOO_LARGE = {"kind": "Status", "code": 504, "reason": "Timeout", "message": "Too large resource version: 70, current: 20"}
# What is asked of pods, in this order, and what is said to it. A watch that is answered with None hangs.
STORY = [
    ({"limit": "100"}, page("10", pod("a", "10.9.0.1"))),
    ({"watch": "1", "resourceVersion": "10"}, (200, event("BOOKMARK", kind="Pod", metadata={"resourceVersion": "42"}))),
    ({"watch": "1", "resourceVersion": "42"}, (200, event("ADDED", **pod("b", "10.9.0.2") | {"metadata": {"name": "b", "namespace": "shop", "uid": "b", "resourceVersion": "43"}})
                                               + event("ERROR", **EXPIRED))),
    ({"limit": "100"}, page("50", pod("c", "10.9.0.3"))),                       # a and b went meanwhile
    ({"watch": "1", "resourceVersion": "50"}, GONE),
    ({"limit": "100"}, page("60", pod("d", "10.9.0.4"), more="p 2/=")),
    ({"limit": "100", "continue": "p 2/="}, GONE),                              # the page has expired
    ({"limit": "100"}, page("70", pod("d", "10.9.0.4"), more="p3")),
    ({"limit": "100", "continue": "p3"}, page("70", pod("e", "10.9.0.5"))),
    ({"watch": "1", "resourceVersion": "70"}, (200, event("ADDED", kind="Pod")[:20])),     # cut in the middle of a line
    ({"watch": "1", "resourceVersion": "70"}, (200, "garbage\n")),
    ({"watch": "1", "resourceVersion": "70"}, (500, "oops")),
    ({"watch": "1", "resourceVersion": "70"}, (504, json.dumps(TOO_LARGE))),    # etcd was restored: that version will not come for long
    ({"limit": "100"}, page("20", pod("d", "10.9.0.4"))),                       # so it is listed, with whatever version there is
    ({"watch": "1", "resourceVersion": "20"}, (200, event("ERROR", kind="Status", code=500, message="etcd event received with PrevKv=nil"))),
    ({"limit": "100"}, (*page("21"), {"Content-Length": "100000"})),            # cut, though it is good JSON as far as it goes
    ({"limit": "100"}, (200, "20\r\n{\"metadata\": {\"resourceV", {"Transfer-Encoding": "chunked"})),
    ({"limit": "100"}, (200, json.dumps({"metadata": {"resourceVersion": "22"}}))),        # no items: another server's answer
    ({"limit": "100"}, page("22", more="x" * 5000)),                            # no page would follow
    ({"limit": "100"}, page("23", pod("d", "10.9.0.4"))),
    ({"watch": "1", "resourceVersion": "23"}, (429, json.dumps({"kind": "Status", "code": 429, "message": "wait"}), {"Retry-After": "2"})),
    ({"watch": "1", "resourceVersion": "23"}, (503, "", {"Retry-After": "1"})),
    ({"watch": "1", "resourceVersion": "23"}, (200, event("MODIFIED", **pod("e", "10.9.0.5") | {"metadata": {
        "name": "e", "namespace": "shop", "uid": "e", "resourceVersion": "24", "annotations": {"much": "x" * (3 << 20)}}}))),
    ({"watch": "1", "resourceVersion": "24"}, None),
]


class Api:
    def __init__(self, folder):
        self.asked, self.times, self.over = [], [], threading.Event()
        key, cert = str(folder / "api.key"), str(folder / "api.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=api",
                        "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"], check=True, stderr=subprocess.DEVNULL)
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"       # chunks are its; an answer without a length ends with the connection

            def do_GET(self):
                url = urllib.parse.urlsplit(self.path)
                api.answer(self, url.path, dict(urllib.parse.parse_qsl(url.query)))

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "x", "users": [{"name": "x", "user": {"token": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:%d" % self.server.server_address[1], "certificate-authority": cert}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]}))

    def answer(self, handler, path, query):
        said = None if "watch" in query else (200, json.dumps({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}))
        if path.endswith("/pods"):
            n = len(self.asked)
            self.times.append(time.monotonic())
            self.asked.append({k: v for k, v in query.items() if k in ("limit", "watch", "resourceVersion", "continue")})
            said = STORY[n][1] if n < len(STORY) else None
        status, body, headers = (*(said or (200, "")), {})[:3]
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Connection", "close")
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body.encode())
        handler.wfile.flush()
        if not said:
            self.over.wait(120)

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def api(tmp_path):
    a = Api(tmp_path)
    yield a
    a.close()


def test_what_expires_is_listed_anew_and_what_is_cut_is_watched_on(api, tmp_path):
    c = Controller(BUILD, tmp_path)
    c.start("kubernetes: { kubeconfig: %s, timeout: 2s }\n" % api.kubeconfig)
    nic = Nic(c, "nic-1", c.enroll("nic-1"))
    try:
        wait_until("all of the story", lambda: len(api.asked) >= len(STORY), 60)
        assert api.asked == [question for question, _ in STORY]
        for i, (_, said) in enumerate(STORY):       # it is left alone for as long as it asked for
            if said and len(said) > 2 and "Retry-After" in said[2]:
                assert api.times[i + 1] - api.times[i] >= float(said[2]["Retry-After"])
        seen = nic.containers
        while {a["prefix"][0] for a in seen.get("addresses", [])} != {"10.9.0.4/32", "10.9.0.5/32"}:
            seen = nic.hear("containers", 20)
        wait_until("the check is fine", lambda: [x for x in c.get("/v1/check")["checks"] if x["what"] == "pods are watched" and x["ok"]])
    finally:
        nic.close()
        assert c.stop() == 0


# --- who is a node ---

NODE = {"metadata": {"name": "v", "creationTimestamp": "2026-01-02T00:00:00Z"}, "spec": {"podCIDRs": ["10.244.7.0/24"], "providerID": "kvm://7"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}
ONBOARDING = """onboarding:
  - { name: plain, match: { guest_name: "plain-*" }, mode: shadow, kubernetes_node: %s }
"""


def placed(name, address, **spec):
    return pod(name, address) | {"spec": {"nodeName": "v", "containers": [{"ports": [{"containerPort": 9100}]}], **spec}}


class Cluster(Api):
    """Lists are what was said last; watches end when something was said."""

    def __init__(self, folder):
        super().__init__(folder)
        self.items, self.said, self.version = {}, threading.Condition(), 1

    def say(self, **items):
        with self.said:
            self.items |= items
            self.version += 1
            self.said.notify_all()

    def answer(self, handler, path, query):
        kind = path.rsplit("/", 1)[1]
        body = json.dumps({"items": self.items.get(kind, []), "metadata": {"resourceVersion": str(self.version)}})
        if "watch" in query:
            with self.said:
                self.said.wait_for(lambda: self.over.is_set() or self.version > int(query["resourceVersion"]), 120)
            body = event("ERROR", **EXPIRED)
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body.encode())

    def close(self):
        self.over.set()
        self.say()
        super().close()


def test_a_nic_is_told_which_of_its_guests_are_nodes(tmp_path):
    cluster = Cluster(tmp_path)
    c = Controller(BUILD, tmp_path)
    kubernetes = "kubernetes: { kubeconfig: %s, timeout: 5s }\n" % cluster.kubeconfig
    c.start(kubernetes + ONBOARDING % "true")
    nic = Nic(c, "nic-1", c.enroll("nic-1"))
    try:
        gid = nic.guest("plain-1", addresses=("10.0.0.7", "fd00::7"))
        nic.guest("other-1", port="tap1", mac="52:54:00:00:00:02", addresses=("10.0.0.8",))
        nic.synced()
        assert not nic.hear_any("nodes", 30).get("nodes")
        cluster.say(nodes=[NODE])
        (node,) = nic.hear_any("nodes", 60)["nodes"]
        assert (node["guest_id"], node["name"], node["provider_id"], node["networks"]) == ([gid], ["v"], ["kvm://7"], ["10.244.7.0/24"])
        assert not node.get("ports") and "pods" not in node
        cluster.say(pods=[placed("in", "10.244.7.5"), placed("out", "10.9.0.5"), placed("host", "10.0.0.7", hostNetwork=True)])
        (node,) = nic.hear_any("nodes", 60)["nodes"]
        assert node["pods"] == [3] and set(node["networks"]) == {"10.244.7.0/24", "10.9.0.5/32"}
        (port,) = node["ports"]
        assert (port["port"], port["transport"], port["what"]) == ([9100], ["tcp"], ["pod shop/host on node v"])
        rows = {g["name"]: g for g in c.get("/v1/guests")["guests"]}
        assert (rows["plain-1"]["kubernetes_node"], rows["plain-1"]["pods"]) == ("v", 3)
        assert rows["other-1"]["kubernetes_node"] is None and rows["other-1"]["pod_networks"] == []
        c.write(kubernetes + ONBOARDING % "false")          # the policy says that it is nothing but a VM
        c.post("/v1/reload", {})
        assert not nic.hear_any("nodes", 60).get("nodes")
        assert c.get("/v1/guests")["guests"][0]["kubernetes_node"] is None
        c.write(kubernetes + ONBOARDING % "true")
        c.post("/v1/reload", {})
        assert nic.hear_any("nodes", 60)["nodes"]
        nic.guest("plain-1", addresses=("10.0.0.9",))       # the address is another's now
        assert not nic.hear_any("nodes", 60).get("nodes")
    finally:
        nic.close()
        cluster.close()
        assert c.stop() == 0
