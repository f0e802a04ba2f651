#!/usr/bin/env python3
"""Connections that are kept and checked while the agent is replaced.

  versions.py serve ADDRESS   prints {"port"}; sends back what comes, on any number of connections
  versions.py call ADDRESS PORT
      For each line on standard input one more connection; then random bytes and back on all of them, until the new one has
      moved at both of its directions or the line's seconds are over, then 200 times more and 300 KB at once. Prints
      {"new": heterosock_moved() of the new one, "moved": how many are at both, "of": all, "same"}. At the end of its input it
      closes all and prints {"ended": how many said their end}.
  versions.py hand ADDRESS PORT SECONDS
      Tries to move for that long, sends 700 KB, and reads a digest of what the other end got. Prints {"moved", "same"}.
  versions.py take ADDRESS    its other end: sees bytes come, then becomes a program without the library that reads them
"""
import contextlib
import ctypes
import hashlib
import json
import os
import random
import select
import signal
import socket
import sys
import threading
import time

LIMIT = 60    # seconds
ENDS = 600    # and of the whole program, should a call never return
BOTH = 3    # heterosock_moved(): sends and receives through shared memory
HANDED = 700_000
SMALL = 4096  # of TCP's buffers, so that most of what is handed on has no room there
READ = """
import hashlib, socket, sys
conn = socket.socket(fileno=int(sys.argv[1]))
got, left = hashlib.sha256(), int(sys.argv[2])
while left and (data := conn.recv(left)):
    got.update(data)
    left -= len(data)
conn.sendall(got.hexdigest().encode())
"""


def say(**words):
    print(json.dumps(words), flush=True)


def moved(conn):
    return ctypes.CDLL(None).heterosock_moved(conn.fileno())


def listen(address, buffers=0):
    listener = socket.socket()
    if buffers:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
    listener.bind((address, 0))
    listener.listen(100)
    say(port=listener.getsockname()[1])
    return listener


def echo(conn):
    while data := conn.recv(65536):
        conn.sendall(data)
    conn.close()


def serve(address):
    listener = listen(address)
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()


def exchange(conn, data):
    sender = threading.Thread(target=conn.sendall, args=(data,))
    sender.start() if len(data) > 4096 else sender.run()
    back = bytearray()
    while len(back) < len(data) and (piece := conn.recv(65536)):
        back += piece
    if len(data) > 4096:
        sender.join()
    return back == data


def call(address, port):
    all_of_them, chance = [], random.Random(7)
    for line in sys.stdin:
        new = socket.create_connection((address, int(port)), timeout=LIMIT)
        new.settimeout(LIMIT)
        all_of_them.append(new)
        end, same = time.monotonic() + float(line), True
        while moved(new) != BOTH and time.monotonic() < end:
            for conn in all_of_them:
                same &= exchange(conn, chance.randbytes(chance.randrange(1, 3000)))
        for conn in all_of_them:
            for _ in range(200):
                same &= exchange(conn, chance.randbytes(chance.randrange(1, 3000)))
            same &= exchange(conn, chance.randbytes(300_000))
        say(new=moved(new), moved=sum(moved(conn) == BOTH for conn in all_of_them), of=len(all_of_them), same=same)
    for conn in all_of_them:
        conn.shutdown(socket.SHUT_WR)
    say(ended=sum(conn.recv(1) == b"" for conn in all_of_them))


def share_a_processor():
    """With the other end, which then runs in the middle of what this one does."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def hand(address, port, seconds):
    share_a_processor()
    conn = socket.socket()
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    conn.connect((address, int(port)))
    conn.settimeout(LIMIT)
    end = time.monotonic() + float(seconds)
    while True:  # 1: the other end looks whether it has moved, too; 0: enough
        more = moved(conn) != BOTH and time.monotonic() < end
        conn.sendall(b"1" if more else b"0")
        if conn.recv(1) == b"0" and not more:
            break
    was, data = moved(conn), random.Random(9).randbytes(HANDED)
    conn.sendall(data)
    # What TCP has no room for follows with this end's next calls.
    conn.settimeout(0.05)
    got, end = b"", time.monotonic() + LIMIT
    while len(got) < 64 and time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            piece = conn.recv(64)
            if not piece:
                break
            got += piece
    say(moved=was, same=got.decode() == hashlib.sha256(data).hexdigest())


def take(address):
    share_a_processor()
    listener = listen(address, SMALL)
    conn, _ = listener.accept()
    while conn.recv(1) == b"1":
        conn.sendall(b"1")
    conn.sendall(b"0")
    select.select([conn], [], [], LIMIT)
    conn.set_inheritable(True)
    os.execve(sys.executable, [sys.executable, "-c", READ, str(conn.fileno()), str(HANDED)], {"PATH": os.environ["PATH"]})


if __name__ == "__main__":
    signal.alarm(ENDS)
    {"serve": serve, "call": call, "hand": hand, "take": take}[sys.argv[1]](*sys.argv[2:])
