"""One heterogeneous computer for a test: up, used, down, and nothing left.

    with Lab("split") as lab:
        pod = lab.run_pod(yaml_text)
        lab.ctl("why", pod["name"])

Every lab has a name of its own, so tests can run at the same time. A failing command raises with all it printed.
"""
import json
import os
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(ROOT, "bazel-bin")
HETEROCTL = os.path.join(BIN, "heteroctl", "heteroctl")


# heterod's ports.mechanism: the whole suite can run without BPF.
PORTS = os.environ.get("HETEROK8S_PORTS", "auto")


# `timeout` ends a test that is late by SIGTERM: its lab must go down all the same.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Failed(Exception):
    """A command that should have worked."""


def run(argv, check=True, timeout=120, stdin=None, env=None):
    """Runs argv to its end; returns the CompletedProcess (text)."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, input=stdin, env=env)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{' '.join(argv)}: no end within {timeout} s\n{late.stdout or ''}{late.stderr or ''}") from late
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def wait_for(what, condition, seconds=60, every=0.05):
    """Polls until condition() is true; what names it in the failure. Returns its value.

    The time says when a test has failed, not what is expected: a machine short of processors is slow everywhere."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(every)


class Lab:
    def __init__(self, label, ports=PORTS):
        self.name = f"{label}-{os.getpid()}"
        self.ports = ports
        self.env = {}

    def __enter__(self):
        try:
            run([HETEROCTL, "lab", "up", "--name", self.name, "--ports", self.ports], timeout=180)
            with open(f"/run/heterok8s-lab/{self.name}/env.json") as file:
                self.env = json.load(file)
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and os.environ.get("HETEROK8S_KEEP_LAB"):
            print(f"lab {self.name} is kept", file=sys.stderr)
            return
        self.down()

    def down(self):
        run([HETEROCTL, "lab", "down", "--name", self.name], timeout=120)

    # --- heteroctl -------------------------------------------------------------------------------------------------
    def ctl(self, *args, check=True, timeout=120, stdin=None):
        """heteroctl … for this lab, in text."""
        return run([HETEROCTL, "--lab", self.name, *args], check=check, timeout=timeout, stdin=stdin)

    def ctl_json(self, *args, timeout=120, stdin=None):
        return json.loads(self.ctl("-o", "json", *args, timeout=timeout, stdin=stdin).stdout)

    def run_pod(self, manifest, *args):
        """Runs a manifest's text; returns what `run -o json` says, with "mode" and the namespaces of both sides."""
        return self.ctl_json("run", "-", *args, stdin=manifest)

    def why(self, pod):
        return self.ctl_json("why", pod)

    # --- inside ----------------------------------------------------------------------------------------------------
    def place(self, place, *argv, **kwargs):
        """Runs argv in the namespaces of host, dpu or client."""
        return run([HETEROCTL, "lab", "exec", "--name", self.name, place, "--", *argv], **kwargs)

    def daemon(self, action, daemon, pu="host", *flags):
        """stop, start or kill a daemon of one PU."""
        return run([HETEROCTL, "lab", action, daemon, "--name", self.name, "--pu", pu, *flags])
