"""A kubelet for one Pod at a time: it looks at what there is, does what is missing, and tries again what failed.

    pod = PodLife(Kubelet(lab)); pod.run(); pod.end(); pod.remove()

Works from outside the lab's namespaces, through /proc/PID/root of a process in each PU.
"""
import itertools
import json
import os
import re
import shutil
import sys
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cri_conformance"))
from cri import Cri, CriError, pb  # noqa: E402
from lib.lab import wait_for  # noqa: E402

IMAGE = "heterok8s.local/toolbox:1"
PATIENCE = 60  # seconds; for a machine with much else to do
# Numbered lines until TERM; then a last line and a message.
TALK = ("trap 'echo end; echo bye >/dev/termination-log; exit 3' TERM; i=0; "
        "while :; do echo $i; i=$((i+1)); sleep 0.02; done")
SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
LINE = re.compile(rb"^\S+ stdout F (.*)$")
AGAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL", "ABORTED", "CANCELLED", "FAILED_PRECONDITION", "NOT_FOUND")


class Kubelet:
    def __init__(self, lab):
        self.lab = lab
        rows = json.loads(lab.ctl("-o", "json", "lab", "list").stdout)
        self.root = {row["pu"]: f"/proc/{row['pid']}/root" for row in rows
                     if row["lab"] == lab.name and row.get("daemon") == "containerd"}
        self.runtime = {pu: Cri(f"{root}/run/containerd/containerd.sock") for pu, root in self.root.items()}

    def cri(self):
        """A new connection: an old one would wait before it looks for a heterocri that has just come back."""
        return Cri(f"{self.root['host']}/run/heterok8s/cri.sock")

    def insist(self, what, step, every=0.1):
        """step(cri) until it succeeds and is true; returns its value. As kubelet's next look at the Pod."""
        said = []

        def attempt():
            cri = self.cri()
            try:
                return step(cri)
            except CriError as error:
                said[:] = [str(error)]
                if error.code not in AGAIN:
                    raise
                return None
            finally:
                cri.channel.close()
        try:
            return wait_for(what, attempt, PATIENCE, every)
        except Exception as late:
            raise AssertionError(f"{late}; last: {said}") from late

    def objects(self, pu):
        """Names of all sandboxes and containers in this PU's runtime."""
        cri = self.runtime[pu]
        return ([f"sandbox {s.metadata.name} {s.state}" for s in cri.ListPodSandbox().items] +
                [f"container {c.metadata.name}/{c.metadata.attempt} {c.state}" for c in cri.ListContainers().containers])


class PodLife:
    def __init__(self, kubelet):
        self.kubelet, self.uid, self.turns, self.version = kubelet, str(uuid.uuid4()), 0, itertools.count(1)
        root = kubelet.root["host"]
        self.folder, self.logs = f"/var/lib/kubelet/pods/{self.uid}", f"/var/log/pods/crash_web_{self.uid}"
        for path in (self.folder, self.logs, f"{self.folder}/volumes/kubernetes.io~configmap/cm"):
            os.makedirs(root + path, exist_ok=True)
        self.put_volume("first")
        self.labels = {"who": self.uid, "io.kubernetes.pod.name": "web"}

    def message_of(self, name, attempt):
        return f"{self.folder}/containers/{name}/{attempt}"

    def on_host(self, path):
        return self.kubelet.root["host"] + path

    def put_volume(self, text):
        """By kubelet's steps: a new folder, then "..data" in one."""
        path, version = self.on_host(f"{self.folder}/volumes/kubernetes.io~configmap/cm"), f"..v{next(self.version)}"
        os.mkdir(f"{path}/{version}")
        with open(f"{path}/{version}/key", "w", encoding="ascii") as file:
            file.write(text)
        os.symlink(version, f"{path}/..data_tmp")
        os.rename(f"{path}/..data_tmp", f"{path}/..data")
        if not os.path.islink(f"{path}/key"):
            os.symlink("..data/key", f"{path}/key")

    # --- what there is ---------------------------------------------------------------------------------------------
    def sandboxes(self, cri):
        return cri.ListPodSandbox(filter=pb.PodSandboxFilter(label_selector={"who": self.uid})).items

    def containers(self, cri, name=None):
        found = cri.ListContainers(filter=pb.ContainerFilter(label_selector={"who": self.uid})).containers
        return [c for c in found if name in (None, c.metadata.name)]

    def status(self, container):
        return self.kubelet.insist("a status", lambda cri: cri.ContainerStatus(container_id=container).status)

    # --- what is done ----------------------------------------------------------------------------------------------
    def config(self, attempt):
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name="web", uid=self.uid, namespace="crash", attempt=attempt), hostname="web",
            log_directory=self.logs, labels=self.labels,
            annotations={"heteropod.io/offload": "dpu", "heteropod.io/offload-containers": "side,second", "heteropod.io/fallback": "pending"},
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=f"/crash/{self.uid}", security_context=pb.LinuxSandboxSecurityContext(
                namespace_options=pb.NamespaceOption(pid=pb.CONTAINER))))

    def sandbox(self, cri):
        ready = [s.id for s in self.sandboxes(cri) if s.state == pb.SANDBOX_READY]
        assert len(ready) <= 1, f"two sandboxes of one Pod: {ready}"
        if not ready:
            attempts = [s.metadata.attempt + 1 for s in self.sandboxes(cri)]
            self.made = self.config(max(attempts, default=0))
            ready = [cri.RunPodSandbox(config=self.made).pod_sandbox_id]
        return ready[0]

    def container(self, cri, name):
        """One that was made and never started is left as it is, and another is made, as kubelet does."""
        known = self.containers(cri, name)
        running = [c.id for c in known if c.state == pb.CONTAINER_RUNNING]
        assert len(running) <= 1, f"two of container {name}: {running}"
        if running:
            return running[0]
        attempt = max((c.metadata.attempt + 1 for c in known), default=0)
        os.makedirs(self.on_host(f"{self.logs}/{name}"), exist_ok=True)
        message = self.message_of(name, attempt)
        os.makedirs(os.path.dirname(self.on_host(message)), exist_ok=True)
        with open(self.on_host(message), "w", encoding="ascii"):
            pass
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name, attempt=attempt), image=pb.ImageSpec(image=IMAGE),
            command=["/bin/sh", "-c", TALK if name == "side" else SLEEP], log_path=f"{name}/{attempt}.log",
            labels={**self.labels, "io.kubernetes.container.name": name},
            mounts=[pb.Mount(host_path=f"{self.folder}/volumes/kubernetes.io~configmap/cm", container_path="/cm", readonly=True),
                    pb.Mount(host_path=message, container_path="/dev/termination-log")],
            linux=pb.LinuxContainerConfig(
                resources=pb.LinuxContainerResources(cpu_shares=100),
                security_context=pb.LinuxContainerSecurityContext(namespace_options=pb.NamespaceOption(pid=pb.CONTAINER))))
        made = cri.CreateContainer(pod_sandbox_id=self.sandbox_id, config=config, sandbox_config=self.made).container_id
        cri.StartContainer(container_id=made)
        return made

    def run(self, *more):
        self.sandbox_id = self.kubelet.insist("a sandbox", self.sandbox)
        self.ids = {name: self.kubelet.insist(f"container {name}", lambda cri, n=name: self.container(cri, n))
                    for name in ("side", *more, "app")}
        status = self.status(self.ids["side"])
        self.log, self.message = status.log_path, self.message_of("side", status.metadata.attempt)
        self.lines("some", lambda lines: len(lines) > 5)
        self.alone()

    def alone(self):
        """Each container runs once, on its PU; what a crash left of one never ran."""
        for pu, runtime in self.kubelet.runtime.items():
            for name in self.ids:
                states = sorted(c.state for c in self.containers(runtime, name))
                wanted = 1 if pu == ("host" if name == "app" else "dpu") else 0
                assert states.count(pb.CONTAINER_RUNNING) == wanted, f"{name} on the {pu}: {states}"
                assert len(states) - wanted in (0, 1), f"{name} on the {pu}: {states}"
                assert set(states) <= {pb.CONTAINER_RUNNING, pb.CONTAINER_CREATED}, f"{name} on the {pu}: {states}"

    def update(self):
        self.kubelet.insist("new resources", lambda cri: cri.UpdateContainerResources(
            container_id=self.ids["side"], linux=pb.LinuxContainerResources(cpu_shares=200)) is not None)
        self.put_volume("second")
        self.kubelet.insist("the volume's new version", lambda cri: cri.ExecSync(
            container_id=self.ids["side"], cmd=["cat", "/cm/key"], timeout=10).stdout == b"second")

    def rotate(self):
        path = self.on_host(self.log)

        def reopen(cri):
            os.rename(path, f"{path}.{self.turns}")
            try:
                cri.ReopenContainerLog(container_id=self.ids["side"])
            except CriError:
                os.rename(f"{path}.{self.turns}", path)
                raise
            self.turns += 1
            return True
        self.kubelet.insist("a rotated log", reopen)

    def lines(self, what, enough):
        """The container's lines on the host, once there are enough."""
        def look():
            data = b""
            for turn in (*range(self.turns), None):
                path = self.on_host(self.log) + ("" if turn is None else f".{turn}")
                if os.path.exists(path):
                    with open(path, "rb") as file:
                        data += file.read()
            found = [LINE.match(line) for line in data.split(b"\n")[:-1]]
            assert all(found), f"no log line in {data[:300]}"
            lines = [match.group(1) for match in found]
            return lines if enough(lines) else None
        return wait_for(f"{what} lines on the host", look, PATIENCE, 0.05)

    def whole(self, lines):
        numbers = [line for line in lines if line != b"end"]
        assert numbers == [b"%d" % i for i in range(len(numbers))], f"lines lost or doubled: {lines}"

    def ended(self, name):
        def look(cri):
            status = cri.ContainerStatus(container_id=self.ids[name]).status
            return status if status.state == pb.CONTAINER_EXITED else None
        return self.kubelet.insist(f"the end of {name}", look)

    def end(self):
        """The container is stopped; its log, message and exit code are on the host."""
        self.kubelet.insist("StopContainer", lambda cri: cri.StopContainer(container_id=self.ids["side"], timeout=10) is not None)
        status = self.ended("side")
        assert status.exit_code == 3, status
        self.whole(self.lines("all", lambda lines: lines[-1:] == [b"end"]))

        def message():
            with open(self.on_host(self.message), encoding="ascii") as file:
                return file.read() == "bye\n"
        wait_for("the message on the host", message, PATIENCE)

    def lose_twin(self):
        """As by a reboot of the DPU: its runtime knows the sandbox, which runs no more."""
        for twin in self.sandboxes(self.kubelet.runtime["dpu"]):
            self.kubelet.runtime["dpu"].StopPodSandbox(pod_sandbox_id=twin.id)

    def lost(self, name):
        def look(cri):
            status = cri.ContainerStatus(container_id=self.ids[name]).status
            return status.state == pb.CONTAINER_EXITED and status.reason == "DPULost"
        self.kubelet.insist(f"{name} to be shown as lost", look)

    def fenced(self):
        """The DPU is back: what ran there has ended for good, and is removed there with all its lines on the host; its twin has stopped."""
        self.kubelet.insist("the DPU to be back", lambda cri: any(
            c.type == "HeteroK8sDPUReady" and c.status for c in cri.Status().status.conditions))
        wait_for("the DPU without its old containers", lambda: not self.containers(self.kubelet.runtime["dpu"]), PATIENCE)
        # By heterocri itself, and not by what kubelet asks for next.
        wait_for("the twin of a Pod that has stopped to stop", lambda: all(
            twin.state == pb.SANDBOX_NOTREADY for twin in self.sandboxes(self.kubelet.runtime["dpu"])), PATIENCE)
        assert self.ended("side").exit_code == 137
        self.whole(self.lines("all", lambda lines: len(lines) > 5))

    def remove_container(self, name):
        self.kubelet.insist(f"RemoveContainer {name}", lambda cri: cri.RemoveContainer(container_id=self.ids[name]) is not None)

    def stop(self):
        def step(cri):
            for sandbox in self.sandboxes(cri):
                cri.StopPodSandbox(pod_sandbox_id=sandbox.id)
            return True
        self.kubelet.insist("StopPodSandbox", step)

    def remove(self):
        """As kubelet does: what is listed goes, until nothing is."""
        def containers(cri):
            for container in self.containers(cri):
                cri.RemoveContainer(container_id=container.id)
            return not self.containers(cri)

        def sandboxes(cri):
            for sandbox in self.sandboxes(cri):
                cri.RemovePodSandbox(pod_sandbox_id=sandbox.id)
            return not self.sandboxes(cri)
        self.stop()
        self.kubelet.insist("RemoveContainer", containers)
        self.kubelet.insist("RemovePodSandbox", sandboxes)
        for path in (self.folder, self.logs):
            shutil.rmtree(self.on_host(path), ignore_errors=True)
