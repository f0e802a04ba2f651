"""A registry with one private image, for as long as its standard input is open: 127.0.0.1:5000/private/note:1.

Plain HTTP, which runtimes accept on loopback, and Basic authentication. Prints "ready" when it listens.
"""
import base64
import hashlib
import http.server
import io
import json
import platform
import sys
import tarfile
import threading

PORT, USER, PASSWORD = 5000, "robot", "open-sesame-7f3a"
NAME = f"127.0.0.1:{PORT}/private/note:1"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image():
    """The blobs and the manifest of an image with one file."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("note")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    layer = raw.getvalue()
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = json.dumps({"architecture": arch, "os": "linux", "config": {"Cmd": ["/note"]},
                         "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE,
                           "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config), "digest": digest(config)},
                           "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": len(layer), "digest": digest(layer)}]}).encode()
    return {digest(layer): layer, digest(config): config}, manifest


BLOBS, MANIFEST = image()
ALLOWED = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", kind="application/octet-stream", **headers):
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("Authorization") != ALLOWED:
            self.answer(401, WWW_Authenticate='Basic realm="private"')
        elif "/manifests/" in self.path:
            self.answer(200, MANIFEST, MANIFEST_TYPE, Docker_Content_Digest=digest(MANIFEST))
        elif self.path.rsplit("/", 1)[1] in BLOBS:
            self.answer(200, BLOBS[self.path.rsplit("/", 1)[1]])
        else:
            self.answer(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
