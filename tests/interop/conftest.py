"""A Kubernetes control plane and istiod for the tests of this folder, once a session."""
import pytest

import kubelab
from netlab import Lab


@pytest.fixture(scope="session")
def kube():
    reason = kubelab.missing()
    if reason:
        pytest.skip("Kubernetes and istiod: " + reason)
    kubelab.build_servers()
    with Lab("ogk") as lab:
        k = kubelab.KubeLab(lab)
        k.start_istiod()
        k.kubectl("apply", "-f", k.packaging("outrigger-controller.yaml"))
        k.kubectl("apply", "-f", k.packaging("outrigger-vm.yaml"))
        kubelab.wait_for_account(k, "shop")
        yield k
