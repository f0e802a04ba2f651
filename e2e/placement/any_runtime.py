"""heteroctl on a runtime that is no heterocri, the host's containerd itself: CRI is all it needs."""
import json

from lib.lab import wait_for
from lib.manifest import container, manifest, shell

SOCKET = "/run/containerd/containerd.sock"
ROOT = "/var/lib/heterok8s/pods"  # heteroctl's own default


def all_kinds(cases, lab):
    def ctl(*args, stdin=None):
        return lab.place("host", "heteroctl", "-o", "json", "--cri-socket", SOCKET, *args, check=False, stdin=stdin)

    def rows():
        return [row for row in json.loads(ctl("ps").stdout) if row["pod"] == "default/any"]

    text = manifest("any", [shell("app", "cat /conf/a.txt; sleep 1000", volumeMounts=[{"name": "conf", "mountPath": "/conf"}]),
                            container("side")],
                    config_maps={"cm": {"a.txt": "alpha\n"}}, volumes=[{"name": "conf", "configMap": {"name": "cm"}}])
    done = ctl("run", "-", stdin=text)
    cases.check("plain containerd: a Pod runs, all of it on the host", done.returncode == 0 and
                {c["name"]: c["pu"] for c in json.loads(done.stdout)["containers"]} == {"app": "host", "side": "host"}, done)
    cases.check("plain containerd: ps", {(row["container"], row["pu"], row["state"]) for row in rows()} ==
                {("app", "host", "running"), ("side", "host", "running")}, rows())
    with cases.case("plain containerd: logs"):
        wait_for("the line", lambda: '"text":"alpha"' in ctl("logs", "any", "-c", "app").stdout.replace(" ", ""))
    done = ctl("exec", "any", "-c", "side", "--", "/bin/sh", "-c", "echo out; exit 3")
    cases.check("plain containerd: exec", done.returncode == 3 and json.loads(done.stdout)["stdout"] == "out\n", done)
    why = ctl("why", "any")
    cases.check("plain containerd: why asks heterod, and nobody about places", why.returncode == 0 and
                (said := json.loads(why.stdout))["host"]["mode"] == "ordinary" and said["containers"] == said["not_asked"] == [], why)
    done = ctl("rm", "any")
    left = lab.place("host", "sh", "-c", f"ls -A {ROOT}").stdout
    cases.check("plain containerd: rm leaves nothing", done.returncode == 0 and rows() == [] and left == "", (done, left))
