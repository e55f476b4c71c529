#!/usr/bin/python3
"""The peer of the join benchmark: dials until it is served.

    join_peer.py ZOOKEEPER

It looks a service up first, as a client does: that is what gives it a proxy. Each line on standard input is "ADDRESS PORT"; prints "dialling" once the first attempt has failed, then the time (ns) at which
a connection first brought an answer.
"""

import logging
import socket
import sys
import time

from kazoo.client import KazooClient

logging.disable(logging.CRITICAL)


def attempt(address, timeout_s):
    with socket.socket() as s:
        s.settimeout(timeout_s)
        s.connect(address)
        return s.recv(16) == b"ok"


def dial(address):
    told = False
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if attempt(address, 0.25):
                return time.time_ns()
        except OSError:
            pass
        if not told:
            print("dialling", flush=True)
            told = True
        time.sleep(0.0005)
    return 0


zookeeper = KazooClient(hosts=sys.argv[1], timeout=20)
zookeeper.start()
zookeeper.ensure_path("/services/lookup")
zookeeper.get_children("/services/lookup")
print("ready", flush=True)
for line in sys.stdin:
    host, port = line.split()
    print(dial((host, int(port))), flush=True)
