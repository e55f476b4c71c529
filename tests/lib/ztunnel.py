"""An unmodified ztunnel (ZTUNNEL_BIN) as a pod's proxy: dedicated mode in the pod's namespace, capture as istio-cni sets it up."""

import os
import pwd

from netlab import wait_until

BIN = os.environ.get("ZTUNNEL_BIN", "")
USER = pwd.getpwnam("nobody")
READINESS = 15021

# What the pod sends goes to 15001, plaintext that arrives to 15006; the proxy's own user is left alone.
CAPTURE = """
table ip ztunnel {
  chain output { type nat hook output priority -100; meta skuid %d return; ip daddr 127.0.0.0/8 return; oifname "lo" return; meta l4proto tcp redirect to :15001; }
  chain prerouting { type nat hook prerouting priority -100; tcp dport { 15008, 15020, 15021 } return; meta l4proto tcp redirect to :15006; }
}
"""


def missing():
    """Why there is none, or None."""
    return None if BIN and os.access(BIN, os.X_OK) else "ZTUNNEL_BIN names no program"


class Ztunnel:
    """
    @who is namespace/name/account of the pod, whose address @pod.address is; @token what the account shows to the control plane
    at @control (address:port), @roots the path of its roots. More settings by @env.
    """

    def __init__(self, pod, folder, who, control, roots, token, env=None):
        self.pod, self.name = pod, pod.name + ".ztunnel"
        self.lab = pod.lab
        namespace, name, _ = who.split("/")
        token_path = self._write(folder, token, "token")
        roots_path = self._write(folder, open(roots).read(), "roots")
        pod.run("nft", "-f", "-", input=CAPTURE % USER.pw_uid)
        environ = {
            "PATH": "/usr/bin:/bin", "RUST_LOG": "info", "PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": who, "CLUSTER_ID": "Kubernetes",
            "INSTANCE_IP": pod.address, "POD_NAME": name, "POD_NAMESPACE": namespace, "CA_ADDRESS": "https://" + control, "XDS_ADDRESS": "https://" + control,
            "CA_ROOT_CA": roots_path, "XDS_ROOT_CA": roots_path, "AUTH_TOKEN": token_path, "ENABLE_ORIG_SRC": "false", "ISTIO_META_DNS_CAPTURE": "false",
            "TERMINATION_GRACE_PERIOD_SECONDS": "2", "IPV6_ENABLED": "false", **(env or {})}
        argv = ["setpriv", "--reuid=%d" % USER.pw_uid, "--regid=%d" % USER.pw_gid, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
                "env", "-i", *("%s=%s" % e for e in environ.items()), BIN]
        self.process = pod.popen(argv, "ztunnel")

    def _write(self, folder, text, what):
        path = os.path.join(folder, "%s.%s" % (self.name, what))
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o644)
        return path

    def ready(self, timeout_s=30):
        def is_ready():
            assert self.process.poll() is None, self.log()[-4000:]
            return "200" == self.pod.run("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:%d/healthz/ready" % READINESS, check=False)
        wait_until(self.name + " is ready", is_ready, timeout_s)
        return self

    def log(self):
        return self.lab.log(self.name)

    def tunnelled(self, address):
        """Whether a connection to @address went by HBONE, by what its own access log says."""
        return wait_until("the access log of " + self.name, lambda: "dst.hbone_addr=%s:" % address in self.log())
