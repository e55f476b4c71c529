"""The other end of gRPC: Google's implementation (grpcio), as server and as client. tools/fetch-grpcio has it.

    grpc_python.py serve [CERT KEY ROOTS]     prints "listening ADDR", serves until stdin ends
    grpc_python.py health ADDR FILE           grpc.health.v1.Health as FILE says: a status' number, or a code's name
    grpc_python.py call TARGET [ROOTS]        runs the conversations below against our server, prints JSON
"""
import json
import sys
import threading
import time
from concurrent import futures

import grpc

OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def read(path):
    with open(path, "rb") as f:
        return f.read()


# --- server ---

def unary(request, context):
    return request


def stream(requests, context):
    for message in requests:
        yield message


def fail(requests, context):
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "100% no,\n\u00e4h")


def serve(tls):
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
        "Fail": grpc.stream_stream_rpc_method_handler(fail),
    }
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peer.Echo", methods),))
    if tls:
        creds = grpc.ssl_server_credentials([(read(tls[1]), read(tls[0]))], read(tls[2]), True)
        port = server.add_secure_port("127.0.0.1:0", creds)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("listening 127.0.0.1:%d" % port, flush=True)
    sys.stdin.read()
    server.stop(1).wait()


def health(address, path):
    def check(request, context):
        said = read(path).decode().strip()
        if request != b"\x0a\x06orders":      # HealthCheckRequest{service: "orders"}
            context.abort(grpc.StatusCode.NOT_FOUND, "another service")
        if not said.isdigit():
            context.abort(grpc.StatusCode[said], "as it was told")
        return bytes([8, int(said)])

    server = grpc.server(futures.ThreadPoolExecutor(4))
    methods = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


# --- client ---

def code_of(call):
    try:
        result = call()
        if hasattr(result, "__iter__") and not isinstance(result, bytes):
            list(result)
    except grpc.RpcError as e:
        return e.code().name, e.details()
    return "OK", ""


def paced(n, size):
    for i in range(n):
        yield bytes([i & 255]) * size


def conversations(channel):
    one = channel.unary_unary("/peer.Echo/Unary")
    many = channel.stream_stream("/peer.Echo/Stream")
    out = {}
    out["unary"] = one(b"hello", timeout=20).decode()
    out["empty"] = len(one(b"", timeout=20))
    out["metadata"] = channel.unary_unary("/peer.Echo/Metadata")(b"", metadata=[("authorization", "Bearer abc")], timeout=20).decode()
    out["fail"] = code_of(lambda: channel.stream_stream("/peer.Echo/Fail")(iter(())))
    out["unknown"] = code_of(lambda: channel.unary_unary("/peer.Echo/Nothing")(b""))[0]
    out["big"] = len(one(b"b" * (4 << 20), timeout=60))
    out["too_large"] = code_of(lambda: one(b"b" * (9 << 20), timeout=60))[0]
    out["compressed"] = code_of(lambda: one(b"c" * 1000, compression=grpc.Compression.Gzip, timeout=20))[0]
    sizes = [len(m) for m in many(paced(2000, 1000), timeout=60)]
    out["stream"] = [len(sizes), sum(sizes)]
    sizes = [len(m) for m in many(paced(40, 1 << 20), timeout=120)]
    out["bulk"] = [len(sizes), sum(sizes)]

    def never_ending():
        yield b"one"
        time.sleep(30)

    out["deadline"] = code_of(lambda: many(never_ending(), timeout=0.3))[0]
    call = many(never_ending())
    next(call)
    call.cancel()
    out["cancelled"] = code_of(lambda: call)[0]

    with futures.ThreadPoolExecutor(64) as pool:        # many calls at a time on one connection
        out["parallel"] = sum(len(r) for r in pool.map(lambda i: one(b"x" * 10, timeout=60), range(2000)))
    return out


def call(target, roots):
    options = OPTIONS + [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
    if roots:
        options.append(("grpc.ssl_target_name_override", "peer.test"))
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(read(roots[0]), *map(read, roots[1:])), options)
    else:
        channel = grpc.insecure_channel(target, options)
    with channel:
        print(json.dumps(conversations(channel)))


if __name__ == "__main__":
    threading.stack_size(256 * 1024)
    if sys.argv[1] == "serve":
        serve(sys.argv[2:])
    elif sys.argv[1] == "health":
        health(*sys.argv[2:])
    else:
        call(sys.argv[2], sys.argv[3:])
