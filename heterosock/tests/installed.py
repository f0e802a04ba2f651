"""Programs under an installed hetero-socket, with its agent and heterosockctl, for tests in Python.

    with Place() as place:                         # a folder that stands for /, with what tools/install puts there
        place.start_agent()
        connection = Connection(Program(place), Program(place))
        connection.moves(place)
        place.ctl("fence", "--all")

A program is a Python that does what it is told on its standard input. missing() is why nothing of this can run, or None.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATIENCE = 60  # seconds

PROGRAM = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connections = []
for line in sys.stdin:
    what, number = line.split()
    number = int(number)
    answer = None
    if what == "connect": connections.append(socket.create_connection(("127.0.0.1", number)))
    if what == "accept": connections.append(listener.accept()[0])
    if what == "port": answer = connections[number].getsockname()[1]
    if what == "send": connections[number].sendall(b"x" * 1000)
    if what == "receive":
        left = 1000
        while left: left -= len(connections[number].recv(left)) or sys.exit("an early end")
    print(len(connections) - 1 if answer is None else answer, flush=True)
"""


def until(true, what):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.01)


def missing():
    for name in ("libheterosock.so", "musl/libheterosock.so", "agent/heterosockd", "ctl/heterosock", "ctl/heterosockctl"):
        if not os.path.exists(os.path.join(ROOT, "bazel-bin", "heterosock", name)):
            return f"{name} is not built"
    return None


class Place:
    def __init__(self):
        self.folder, self.running = tempfile.mkdtemp(prefix="hk-installed-"), []
        self.socket, self.admin = f"{self.folder}/agent.sock", f"{self.folder}/admin.sock"

    def __enter__(self):
        try:
            self.install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder)

    def path(self, name):
        return os.path.join(self.folder, "root", name)

    def install(self):
        subprocess.run([os.path.join(ROOT, "tools", "install"), "heterosock"], check=True, timeout=PATIENCE,
                       env=dict(os.environ, DESTDIR=os.path.join(self.folder, "root"), PREFIX="/usr"))

    def start(self, *argv, **kwargs):
        self.running.append(subprocess.Popen(argv, **kwargs))
        return self.running[-1]

    def start_agent(self):
        agent = self.start(self.path("usr/bin/heterosockd"), f"--socket={self.socket}", f"--admin={self.admin}")
        until(lambda: os.path.exists(self.socket) or agent.poll() is not None, "the agent is there")
        return agent

    def ctl(self, *argv):
        return subprocess.run([self.path("usr/bin/heterosockctl"), f"--admin={self.admin}", *argv], check=True, stdout=subprocess.PIPE,
                              timeout=PATIENCE, text=True).stdout

    def status(self):
        return json.loads(self.ctl("-o", "json", "status"))


class Program:
    def __init__(self, place):
        self.process = place.start(place.path("usr/bin/heterosock"), "run", f"--agent={place.socket}", "--", sys.executable, "-c", PROGRAM,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def do(self, what, number):
        self.process.stdin.write(f"{what} {number}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def libraries(self):
        """The files that it has mapped of the library's name, as the kernel calls them now."""
        with open(f"/proc/{self.process.pid}/maps", encoding="utf-8") as maps:
            return {line.split(maxsplit=5)[5].strip() for line in maps if "libheterosock" in line}


class Connection:
    def __init__(self, client, server):
        self.ends = [(client, client.do("connect", server.port)), (server, server.do("accept", 0))]
        self.names = {f"127.0.0.1:{end.do('port', number)}" for end, number in self.ends}
        self.pids = {end.process.pid for end, _ in self.ends}

    def exchange(self):
        for (sender, a), (receiver, b) in (self.ends, self.ends[::-1]):
            sender.do("send", a)
            receiver.do("receive", b)

    def sends_on(self, place):
        """What its ends send on, by the agent's status; an empty set when it has no channel."""
        both = [channel["ends"] for channel in place.status()["channels"]]
        return {end["sending_on"] for ends in both for end in ends if {each.get("local") for each in ends} == self.names}

    def comes_to(self, place, what):
        """It moves with calls on it, and so it goes back."""

        def look():
            self.exchange()
            return self.sends_on(place) == {what}

        until(look, f"a connection's ends send on {what}")

    def moves(self, place):
        self.comes_to(place, "shared")
