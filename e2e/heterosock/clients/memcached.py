"""memcached PORT SECONDS: sets and gets values of all sizes, then as many round trips as it can."""
import hashlib
import json
import socket
import sys
import time

s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
f = s.makefile("rb")
digest = hashlib.sha256()
for i in range(300):
    value = bytes([i % 251]) * (i * i % 60_000)
    s.sendall(b"set k%d 0 0 %d\r\n%s\r\n" % (i, len(value), value))
    digest.update(f.readline())
for i in range(300):
    s.sendall(b"get k%d\r\n" % i)
    head = f.readline()
    digest.update(head + f.read(int(head.split()[3]) + 2) + f.readline())
s.sendall(b"".join(b"get k%d\r\n" % i for i in range(20)))  # a pipeline
for i in range(20):
    head = f.readline()
    digest.update(head + f.read(int(head.split()[3]) + 2) + f.readline())
count, end = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    s.sendall(b"get k3\r\n")
    head = f.readline()
    f.read(int(head.split()[3]) + 2)
    f.readline()
    count += 1
print(json.dumps({"said": digest.hexdigest(), "rate": count / float(sys.argv[2])}))
