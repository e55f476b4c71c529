"""Certificates that an honest authority would not issue, or that are nobody's business: on both sides of HBONE.

Each is shown by a client to a VM's listener, and by a server that a VM calls. Who is refused has his reason in the log and in a counter.
"""
import datetime
import ipaddress
import pathlib
import socket
import ssl
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from badserver import BAD, WELL, BadServer, Mesh, Peer  # noqa: E402
from h2raw import Raw  # noqa: E402
from meshlab import wait_for  # noqa: E402
from wirelab import WAIT_S  # noqa: E402

DAY = datetime.timedelta(days=1)
API = "spiffe://example.org/ns/shop/sa/api"            # whom the VM expects where it calls; as a client it may be anybody of the mesh


def name_of(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


class Authority:
    """Signs whatever it is told to, with a key of somebody else's."""

    def __init__(self, folder, name="ca", cert="roots"):
        folder = pathlib.Path(folder)
        self.key = serialization.load_pem_private_key((folder / (name + ".key")).read_bytes(), None)
        self.cert = x509.load_pem_x509_certificate((folder / (cert + ".pem")).read_bytes())

    def issue(self, key, uris=(API,), names=(), ca=False, usage=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH), since=-DAY, until=DAY, more=(),
              serial=None, subject="peer"):
        now = datetime.datetime.utcnow()
        b = x509.CertificateBuilder().subject_name(name_of(subject)).issuer_name(self.cert.subject).public_key(key.public_key())
        b = b.serial_number(serial or x509.random_serial_number()).not_valid_before(now + since).not_valid_after(now + until)
        sans = [x509.UniformResourceIdentifier(u) for u in uris] + list(names)
        if sans:
            b = b.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        if usage:
            b = b.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        b = b.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        for extension, critical in more:
            b = b.add_extension(extension, critical)
        return b.sign(self.key, None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def p256():
    return ec.generate_private_key(ec.SECP256R1())


def plain(**kw):
    def make(authority):
        key = p256()
        return key, [authority.issue(key, **kw)]
    return make


def of_key(new_key):
    def make(authority):
        key = new_key()
        return key, [authority.issue(key)]
    return make


def by_a_leaf(authority):
    """A VM whose certificate signs another one: it is no authority."""
    middle, key = p256(), p256()
    parent = authority.issue(middle, subject="middle")
    below = Authority.__new__(Authority)
    below.key, below.cert = middle, parent
    return key, [below.issue(key), parent]


def by_an_intermediate(authority):
    middle, key = p256(), p256()
    parent = authority.issue(middle, uris=(), usage=(), ca=True, subject="intermediate")
    below = Authority.__new__(Authority)
    below.key, below.cert = middle, parent
    return key, [below.issue(key), parent]


def by_itself(authority):
    """With the root's name, and a key of its own."""
    key = p256()
    itself = Authority.__new__(Authority)
    itself.key, itself.cert = key, authority.cert
    return key, [itself.issue(key, ca=True)]


def with_many(n):
    def make(authority):
        key = p256()
        return key, [authority.issue(key)] + [authority.issue(p256(), uris=(), ca=True, subject="c%d" % i) for i in range(n)]
    return make


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\4\1x")
MANY_NAMES = [x509.DNSName("host-%05d.example.org" % i) for i in range(2000)]

GOOD = {
    "plain": plain(),
    "names-by-the-thousand": plain(names=MANY_NAMES),
    "by-an-intermediate": by_an_intermediate,
    "other-names-beside-it": plain(names=[x509.DNSName("api.example"), x509.IPAddress(ipaddress.ip_address("192.0.2.1")), x509.RFC822Name("a@b.c")]),
    "an-unknown-extension": plain(more=[(UNKNOWN, False)]),
    "ed25519": of_key(ed25519.Ed25519PrivateKey.generate),
    "p521": of_key(lambda: ec.generate_private_key(ec.SECP521R1())),
    "rsa-2048": of_key(lambda: rsa.generate_private_key(65537, 2048)),
    "others-in-the-chain": with_many(20),
    "a-serial-of-20-bytes": plain(serial=(1 << 159) - 1),
}

BOTH = "client, server"         # who shows it
BAD_ONES = {
    "expired": (plain(since=-2 * DAY, until=-DAY), "expired", BOTH),
    "of-tomorrow": (plain(since=DAY, until=2 * DAY), "not valid yet", "client"),
    "two-identities": (plain(uris=(API, "spiffe://example.org/ns/shop/sa/web")), "more than one URI", BOTH),
    "the-same-twice": (plain(uris=(API, API)), "more than one URI", "client"),
    "another-uri-beside-it": (plain(uris=(API, "https://example.org/")), "more than one URI", "client"),
    "no-name": (plain(uris=()), "without SPIFFE ID", "client"),
    "another-kind-of-uri": (plain(uris=("https://example.org/ns/shop/sa/api",)), "without SPIFFE ID", "client"),
    "upper-case": (plain(uris=(API.replace("spiffe", "SPIFFE"),)), "without SPIFFE ID", "client"),
    "another-trust-domain": (plain(uris=(API.replace("example.org", "example.com"),)), "expected ", "client"),
    "a-longer-trust-domain": (plain(uris=(API.replace("example.org", "example.org.evil.com"),)), "expected ", BOTH),
    "a-port": (plain(uris=(API.replace("example.org", "example.org:443"),)), "malformed", "client"),
    "a-user": (plain(uris=(API.replace("example.org", "x@example.org"),)), "malformed", "client"),
    "dots": (plain(uris=(API.replace("/api", "/x/../api"),)), "malformed", "client"),
    "percent": (plain(uris=(API.replace("api", "%61pi"),)), "malformed", "client"),
    "a-query": (plain(uris=(API + "?x=y",)), "malformed", "client"),
    "a-nul": (plain(uris=(API + "\0.example.com",)), "malformed", "client"),
    "a-slash-at-its-end": (plain(uris=(API + "/",)), "malformed", "client"),
    "very-long": (plain(uris=(API + "x" * 5000,)), "malformed", "client"),
    "an-authority": (plain(ca=True), "authority presented itself", BOTH),
    "by-a-leaf": (by_a_leaf, "certificate of", BOTH),
    "by-itself": (by_itself, "unknown CA", "client"),
    "for-mail": (plain(usage=(ExtendedKeyUsageOID.EMAIL_PROTECTION,)), "purpose", "client"),
    "a-critical-extension": (plain(more=[(UNKNOWN, True)]), "critical", "client"),
    "not-for-signatures": (plain(more=[(x509.KeyUsage(False, False, False, False, False, False, True, False, False), True)]), "purpose", "client"),
    "rsa-1024": (of_key(lambda: rsa.generate_private_key(65537, 1024)), "key too weak", "client"),
    "a-chain-of-400": (with_many(400), "excessive message size", BOTH),
    "for-clients-only": (plain(usage=(ExtendedKeyUsageOID.CLIENT_AUTH,)), "purpose", "server"),
    "for-servers-only": (plain(usage=(ExtendedKeyUsageOID.SERVER_AUTH,)), "purpose", "client"),
}


NO_IDENTITY = ["a-chain-of-400"]        # that anybody would have looked at


class Shown:
    """A certificate and its key as files, and contexts with them."""

    def __init__(self, mesh, name, make):
        key, chain = make(Authority(mesh.dir))
        self.chain, self.key, self.roots = mesh.dir / (name + ".chain"), mesh.dir / (name + ".key"), mesh.dir / "roots.pem"
        self.chain.write_bytes(b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain))
        self.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    def context(self, server=False):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname = False
        c.verify_mode = ssl.CERT_REQUIRED
        c.minimum_version = ssl.TLSVersion.TLSv1_3
        c.set_ciphers("DEFAULT:@SECLEVEL=0")
        c.load_cert_chain(self.chain, self.key)
        c.load_verify_locations(self.roots)
        c.set_alpn_protocols(["h2"])
        return c

    def connect(self):
        return self.context().wrap_socket(socket.create_connection((WELL, 15008), timeout=WAIT_S))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    m = Mesh(tmp_path_factory.mktemp("certs"))
    yield m
    m.stop()


def taken_as_client(mesh, shown):
    try:
        with Raw(shown) as raw:
            raw.open(1, "%s:%d" % (WELL, mesh.app.port))
            return raw.status(1) == "200"
    except (EOFError, OSError):
        return False


def taken_as_server(mesh, shown):
    """The VM's application hears what the server says to its CONNECT."""
    requests = []

    def raw(sock, wrap):
        peer = Peer(wrap(sock))
        peer.begin()
        s = peer.request()
        requests.append(s)
        peer.send(peer.status(s))
        peer.echo(s)

    server = BadServer(BAD, mesh.dir, "b", raw=raw)
    server.context = shown.context(server=True)
    try:
        heard = wait_for(lambda: [h for h in [mesh.heard()] if server.n], WAIT_S, why="a connection")[0]
        assert bool(requests) == (heard == b"hello")
        return heard == b"hello"
    finally:
        server.close()


@pytest.mark.parametrize("name", GOOD)
def test_certificates_that_are_unusual_and_right(mesh, name):
    shown = Shown(mesh, name, GOOD[name])
    assert taken_as_client(mesh, shown)
    assert taken_as_server(mesh, shown)


def refusals(proxy, vm):
    return proxy.metric("outrigger_vm_tls_refused_total", vm=vm)


@pytest.mark.parametrize("name", [name for name, (_, _, sides) in BAD_ONES.items() if "client" in sides])
def test_clients_with_wrong_certificates(mesh, name):
    make, words, _ = BAD_ONES[name]
    before, at = refusals(mesh.well, "w"), len(mesh.well.log.read_text())
    assert not taken_as_client(mesh, Shown(mesh, name, make))
    if name not in NO_IDENTITY:
        wait_for(lambda: refusals(mesh.well, "w") == before + 1, WAIT_S, why="the counter")
    lines = [line for line in mesh.well.log.read_text()[at:].splitlines() if "tunnel ended by a fault of the peer" in line]
    if lines:                           # their number is limited
        assert words in lines[0] and "vm=w" in lines[0]
    assert mesh.neighbour_works()


@pytest.mark.parametrize("name", [name for name, (_, _, sides) in BAD_ONES.items() if "server" in sides])
def test_servers_with_wrong_certificates(mesh, name):
    make, words, _ = BAD_ONES[name]
    before = refusals(mesh.proxy, "a")
    assert not taken_as_server(mesh, Shown(mesh, name, make))
    if name not in NO_IDENTITY:
        wait_for(lambda: refusals(mesh.proxy, "a") > before, WAIT_S, why="the counter")
    wait_for(lambda: any(words in line.get("error", "") for line in mesh.proxy.access()), WAIT_S, why=words)
    assert mesh.neighbour_works()
