"""CRI v1 over a Unix socket, from our own proto/cri/v1/cri.proto, which is compiled on the way.

    cri = Cri("/run/containerd/containerd.sock")
    pod = cri.RunPodSandbox(config=…).pod_sandbox_id      # a method per RPC; keywords are the request's fields
    cri.raw("/runtime.v1.RuntimeService/New", b"")        # any method, any bytes

Every call has a deadline. A failure is a CriError with .code (a name: "NOT_FOUND") and .text.
"""
import os
import subprocess
import sys
import tempfile

import grpc

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAX_BYTES = 64 << 20


def _compile():
    with tempfile.TemporaryDirectory(prefix=f"hkcri{os.getpid()}-") as folder:
        subprocess.run(["protoc", f"-I{ROOT}/proto/cri/v1", f"--python_out={folder}", "cri.proto"], check=True)
        sys.path.insert(0, folder)
        try:
            import cri_pb2
        finally:
            sys.path.pop(0)
    return cri_pb2


pb = _compile()


class CriError(Exception):
    def __init__(self, method, code, text):
        super().__init__(f"{method}: {code}: {text}")
        self.code, self.text = code, text


class Cri:
    def __init__(self, socket, seconds=30):
        self.seconds = seconds
        self.channel = grpc.insecure_channel(f"unix:{socket}", options=[
            ("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", MAX_BYTES),
            ("grpc.max_send_message_length", MAX_BYTES)])
        for service in pb.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                setattr(self, method.name, self._method(f"/{service.full_name}/{method.name}", method))

    def _method(self, path, method):
        request_type = getattr(pb, method.input_type.name)
        response_type = getattr(pb, method.output_type.name)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        stub = kind(path, request_serializer=request_type.SerializeToString, response_deserializer=response_type.FromString)

        def call(request=None, seconds=None, **fields):
            try:
                return stub(request or request_type(**fields), timeout=seconds or self.seconds)
            except grpc.RpcError as error:
                raise CriError(method.name, error.code().name, error.details()) from None
        return call

    def raw(self, path, data, seconds=10):
        try:
            return self.channel.unary_unary(path)(data, timeout=seconds)
        except grpc.RpcError as error:
            raise CriError(path, error.code().name, error.details()) from None

    def stream(self, path, data=b"", seconds=10):
        """All messages of a call with many answers."""
        try:
            return list(self.channel.unary_stream(path)(data, timeout=seconds))
        except grpc.RpcError as error:
            raise CriError(path, error.code().name, error.details()) from None
