"""A Pod under test: its two sides, and probes inside them."""
import json
import os
import subprocess

from lib.lab import HETEROCTL, Failed

PROBE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.py")

SPLIT = """
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  annotations: {{heteropod.io/offload: dpu, heteropod.io/offload-containers: sidecar}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: app, image: "heterok8s.local/toolbox:1", command: [/bin/sleep, "100000"]}}
  - {{name: sidecar, image: "heterok8s.local/toolbox:1", command: [/bin/sleep, "100000"]}}
"""
ORDINARY = SPLIT.replace("  annotations: {{heteropod.io/offload: dpu, heteropod.io/offload-containers: sidecar}}\n", "")


class Server:
    """probe.py serve; ports in the order of the specs."""

    def __init__(self, argv):
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{' '.join(argv)}: {self.process.communicate()[1]}")
        self.ports = json.loads(line)["ready"]

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    __enter__ = lambda self: self
    __exit__ = lambda self, *_: self.stop()


class Pod:
    def __init__(self, lab, manifest):
        self.lab = lab
        self.info = lab.run_pod(manifest)
        self.name = f"{self.info['namespace']}/{self.info['name']}"
        why = lab.why(self.name)
        self.why = why
        self.netns = {"host": why["host"]["netns_path"]}
        if why.get("dpu"):
            self.netns["dpu"] = why["dpu"]["netns_path"]
        addresses = why["host"]["addresses"]
        self.v4 = next(a.split("/")[0] for a in addresses if ":" not in a)
        self.v6 = next((a.split("/")[0] for a in addresses if ":" in a), None)

    def remove(self):
        self.lab.ctl("rm", self.name)

    def argv(self, side, *argv):
        """argv as it must be started to run in the Pod's namespace on that side; "client" is outside."""
        if side == "client":
            inside = list(argv)
        else:
            inside = ["nsenter", f"--net={self.netns[side]}", *argv]
        return [HETEROCTL, "lab", "exec", "--name", self.lab.name, side, "--", *inside]

    def run(self, side, *argv, timeout=60):
        done = subprocess.run(self.argv(side, *argv), capture_output=True, text=True, timeout=timeout)
        return done

    def probe(self, side, *args):
        done = self.run(side, "python3", PROBE, *map(str, args))
        if not done.stdout.strip():
            raise Failed(f"probe {args} on {side}: exit {done.returncode} {done.stderr}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def call(self, side, protocol, address, port, *source):
        return self.probe(side, "call", protocol, address, port, *source)

    def serve(self, side, *specs):
        return Server(self.argv(side, "python3", PROBE, "serve", *specs))
