"""What a kubelet is to a runtime: Pods with folders and logs, containers in them, and an orderly end.

    pod = node.pod("web")
    c = pod.run("side", "sleep 100")        # created and started; the script runs in /bin/sh -c
    node.status(c).state

A *target* says where containers are to run: every case is the same for all. In target "split" each Pod also has a
container `app` on the host beside the one under test.
"""
import itertools
import os
import shutil

from cri import CriError, pb
from lib.lab import Failed, wait_for  # noqa: F401 (the cases have them from here)

IMAGE = "heterok8s.local/toolbox:1"
LONG = "trap 'exit 0' TERM; while :; do sleep 0.1; done"

# name: (socket, the Pod's annotations)
CONTAINERD = "/run/containerd/containerd.sock"
HETEROCRI = "/run/heterok8s/cri.sock"
EVERY_NAME = "side,second,app"
TARGETS = {
    "containerd": (CONTAINERD, {}),
    "host": (HETEROCRI, {}),
    "dpu": (HETEROCRI, {"heteropod.io/offload": "dpu", "heteropod.io/offload-containers": EVERY_NAME, "heteropod.io/fallback": "pending"}),
    "split": (HETEROCRI, {"heteropod.io/offload": "dpu", "heteropod.io/offload-containers": "side,second", "heteropod.io/fallback": "pending"}),
}


class Pod:
    def __init__(self, node, name, annotations=None):
        self.node, self.uid = node, f"{name}-{node.unique}-uid"
        self.attempts, self.logs = itertools.count(100), {}
        self.folder = f"{node.pod_root}/{self.uid}"
        os.makedirs(self.folder)
        self.config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=self.uid, namespace="conformance"), hostname=name,
            log_directory=f"/var/log/pods/conformance_{name}_{self.uid}", labels={"who": self.uid, "io.kubernetes.pod.name": name},
            annotations={"example.org/note": "kept", **node.annotations},
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=f"/conformance/{self.uid}", security_context=pb.LinuxSandboxSecurityContext(
                namespace_options=pb.NamespaceOption(pid=pb.CONTAINER))))
        os.makedirs(self.config.log_directory)
        self.config.annotations.update(annotations or {})
        self.id = node.cri.RunPodSandbox(config=self.config).pod_sandbox_id

    def request(self, name, script, attempt=None, argv=None, **fields):
        """fields: of ContainerConfig; `resources` and `security` are those of its linux part. Each is an attempt of its own."""
        attempt = next(self.attempts) if attempt is None else attempt
        os.makedirs(f"{self.config.log_directory}/{name}", exist_ok=True)
        resources, security = fields.pop("resources", pb.LinuxContainerResources()), fields.pop("security", pb.LinuxContainerSecurityContext())
        security.namespace_options.pid = pb.CONTAINER
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name, attempt=attempt), image=pb.ImageSpec(image=IMAGE),
            command=argv or ["/bin/sh", "-c", script], log_path=f"{name}/{attempt}.log",
            labels={"who": self.uid, "io.kubernetes.container.name": name}, annotations={"example.org/c": "c"},
            linux=pb.LinuxContainerConfig(resources=resources, security_context=security), **fields)
        return pb.CreateContainerRequest(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)

    def create(self, name, script="", **fields):
        request = self.request(name, script, **fields)
        container = self.node.cri.CreateContainer(request).container_id
        self.logs[container] = f"{self.config.log_directory}/{request.config.log_path}"
        self.node.made.append(container)
        return container

    def run(self, name, script, **fields):
        container = self.create(name, script, **fields)
        self.node.cri.StartContainer(container_id=container)
        return container

    def log(self, container):
        return self.logs[container]

    def end(self):
        self.node.cri.StopPodSandbox(pod_sandbox_id=self.id)
        self.node.cri.RemovePodSandbox(pod_sandbox_id=self.id)


class Node:
    _serial = itertools.count()

    def __init__(self, cri, target, pod_root):
        self.cri, self.target, self.pod_root = cri, target, pod_root
        self.annotations = TARGETS[target][1]
        self.pods, self.shared, self.made = [], None, []

    @property
    def unique(self):
        return f"{os.getpid()}-{next(self._serial)}"

    def pod(self, name, annotations=None):
        pod = Pod(self, name, annotations)
        self.pods.append(pod)
        if self.target == "split":
            pod.run("app", "exec sleep 10000")
        return pod

    def common(self):
        """A Pod for cases that only need some container; made once."""
        if self.shared is None:
            self.shared = self.pod("common")
            self.long = self.shared.run("side", LONG, attempt=0)
            self.made.clear()
        return self.shared

    def status(self, container):
        return self.cri.ContainerStatus(container_id=container).status

    def ended(self, container, seconds=60):
        def look():
            status = self.status(container)
            return status if status.state == pb.CONTAINER_EXITED else None
        return wait_for("the container's end", look, seconds)

    def sh(self, container, script, seconds=60):
        done = self.cri.ExecSync(container_id=container, cmd=["/bin/sh", "-c", script], timeout=seconds)
        return done.stdout.decode()

    def remove(self, container):
        self.cri.StopContainer(container_id=container, timeout=0)
        self.cri.RemoveContainer(container_id=container)

    def clean(self):
        """After a case: the containers that it left in a Pod."""
        while self.made:
            try:
                self.remove(self.made.pop())
            except CriError as error:
                if error.code != "NOT_FOUND":
                    print(f"# left behind: {error}")

    def close(self):
        for pod in self.pods:
            try:
                pod.end()
            except CriError as error:
                if error.code != "NOT_FOUND":
                    print(f"# left behind: {error}")
            shutil.rmtree(pod.config.log_directory, ignore_errors=True)
            shutil.rmtree(pod.folder, ignore_errors=True)
