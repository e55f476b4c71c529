"""A real Kubernetes control plane and istiod in a namespace, for tests: nothing of it is ours but the glue.

    lab = Lab("ogi")
    kube = KubeLab(lab)                 # etcd, kube-apiserver, controller-manager; about 5 s
    kube.start_istiod()                 # with its CRDs; about 10 s more
    kube.apply(YAML); kube.kubectl("get", "pods", "-A")
    kube.pod("demo", "client-1", "client", "10.210.0.11", "node-a")      # a pod that no kubelet runs
    lab.close()

No kubelet, no containers, no webhooks. The servers are built by tests/interop/build-server (build/cache/interop).
Everything listens in the namespace "cp", whose bridge br0 (10.210.0.1/24) is the network of all hosts of the lab.
"""

import glob
import json
import os
import shutil
import subprocess

from netlab import wait_until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVERS = os.path.join(TOP, "build", "cache", "interop")
ADDRESS = "10.210.0.1"
ISTIO_NAMESPACE = "istio-system"
POD_NETWORK = "10.210.0.0/24"


def missing():
    """What the lab cannot do without on this machine, as a sentence; None when it has all."""
    if os.geteuid() != 0:
        return "needs root (network namespaces)"
    if not shutil.which("etcd"):
        return "needs etcd: tools/deps tools/deps-interop.txt"
    for name in ("kubernetes", "istiod"):
        if not os.path.exists(os.path.join(SERVERS, name)) and not shutil.which("go"):
            return "needs Go 1.26 to build %s (tests/interop/build-server)" % name
    return None


def build_servers():
    for name in ("kubernetes", "istiod"):
        subprocess.run([os.path.join(TOP, "tests", "interop", "build-server"), name], check=True)


def module_folder(pattern):
    """A file or folder of the Go module that a server was built from."""
    cache = subprocess.run(["go", "env", "GOMODCACHE"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    found = sorted(glob.glob(os.path.join(cache, pattern)))
    if not found:
        raise RuntimeError("not in the Go module cache: " + pattern)
    return found[-1]


class KubeLab:
    def __init__(self, lab, also=()):
        """@also: more addresses under which the servers are reached."""
        self.lab = lab
        self.addresses = [ADDRESS, *also]
        self.dir = os.path.join(lab.dir, "kube")
        os.makedirs(self.dir, exist_ok=True)
        self.program = os.path.join(SERVERS, "kubernetes")
        self.cp = lab.host("cp")
        self.cp.bridge("br0", ADDRESS + "/24")
        self.admin_token = os.urandom(16).hex()
        self.etcd = self.apiserver = self.manager = self.istiod = None
        self._make_keys()
        self.kubeconfig = self.write_kubeconfig("admin", token=self.admin_token)
        self.start_etcd()
        self.start_apiserver()
        self.start_manager()

    # --- files ---

    @staticmethod
    def packaging(name):
        return os.path.join(TOP, "packaging", "kubernetes", name)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    def _openssl(self, *argv):
        subprocess.run(["openssl", *argv], cwd=self.dir, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _make_keys(self):
        self._openssl("genrsa", "-out", "sa.key", "2048")
        self._openssl("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=kubernetes", "-days", "2")
        self.certificate("apiserver", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc,%s" % ",".join("IP:" + a for a in self.addresses))
        self.write("tokens.csv", "%s,admin,1,system:masters\n" % self.admin_token)

    def certificate(self, name, subject, extension="basicConstraints=CA:FALSE"):
        """NAME.pem and NAME.key, signed by the API server's CA: for its clients too."""
        self.write("ext", extension + "\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj",
                      subject)
        self._openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-out",
                      name + ".pem", "-days", "2")

    def write_kubeconfig(self, name, server="https://%s:6443" % ADDRESS, ca=True, **user):
        """A kubeconfig with the fields of @user (token, tokenFile, client_certificate, client_key)."""
        cluster = {"server": server}
        if ca:
            cluster["certificate-authority"] = self.path("ca.pem")
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": {k.replace("_", "-"): v for k, v in user.items()}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
        }
        return self.write("kubeconfig-" + name, json.dumps(config, indent=1))

    # --- servers ---

    def start_etcd(self):
        peer = "http://127.0.0.1:2380"
        self.etcd = self.cp.popen(
            ["etcd", "--data-dir", self.path("etcd"), "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls",
             "http://127.0.0.1:2379", "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
             "--unsafe-no-fsync"], "etcd")

    def start_apiserver(self):
        self.apiserver = self.cp.popen(
            [self.program, "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=6443",
             "--cert-dir=" + self.path("certs"), "--tls-cert-file=" + self.path("apiserver.pem"), "--tls-private-key-file=" + self.path("apiserver.key"),
             "--client-ca-file=" + self.path("ca.pem"), "--advertise-address=" + ADDRESS, "--endpoint-reconciler-type=none",
             "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + self.path("sa.pub"),
             "--service-account-signing-key-file=" + self.path("sa.key"), "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC",
             "--token-auth-file=" + self.path("tokens.csv"), "--disable-admission-plugins=ServiceAccount",
             "--enable-priority-and-fairness=false", "--profiling=false"], "apiserver", env={"GOMEMLIMIT": "600MiB"})
        wait_until("kube-apiserver is ready", self.api_ready, 60)

    def api_ready(self):
        if self.apiserver.poll() is not None:
            raise RuntimeError("kube-apiserver ended: " + self.lab.log("cp.apiserver")[-2000:])
        return self.cp.run("curl", "-sf", "-m", "2", "--cacert", self.path("ca.pem"), "-H", "Authorization: Bearer " + self.admin_token,
                           "https://127.0.0.1:6443/readyz", check=False) == "ok"

    def start_manager(self):
        """Service accounts, slices of endpoints and the collection of garbage are controllers' work."""
        self.manager = self.cp.popen(
            [self.program, "kube-controller-manager", "--kubeconfig=" + self.kubeconfig, "--leader-elect=false", "--secure-port=0",
             "--controllers=endpointslice-controller,garbage-collector-controller,namespace-controller,serviceaccount-controller",
             "--use-service-account-credentials=false"], "manager")

    def apply_crds(self):
        """Istio's; those of the Gateway API are only wanted by waypoints."""
        self._apply_crds(module_folder("istio.io/istio@*/manifests/charts/base/files/crd-all.gen.yaml"))

    def apply_gateway_crds(self):
        self._apply_crds(*sorted(glob.glob(module_folder("sigs.k8s.io/gateway-api@*/config/crd/standard") + "/gateway.networking.k8s.io_*s.yaml")))

    def _apply_crds(self, *files):
        for path in files:
            self.kubectl("apply", "--server-side", "-f", path)
        wait_until("the CRDs are established", self.crds_established, 60)      # `kubectl wait` fails on one without conditions

    def crds_established(self):
        crds = self.get("crd") or []
        return crds and all(any(c["type"] == "Established" and c["status"] == "True" for c in o.get("status", {}).get("conditions") or []) for o in crds)

    def start_istiod(self, crds=True, **env):
        if crds:
            self.apply_crds()
            self.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n" % ISTIO_NAMESPACE)
        mesh = self.write("mesh.yaml", "trustDomain: cluster.local\ndefaultConfig: {discoveryAddress: \"istiod.istio-system.svc:15012\"}\n")
        variables = {
            "HOME": self.dir, "PATH": "/usr/bin:/bin", "POD_NAMESPACE": ISTIO_NAMESPACE, "POD_NAME": "istiod-1", "CLUSTER_ID": "Kubernetes",
            "PILOT_ENABLE_AMBIENT": "true", "ISTIOD_CUSTOM_HOST": "localhost,127.0.0.1," + ",".join(self.addresses), "INJECTION_WEBHOOK_CONFIG_NAME": "",
            "VALIDATION_WEBHOOK_CONFIG_NAME": "", "PILOT_DEBOUNCE_AFTER": "10ms",
            "PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false",   # filters that only Istio's own Envoy has
            "AMBIENT_ENABLE_MULTI_NETWORK_WAYPOINT": "false",   # and listeners of a waypoint
        }
        variables.update(env)
        self.istiod = self.cp.popen(
            ["env", "-i", *("%s=%s" % kv for kv in variables.items()), os.path.join(SERVERS, "istiod"), "discovery", "--kubeconfig",
             self.kubeconfig, "--meshConfig", mesh, "--httpsAddr", "", "--ctrlz_port", "0"], "istiod")
        wait_until("istiod is ready", self.istiod_ready, 60)
        self.roots = self.write("istio-root.pem", wait_until("the ConfigMap istio-ca-root-cert", self.mesh_roots, 30))

    def ensure_istiod(self):
        if self.istiod.poll() is not None:
            self.start_istiod(crds=False)

    def istiod_ready(self):
        if self.istiod.poll() is not None:
            raise RuntimeError("istiod ended: " + self.lab.log("cp.istiod")[-2000:])
        return self.cp.run("curl", "-sf", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:8080/ready", check=False) == "200"

    def mesh_roots(self):
        return self.kubectl("-n", ISTIO_NAMESPACE, "get", "configmap", "istio-ca-root-cert", "-o", "jsonpath={.data.root-cert\\.pem}", check=False)

    # --- objects ---

    def kubectl(self, *argv, check=True, input=None):
        return self.cp.run(self.program, "kubectl", "--kubeconfig", self.kubeconfig, *argv, check=check, input=input)

    def apply(self, text):
        self.kubectl("apply", "-f", "-", input=text)

    def get(self, *argv):
        """Objects as Python: one, or the items of a list. None when there is none."""
        out = self.kubectl("get", *argv, "-o", "json", check=False)
        if not out.strip():
            return None
        value = json.loads(out)
        return value["items"] if value["kind"] == "List" else value

    def token(self, namespace, account, audience=None, duration="1h"):
        argv = ["-n", namespace, "create", "token", account, "--duration", duration]
        return self.kubectl(*argv, *(["--audience", audience] if audience else [])).strip()

    def node(self, name, address=None, pod_cidr=None):
        spec = {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]} if pod_cidr else {}
        self.apply(json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}))
        if address:
            self.status("node", name, {"addresses": [{"type": "InternalIP", "address": address}]})

    def status(self, kind, name, status, namespace=None):
        argv = ["-n", namespace] if namespace else []
        self.kubectl(*argv, "patch", kind, name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))

    def pod(self, namespace, name, account, address, node, labels=None, hbone=True, host_network=False):
        """A pod that no kubelet runs: the object, then its status. @hbone: as istio-cni marks what it has captured."""
        if not self.get("node", node):
            self.node(node)
        annotations = {"ambient.istio.io/redirection": "enabled"} if hbone else {}
        self.apply(json.dumps({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels or {"app": name}, "annotations": annotations},
            "spec": {"nodeName": node, "serviceAccountName": account, "hostNetwork": host_network,
                     "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 8080}]}]}}))
        self.status("pod", name, {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]},
                    namespace)

    def end_pod(self, namespace, name):
        self.kubectl("-n", namespace, "delete", "pod", name, "--force", "--grace-period=0", "--ignore-not-found")

    def stop(self, process):
        self.lab.stop(process, 20)

    def restart_apiserver(self):
        self.stop(self.apiserver)
        self.start_apiserver()


def wait_for_account(kube, namespace, account="default"):
    return wait_until("service account %s/%s" % (namespace, account), lambda: kube.get("-n", namespace, "serviceaccount", account), 60)
