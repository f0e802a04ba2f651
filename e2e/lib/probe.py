#!/usr/bin/env python3
"""A program with sockets, run inside a Pod's namespace by the tests. Prints one JSON object a line.

  probe.py serve tcp:0.0.0.0:0 udp:[::1]:5353 …   prints {"ready": [ports]}, answers each call with what it sees, until
                                                  its standard input closes
  probe.py call tcp 127.0.0.1 8080 [SOURCE]       one call; {"ok", "error", "reply", "peer", "name", "us"}
  probe.py late 127.0.0.1 8080 [SOURCE]           a UDP exchange, {"ready"}; then, when its standard input closes, one
                                                  more datagram; {"ok", "error"}
  probe.py bind tcp 0.0.0.0 8080                  bind and listen; {"ok", "error"}
"""
import errno
import json
import socket
import sys
import threading
import time

LIMIT = 10  # seconds for every socket call


def make(protocol, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def say(**fields):
    print(json.dumps(fields), flush=True)


def error_name(error):
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno, str(error)) if isinstance(error, OSError) else repr(error)


def serve_tcp(sock):
    while True:
        conn, accepted = sock.accept()
        conn.settimeout(LIMIT)
        try:
            conn.recv(64)
            conn.sendall(json.dumps({"accept": accepted[0], "peer": conn.getpeername()[0],
                                     "name": conn.getsockname()[0]}).encode())
        except OSError:
            pass  # the caller's deadline passed; it reports that
        conn.close()


def serve_udp(sock):
    while True:
        _, sender = sock.recvfrom(64)
        sock.sendto(json.dumps({"accept": sender[0], "name": sock.getsockname()[0]}).encode(), sender)


def serve(specs):
    ports = []
    for spec in specs:
        protocol, rest = spec.split(":", 1)
        address, port = rest.rsplit(":", 1)
        address = address.strip("[]")
        sock = make(protocol, address)
        if protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, int(port)))
        if protocol == "tcp":
            sock.listen(64)
        ports.append(sock.getsockname()[1])
        threading.Thread(target=serve_tcp if protocol == "tcp" else serve_udp, args=(sock,), daemon=True).start()
    say(ready=ports)
    sys.stdin.read()


def call(protocol, address, port, source=None):
    start = time.monotonic()
    try:
        sock = make(protocol, address)
        sock.settimeout(LIMIT)
        if source:
            sock.bind((source, 0))
        sock.connect((address, int(port)))
        sock.sendall(b"hello")
        reply = json.loads(sock.recv(4096) or b"{}")
        say(ok=bool(reply), error="" if reply else "closed", reply=reply, peer=sock.getpeername()[0],
            name=sock.getsockname()[0], us=round((time.monotonic() - start) * 1e6))
    except OSError as error:
        say(ok=False, error=error_name(error), reply={}, peer="", name="", us=round((time.monotonic() - start) * 1e6))


def late(address, port, source=None):
    sock = make("udp", address)
    sock.settimeout(LIMIT)
    if source:
        sock.bind((source, 0))
    sock.connect((address, int(port)))
    sock.send(b"hello")
    sock.recv(4096)
    say(ready=True)
    sys.stdin.read()
    try:
        sock.send(b"hello")
        sock.recv(4096)
        say(ok=True, error="")
    except OSError as error:
        say(ok=False, error=error_name(error))


def bind(protocol, address, port):
    try:
        sock = make(protocol, address)
        sock.bind((address, int(port)))
        if protocol == "tcp":
            sock.listen(1)
        say(ok=True, error="")
    except OSError as error:
        say(ok=False, error=error_name(error))


if __name__ == "__main__":
    {"serve": lambda a: serve(a), "call": lambda a: call(*a), "bind": lambda a: bind(*a), "late": lambda a: late(*a)}[sys.argv[1]](sys.argv[2:])
