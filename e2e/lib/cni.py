"""CNI calls by hand, as a runtime makes them. Runs inside the host PU (lab exec host -- python3 …).

Reads the conflist of the place it runs in; a Pod is a named network namespace.
"""
import glob
import json
import os
import subprocess
import uuid


class Network:
    def __init__(self, folder="/etc/cni/net.d", plugins=None):
        path = sorted(glob.glob(folder + "/*.conflist"))[0]
        with open(path) as file:
            conflist = json.load(file)
        self.name, self.version = conflist["name"], conflist["cniVersion"]
        self.plugin = next(p for p in conflist["plugins"] if p["type"] == "heterok8s-cni")
        self.path = plugins or os.environ.get("CNI_PATH", "/run/lab/bin")

    def config(self, split=False, extra=None):
        config = dict(self.plugin, name=self.name, cniVersion=self.version)
        config["runtimeConfig"] = {
            "io.kubernetes.cri.pod-annotations": {"heteropod.io/offload": "dpu"} if split else {}}
        config.update(extra or {})
        return config

    def call(self, verb, container="", netns="", uid="", split=False, extra=None, ifname="eth0", timeout=90):
        """Returns (exit code, parsed stdout or None, stderr)."""
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": ifname,
               "CNI_PATH": f"{self.path}:/usr/lib/cni", "PATH": os.environ["PATH"],
               "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME=p-{container[:8]};K8S_POD_UID={uid}"}
        done = subprocess.run([f"{self.path}/heterok8s-cni"], env=env, input=json.dumps(self.config(split, extra)),
                              capture_output=True, text=True, timeout=timeout)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr


class Pod:
    """One Pod of a churn: namespace, ADD, DEL."""

    def __init__(self, network, split, label="hk"):
        self.network, self.split = network, split
        self.uid = str(uuid.uuid4())
        self.container = uuid.uuid4().hex * 2
        self.namespace = f"{label}-{self.uid[:13]}"
        self.netns = f"/run/netns/{self.namespace}"
        self.result = None

    def add(self):
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        code, answer, stderr = self.network.call("ADD", self.container, self.netns, self.uid, self.split)
        if code != 0:
            raise RuntimeError(f"ADD {self.container[:8]}: {answer} {stderr}")
        self.result = answer

    def delete(self):
        code, answer, stderr = self.network.call("DEL", self.container, self.netns, self.uid, self.split)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)
        if code != 0:
            raise RuntimeError(f"DEL {self.container[:8]}: {answer} {stderr}")

    def address(self):
        return self.result["ips"][0]["address"].split("/")[0]
