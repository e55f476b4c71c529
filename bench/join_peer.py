#!/usr/bin/python3
"""The peer of the join benchmark: dials until it is served.

    join_peer.py

Each line on standard input is "ADDRESS PORT"; prints "dialling" once the first attempt has failed, then the time (ns) at which
a connection first brought an answer.
"""

import socket
import sys
import time


def attempt(address, timeout_s):
    with socket.socket() as s:
        s.settimeout(timeout_s)
        s.connect(address)
        return s.recv(16) == b"ok"


def dial(address):
    told = False
    deadline = time.monotonic() + 60
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


for line in sys.stdin:
    host, port = line.split()
    print(dial((host, int(port))), flush=True)
