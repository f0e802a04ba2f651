"""`heteroctl node enable|disable` on a Node whose kubelet runs its Pods on containerd alone: the Pods do not notice.

The lab has no systemd: `systemctl` is the program beside this file; everything else, kubelet, containerd and cluster, is
real.
"""
import os
import shlex
import time

from cluster import container, pod, talker, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = "/run/lab-systemd"  # stands for / with the unit's files; kubelet's own are where they are
KUBELET = "kubelet.service"
CONTAINERD = "/run/containerd/containerd.sock"


class Units:
    """Daemons of the lab's host as units of "systemd"; kubelet, one of them, uses containerd's own socket."""

    def __init__(self, cluster, cases, *daemons):
        self.cluster, self.cases, self.daemons, self.failed = cluster, cases, daemons, cases.failed

    def host(self, script, **kwargs):
        environment = f"export PATH={ROOT}/bin:/run/lab/kubernetes:/run/lab/bin:$PATH SYSTEMD_ROOT={ROOT}; "
        return self.cluster.place("host", "sh", "-c", environment + script, **kwargs)

    def __enter__(self):
        self.host(f"mkdir -p {ROOT}/bin {ROOT}/lib/systemd/system && cp {HERE}/systemctl {ROOT}/bin/")
        # All are asked for before one ends: a kubelet that is without its runtime at its start ends too, until it is there.
        lines = {daemon: self.words(daemon) for daemon in self.daemons}
        for daemon, words in lines.items():
            if daemon == "kubelet":
                words.append(f"--container-runtime-endpoint=unix://{CONTAINERD}")
            self.cluster.daemon("stop", daemon, "host")
            since = now()
            unit = f"[Unit]\nDescription={daemon}\n[Service]\nExecStart={shlex.join(words)}\n"
            self.host(f"printf %s {shlex.quote(unit)} > {ROOT}/lib/systemd/system/{daemon}.service; systemctl restart {daemon}.service")
        wait_node(self.cluster, since)
        return self

    def __exit__(self, kind, *_):
        if kind is not None or self.cases.failed > self.failed:
            for daemon in self.daemons:
                print(f"#    last words of {daemon}:\n" + self.host(f"tail -n 40 {ROOT}/{daemon}.service.log", check=False).stdout, flush=True)
        for daemon in self.daemons:
            self.host(f"systemctl stop {daemon}.service", check=False)
        self.host(f"rm -rf {ROOT}")
        since = now()
        for daemon in self.daemons:
            self.cluster.daemon("start", daemon, "host")
        if kind is None:
            wait_node(self.cluster, since)

    def node(self, verb, *more, **kwargs):
        return self.host(f"heteroctl node {verb} --root {ROOT} --node-name {self.cluster.name} --kubeconfig /etc/heterok8s/kubelet.kubeconfig " +
                         " ".join(more), timeout=300, **kwargs)

    def words(self, daemon):
        """The command line of the one that runs."""
        return wait_for(daemon, lambda: self.host(f"tr '\\0' '\\n' < /proc/$(pgrep -xo {daemon})/cmdline", check=False).stdout.split("\n")[:-1])

    def runtime(self):
        """The endpoint that kubelet was started with."""
        return [word for word in self.words("kubelet") if word.startswith("--container-runtime-endpoint=")][-1:]


def now():
    """As Kubernetes writes times, so that later is greater."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def wait_node(cluster, since):
    """Until a kubelet that was started after `since` has said that the Node is Ready: what the one before it said stays there."""
    def ready():
        return any(each["type"] == "Ready" and each["status"] == "True" and each["lastHeartbeatTime"] >= since
                   for each in cluster.get("node", cluster.name)["status"]["conditions"])
    wait_for("the Node", ready, 120, every=0.5)


class Stays:
    """A Pod that must not notice: its containers are the same, and answer."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.before = {which: cluster.status(name, which)["containerID"] for which in ("app", "sidecar")}

    def check(self):
        for which, container_id in self.before.items():
            wait_for(f"exec in {which}", lambda w=which: self.cluster.exec(self.name, w, "echo", "here", check=False).stdout == "here\n", 60, every=0.5)
            status = self.cluster.status(self.name, which)
            assert (status["containerID"], status["restartCount"]) == (container_id, 0), status


def disable(unit, *more):
    """Until it is done: it refuses while the sandbox of a split Pod goes, and for no other reason."""
    def disabled():
        done = unit.node("disable", "--ready-within", "120", *more, check=False)
        assert done.returncode == 0 or "split Pods run" in done.stderr, done
        assert "not enabled" not in done.stderr, done
        return done.returncode == 0
    wait_for("the split Pod's sandbox is gone", disabled, 200, every=2)


def run(cluster, cases):
    by_kubelet(cluster, cases)
    by_socket(cluster, cases)


def by_kubelet(cluster, cases):
    here = {"nodeName": cluster.name}
    with Units(cluster, cases, "kubelet") as unit:
        cluster.apply(pod("stays", [talker("app"), talker("sidecar")], True, **here))
        cluster.wait_ready("stays")
        stays = Stays(cluster, "stays").check
        with cases.case("node: on containerd alone the Pod is all on the host, and check says that heterocri is not enabled"):
            assert unit.runtime() == [f"--container-runtime-endpoint=unix://{CONTAINERD}"], unit.runtime()
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
            disable(unit)
            assert unit.runtime() == [f"--container-runtime-endpoint=unix://{CONTAINERD}"], unit.runtime()
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
            assert unit.runtime() == [f"--container-runtime-endpoint=unix://{CONTAINERD}"], unit.runtime()
            stays()
        cluster.delete("pod", "stays")


def by_socket(cluster, cases):
    """kubelet is not touched: heterocri takes containerd's socket, and containerd gets another one."""
    here, limit = {"nodeName": cluster.name}, {"resources": {"limits": {"memory": "24Mi"}}}
    greedy = "while [ ! -e /tmp/go ]; do sleep 0.2; done; exec tail /dev/zero"
    with Units(cluster, cases, "containerd", "heterocri", "kubelet") as unit:
        def make(name, split):
            cluster.apply(pod(name, [container("app", greedy, **limit), talker("sidecar")], split, restartPolicy="Never", **here))
            cluster.wait_ready(name)

        def ends_for_memory(name):
            cluster.exec(name, "app", "touch", "/tmp/go")
            wait_for("its end", lambda: "terminated" in cluster.status(name, "app").get("state", {}), 60, every=0.5)
            ended = cluster.status(name, "app")["state"]["terminated"]
            assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137), ended
        cluster.apply(pod("stays", [talker("app"), talker("sidecar")], True, **here))
        make("before", False)
        cluster.wait_ready("stays")
        stays = Stays(cluster, "stays").check
        kubelet = unit.host("pgrep -xo kubelet").stdout
        with cases.case("node, by socket: enable gives heterocri containerd's socket; kubelet and the containers of the Pod are the same"):
            unit.node("enable", "--via", "socket", "--ready-within", "120")
            assert unit.words("containerd")[-2:] == ["--address", "/run/containerd/containerd-host.sock"], unit.words("containerd")
            assert unit.words("heterocri")[-4:] == ["--listen", CONTAINERD, "--host-socket", "/run/containerd/containerd-host.sock"], unit.words("heterocri")
            assert unit.host("pgrep -xo kubelet").stdout == kubelet
            stays()
            done = unit.node("check", "--via", "socket", check=False)
            assert done.returncode == 0, done
        with cases.case("node, by socket: of a container that was there before kubelet still hears that it ran out of memory"):
            ends_for_memory("before")
        with cases.case("node, by socket: a new split Pod is split, and while it runs disable refuses"):
            make("new", True)
            assert cluster.place("dpu", "ctr", "-n", "k8s.io", "containers", "ls", "-q",
                                 'labels."io.kubernetes.pod.name"==new,labels."io.kubernetes.container.name"==sidecar').stdout.split()
            done = unit.node("disable", "--via", "socket", check=False)
            assert done.returncode != 0 and "split Pods run" in done.stderr, done
            cluster.delete("pod", "new")
        make("meanwhile", False)
        with cases.case("node, by socket: disable gives containerd its socket back; the Pod goes on"):
            disable(unit, "--via", "socket")
            assert "--address" not in unit.words("containerd"), unit.words("containerd")
            stays()
        with cases.case("node, by socket: and of a container that was made meanwhile as well"):
            ends_for_memory("meanwhile")
        with cases.case("node, by socket: when heterocri does not come, the Node is put back, and the Pod goes on"):
            unit.host(f"cp {ROOT}/bin/systemctl {ROOT}/bin/systemctl.real && printf '#!/bin/sh\\n[ \"$1 $2\" = \"start heterocri.service\" ] && "
                      f"grep -qs address {ROOT}/etc/systemd/system/containerd.service.d/90-heterok8s.conf && exit 0\\n"
                      f"exec {ROOT}/bin/systemctl.real \"$@\"\\n' > {ROOT}/bin/systemctl")
            done = unit.node("enable", "--via", "socket", "--ready-within", "60", check=False)
            assert done.returncode != 0 and "was put back as it was, and is Ready" in done.stderr, done
            assert unit.host("pgrep -xo kubelet").stdout == kubelet
            stays()
        cluster.delete("pod", "stays", "before", "meanwhile", "--grace-period=0", "--force")
