#!/usr/bin/env python3
"""scenario.py ACTION UID…: one step of a Pod's life over CNI, inside the PU it is called in. Prints one JSON line.

  add|del|check  split|ordinary|twin|delegated  UID      GC KEEP-UID…      (delegated: another IPAM plugin)
The container id and the namespace are derived from the UID and the PU, so that any step can be repeated.
"""
import hashlib
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib.cni import Network  # noqa: E402


DELEGATED = {"type": "static", "addresses": [{"address": "10.99.0.5/24"}]}


def container_of(uid):
    return hashlib.sha256((uid + os.uname().nodename).encode()).hexdigest()


def main():
    action, network = sys.argv[1], Network()
    if action == "gc":
        keep = [{"containerID": container_of(uid), "ifname": "eth0"} for uid in sys.argv[2:]]
        code, answer, stderr = network.call("GC", extra={"cniVersion": "1.1.0", "cni.dev/valid-attachments": keep})
    else:
        kind, uid = sys.argv[2:4]
        name = f"crash-{uid[:13]}"
        if action == "add":
            subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
        extra = {"ipMasq": True, **({"ipam": DELEGATED} if kind == "delegated" else {})}
        if kind == "ordinary":  # with a host port, so that its steps of the journal are passed too
            extra["runtimeConfig"] = {"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]}
        if action == "check":
            extra["prevResult"] = json.load(sys.stdin)
        code, answer, stderr = network.call(action.upper(), container_of(uid), f"/run/netns/{name}", uid,
                                            split=kind in ("split", "twin"), extra=extra)
        if action == "del":
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    print(json.dumps({"code": code, "answer": answer, "stderr": stderr[-500:]}))


if __name__ == "__main__":
    main()
