"""http_server serve PORT | call PORT SECONDS: Python's http.server, a thread for each connection, over files and keep-alive."""
import hashlib
import http.client
import http.server
import json
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(b"g" * int(self.path[1:]))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(hashlib.sha256(body).hexdigest().encode())

    def log_message(self, *_):
        pass


def call(port, seconds):
    said = []
    one = http.client.HTTPConnection("127.0.0.1", port)
    for size in (0, 1, 1000, 70_000, 2_000_000):
        one.request("GET", f"/{size}")
        said.append(len(one.getresponse().read()))
        one.request("POST", "/", body=b"p" * size)
        said.append(one.getresponse().read().decode())
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        one.request("GET", "/100")
        one.getresponse().read()
        count += 1
    print(json.dumps({"said": said, "rate": count / seconds}))


if sys.argv[1] == "serve":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
else:
    call(int(sys.argv[2]), float(sys.argv[3]))
