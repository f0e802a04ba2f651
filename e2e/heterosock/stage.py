"""Processes of one program under test: started, waited for, and gone at the end; and how much CPU they took."""
import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time


class Missing(Exception):
    """The program is not on this machine."""


def need(*commands):
    for command in commands:
        if not which(command):
            raise Missing(command)


def which(command):
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_port():
    """A port that is free now; a race with others is lost seldom and shows as a server that does not come up."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Scene:
    """server and client: the environments of the two ends. moves: how many connection ends of a process have moved to shared
    memory so far, by its number; None where none can."""

    def __init__(self, server, client, seconds, moves=None):
        self.server, self.client, self.seconds = server, client, seconds
        self.moves, self.moved = moves, {}
        self.notes = []  # figures that need not be the same with the library, each with its name
        self.folder = tempfile.mkdtemp(prefix="hk-e2e-heterosock-")
        os.chmod(self.folder, 0o777)
        self.processes = []
        self.busy = None  # CPUs that both ends together kept busy during load()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                pass
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name, text=None):
        path = os.path.join(self.folder, name)
        if text is not None:
            with open(path, "w") as file:
                file.write(text)
        return path

    def start(self, *argv, port=None, env=None):
        """A server in a process group of its own; returns when something listens on `port`."""
        log = open(self.path(f"log{len(self.processes)}"), "w+")
        argv = [which(argv[0]) or argv[0], *map(str, argv[1:])]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env or self.server,
                                   start_new_session=True, cwd=self.folder)
        self.processes.append(process)
        deadline = time.monotonic() + 15
        while port and not listens(port):
            if time.monotonic() > deadline or process.poll() is not None:
                log.seek(0)
                raise AssertionError(f"{argv[0]} does not listen: {log.read()[-600:]}")
            time.sleep(0.01)
        return process

    def background(self, *argv):
        """A client that goes on beside others, with pipes to and from it."""
        argv = [which(argv[0]) or argv[0], *map(str, argv[1:])]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.client, start_new_session=True, cwd=self.folder)
        self.processes.append(process)
        return process

    def underway(self, process, port, connections):
        """Returns when that many connections to the port are open, and, if they can, as many of the process have moved to
        shared memory since the last call. It has one end of each."""
        wait_for(lambda: established(port) >= connections, f"{connections} connections")
        if self.moves:
            before = self.moved.get(process.pid, 0)
            wait_for(lambda: self.moves(process.pid) >= before + connections, f"{connections} moved connections")
            self.moved[process.pid] = self.moves(process.pid)
        assert process.poll() is None, "the client ended"

    def run(self, *argv, stdin=None, env=None, check=True, timeout=60):
        """A client; its output."""
        argv = [which(argv[0]) or argv[0], *map(str, argv[1:])]
        done = subprocess.run(argv, input=stdin, capture_output=True, env=env or self.client, timeout=timeout, cwd=self.folder)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)[:200]}: exit {done.returncode}: {(done.stderr or done.stdout)[-600:].decode(errors='replace')}")
        return done.stdout.decode(errors="replace")

    def load(self, *argv, **options):
        """run() of what the figure comes from: notes how many CPUs servers and client kept busy."""
        start, before = time.monotonic(), self.cpu()
        out = self.run(*argv, **options)
        self.busy = (self.cpu() - before) / (time.monotonic() - start)
        return out

    def cpu(self):
        """Seconds of CPU that the servers with all their descendants and the clients that ended have taken."""
        table = process_table()
        mine = {process.pid for process in self.processes}
        grown = True
        while grown:
            more = {pid for pid, (parent, _) in table.items() if parent in mine} - mine
            mine |= more
            grown = bool(more)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(table[pid][1] for pid in mine if pid in table) + ended.ru_utime + ended.ru_stime


def process_table():
    """Of each process its parent, and the seconds of CPU that it and the children it waited for have taken."""
    table = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            table[int(name)] = int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return table


def wait_for(what, name="it"):
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, f"{name} did not come"
        time.sleep(0.05)


def sockets(port, state):
    """How many of that local port are in that state of the kernel's table."""
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as file:
            next(file)
            count += sum(line.split()[3] == state and int(line.split()[1].rsplit(":", 1)[1], 16) == port for line in file)
    return count


def listens(port):
    """Without connecting: a server under test sees only its own clients."""
    return sockets(port, "0A") > 0


def established(port):
    return sockets(port, "01")
