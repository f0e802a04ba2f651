"""grpc_calls serve PORT | call PORT SECONDS: calls, a stream, many at once and 3 MB, of bytes without a schema."""
import hashlib
import json
import sys
import time
from concurrent import futures

import grpc


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test/count":
            return grpc.unary_stream_rpc_method_handler(lambda request, _: (request + b"%d" % i for i in range(1000)))
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request[::-1])


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def call(port, seconds):
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    turn = channel.unary_unary("/test/turn")
    said = [turn(b"%d" % i).decode() for i in range(100)]
    large = bytes(range(250)) * 12_000
    said.append(turn(large) == large[::-1])
    said.append(hashlib.sha256(b"".join(channel.unary_stream("/test/count")(b"n"))).hexdigest())
    said.append(len({future.result() for future in [turn.future(b"%d" % i) for i in range(200)]}))
    start, count = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        turn(b"x")
        count += 1
    return {"said": said, "rate": count / (time.monotonic() - start)}


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    print(json.dumps(call(int(sys.argv[2]), float(sys.argv[3]))))
