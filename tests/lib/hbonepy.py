"""HBONE by python-h2 and Python's ssl: a client, a server, and certificates from an Istio control plane."""

import os
import socket
import ssl
import subprocess
import threading

import h2.config
import h2.connection
import h2.events

import grpcpeer

CREATE_CERTIFICATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
PORT = 15008


def issue(folder, name, address, roots, token, cluster="Kubernetes", server_name="istiod.istio-system.svc"):
    """A key and a certificate from istiod for whom @token is. Returns the paths (chain, key)."""
    key, csr, chain = (os.path.join(folder, name + end) for end in (".key", ".csr", ".crt"))
    subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", csr, "-subj", "/"],
                   check=True, stderr=subprocess.DEVNULL)
    with open(csr) as f:
        request = grpcpeer.encode("istio.v1.auth.IstioCertificateRequest", {"csr": f.read(), "validity_duration": 3600})
    conn = grpcpeer.Connection((address, 15012), roots, server_name=server_name)
    try:
        reply = conn.unary(CREATE_CERTIFICATE, request, {"authorization": "Bearer " + token, "clusterid": cluster})
    finally:
        conn.close()
    with open(chain, "w") as f:
        f.write("".join(grpcpeer.decode("istio.v1.auth.IstioCertificateResponse", reply)["cert_chain"][:-1]))
    return chain, key


def context(cert, roots, server):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_REQUIRED
    c.minimum_version = ssl.TLSVersion.TLSv1_3
    c.load_cert_chain(*cert)
    c.load_verify_locations(roots)
    c.set_alpn_protocols(["h2"])
    return c


def identity(sock):
    return dict(sock.getpeercert()["subjectAltName"]).get("URI")


class Tunnel:
    """A connection to somebody's HBONE port."""

    def __init__(self, address, cert, roots, timeout_s=10):
        raw = socket.create_connection((address, PORT), timeout_s)
        self.sock = context(cert, roots, False).wrap_socket(raw)
        self.identity = identity(self.sock)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False))
        self.h2.initiate_connection()
        self.sock.sendall(self.h2.data_to_send())
        self.events = []

    def _next(self, kind, stream):
        while True:
            for i, e in enumerate(self.events):
                if e.stream_id == stream and isinstance(e, kind):
                    return self.events.pop(i)
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the peer closed")
            self.events += [e for e in self.h2.receive_data(data) if getattr(e, "stream_id", None)]
            self.sock.sendall(self.h2.data_to_send())

    def open(self, authority):
        """A stream: the status of its CONNECT, or "reset"."""
        self.stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(self.stream, [(":method", "CONNECT"), (":authority", authority)])
        self.sock.sendall(self.h2.data_to_send())
        e = self._next((h2.events.ResponseReceived, h2.events.StreamReset), self.stream)
        return dict(e.headers)[":status"] if isinstance(e, h2.events.ResponseReceived) else "reset"

    def get(self, keep=False):
        """The body of an HTTP GET through the stream; None when it is cut. @keep: another one can follow."""
        self.h2.send_data(self.stream, b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"" if keep else b"Connection: close\r\n"))
        self.sock.sendall(self.h2.data_to_send())
        data = b""
        while True:
            e = self._next((h2.events.DataReceived, h2.events.StreamEnded, h2.events.StreamReset), self.stream)
            if isinstance(e, h2.events.StreamReset):
                return None
            if isinstance(e, h2.events.DataReceived):
                data += e.data
                self.h2.acknowledge_received_data(e.flow_controlled_length, self.stream)
                self.sock.sendall(self.h2.data_to_send())
            head, _, body = data.decode().partition("\r\n\r\n")
            if isinstance(e, h2.events.StreamEnded) or (keep and "Content-Length: %d\r\n" % len(body) in head + "\r\n" and body):
                return body

    def fetch(self, authority):
        """(status of the CONNECT, body of an HTTP GET through it)."""
        status = self.open(authority)
        return (status, self.get() or "") if status == "200" else (status, "")

    def close(self):
        self.sock.close()


class Server:
    """Takes HBONE at @address and answers each HTTP request in a tunnel by itself: "this is NAME"."""

    def __init__(self, address, name, cert, roots):
        self.answer = ("this is " + name).encode()
        self.context = context(cert, roots, True)
        self.listener = socket.create_server((address, PORT))
        self.seen = []          # (identity of the client, authority)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw):
        try:
            with self.context.wrap_socket(raw, server_side=True) as sock:
                conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_inbound_headers=False))
                conn.initiate_connection()
                sock.sendall(conn.data_to_send())
                while data := sock.recv(65536):
                    for e in conn.receive_data(data):
                        self._on_event(sock, conn, e)
                    sock.sendall(conn.data_to_send())
        except (OSError, h2.exceptions.ProtocolError):
            pass

    def _on_event(self, sock, conn, e):
        if isinstance(e, h2.events.RequestReceived):
            self.seen.append((identity(sock), dict(e.headers)[":authority"]))
            conn.send_headers(e.stream_id, [(":status", "200")])
        elif isinstance(e, h2.events.DataReceived):
            conn.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            if b"\r\n\r\n" in e.data:
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.answer)
                conn.send_data(e.stream_id, head + self.answer)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
