"""A cluster for a test: `heteroctl lab up --kubernetes`, used with kubectl as anybody would.

    with Cluster("kube", nodes=1) as cluster:
        cluster.apply(pod("web", split=True))
        cluster.wait_ready("web")
        cluster.kubectl("logs", "web", "-c", "sidecar").stdout
"""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib.lab import HETEROCTL, ROOT, Failed, Lab, run, wait_for  # noqa: E402,F401
from lib.manifest import AFTER_TOUCH, IMAGE  # noqa: E402,F401

PROGRAMS = os.path.join(ROOT, ".build", "kubernetes")
SPLIT = {"heteropod.io/offload": "dpu", "heteropod.io/offload-containers": "sidecar"}
KINDS = {"split": True, "whole": False}  # of Pods: over host and DPU, or all on the host


class Cluster(Lab):
    def __init__(self, label, nodes=1, kubelet=None):
        """kubelet: its minor version ("1.33") when it is not that of all others; deploy/kubernetes/build has made it."""
        super().__init__(label)
        self.nodes = nodes
        self.programs = os.path.join(PROGRAMS, f"kubelet-{kubelet}") if kubelet else PROGRAMS

    def __enter__(self):
        try:
            run([HETEROCTL, "lab", "up", "--name", self.name, "--kubernetes", "--kubernetes-programs", self.programs,
                 "--nodes", str(self.nodes)], timeout=240)
            with open(f"/run/heterok8s-lab/{self.name}/env.json", encoding="utf-8") as file:
                self.env = json.load(file)
        except BaseException:
            if not os.environ.get("HETEROK8S_KEEP_LAB"):
                self.down()
            raise
        return self

    def node_names(self):
        return [self.name, *(f"{self.name}.{number}" for number in range(2, self.nodes + 1))]

    def agents(self, node):
        """heteroctl status of one Node."""
        return json.loads(run([HETEROCTL, "--lab", node, "-o", "json", "status"]).stdout)

    def wait_nothing_left(self, seconds=60):
        """Until the agents of every Node hold what the Pods on it need, and no more."""
        def held():
            return {node: [int(self.agents(node)[pu]["attachments"]) for pu in ("host", "dpu")] for node in self.node_names()}

        def needed():
            pods = [each for each in self.get("pods", "-A")["items"] if each["status"]["phase"] in ("Pending", "Running")]
            splits = {True: [], False: []}
            for each in pods:
                splits["heteropod.io/offload" in each["metadata"].get("annotations", {})].append(each["spec"].get("nodeName"))
            return {node: [splits[True].count(node) + splits[False].count(node), splits[True].count(node)]
                    for node in self.node_names()}
        try:
            wait_for("the agents hold what Pods need", lambda: held() == needed(), seconds, every=1)
        except Failed as late:
            raise Failed(f"{late}: attachments of host and DPU {held()}, needed {needed()}") from late

    def kubectl_argv(self, *args):
        return [os.path.join(PROGRAMS, "kubectl"), "--kubeconfig", self.env["kubeconfig"], *args]

    def kubectl(self, *args, check=True, timeout=60, stdin=None, env=None):
        return run(self.kubectl_argv(*args), check=check, timeout=timeout, stdin=stdin, env=env)

    def start(self, *args, **kwargs):
        """kubectl … that goes on: a Popen with pipes."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **kwargs}
        return subprocess.Popen(self.kubectl_argv(*args), **pipes)

    def start_in(self, place, *argv):
        """A program in the network of host, dpu or client that goes on: a Popen."""
        argv = ["nsenter", f"--net={self.env[place + '_netns']}", "--", *argv]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    def raw(self, path):
        return json.loads(self.kubectl("get", "--raw", path).stdout)

    def apply(self, *objects):
        text = "\n---\n".join(json.dumps(each) for each in objects)
        self.kubectl("apply", "-f", "-", stdin=text)

    def delete(self, *args, timeout=120):
        self.kubectl("delete", "--ignore-not-found", "--wait", f"--timeout={timeout}s", *args, timeout=timeout + 10)

    def wait(self, what, condition, seconds=60):
        """kubectl wait; its failure shows the Pods and the last events."""
        done = self.kubectl("wait", what, f"--for={condition}", f"--timeout={seconds}s", check=False, timeout=seconds + 10)
        if done.returncode != 0:
            raise Failed(f"{what}: {condition}: {done.stderr}{self.situation()}")

    def wait_ready(self, *pods, seconds=120):
        for name in pods:
            self.wait(f"pod/{name}", "condition=Ready", seconds)

    def rolled_out(self, what, seconds=240):
        """kubectl rollout status, likewise."""
        done = self.kubectl("rollout", "status", what, f"--timeout={seconds}s", check=False, timeout=seconds + 10)
        if done.returncode != 0:
            raise Failed(f"{what}: {done.stdout}{done.stderr}{self.situation()}")

    def situation(self):
        pods = self.kubectl("get", "pods", "-o", "wide", check=False).stdout
        events = self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False).stdout
        return f"{pods}\n" + "\n".join(events.splitlines()[-12:])

    def status(self, name, container):
        """The ContainerStatus."""
        statuses = self.get("pod", name)["status"].get("containerStatuses", [])
        return next((each for each in statuses if each["name"] == container), {})

    def exec(self, pod, container, *argv, **kwargs):
        return self.kubectl("exec", pod, "-c", container, "--", *argv, **kwargs)

    def places(self, pod):
        """container -> the PU that it runs on, as heteroctl on the Pod's Node says."""
        return self.places_of(self.get("pod", pod))

    def places_of(self, pod):
        """The same of a Pod as `get` has it."""
        return {row["container"]: row["pu"] for row in self.reasons_of(pod)}

    def reasons_of(self, pod):
        """Its rows of `heteroctl why` on its Node: container, pu, reason."""
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        return json.loads(run([HETEROCTL, "--lab", pod["spec"]["nodeName"], "-o", "json", "why", name]).stdout)["containers"]


def container(name, script="exec sleep 1000000", **fields):
    return {"name": name, "image": IMAGE, "command": ["/bin/sh", "-c", script], **fields}


# Says a line at its start and one each 0.2 s; ends at once when told.
TALK = 'trap "exit 0" TERM; echo "$NAME starts"; i=0; while :; do i=$((i+1)); echo "$NAME $i"; sleep 0.2 & wait $!; done'


def talker(name, **fields):
    return container(name, TALK, env=[{"name": "NAME", "value": name}], **fields)


def template(containers, split, labels=None, **spec):
    metadata = {"labels": labels or {}, "annotations": dict(SPLIT) if split else {}}
    return {"metadata": metadata, "spec": {"terminationGracePeriodSeconds": 2, "containers": containers, **spec}}


def pod(name, containers, split, labels=None, **spec):
    body = template(containers, split, labels, **spec)
    body["metadata"]["name"] = name
    return {"apiVersion": "v1", "kind": "Pod", **body}


def workload(kind, name, containers, split, replicas=None, pod_spec=None, **spec):
    """Deployment, StatefulSet or DaemonSet."""
    labels = {"app": name}
    body = {"selector": {"matchLabels": labels}, "template": template(containers, split, labels, **(pod_spec or {})), **spec}
    if replicas is not None:
        body["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": body}


def job(name, containers, split, **spec):
    body = template(containers, split, {"app": name}, restartPolicy="Never")
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": body, **spec}}
