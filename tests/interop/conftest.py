"""A Kubernetes control plane and istiod for the tests of this folder, once a session."""
import os

import pytest

import istiolab
import kubelab
from netlab import Lab


@pytest.fixture(scope="session")
def kube():
    reason = kubelab.missing()
    if reason:
        pytest.skip("Kubernetes and istiod: " + reason)
    kubelab.build_servers()
    with Lab("ogk") as lab:
        os.chmod(lab.dir, 0o755)
        k = kubelab.KubeLab(lab, also=[istiolab.CONTROL])
        k.start_istiod()
        k.kubectl("apply", "-f", k.packaging("outrigger-controller.yaml"))
        k.kubectl("apply", "-f", k.packaging("outrigger-vm.yaml"))
        kubelab.wait_for_account(k, "shop")
        yield k
