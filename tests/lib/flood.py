#!/usr/bin/python3
"""What a bad neighbour does to a proxy; run inside a namespace. Says "ready" when it is at it, and ends with its standard input.

    flood.py idle ADDRESS PORT COUNT         opens that many connections, and holds those that it is given
    flood.py slow ADDRESS PORT COUNT [TEXT]  the same, asks with TEXT, and reads nothing of what is sent to it
    flood.py garbage ADDRESS PORT COUNT      connections with senseless bytes, one after the other, some at once
    flood.py strangers ADDRESS PORT COUNT    connections that say nothing: what a handshake begins with never comes
    flood.py dials ADDRESS PORT COUNT        new connections without end, COUNT at once
"""

import os
import random
import resource
import select
import socket
import sys


def over():
    return select.select([sys.stdin], [], [], 0)[0]


def start(address, port):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((address, int(port)))
    return s


def open_all(address, port, count, rcvbuf=None):
    """Some at once: a listener's queue is no longer than it is."""
    done, coming = [], []
    p = select.poll()
    for _ in range(count):
        s = socket.socket()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.setblocking(False)
        s.connect_ex((address, port))
        coming.append(s)
        if len(coming) == 200:
            wait(p, coming)
            done += coming
            coming = []
    wait(p, coming)
    return done + coming


def wait(p, socks):
    left = {s.fileno() for s in socks}
    for fd in left:
        p.register(fd, select.POLLOUT)
    while left:
        for fd, _ in p.poll(10000) or [(fd, 0) for fd in left]:
            p.unregister(fd)
            left.discard(fd)


def hold(address, port, count, says, rcvbuf=None):
    socks = open_all(address, port, count, rcvbuf)
    for s in socks:
        try:
            s.send(says)
        except OSError:
            pass            # one that was refused
    print("ready", flush=True)
    sys.stdin.read()
    return socks


def endless(address, port, count, says):
    said = False
    while not over():
        socks = [start(address, port) for _ in range(count)]
        wait(select.poll(), socks)
        for s in socks:
            try:
                s.send(says())
            except OSError:
                pass
            s.close()
        if not said:
            print("ready", flush=True)
        said = True


def senseless(rng=random.Random(1)):
    return bytes(rng.getrandbits(8) for _ in range(rng.choice((5, 40, 300))))


def main(what, address, port, count, text="more"):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    to = (address, int(port), int(count))
    if what == "idle":
        hold(*to, b"x")
    elif what == "slow":
        hold(*to, text.encode(), 4096)
    elif what == "strangers":
        hold(*to, b"")
    elif what == "garbage":
        endless(*to, senseless)
    elif what == "dials":
        endless(*to, lambda: b"")
    else:
        sys.exit(__doc__)
    os._exit(0)             # without closing thousands of descriptors one by one


if __name__ == "__main__":
    main(*sys.argv[1:])
