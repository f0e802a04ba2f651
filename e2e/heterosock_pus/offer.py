#!/usr/bin/env python3
"""One end of a TCP connection that is offered to a heterosockd, in the words of heterosock/protocol/messages.h.

  offer.py AGENT serve                 prints {"port"}; then as below
  offer.py AGENT connect ADDRESS PORT  prints {"names", "answer", …}: what getpeername says, PAIRED or DECLINED, and what
                                       came through the shared memory (serve) or was put there (connect)
"""
import json
import mmap
import os
import re
import select
import socket
import struct
import sys

LIMIT = 20  # seconds
HELLO, OFFER, WELCOME, PAIRED, DECLINED = 1, 2, 64, 66, 67
TEXT = b"from one PU to the other"
RING = 65536  # where the first ring begins
HEADER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "heterosock", "layout", "channel.h")
with open(HEADER, encoding="utf-8") as header:
    LAYOUT_VERSION = int(re.search(r"kChannelVersion = (\d+)", header.read()).group(1))


def say(**fields):
    print(json.dumps(fields), flush=True)


def message(kind, body):
    return struct.pack("<HHI", kind, 8 + len(body), 0) + body


def greet(path):
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    agent.settimeout(LIMIT)
    agent.connect(path)
    agent.send(message(HELLO, struct.pack("<HHIQ", 1, 1, LAYOUT_VERSION, 0)))
    kind, = struct.unpack_from("<H", agent.recv(128))
    assert kind == WELCOME, kind
    return agent


def offer(agent, conn):
    socket.send_fds(agent, [message(OFFER, struct.pack("<Q", 1))], [conn.fileno()])
    packet, fds, _, _ = socket.recv_fds(agent, 128, 3)
    kind, = struct.unpack_from("<H", packet)
    if kind == DECLINED:
        return {"answer": "declined", "reason": struct.unpack_from("<QI", packet, 8)[1]}, None
    assert kind == PAIRED and len(fds) == 3, (kind, fds)
    _, channel, epoch, nonce, _, size, side = struct.unpack_from("<QQQQQQB", packet, 8)
    return {"answer": "paired", "channel": channel, "nonce": nonce, "side": side}, (mmap.mmap(fds[0], size), *fds[1:])


def serve(agent_path):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    listener.settimeout(LIMIT)
    say(port=listener.getsockname()[1])
    conn, _ = listener.accept()
    conn.settimeout(LIMIT)
    said, channel = offer(greet(agent_path), conn)
    if channel:
        memory, own_bell, _ = channel
        rung = bool(select.select([own_bell], [], [], LIMIT)[0])
        said.update(rung=rung, text=memory[RING:RING + len(TEXT)].decode())
    # The end of the stream comes although the agent saw the socket.
    said.update(peer=conn.getpeername()[0], end=conn.recv(1) == b"")
    say(**said)


def connect(agent_path, address, port):
    conn = socket.create_connection((address, int(port)), timeout=LIMIT)
    said, channel = offer(greet(agent_path), conn)
    if channel:
        memory, _, peer_bell = channel
        memory[RING:RING + len(TEXT)] = TEXT
        os.write(peer_bell, b"12345678")
    said.update(peer=conn.getpeername()[0])
    say(**said)
    conn.close()


if __name__ == "__main__":
    {"serve": serve, "connect": connect}[sys.argv[2]](sys.argv[1], *sys.argv[3:])
