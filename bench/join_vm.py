#!/usr/bin/python3
"""A "VM" of the join benchmark: serves ports, registers itself in a real ZooKeeper by kazoo, as told on standard input.

    join_vm.py ZOOKEEPER ADDRESS PORT...

    register NAME PORT      prints the time (ns) just before the request leaves
    deregister NAME PORT
"""

import asyncio
import json
import logging
import sys
import time

from kazoo.client import KazooClient

logging.disable(logging.CRITICAL)


async def serve(reader, writer):
    writer.write(b"ok")
    await writer.drain()
    writer.close()


async def main():
    zookeeper, address, *ports = sys.argv[1:]
    for p in ports:
        await asyncio.start_server(serve, address, int(p))
    zk = KazooClient(hosts=zookeeper, timeout=20)
    zk.start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while True:
        line = (await reader.readline()).decode().split()
        if not line:
            return
        verb, name, port = line
        path = "/services/%s/%s-%s" % (name, address, port)
        if verb == "register":
            zk.ensure_path("/services/" + name)
            data = json.dumps({"name": name, "id": "%s-%s" % (address, port), "address": address, "port": int(port)}).encode()
            at = time.time_ns()
            zk.create(path, data, ephemeral=True)
            print(at, flush=True)
        else:
            zk.delete(path)
            print("gone", flush=True)


asyncio.run(main())
