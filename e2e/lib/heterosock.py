"""The library and its agent for tests and measurements of unmodified programs.

    with Heterosock() as hs:                # starts a heterosockd of its own
        subprocess.run([...], env=hs.env())
        hs.moved()                          # since the last call: connection ends that moved, and why others did not
Heterosock.missing() is the reason why it cannot run, or None.
"""
import collections
import os
import shutil
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(ROOT, "bazel-bin", "heterosock")
LIBRARY = os.path.join(BIN, "libheterosock.so")
AGENT = os.path.join(BIN, "agent", "heterosockd")


class Heterosock:
    def __init__(self, agent=True, ring_kib=None):
        # Programs run as other users: the library and all else is where everybody may read.
        self.folder = tempfile.mkdtemp(prefix="hk-heterosock-")
        os.chmod(self.folder, 0o755)
        self.library = os.path.join(self.folder, "libheterosock.so")
        shutil.copy(LIBRARY, self.library)
        self.socket = os.path.join(self.folder, "agent.sock")
        self.trace = os.path.join(self.folder, "trace")
        with open(self.trace, "w"):
            os.chmod(self.trace, 0o666)
        self.traced = 0
        self.agent = None
        if agent and os.path.exists(AGENT):
            self.log = open(os.path.join(self.folder, "agent.log"), "w")
            options = [f"--socket={self.socket}", f"--admin={self.folder}/admin.sock"]
            if ring_kib:
                config = os.path.join(self.folder, "agent.yaml")
                with open(config, "w") as file:
                    file.write(f"socket: {self.socket}\nadmin: {self.folder}/admin.sock\nring_kib: {ring_kib}\ntokens:\n  mode: off\n")
                options = [f"--config={config}"]
            self.agent = subprocess.Popen([AGENT, *options], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
            deadline = time.monotonic() + 5
            while not os.path.exists(self.socket):
                if time.monotonic() > deadline or self.agent.poll() is not None:
                    with open(self.log.name) as log:
                        raise RuntimeError(f"heterosockd did not come up: {log.read()[-500:]}")
                time.sleep(0.01)

    @staticmethod
    def missing():
        return None if os.path.exists(LIBRARY) else "libheterosock.so is not built"

    def env(self, trace=False, **more):
        """Of a program that shall have the library."""
        if trace:
            more["HETEROSOCK_TRACE"] = self.trace
        return dict(os.environ, LD_PRELOAD=self.library, HETEROSOCK_AGENT=self.socket, **more)

    def moved(self):
        """What traced programs said since the last call: how many ends moved, and a Counter of the reasons of others."""
        with open(self.trace) as file:
            file.seek(self.traced)
            lines = file.read().splitlines()
            self.traced = file.tell()
        ends = sum("sends to shared memory" in line for line in lines)
        reasons = collections.Counter()
        for line in lines:
            for mark in ("stays on TCP: ", "held back on TCP: ", "ended on TCP: ", "sends to TCP again: "):
                if mark in line:
                    reasons[line.split(mark, 1)[1]] += 1
        return ends, reasons

    def moves_of(self, pid):
        """How many connection ends of this traced process have both sent to shared memory and received from it so far."""
        with open(self.trace) as file:
            lines = [line for line in file if line.startswith(f"heterosock[{pid}/")]
        return min(sum(mark in line for line in lines) for mark in ("sends to shared memory", "receives from shared memory"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.agent:
            self.agent.terminate()
            try:
                self.agent.wait(5)
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
            self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
