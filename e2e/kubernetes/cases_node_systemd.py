"""`heteroctl node enable|disable` with kubelet, containerd, heterocri and heterod as units of a real systemd.

        API server ── kubelet.service ── [heterocri.service ──] containerd.service      in a systemd on the host of the lab

What cases_node.py does with a program in systemd's place is here about systemd itself: its files come back byte for byte,
processes of containers stay the same, and what is killed half-way is done again, or undone by systemd's timer.
"""
import os
import sys

from cluster import pod, talker, wait_for
from cases_node import CONTAINERD, Stays, now, wait_node

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "systemd"))
from machine import UNITS, Machine, why_not  # noqa: E402

DAEMONS = ("containerd", "heterod", "heterocri", "kubelet")
TIMER, SERVICE = "heterok8s-node-rollback.timer", "heterok8s-node-rollback.service"
ROUTER = ["--container-runtime-endpoint=unix:///run/heterok8s/cri.sock"]
DIRECT = [f"--container-runtime-endpoint=unix://{CONTAINERD}"]


class Units:
    """The lab's daemons of the host as units; kubelet uses containerd's own socket."""

    def __init__(self, cluster, machine):
        self.cluster, self.machine = cluster, machine
        machine.keep_words(*DAEMONS)
        machine.systemctl("set-environment", "PATH=/run/lab/kubernetes:/usr/sbin:/usr/bin:/sbin:/bin")
        machine.write(f"{UNITS}/kubelet.service", "[Unit]\nDescription=kubelet\n[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=1\n")
        for daemon in ("kubelet", "heterocri", "heterod"):
            if daemon == "kubelet":
                machine.take_over(daemon, "kubelet.service")
            else:
                cluster.daemon("stop", daemon, "host")
        machine.take_over("containerd", "containerd.service")
        path = f"{UNITS}/kubelet.service.d/10-lab.conf"
        machine.run("sed", "-i", f"/^ExecStart=./s|$| --container-runtime-endpoint=unix://{CONTAINERD}|", path)
        machine.systemctl("daemon-reload")
        machine.systemctl("start", *DAEMONS, timeout=180)

    def command(self, verb, *more):
        return ["env", "PATH=/run/lab/kubernetes:/usr/bin:/bin", "heteroctl", "node", verb, "--node-name", self.cluster.name,
                "--kubeconfig", "/etc/heterok8s/kubelet.kubeconfig", *more]

    def node(self, verb, *more, **kwargs):
        return self.machine.run(*self.command(verb, *more), timeout=300, **kwargs)

    def words(self, unit):
        pid = self.machine.show(unit, "MainPID")
        return self.machine.run("sh", "-c", f"tr '\\0' '\\n' < /proc/{pid}/cmdline").stdout.split("\n")[:-1]

    def runtime(self):
        """The endpoint that kubelet was started with."""
        return [word for word in self.words("kubelet") if word.startswith("--container-runtime-endpoint=")][-1:]

    def timer(self):
        return self.machine.show(TIMER, "ActiveState")

    def files(self):
        """Every file of systemd's, byte for byte."""
        return self.machine.run("sh", "-c", f"cd {UNITS} && find . -type f -o -type l | sort | xargs sha256sum").stdout

    def containers(self):
        """pid and start time of every process that a shim has begun."""
        script = "for shim in $(pgrep -x containerd-shim); do pgrep -P $shim; done | sort -n | while read p; do echo $p $(cut -d' ' -f22 /proc/$p/stat); done"
        return self.machine.run("sh", "-c", script).stdout

    def starts(self):
        return {unit: self.machine.show(unit, "ExecMainStartTimestampMonotonic") for unit in ("kubelet", "containerd", "heterocri")}


def run(cluster, cases):
    missing = why_not()
    if missing:
        print(f"SKIPPED: {missing}")
        return
    with Machine(cluster, "host") as machine:
        since = now()
        unit = Units(cluster, machine)
        wait_node(cluster, since)
        cluster.apply(pod("stays", [talker("app"), talker("sidecar")], True, nodeName=cluster.name))
        cluster.wait_ready("stays")
        stays, before, processes = Stays(cluster, "stays").check, unit.files(), unit.containers()
        assert processes

        def same():
            stays()
            assert unit.containers() == processes, (processes, unit.containers())
        for part in (by_kubelet, killed, rolled_back, by_socket):
            failed = cases.failed
            part(cases, unit, same, before)
            if cases.failed > failed:
                for daemon in DAEMONS:
                    print(f"#    last words of {daemon}:\n{machine.last_words(daemon)}", flush=True)
        cluster.delete("pod", "stays", "--grace-period=0", "--force")


def by_kubelet(cases, unit, same, before):
    with cases.case("node, systemd: enable by kubelet's drop-in; every process of a container is the same"):
        unit.node("enable", "--ready-within", "120")
        assert unit.runtime() == ROUTER, unit.words("kubelet")
        assert unit.timer() == "inactive", unit.timer()
        same()
        done = unit.node("check", check=False)
        assert done.returncode == 0, done
    with cases.case("node, systemd: enable again restarts nothing"):
        starts = unit.starts()
        unit.node("enable")
        assert unit.starts() == starts, (starts, unit.starts())
    with cases.case("node, systemd: disable leaves systemd's files as they were, and twice is once"):
        unit.node("disable", "--ready-within", "120")
        assert unit.files() == before
        assert unit.runtime() == DIRECT, unit.words("kubelet")
        starts = unit.starts()
        unit.node("disable")
        assert unit.starts() == starts, (starts, unit.starts())
        same()


def kill_enable(unit, *more):
    """enable, killed when its drop-in is there."""
    drop_in = f"{UNITS}/*.service.d/90-heterok8s.conf"
    words = " ".join(unit.command("enable", *more))
    unit.machine.run("sh", "-c", f"{words} & while ! ls {drop_in} >/dev/null 2>&1; do sleep 0.01; done; kill -9 $!; wait $!; true")


def killed(cases, unit, same, before):
    with cases.case("node, systemd: enable, killed on its way and asked again, comes to its end and leaves no timer"):
        kill_enable(unit, "--ready-within", "120")
        assert unit.timer() == "active", unit.timer()
        wait_for("the Node", lambda: unit.node("enable", "--ready-within", "120", check=False).returncode == 0, 120, every=2)
        assert unit.runtime() == ROUTER, unit.words("kubelet")
        assert unit.timer() == "inactive", unit.timer()
        same()
    with cases.case("node, systemd: disable, killed on its way and asked again, leaves nothing"):
        words = " ".join(unit.command("disable"))
        drop_in = f"{UNITS}/kubelet.service.d/90-heterok8s.conf"
        unit.machine.run("sh", "-c", f"{words} & while grep -q ExecStart {drop_in}; do sleep 0.01; done; kill -9 $!; wait $!; true")
        unit.node("disable", "--ready-within", "120")
        assert unit.files() == before
        assert unit.runtime() == DIRECT, unit.words("kubelet")
        same()
    with cases.case("node, systemd: enable, killed and never asked again, is undone by systemd's timer"):
        kill_enable(unit, "--ready-within", "5")  # the timer: twice that and 30 s
        wait_for("the files are as they were", lambda: unit.files() == before, 120, every=1)
        wait_for("kubelet is back", lambda: unit.runtime() == DIRECT, 60, every=1)
        # While it waits for the Node no other is at work.
        wait_for("its end", lambda: unit.machine.show(SERVICE, "ActiveState") == "inactive", 120, every=1)
        same()


def rolled_back(cases, unit, same, before):
    with cases.case("node, systemd: not Ready within its time: put back byte for byte, and Ready"):
        # heterocri answers when enable looks, and hangs when kubelet asks: a drop-in stops it before kubelet starts.
        hang = f"{UNITS}/kubelet.service.d/50-hang.conf"
        unit.machine.write(hang, "[Service]\nExecStartPre=/bin/sh -c '! grep -q cri.sock "
                                 f"{UNITS}/kubelet.service.d/90-heterok8s.conf 2>/dev/null || pkill -STOP -x heterocri'\n")
        unit.machine.systemctl("daemon-reload")
        with_hang = unit.files()
        try:
            done = unit.node("enable", "--ready-within", "45", check=False)
        finally:
            unit.machine.run("pkill", "-CONT", "-x", "heterocri", check=False)
        assert done.returncode != 0 and "was put back as it was, and is Ready" in done.stderr, done
        assert unit.files() == with_hang
        unit.machine.run("rm", hang)
        unit.machine.systemctl("daemon-reload")
        assert unit.files() == before
        same()


def by_socket(cases, unit, same, before):
    with cases.case("node, systemd, by socket: containerd moves, heterocri has its socket, kubelet is not touched"):
        wait_for("heterocri", lambda: unit.machine.show("heterocri", "ActiveState") == "active", 90, every=0.5)
        kubelet = unit.starts()["kubelet"]
        unit.node("enable", "--via", "socket", "--ready-within", "120")
        assert unit.words("containerd")[-2:] == ["--address", "/run/containerd/containerd-host.sock"], unit.words("containerd")
        assert unit.starts()["kubelet"] == kubelet
        same()
    with cases.case("node, systemd, by socket: disable leaves systemd's files as they were; the containers go on"):
        unit.node("disable", "--via", "socket", "--ready-within", "120")
        assert unit.files() == before
        same()
