"""The demo is the chief test: real VMs, a real registry, a real Envoy; its report must hold."""

import json
import os
import subprocess

import pytest

BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture(scope="module")
def report():
    path = os.path.join(BUILD, "demo-report.json")
    if os.path.exists(path):
        os.unlink(path)
    r = subprocess.run([os.path.join(BUILD, "src", "ctl", "outrigger"), "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    with open(path) as f:
        return dict(json.load(f), exit=r.returncode, output=r.stdout)


def test_everything_that_it_shows_holds(report):
    assert report["exit"] == 0, report["output"][-6000:]
    assert report["ok"] and not report["failures"]


def test_vm_services_are_found_and_a_container_is_left_alone(report):
    verdicts = {s["name"]: s["verdict"] for s in report["services"]}
    assert verdicts == {"orders": "vm", "billing": "vm", "reports": "container"}
    for s in report["services"]:
        assert s["evidence"]
        assert (s["in_mesh_ms"] is None) == (s["verdict"] == "container")


def test_all_paths_are_mutual_tls_between_the_right_identities(report):
    assert len(report["paths"]) == 3
    for p in report["paths"]:
        assert p["mtls"] and p["requests"] > 0 and p["failed"] == 0
        assert p["peer_identity"].startswith("spiffe://demo.mesh/ns/shop/sa/")


def test_a_killed_vm_costs_no_request_but_those_inside_it(report):
    assert report["kill"]["failed"] <= report["kill"]["inside_dead_vm"]
    assert report["kill"]["requests"] == 1200


def test_who_may_not_is_refused(report):
    assert len(report["refused"]) == 4
    assert all(r["refused"] for r in report["refused"])


def test_nothing_is_left_behind(report):
    names = subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert not [n for n in names.split() if n in ("og-a", "og-b", "og-net", "og-edge", "og-cart", "og-registry", "og-container")]
