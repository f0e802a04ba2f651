"""The library and its agent for tests and measurements of unmodified programs.

    with Heterosock() as hs:                # starts a heterosockd of its own
        subprocess.run([...], env=hs.env())
        hs.status()                         # what `heterosockctl status` says, parsed
Heterosock.missing() is the reason why it cannot run, or None.
"""
import json
import os
import shutil
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(ROOT, "bazel-bin", "heterosock")
LIBRARY = os.path.join(BIN, "libheterosock.so")
AGENT = os.path.join(BIN, "agent", "heterosockd")
CTL = os.path.join(BIN, "ctl", "heterosockctl")


class Heterosock:
    def __init__(self, agent=True):
        self.folder = tempfile.mkdtemp(prefix="hk-heterosock-")
        self.socket = os.path.join(self.folder, "agent.sock")
        self.agent = None
        if agent and os.path.exists(AGENT):
            self.log = open(os.path.join(self.folder, "agent.log"), "w")
            self.agent = subprocess.Popen([AGENT, f"--socket={self.socket}"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
            deadline = time.monotonic() + 5
            while not os.path.exists(self.socket):
                if time.monotonic() > deadline or self.agent.poll() is not None:
                    with open(self.log.name) as log:
                        raise RuntimeError(f"heterosockd did not come up: {log.read()[-500:]}")
                time.sleep(0.01)

    @staticmethod
    def missing():
        return None if os.path.exists(LIBRARY) else "libheterosock.so is not built"

    def env(self, **more):
        """Of a program that shall have the library."""
        return dict(os.environ, LD_PRELOAD=LIBRARY, HETEROSOCK_AGENT=self.socket, **more)

    def status(self):
        done = subprocess.run([CTL, "status", f"--socket={self.socket}", "--json"], capture_output=True, text=True, timeout=10)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

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
