"""docs/istio.md: its commands, in its order, on the machines that it names."""
import glob
import os
import re
import stat
import subprocess

import pytest

from agentlab import BUILD
from istiolab import CONTROL, IstioLab
from kubelab import TOP
from netlab import wait_until

SYSTEMCTL = """#!/bin/sh
# enable --now NAME, without systemd
case $3 in
outrigger-controller) program=control config=controller ;;
outrigger-agent) program=agent config=agent ;;
esac
mkdir -p "$STATE" "$RUN"
setsid "%(build)s/src/$program/$3" --config "$ETC/$config.yaml" > "$ETC/$config.log" 2>&1 < /dev/null &
"""


def blocks():
    """(machine, script) of each block."""
    with open(os.path.join(TOP, "docs", "istio.md")) as f:
        text = f.read()
    found = re.findall(r"^```sh (\w+)\n(.*?)^```$", text, re.M | re.S)
    assert len(found) == text.count("```sh")       # none without a machine: nobody would run it
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    assert not re.search(r"^ +(kubectl|outrigger\S*|systemctl) ", rest, re.M)      # nor one that is only indented
    return found


def program(path, text):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)


@pytest.fixture
def mesh(kube):
    kube.ensure_istiod()
    with IstioLab(kube) as lab:
        yield lab
        for path in sorted(glob.glob(lab.dir + "/etc/*.log")):
            with open(path) as f:
                print(f.read()[-4000:])


def test_the_page_leads_from_nothing_to_a_meshed_vm(mesh):
    kube, vm = mesh.kube, mesh.vms[0]
    tools = os.path.join(mesh.dir, "bin")
    os.makedirs(tools)
    program(tools + "/kubectl", "#!/bin/sh\nexec %s kubectl --kubeconfig %s \"$@\"\n" % (kube.program, kube.kubeconfig))
    program(tools + "/systemctl", SYSTEMCTL % {"build": os.path.abspath(BUILD)})
    for folder, name in (("ctl", "outrigger"), ("control", "outrigger-controller")):
        os.symlink(os.path.abspath(os.path.join(BUILD, "src", folder, name)), os.path.join(tools, name))
    env = dict(os.environ, PATH=tools + ":" + os.environ["PATH"], ISTIOD=CONTROL + ":15012", CONTROLLER="10.66.0.2", APISERVER="https://%s:6443" % CONTROL,
               ETC=mesh.dir + "/etc", STATE=mesh.dir + "/state", RUN=mesh.dir + "/run")
    # No controller of Kubernetes makes this ConfigMap in the lab.
    kube.kubectl("-n", "outrigger-system", "create", "configmap", "kube-root-ca.crt", "--from-file=ca.crt=" + kube.path("ca.pem"), check=False)
    hosts = {"cluster": kube.cp, "controller": mesh.edge, "nic": mesh.nic}
    waits = {"controller": mesh.dir + "/run/controller.sock", "nic": mesh.dir + "/run/agent.sock"}
    everywhere, seen = "", []

    def run(machine, script):
        r = subprocess.run(hosts[machine].argv("sh", "-euc", everywhere + script), cwd=TOP, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode == 0, (script, r.stdout)
        if "systemctl" in script:
            wait_until("what was started", lambda: os.path.exists(waits[machine]))
        return r.stdout

    mesh.start_registry()
    mesh.serve(vm)
    for machine, script in blocks():
        if machine == "everywhere":
            everywhere += script
            continue
        if "get workloadentries" in script:     # "when the VM's service registers itself"
            wait_until("the session", lambda: mesh.get("/v1/status")["policy_version"])
            mesh.register(vm)
            wait_until("the WorkloadEntry", lambda: mesh.entry(vm))
        if "explain" in script:
            wait_until("the service", lambda: mesh.service("orders", proxy="ready"))
        seen.append(run(machine, script))
        if "--kubernetes-plan" in script:       # what the page has applied by hand does as well
            assert "fits     WorkloadGroup shop/orders" in seen[-1], seen[-1]
    entries, look, health = seen[-3:]
    assert "orders-" + vm.address in entries
    assert "orders" in look
    assert health == ""          # this group has no probe
    assert mesh.call(mesh.client, vm)[:2] == ("200", "this is " + vm.address)
