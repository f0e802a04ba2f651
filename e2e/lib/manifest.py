"""Manifests as Python values; JSON is YAML.

    text = manifest("web", [container("app"), container("proxy")], offload="proxy", hostNetwork=True)

Every container sleeps for a number of seconds of its own, by which its process is found on a PU.
"""
import itertools
import json

IMAGE = "heterok8s.local/toolbox:1"
_seconds = itertools.count(7000001)


def container(name, *command, **fields):
    return {"name": name, "image": IMAGE, "command": list(command) or ["/bin/sleep", str(next(_seconds))], **fields}


def shell(name, script, **fields):
    return container(name, "/bin/sh", "-c", script, **fields)


# Behind a script's loop that ends once a `touch` of an exec has made a file. With the script, the container's first
# process, the kernel kills all others (zap_pid_ns_processes): the touch as well, which then ends with 137.
AFTER_TOUCH = "while pidof touch > /dev/null; do sleep 0.01; done"


def manifest(name, containers, offload=None, annotations=None, config_maps=None, **spec):
    """offload: names for heteropod.io/offload-containers; None: the Pod asks for nothing."""
    said = dict(annotations or {})
    if offload is not None:
        said = {"heteropod.io/offload": "dpu", "heteropod.io/offload-containers": offload, **said}
    documents = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": key}, "data": data}
                 for key, data in (config_maps or {}).items()]
    documents.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": said},
                      "spec": {"terminationGracePeriodSeconds": 1, "containers": containers, **spec}})
    return "\n---\n".join(json.dumps(document) for document in documents)


def sleeping_on(lab, places=("host", "dpu")):
    """seconds -> PU, of the sleeps that run in the lab."""
    found = {}
    for pu in places:
        for line in lab.place(pu, "ps", "-e", "-o", "args=").stdout.splitlines():
            words = line.split()
            if len(words) == 2 and words[0].endswith("sleep"):
                found[words[1]] = pu
    return found
