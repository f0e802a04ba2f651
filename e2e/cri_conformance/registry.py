"""A registry whose images are private, for as long as its standard input is open: 127.0.0.1:5000/ANY-NAME:1.

Each name is another image, with one file that says the name.

Plain HTTP, which containerd 1.6 accepts on loopback and containerd 2 when hosts.toml says so, and Basic authentication.
Prints "ready" when it listens.
"""
import base64
import hashlib
import http.server
import io
import json
import os
import platform
import sys
import tarfile
import threading

PORT, USER, PASSWORD = 5000, "robot", "open-sesame-7f3a"
HOSTS = f"/etc/containerd/certs.d/127.0.0.1:{PORT}"  # the lab's own, gone with it
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def reference(name):
    return f"127.0.0.1:{PORT}/{name}:1"


def image(name):
    """The blobs and the manifest of an image with one file."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("note")
        entry.size = len(name)
        tar.addfile(entry, io.BytesIO(name.encode()))
    layer = raw.getvalue()
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = json.dumps({"architecture": arch, "os": "linux", "config": {"Cmd": ["/note"]},
                         "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE,
                           "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config), "digest": digest(config)},
                           "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": len(layer), "digest": digest(layer)}]}).encode()
    return {digest(layer): layer, digest(config): config}, manifest


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
            return
        if self.path.count("/") < 4:  # "/v2/": does this speak the protocol?
            self.answer(200)
            return
        name, kind, what = self.path.removeprefix("/v2/").rsplit("/", 2)
        blobs, manifest = image(name)
        if kind == "manifests":
            self.answer(200, manifest, MANIFEST_TYPE, Docker_Content_Digest=digest(manifest))
        elif what in blobs:
            self.answer(200, blobs[what])
        else:
            self.answer(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.makedirs(HOSTS, exist_ok=True)
    with open(os.path.join(HOSTS, "hosts.toml"), "w", encoding="utf-8") as file:
        file.write(f'server = "http://127.0.0.1:{PORT}"\n')
    print("ready", flush=True)
    sys.stdin.read()
