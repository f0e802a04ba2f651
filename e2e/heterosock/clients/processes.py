"""processes serve PORT | call PORT SECONDS: multiprocessing's connections over TCP, and children that use a parent's."""
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time


def answer(conn):
    try:
        while True:
            message = conn.recv()
            conn.send(message[::-1])
    except EOFError:
        conn.close()


def serve(port):
    with multiprocessing.connection.Listener(("127.0.0.1", port)) as listener:
        while True:
            threading.Thread(target=answer, args=(listener.accept(),), daemon=True).start()


def child(conn, count):
    for i in range(count):
        conn.send(f"child {i}")
        assert conn.recv() == f"child {i}"[::-1]


def call(port, seconds):
    conn = multiprocessing.connection.Client(("127.0.0.1", port))
    said = []
    for size in (1, 1000, 100_000, 3_000_000):
        conn.send("ab" * size)
        said.append(conn.recv() == "ba" * size)
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=child, args=(conn, 20))
    process.start()
    process.join()
    said.append(process.exitcode)
    conn.send("after the child")
    said.append(conn.recv())
    pid = os.fork()
    if pid == 0:
        conn.close()
        os._exit(0)
    os.waitpid(pid, 0)
    fresh = multiprocessing.connection.Client(("127.0.0.1", port))
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        fresh.send("x")
        fresh.recv()
        count += 1
    print(json.dumps({"said": said, "rate": count / seconds}))


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    call(int(sys.argv[2]), float(sys.argv[3]))
