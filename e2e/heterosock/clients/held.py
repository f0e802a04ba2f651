"""held PORT PATH: asks for /small over and over on one connection until it is told a line; then for PATH, says "held" when the
answer has begun, and reads on with the next line. Prints what it was."""
import hashlib
import http.client
import select
import sys

one = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
while not select.select([0], [], [], 0)[0]:
    one.request("GET", "/small")
    one.getresponse().read()
sys.stdin.buffer.raw.read(1)
one.request("GET", sys.argv[2])
answer = one.getresponse()
body = answer.read(65536)
print("held", flush=True)
sys.stdin.buffer.raw.read(1)
body += answer.read()
print(answer.status, len(body), hashlib.sha256(body).hexdigest())
