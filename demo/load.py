#!/usr/bin/python3
"""An open-loop HTTP client: so many requests a second, each on a connection of its own, and what became of each.

    load.py URL RATE SECONDS [--timeout S] [--each FILE]      prints one JSON object; SIGTERM ends it early

Open loop: a request starts when its time has come, whether or not the ones before it are done.
"""

import argparse
import asyncio
import json
import re
import signal
import time
from urllib.parse import urlsplit


async def one(host, port, path, timeout):
    """Returns (who answered, None) or (None, error); "sent" says whether the request was out before it failed."""
    writer = None
    stage = "connect"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            stage = "request"
            writer.write(("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (path, host)).encode())
            await writer.drain()
            answer = await reader.read(-1)
        if not answer:
            return None, "%s: closed without an answer" % stage
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status != 200:
            return None, "HTTP %d" % status
        who = re.match(rb"(?:a slow )?hello from ([\w-]+)", body)
        return (who.group(1).decode() if who else "?"), None
    except (OSError, ValueError, IndexError, asyncio.TimeoutError, asyncio.IncompleteReadError) as e:
        return None, "%s: %s" % (stage, e or type(e).__name__)
    finally:
        if writer:
            writer.close()


async def load(args):
    url = urlsplit(args.url)
    results = []
    each = open(args.each, "a", buffering=1) if args.each else None     # what is still going on can be watched
    tasks = set()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def run(start):
        who, error = await one(url.hostname, url.port or 80, url.path or "/", args.timeout)
        results.append({"at": start, "ms": (time.time() - start) * 1000, "who": who, "error": error})
        if each:
            each.write(json.dumps(results[-1]) + "\n")

    begin = time.monotonic()
    n = 0
    while not stop.is_set() and n < args.rate * args.seconds:
        due = begin + n / args.rate
        delay = due - time.monotonic()
        if delay > 0:
            try:
                await asyncio.wait_for(stop.wait(), delay)
                break
            except asyncio.TimeoutError:
                pass
        task = asyncio.create_task(run(time.time()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        n += 1
    if tasks:
        await asyncio.wait(tasks)
    return results


def summary(results):
    who = {}
    for r in results:
        if r["who"]:
            who[r["who"]] = who.get(r["who"], 0) + 1
    ms = sorted(r["ms"] for r in results if not r["error"])
    failures = [r for r in results if r["error"]]
    return {"requests": len(results), "failed": len(failures), "who": who, "failures": sorted(failures, key=lambda r: r["at"])[:50],
            "p50_ms": ms[len(ms) // 2] if ms else None, "p99_ms": ms[int(len(ms) * 0.99)] if ms else None}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--timeout", type=float, default=5)
    parser.add_argument("--each", help="a file that gets a line for each request when it has ended")
    print(json.dumps(summary(asyncio.run(load(parser.parse_args())))), flush=True)


main()
