#!/usr/bin/env python3
"""A peer without the library meets a program with it: whoever can read the headers can write the other side.

The peer is stranger_peer.py, in which every number comes from the text of heterosock/protocol/messages.h and
heterosock/layout/channel.h: when a format changes and it does not, this test fails. The program is a Python under
libheterosock.so that does what it is told on its standard input. Every byte is random and compared, and the stream
offsets in the shared memory say which of them went through the rings.
"""
import os
import select
import socket
import subprocess
import tempfile

from stranger_peer import AGENT_FENCE, AGENT_RETURNS, DECLINED, FENCE, FIN, HAND_BACK, NOT_TCP, OFFER
from stranger_peer import PATIENCE, RELEASE, SENDER_ANSWERS, WANT_TCP, Agent, Connection, until

BIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bazel-bin/heterosock")

SERVER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
store = b""
for line in sys.stdin:
    what, number = line.split()
    number = int(number)
    if what == "accept": connection = listener.accept()[0]
    if what == "echo":
        while number:
            piece = connection.recv(min(number, 50000))
            connection.sendall(piece)
            number -= len(piece)
    if what == "take":
        while len(store) < number:
            piece = connection.recv(number - len(store))
            if not piece: break
            store += piece
    if what == "give": connection.sendall(store); store = b""
    if what == "shutdown": connection.shutdown(socket.SHUT_WR); store = b""
    if what == "close": connection.close()
    if what == "pass":  # to another program, as far as the library can know
        a, b = socket.socketpair()
        socket.send_fds(a, [b"x"], [connection.fileno()])
        fds = socket.recv_fds(b, 1, 1)[1]
        connection.close()
        connection = socket.socket(fileno=fds[0])
    print(what, len(store), flush=True)
"""


class Server:
    def __init__(self, env):
        self.process = subprocess.Popen(["python3", "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self.port = int(self.answer())

    def ask(self, what, number=0):
        self.process.stdin.write(f"{what} {number}\n".encode())
        self.process.stdin.flush()

    def answer(self):
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "the server is stuck"
        return self.process.stdout.readline()

    def do(self, what, number=0):
        self.ask(what, number)
        return self.answer()


def moved(agent, server):
    """A connection of which both directions are in shared memory."""
    c = Connection(agent, server.port)
    server.do("accept")

    def moves():
        server.ask("echo", 100)
        c.exchange(100)
        server.answer()
        c.look_at_answer()
        return c.mine and c.peer["switch_at"] and c.sending == "ring"

    until(moves, "both directions move")
    assert c.receiving == "ring" and c.tcp_got == c.peer["switch_at"] - 1 == c.peer["tcp_sent"]
    assert c.tcp_sent == c.mine["switch_at"] - 1
    assert c.peer["pid"] == server.process.pid
    return c


def no_connection(agent, server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stray:
        agent.say(OFFER, 7, fds=[stray.fileno()])
        assert agent.next() == (DECLINED, (7, NOT_TCP, 0), [])


def through_the_rings(agent, server):
    c = moved(agent, server)
    sent, got = c.tail, c.head
    server.ask("echo", 1 << 20)
    c.exchange(1 << 20)
    server.answer()
    assert (c.tail - sent, c.head - got) == (1 << 20, 1 << 20) == (c.peer["head"] - sent, c.peer["tail"] - got)

    # The server sleeps until there are bytes, then until there is room.
    data = os.urandom(3 * c.ring_bytes)
    before = c.peer["rx_sleep"]
    server.ask("take", len(data))
    until(lambda: c.peer["rx_sleep"] != before, "the server says that it sleeps")
    c.move(data, 0)
    server.answer()
    before = c.peer["tx_sleep"]
    server.ask("give")
    until(lambda: c.peer["tx_sleep"] != before, "the server says that it waits for room")
    assert c.move(b"", len(data)) == data
    server.answer()
    # And we: it begins when we sleep, and the bell is all that can wake us.
    c.woken = 0
    c.when_asleep = lambda: server.ask("take", len(data))
    c.move(data, 0)
    assert c.woken > 0
    server.answer()
    c.woken = 0
    c.when_asleep = lambda: server.ask("give")
    assert c.move(b"", len(data)) == data
    assert c.woken > 0
    server.answer()
    c.close()
    server.do("close")


def sender_returns(agent, server):
    """By itself, with bytes in the ring that nobody has read; the other direction stays."""
    c = moved(agent, server)
    first, second = os.urandom(3000), os.urandom(200000)
    c.move(first, 0)
    c.bring_back()
    server.ask("take", 203000)
    c.move(second, 0)
    server.answer()
    at = c.head
    server.ask("give")
    assert c.move(b"", 203000) == first + second
    server.answer()
    assert c.head - at == 203000
    c.close()
    server.do("close")


def fenced(agent, server, control):
    """FENCE reaches both ends; each brings its own direction back and asks for the other."""
    c = moved(agent, server)
    subprocess.run([*control, "fence", "--channel", str(c.id)], check=True, stdout=subprocess.DEVNULL)
    kind, fields, _ = agent.next()
    assert kind == FENCE and fields[0] in (0, c.id), (kind, fields)
    c.mine["flags"] |= WANT_TCP
    c.bring_back()
    server.ask("echo", 100000)
    c.exchange(100000)
    server.answer()
    assert (c.sending, c.receiving) == ("again", "again")
    agent.say(RELEASE, c.id, AGENT_FENCE, 0)
    server.ask("echo", 100000)
    c.exchange(100000)
    server.answer()
    c.tcp.close()
    server.do("close")


def server_answers(agent, server):
    """We call bytes back of a server that sleeps in a call on the connection."""
    c = moved(agent, server)
    data = os.urandom(5000)
    server.ask("take", 5000)
    c.move(data, 0)
    server.answer()
    server.do("give")
    before = c.peer["rx_sleep"]
    server.ask("take", 1000)
    until(lambda: c.peer["rx_sleep"] != before, "the server says that it sleeps")
    c.call_back()
    until(lambda: c.peer["returning"] == SENDER_ANSWERS, "it answers")
    head = c.head
    assert c.move(b"", 5000) == data and c.head == head
    c.move(data[:1000], 0)
    server.answer()
    server.do("give")
    assert c.move(b"", 1000) == data[:1000] and c.sending == "ring"
    c.close()
    server.do("close")


def server_is_away(agent, server):
    """We call bytes back of a server that is in no call; the agent writes them."""
    c = moved(agent, server)
    data = os.urandom(5000)
    server.ask("take", 5000)
    c.move(data, 0)
    server.answer()
    server.do("give")
    head = c.head
    assert c.get(1000) == data[:1000]
    c.call_back()
    agent.say(HAND_BACK, c.id)
    until(lambda: c.peer["returned_to"], "the agent wrote them to TCP")
    assert c.peer["returning"] == AGENT_RETURNS
    assert c.move(b"", 4000) == data[1000:] and c.head == head + 1000
    server.ask("echo", 100000)
    c.exchange(100000)
    server.answer()
    c.close()
    server.do("close")


def we_are_away(agent, server):
    """The server passes its socket on while bytes of ours are in the ring and we do nothing."""
    c = moved(agent, server)
    data = os.urandom(4000)
    c.move(data, 0)
    server.do("pass")
    server.do("take", 4000)
    assert c.mine["returning"] == AGENT_RETURNS and c.sending == "ring"
    server.ask("give")
    assert c.move(b"", 4000) == data and c.sending == "again"
    server.answer()
    server.ask("echo", 100000)
    c.exchange(100000)
    server.answer()
    c.close()
    server.do("close")


def ends(agent, server):
    """FIN is TCP's, and what is in the ring comes before it."""
    c = moved(agent, server)
    data = os.urandom(4000)
    c.move(data, 0)
    c.mine["flags"] |= FIN
    c.tcp.shutdown(socket.SHUT_WR)
    assert server.do("take", 5000) == b"take 4000\n"
    server.do("give")
    server.do("close")
    assert c.move(b"", 5000) == data
    c.close()

    c = moved(agent, server)
    server.do("shutdown")
    assert c.move(b"", 1) == b""
    c.move(data, 0)
    assert c.sending == "again" and server.do("take", 4000) == b"take 4000\n"
    c.close()
    server.do("close")


def main():
    with tempfile.TemporaryDirectory(prefix="hk-stranger-") as folder:
        path, config = f"{folder}/agent.sock", f"{folder}/heterosockd.yaml"
        with open(config, "w") as file:
            # The two ends of a connection may offer it as far apart as a busy machine has them.
            file.write(f"socket: {path}\nadmin: {folder}/admin.sock\nring_kib: 64\ntokens:\n  mode: off\n"
                       f"offer_deadline_ms: {PATIENCE * 1000}\n")
        daemon = subprocess.Popen([f"{BIN}/agent/heterosockd", "--config", config])
        env = dict(os.environ, LD_PRELOAD=f"{BIN}/libheterosock.so", HETEROSOCK_AGENT=path)
        control = [f"{BIN}/ctl/heterosockctl", "--admin", f"{folder}/admin.sock"]
        server = None
        try:
            agent = Agent(path)
            server = Server(env)
            for case, more in ((through_the_rings, ()), (sender_returns, ()), (fenced, (control,)),
                               (no_connection, ()), (server_answers, ()), (server_is_away, ()), (we_are_away, ()), (ends, ())):
                case(agent, server, *more)
                print("ok", case.__name__, flush=True)
        finally:
            for process in filter(None, (server and server.process, daemon)):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
