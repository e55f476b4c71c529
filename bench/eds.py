"""Endpoints for Envoy: a delta ADS server that speaks grpcio (tools/fetch-grpcio has it) and encodes by hand (tests/lib/pbwire.py).

    eds.py PORT SERVICES EACH       prints "ready", then "loaded" once all services were acknowledged, and for each line
    COUNT TOGETHER                  that it reads: COUNT changes of one endpoint's address, TOGETHER services an answer, each
                                    answer acknowledged before the next; prints "done", or "refused" and why

Field numbers are those of envoy/service/discovery/v3/discovery.proto and envoy/config/endpoint/v3/endpoint.proto.
"""

import os
import queue
import sys
from concurrent import futures

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "lib"))

from pbwire import field, fields  # noqa: E402

TYPE = b"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
METHOD = ("envoy.service.discovery.v3.AggregatedDiscoveryService", "DeltaAggregatedResources")


class Server:
    def __init__(self, services, each):
        self.services, self.each = services, each
        self.moved = [0] * services         # how often an endpoint of it has changed its address
        self.nonce = 0
        self.heard = queue.Queue()          # (nonce, why it was refused or None)
        self.out = queue.Queue()
        self.sent = {}                      # nonce: services in it
        self.n_acknowledged = 0

    def assignment(self, s):
        endpoints = b""
        for e in range(self.each):
            n = s * self.each + e
            net = 2 + self.moved[s] % 2 if e == self.each // 2 else 1
            where = field(2, b"10.%d.%d.%d" % (net, n // 256, n % 256)) + field(3, 8080)
            endpoints += field(2, field(1, field(1, field(1, where))))
        return field(1, b"b%d" % s) + field(2, endpoints)

    def send(self, numbers):
        """One answer with these services."""
        self.nonce += 1
        self.sent[self.nonce] = len(numbers)
        body = b"".join(field(2, field(1, b"%d.%d" % (s, self.moved[s])) + field(3, b"b%d" % s) +
                              field(2, field(1, TYPE) + field(2, self.assignment(s)))) for s in numbers)
        self.out.put(body + field(4, TYPE) + field(5, b"%d" % self.nonce))

    def settle(self):
        """Waits for an acknowledgement."""
        nonce, why = self.heard.get(timeout=120)
        if why is not None:
            print("refused: %r" % why, flush=True)
            sys.exit(1)
        self.n_acknowledged += self.sent.pop(nonce)

    def stream(self, requests, context):
        def listen():
            for request in requests:
                wanted, nonce, why = [], None, None
                for number, value in fields(request):
                    if number == 3:
                        wanted.append(int(value[1:]))
                    elif number == 6:
                        nonce = int(value or 0)
                    elif number == 7:
                        why = value
                if wanted:
                    self.out.put(wanted)
                if nonce:
                    self.heard.put((nonce, why))
        futures.ThreadPoolExecutor(1).submit(listen)
        while True:
            item = self.out.get()
            if isinstance(item, list):      # asked for
                self.send(item)
            else:
                yield item


def main():
    port, services, each = (int(a) for a in sys.argv[1:])
    s = Server(services, each)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    handler = grpc.stream_stream_rpc_method_handler(s.stream)      # bytes in, bytes out
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHOD[0], {METHOD[1]: handler}),))
    server.add_insecure_port("127.0.0.1:%d" % port)
    server.start()
    print("ready", flush=True)
    while s.n_acknowledged < services:
        s.settle()
    print("loaded", flush=True)
    for line in sys.stdin:
        count, together = (int(w) for w in line.split())
        for i in range(0, count, together):
            numbers = [k % services for k in range(i, i + together)]
            for n in numbers:
                s.moved[n] += 1
            s.send(numbers)
            s.settle()
        print("done", flush=True)
    server.stop(1)


main()
