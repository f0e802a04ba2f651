"""Sockets in other network namespaces, from one process: listeners that answer, and calls."""
import ctypes
import os
import selectors
import socket
import threading
import time

CLONE_NEWNET = 0x40000000  # linux/sched.h; os.setns is of Python 3.12
libc = ctypes.CDLL(None, use_errno=True)


def in_netns(path, action):
    """What action() returns in the namespace at path: on a thread of its own, which ends there."""
    result = []

    def enter():
        try:
            with open(path, "rb") as file:
                if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
            result.append((action(), None))
        except Exception as error:  # the caller's to raise
            result.append((None, error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    value, error = result[0]
    if error:
        raise error
    return value


class Answers:
    """Listeners that say "ok" to each caller, on one thread."""

    def __init__(self):
        self.ready = selectors.DefaultSelector()
        threading.Thread(target=self.serve, daemon=True).start()

    def listen(self, path, port):
        """To every address of the namespace. Returns the socket, for close()."""
        server = in_netns(path, lambda: socket.create_server(("", port), backlog=16))
        server.setblocking(False)
        self.ready.register(server, selectors.EVENT_READ)
        return server

    def close(self, server):
        self.ready.unregister(server)
        server.close()

    def serve(self):
        while True:
            for key, _ in self.ready.select(0.05):
                try:
                    conn, _ = key.fileobj.accept()
                    with conn:
                        conn.send(b"ok")
                except OSError:
                    pass  # the listener was closed, or the caller has gone


def call(address, port, path=None, seconds=60):
    """Calls until it is answered: the other PU learns of a port a little later."""
    def once():
        with socket.create_connection((address, port), 3) as sock:
            return sock.recv(2) == b"ok"

    end = time.monotonic() + seconds
    while True:
        try:
            if in_netns(path, once) if path else once():
                return
            error = "no answer"
        except OSError as failed:
            error = failed
        if time.monotonic() > end:
            raise RuntimeError(f"call of {address}:{port} from {path or 'the root namespace'}: {error}")
        time.sleep(0.02)
