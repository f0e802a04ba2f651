"""Two containers of one Pod, as docs/heterosock.md says it: the library and the folder of the agent's socket are mounted
read-only, and nothing else of the agent's. redis-cli in one calls redis-server in the other over localhost.

   Pod: server (redis-server) ◀── 127.0.0.1:6379 ── client (redis-cli)
            │  /run/heterosock/pods (read-only)         │
            └──────────── heterosockd (host) ───────────┘
"""
import contextlib
import json
import os
import shutil
import subprocess
import tempfile

from lib.heterosock import AGENT, BIN, LIBRARY
from lib.lab import HETEROCTL, Failed, wait_for
from lib.manifest import container, manifest

CTL = os.path.join(BIN, "ctl", "heterosockctl")
IMAGE = "heterok8s.local/redis:1"
POD = "moves"
# Until there is a server; then one connection that stays.
CALLS = "until redis-cli ping; do sleep 0.1; done; exec redis-cli -r -1 -i 0.01 ping"


@contextlib.contextmanager
def agent(lab):
    """Folder with `pods`, in which the agent's socket is alone, `admin.sock` and `library`."""
    folder = tempfile.mkdtemp(prefix="hk-heterosock-", dir="/tmp")
    os.makedirs(f"{folder}/library")
    shutil.copy(LIBRARY, f"{folder}/library")
    argv = [HETEROCTL, "lab", "exec", "--name", lab.name, "host", "--", AGENT,
            f"--socket={folder}/pods/agent.sock", f"--admin={folder}/admin.sock"]
    with open(f"{folder}/log", "w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        wait_for("the agent's socket", lambda: os.path.exists(f"{folder}/pods/agent.sock"))
        yield folder
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


def status(lab, folder):
    # In the agent's PID namespace: others get no answer.
    return json.loads(lab.place("host", CTL, "--admin", f"{folder}/admin.sock", "-o", "json", "status").stdout)


def pod(folder):
    mounts = [{"name": "heterosock", "mountPath": "/run/heterosock/pods", "readOnly": True},
              {"name": "library", "mountPath": "/usr/lib/heterosock", "readOnly": True}]
    fields = {"image": IMAGE, "volumeMounts": mounts, "env": [{"name": "LD_PRELOAD", "value": "/usr/lib/heterosock/libheterosock.so"}]}
    server = container("server", "/usr/bin/redis-server", "--dir", "/data", "--save", "", **fields)
    client = container("client", "/bin/sh", "-c", CALLS, **fields)
    volumes = [{"name": "heterosock", "hostPath": {"path": f"{folder}/pods", "type": "Directory"}},
               {"name": "library", "hostPath": {"path": f"{folder}/library", "type": "Directory"}}]
    return manifest(POD, [server, client], volumes=volumes)


def shared(lab, folder):
    """The ends of the connection, once both send through shared memory."""
    for channel in status(lab, folder)["channels"]:
        if all(end["sending_on"] == "shared" for end in channel["ends"]):
            return {end["command"]: end for end in channel["ends"]}
    return None


def of_one_pod(cases, lab):
    with agent(lab) as folder:
        lab.run_pod(pod(folder))
        ends = {}

        def moved():
            ends.update(shared(lab, folder) or {})
            return ends
        with cases.case("containers of one Pod, library and socket mounted read-only: their connection moves"):
            try:
                wait_for("both ends on shared memory", moved)
            except Failed as late:
                said = [lab.ctl("logs", POD, "-c", each, "--tail", "3", check=False).stderr for each in ("server", "client")]
                raise Failed(f"{late}: {said}, {status(lab, folder)}") from late
        cases.check("one end is in each container", set(ends) == {"redis-server", "redis-cli"}
                    and ends["redis-server"]["cgroup"] != ends["redis-cli"]["cgroup"], ends)
        before = status(lab, folder)["totals"]["shared_bytes"]
        with cases.case("what they say goes through it"):
            wait_for("more bytes", lambda: status(lab, folder)["totals"]["shared_bytes"] > before)

        def inside(script):
            return lab.ctl("exec", POD, "-c", "client", "--", "/bin/sh", "-c", f"unset LD_PRELOAD; {script}", check=False)
        taken = inside("rm /run/heterosock/pods/agent.sock")
        cases.check("a container cannot take the socket away", taken.returncode != 0 and "Read-only file system" in taken.stderr + taken.stdout,
                    (taken.returncode, taken.stdout, taken.stderr))
        seen = inside("ls /run/heterosock /run/heterosock/pods")
        cases.check("it sees nothing else of the agent's", seen.stdout.split() == ["/run/heterosock:", "pods", "/run/heterosock/pods:", "agent.sock"],
                    (seen.stdout, seen.stderr))
        lab.ctl("rm", POD)
        with cases.case("with the Pod its connections end, and the agent counts none"):
            wait_for("no channel and no process", lambda: not status(lab, folder)["channels"] and not status(lab, folder)["processes"])
