"""A Pod that writes more than it may is evicted by kubelet, whichever PU it writes on."""
from cluster import Failed, container, pod, wait_for

LIMIT, WRITTEN = "8Mi", 32  # MiB


def writer(which, folder, **fields):
    write = f"dd if=/dev/zero of={folder}/written bs=1M count={WRITTEN} 2>/dev/null; exec sleep 1000000"
    return [container(each, write, **fields) if each == which else container(each) for each in ("app", "sidecar")]


def evicted(cluster, cases, name, said):
    with cases.case(f"{name}: {WRITTEN} MiB where {LIMIT} are allowed are its end, and kubelet says why: {said}"):
        seen = {}

        def gone():
            seen.update(cluster.get("pod", name)["status"])
            return seen.get("reason") == "Evicted"
        try:
            wait_for("its eviction", gone, 150, every=1)
        except Failed as late:
            raise Failed(f"{late}: {seen}\n{cluster.situation()}") from late
        assert seen["phase"] == "Failed" and said in seen["message"], seen
    cluster.delete("pod", name, "--grace-period=0", "--force")


def run(cluster, cases, split):
    """Where each container writes, what is limited, and what kubelet says then.

    A disk-backed emptyDir on the DPU counts as what its container writes: kubelet cannot hold it to its own sizeLimit.
    """
    kind = "split" if split else "whole"
    limit = {"resources": {"limits": {"ephemeral-storage": LIMIT}}}
    mount = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    pods = []
    for which in ("app", "sidecar"):
        pods.append((pod(f"writes-{which}-{kind}", writer(which, "/tmp", **limit), split), "ephemeral"))
        pods.append((with_scratch(f"keeps-{which}-{kind}", which, writer(which, "/scratch", **limit, **mount), split, {}), "ephemeral"))
        if which == "app" or not split:
            sized = {"sizeLimit": LIMIT}
            pods.append((with_scratch(f"fills-{which}-{kind}", which, writer(which, "/scratch", **mount), split, sized), "scratch"))
    cluster.apply(*[body for body, _ in pods])
    for body, said in pods:
        evicted(cluster, cases, body["metadata"]["name"], said)


def with_scratch(name, which, containers, split, empty_dir):
    body = pod(name, containers, split, volumes=[{"name": "scratch", "emptyDir": empty_dir}])
    body["metadata"]["annotations"]["heteropod.io/volumes"] = f"scratch={which}"
    return body
