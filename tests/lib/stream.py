#!/usr/bin/python3
"""Connections that last, with data both ways that is compared byte for byte; run inside a namespace.

    stream.py serve ADDRESS PORT NAME             says its name in a line, then gives back what it gets
    stream.py talk ADDRESS PORT COUNT [SECONDS] FILE      COUNT connections until SIGTERM; each lasts some time, or SECONDS, and is followed by another

FILE gets a JSON object a line, like load.py's: {"at", "ms", "who", "error", "bytes"}, and "open": when its other end had been heard of,
or null. A line without an error says that since the one before all bytes were right ("end": and that the connection was ended by us, in
order); "corrupt" begins the error of bytes that were not.
"""

import asyncio
import json
import random
import signal
import sys
import time

STALL_S = 45        # nothing came back for so long: that is a failure
REPORT_S = 0.5


async def echo(reader, writer, name):
    try:
        writer.write(name.encode() + b"\n")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(address, port, name):
    server = await asyncio.start_server(lambda r, w: echo(r, w, name), address, int(port), backlog=512)
    await server.serve_forever()


class Talk:
    """One connection: who is at the other end, what was given back."""

    def __init__(self, file, rng):
        self.file = file
        self.rng = rng
        self.who = self.open = None
        self.bytes = 0
        self.begin = self.told = time.time()

    def tell(self, error=None, end=False):
        # A failure covers the connection's whole life; good news only what is new.
        at = self.begin if error else self.told
        now = time.time()
        self.file.write(json.dumps({"at": at, "ms": (now - at) * 1000, "who": self.who, "open": self.open, "error": error, "bytes": self.bytes, "end": end}) + "\n")
        self.told, self.bytes = now, 0

    async def round(self, reader, writer):
        data = self.rng.randbytes(self.rng.choice((1, 100, 1400, 16384, 65536)))
        writer.write(data)
        got = await asyncio.wait_for(reader.readexactly(len(data)), STALL_S)
        if got != data:
            raise ValueError("corrupt: %d bytes, other from %d on" % (len(data), next(i for i in range(len(data)) if got[i] != data[i])))
        self.bytes += len(data)

    async def run(self, address, port, seconds, stop):
        writer = None
        stage = "connect"
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), STALL_S)
            stage = "greeting"
            self.who = (await asyncio.wait_for(reader.readuntil(b"\n"), STALL_S)).decode().strip()
            self.open = time.time()
            stage = "data"
            while time.time() < self.begin + seconds and not stop.is_set():
                await self.round(reader, writer)
                if time.time() > self.told + REPORT_S:
                    self.tell()
                await asyncio.sleep(self.rng.uniform(0.02, 0.2))
            stage = "end"
            writer.write_eof()
            if await asyncio.wait_for(reader.read(1), STALL_S):
                raise ValueError("corrupt: more than was sent")
            self.tell(end=True)
            return True
        except (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError) as e:
            text = str(e)
            self.tell(text if text.startswith("corrupt") else "%s: %s" % (stage, text or type(e).__name__))
            return False
        finally:
            if writer:
                writer.close()


async def talk(address, port, count, *rest):
    *life, path = rest
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with open(path, "a", buffering=1) as file:
        async def one(i):
            rng = random.Random(i)
            while not stop.is_set():
                if not await Talk(file, rng).run(address, int(port), float(life[0]) if life else rng.uniform(5, 40), stop):
                    await asyncio.sleep(0.2)
        await asyncio.gather(*(one(i) for i in range(int(count))))


asyncio.run({"serve": serve, "talk": talk}[sys.argv[1]](*sys.argv[2:]))
