#!/usr/bin/env python3
"""Two programs that know nothing of heterosock, but that the one which connects asks the library when it has moved.

  echo.py serve                 prints {"port"}, then sends back what comes on one connection
  echo.py connect ADDRESS PORT  16 bytes and back until both directions have moved (or a minute), 1,000 times more, and
                                4 MiB; prints {"moved", "same", "peer"}
  echo.py return ADDRESS PORT   moves, prints {"moved"}, and goes on until neither direction is moved any more (or as long);
                                prints {"moved", "same"}
"""
import contextlib
import ctypes
import json
import socket
import sys
import threading
import time

LIMIT = 60  # seconds
BOTH = 3    # heterosock_moved(): sends and receives through shared memory


def serve():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(LIMIT)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    conn, _ = listener.accept()
    with contextlib.suppress(ConnectionError):  # of a client that was killed
        while data := conn.recv(65536):
            conn.sendall(data)


def exchange(conn, data):
    sender = threading.Thread(target=conn.sendall, args=(data,))
    if len(data) > 4096:
        sender.start()
    else:
        sender.run()
    back = bytearray()
    while len(back) < len(data):
        piece = conn.recv(65536)
        if not piece:
            break
        back += piece
    if len(data) > 4096:
        sender.join()
    return back == data


def exchange_until(conn, wanted):
    same, end = True, time.monotonic() + LIMIT
    while moved(conn) != wanted and time.monotonic() < end:
        same &= exchange(conn, b"sixteen bytes...")
    return same


def moved(conn):
    return getattr(ctypes.CDLL(None), "heterosock_moved", lambda _: 0)(conn.fileno())


def call(address, port):
    conn = socket.create_connection((address, int(port)), timeout=LIMIT)
    conn.settimeout(None)
    return conn


def come_back(address, port):
    conn = call(address, port)
    same = exchange_until(conn, BOTH)
    print(json.dumps({"moved": moved(conn)}), flush=True)
    same &= exchange_until(conn, 0)
    for i in range(1000):
        same &= exchange(conn, b"%016d" % i)
    print(json.dumps({"moved": moved(conn), "same": same}), flush=True)


def connect(address, port):
    conn = call(address, port)
    same = exchange_until(conn, BOTH)
    for i in range(1000):
        same &= exchange(conn, b"%016d" % i)
    same &= exchange(conn, bytes(range(256)) * 16384)
    print(json.dumps({"moved": moved(conn), "same": same, "peer": conn.getpeername()[0]}), flush=True)


if __name__ == "__main__":
    {"serve": serve, "connect": connect, "return": come_back}[sys.argv[1]](*sys.argv[2:])
