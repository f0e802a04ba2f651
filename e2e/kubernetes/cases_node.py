"""`heteroctl node enable|disable` on a Node whose kubelet runs its Pods on containerd alone: the Pods do not notice.

The lab has no systemd: `systemctl` is the program beside this file; everything else, kubelet and cluster, is real.
"""
import os
import shlex

from cluster import pod, talker, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = "/run/lab-systemd"  # stands for / with the unit's files; kubelet's own are where they are
KUBELET = "kubelet.service"


class Unit:
    """The lab's kubelet as a unit of "systemd", on containerd."""

    def __init__(self, cluster):
        self.cluster = cluster

    def host(self, script, **kwargs):
        environment = f"export PATH={ROOT}/bin:/run/lab/kubernetes:/run/lab/bin:$PATH SYSTEMD_ROOT={ROOT}; "
        return self.cluster.place("host", "sh", "-c", environment + script, **kwargs)

    def __enter__(self):
        words = self.host("tr '\\0' '\\n' < /proc/$(pgrep -xo kubelet)/cmdline").stdout.split("\n")[:-1]
        command = " ".join(shlex.quote(word) for word in [*words, "--container-runtime-endpoint=unix:///run/containerd/containerd.sock"])
        self.cluster.daemon("stop", "kubelet", "host")
        unit = f"[Unit]\nDescription=kubelet\n[Service]\nExecStart={command}\n"
        self.host(f"mkdir -p {ROOT}/bin {ROOT}/lib/systemd/system && cp {HERE}/systemctl {ROOT}/bin/ && printf %s {shlex.quote(unit)} > {ROOT}/lib/systemd/system/{KUBELET}")
        self.host(f"systemctl restart {KUBELET}")
        return self

    def __exit__(self, *_):
        self.host(f"systemctl stop {KUBELET}", check=False)
        self.cluster.daemon("start", "kubelet", "host")

    def node(self, verb, *more, **kwargs):
        return self.host(f"heteroctl node {verb} --root {ROOT} --node-name {self.cluster.name} --kubeconfig /etc/heterok8s/kubelet.kubeconfig " +
                         " ".join(more), timeout=300, **kwargs)

    def runtime(self):
        """The endpoint that kubelet was started with."""
        words = self.host("tr '\\0' '\\n' < /proc/$(pgrep -xn kubelet)/cmdline", check=False).stdout.split("\n")
        return [word for word in words if word.startswith("--container-runtime-endpoint=")][-1:]


def wait_node(cluster):
    wait_for("the Node", lambda: cluster.kubectl("wait", f"node/{cluster.name}", "--for=condition=Ready", "--timeout=5s", check=False).returncode == 0, 120)


def run(cluster, cases):
    here = {"nodeName": cluster.name}
    with Unit(cluster) as unit:
        wait_node(cluster)
        cluster.apply(pod("stays", [talker("app"), talker("sidecar")], True, **here))
        cluster.wait_ready("stays")
        before = {which: cluster.status("stays", which)["containerID"] for which in ("app", "sidecar")}

        def stays():
            for which, container_id in before.items():
                status = cluster.status("stays", which)
                assert (status["containerID"], status["restartCount"]) == (container_id, 0), status
                wait_for(f"exec in {which}", lambda w=which: cluster.exec("stays", w, "echo", "here", check=False).stdout == "here\n", 60, every=0.5)
        with cases.case("node: on containerd alone the Pod is all on the host, and check says that heterocri is not enabled"):
            assert unit.runtime() == ["--container-runtime-endpoint=unix:///run/containerd/containerd.sock"], unit.runtime()
            done = unit.node("check", check=False)
            assert done.returncode == 1 and "not enabled" in done.stdout, done
        with cases.case("node: enable puts heterocri in between; no container of the Pod is another, exec works"):
            unit.node("enable", "--ready-within", "120")
            assert unit.runtime() == ["--container-runtime-endpoint=unix:///run/heterok8s/cri.sock"], unit.runtime()
            stays()
            done = unit.node("check", check=False)
            assert done.returncode == 0, done
        with cases.case("node: a new split Pod is split, and while it runs disable refuses"):
            cluster.apply(pod("new", [talker("app"), talker("sidecar")], True, **here))
            cluster.wait_ready("new")
            assert cluster.places("new") == {"app": "host", "sidecar": "dpu"}, cluster.places("new")
            done = unit.node("disable", check=False)
            assert done.returncode != 0 and "1 split Pods run" in done.stderr, done
            cluster.delete("pod", "new")
        with cases.case("node: disable goes back to containerd; the Pod goes on"):
            wait_for("the split Pod's sandbox is gone", lambda: unit.node("disable", "--ready-within", "120", check=False).returncode == 0, 200, every=2)
            assert unit.runtime() == ["--container-runtime-endpoint=unix:///run/containerd/containerd.sock"], unit.runtime()
            stays()
        with cases.case("node: when heterocri does not answer, enable changes nothing"):
            cluster.daemon("stop", "heterocri", "host")
            try:
                done = unit.node("enable", check=False)
            finally:
                cluster.daemon("start", "heterocri", "host")
            assert done.returncode != 0, done
            stays()
        with cases.case("node: when kubelet does not become Ready through heterocri, the Node is put back, and the Pod goes on"):
            # heterocri answers when enable looks, and is gone when kubelet asks.
            unit.host(f"cp {ROOT}/bin/systemctl {ROOT}/bin/systemctl.real && printf '#!/bin/sh\\n[ \"$1\" != restart ] || "
                      f"! grep -q cri.sock {ROOT}/etc/systemd/system/{KUBELET}.d/* 2>/dev/null || pkill -STOP -x heterocri\\n"
                      f"exec {ROOT}/bin/systemctl.real \"$@\"\\n' > {ROOT}/bin/systemctl")
            try:
                done = unit.node("enable", "--ready-within", "45", check=False)
            finally:
                unit.host(f"mv {ROOT}/bin/systemctl.real {ROOT}/bin/systemctl; pkill -CONT -x heterocri")
            assert done.returncode != 0 and "was put back as it was, and is Ready" in done.stderr, done
            assert unit.runtime() == ["--container-runtime-endpoint=unix:///run/containerd/containerd.sock"], unit.runtime()
            stays()
        cluster.delete("pod", "stays")
    wait_node(cluster)
