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
    """server and client: the environments of the two ends."""

    def __init__(self, server, client, seconds):
        self.server, self.client, self.seconds = server, client, seconds
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
        parents, seconds = {}, {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
            except OSError:  # it ended meanwhile
                continue
            parents[int(name)] = int(fields[1])
            seconds[int(name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # with the children it waited for
        mine = {process.pid for process in self.processes}
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in mine} - mine
            mine |= more
            grown = bool(more)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(seconds.get(pid, 0) for pid in mine) + ended.ru_utime + ended.ru_stime


def listens(port):
    """Without connecting: a server under test sees only its own clients."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as file:
            next(file)
            if any(line.split()[3] == "0A" and int(line.split()[1].rsplit(":", 1)[1], 16) == port for line in file):
                return True
    return False
