"""A gRPC peer that shares no code with ours: Python's ssl, python3-h2, and protoc for the messages.

    conn = Connection(("127.0.0.1", 15030), roots="roots.pem", cert=("cert.pem", "key.pem"))
    status, reply = conn.unary("/outrigger.v1.Provisioner/Enroll", encode("outrigger.v1.EnrollRequest", {"nic_id": "a"}))
    stream = conn.stream(PATH, {"authorization": "Bearer ..."}); stream.send(b"..."); stream.receive()
"""

import json
import os
import re
import socket
import ssl
import struct
import subprocess
import time

import h2.config
import h2.connection
import h2.events

PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "proto")
FILES = ["outrigger/provisioner.proto", "outrigger/revocation.proto", "envoy/discovery.proto", "envoy/endpoint.proto",
         "istio/ca.proto", "istio/workload.proto", "istio/authorization.proto"]


def _protoc(verb, message, data):
    r = subprocess.run(["protoc", "--proto_path=" + PROTO, "--%s=%s" % (verb, message)] + FILES, input=data, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE)
    if r.returncode:
        raise ValueError("protoc %s %s: %s" % (verb, message, r.stderr.decode()))
    return r.stdout


def _text(value, indent=""):
    """A dict in protobuf's text format. Enum values are given as Name("...")."""
    out = []
    for key, v in value.items():
        for item in v if isinstance(v, list) else [v]:
            if isinstance(item, dict):
                out.append("%s%s {\n%s%s}\n" % (indent, key, _text(item, indent + "  "), indent))
            elif isinstance(item, bool):
                out.append("%s%s: %s\n" % (indent, key, "true" if item else "false"))
            elif isinstance(item, bytes):
                out.append('%s%s: "%s"\n' % (indent, key, "".join("\\%03o" % b for b in item)))
            elif isinstance(item, int):
                out.append("%s%s: %d\n" % (indent, key, item))
            else:
                out.append("%s%s: %s\n" % (indent, key, json.dumps(item)))
    return "".join(out)


def encode(message, value):
    return _protoc("encode", message, _text(value).encode())


def _unescape(text):
    return re.sub(rb"\\([0-7]{3}|.)", lambda m: bytes([int(m.group(1), 8)]) if len(m.group(1)) == 3 else
                  {b"n": b"\n", b"t": b"\t", b"r": b"\r"}.get(m.group(1), m.group(1)), text)


def decode(message, data):
    """A dict of lists: {"field": [value, ...]}; texts are str where they are UTF-8, else bytes."""
    root, stack = {}, []
    at = root
    for line in _protoc("decode", message, data).split(b"\n"):
        line = line.strip()
        if not line:
            continue
        if line.endswith(b"{"):
            child = {}
            at.setdefault(line[:-1].strip().decode(), []).append(child)
            stack.append(at)
            at = child
        elif line == b"}":
            at = stack.pop()
        else:
            key, v = line.split(b": ", 1)
            if v.startswith(b'"'):
                raw = _unescape(v[1:-1])
                try:
                    v = raw.decode()
                except UnicodeDecodeError:
                    v = raw
            else:
                v = v.decode()
                v = int(v) if re.fullmatch(r"-?\d+", v) else v
            at.setdefault(key.decode(), []).append(v)
    return root


class Ended(Exception):
    """The call has ended with a status."""

    def __init__(self, status, message, trailers=None):
        super().__init__("grpc-status %s: %s" % (status, message))
        self.status = status
        self.message = message
        self.trailers = trailers or {}


class Call:
    def __init__(self, conn, path, metadata):
        self.conn = conn
        self.id = conn.h2.get_next_available_stream_id()
        self.buffer = b""
        self.messages = []
        self.trailers = None
        conn.calls[self.id] = self
        headers = [(":method", "POST"), (":scheme", "https"), (":authority", "controller"), (":path", path), ("te", "trailers"),
                   ("content-type", "application/grpc")] + list((metadata or {}).items())
        conn.h2.send_headers(self.id, headers)
        conn.flush()

    def send(self, data):
        frame = struct.pack(">BI", 0, len(data)) + data
        while frame:
            n = min(self.conn.h2.local_flow_control_window(self.id), self.conn.h2.max_outbound_frame_size, len(frame))
            if n <= 0:
                self.conn.pump(5)
                continue
            self.conn.h2.send_data(self.id, frame[:n])
            frame = frame[n:]
        self.conn.flush()

    def half_close(self):
        self.conn.h2.end_stream(self.id)
        self.conn.flush()

    def _take(self, data):
        self.buffer += data
        while len(self.buffer) >= 5:
            n = struct.unpack(">I", self.buffer[1:5])[0]
            if len(self.buffer) < 5 + n:
                break
            self.messages.append(self.buffer[5:5 + n])
            self.buffer = self.buffer[5 + n:]

    def receive(self, timeout_s=10):
        """The next message. Raises Ended, or TimeoutError."""
        end = time.monotonic() + timeout_s
        while not self.messages:
            if self.trailers is not None:
                raise Ended(int(self.trailers.get("grpc-status", "-1")), self.trailers.get("grpc-message", ""), self.trailers)
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("no message")
            self.conn.pump(left)
        return self.messages.pop(0)

    def status(self, timeout_s=10):
        try:
            while True:
                self.receive(timeout_s)
        except Ended as e:
            return e

    def quiet(self, seconds):
        """True if nothing comes for so long."""
        try:
            self.messages.insert(0, self.receive(seconds))
            return False
        except TimeoutError:
            return True

    def cancel(self):
        self.conn.h2.reset_stream(self.id)
        self.conn.flush()


class Connection:
    def __init__(self, address, roots, cert=None, server_name="outrigger-controller"):
        context = ssl.create_default_context(cafile=roots)
        context.set_alpn_protocols(["h2"])
        if cert:
            context.load_cert_chain(*cert)
        raw = socket.create_connection(address, 10)
        self.sock = context.wrap_socket(raw, server_hostname=server_name)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(16 << 20)
        self.h2.update_settings({4: 8 << 20})
        self.calls = {}
        self.flush()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def _on_event(self, e):
        call = self.calls.get(getattr(e, "stream_id", None))
        if isinstance(e, h2.events.DataReceived):
            self.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            if call:
                call._take(e.data)
        elif call and isinstance(e, h2.events.ResponseReceived):
            headers = dict(e.headers)
            if "grpc-status" in headers:
                call.trailers = headers
        elif call and isinstance(e, h2.events.TrailersReceived):
            call.trailers = dict(e.headers)
        elif call and isinstance(e, h2.events.StreamReset):
            call.trailers = call.trailers or {"grpc-status": "1", "grpc-message": "reset"}

    def pump(self, timeout_s):
        self.sock.settimeout(max(timeout_s, 0.001))
        try:
            data = self.sock.recv(65536)
        except (socket.timeout, ssl.SSLWantReadError):
            return
        except (ConnectionError, ssl.SSLError, OSError):
            data = b""
        if not data:
            for call in self.calls.values():
                call.trailers = call.trailers or {"grpc-status": "14", "grpc-message": "connection closed"}
            return
        for e in self.h2.receive_data(data):
            self._on_event(e)
        self.flush()

    def stream(self, path, metadata=None):
        return Call(self, path, metadata)

    def unary(self, path, data, metadata=None, timeout_s=10):
        """The reply. Raises Ended where the status is not OK."""
        call = Call(self, path, metadata)
        call.send(data)
        call.half_close()
        reply = call.receive(timeout_s)
        end = call.status(timeout_s)
        if end.status:
            raise end
        return reply

    def close(self):
        self.sock.close()
