"""What a split Pod asks for and the DPU cannot have: that container runs on the host, works there, and `why` has the reason."""
import json

from cluster import container, pod, wait_for

FOLDER = "/var/lib/lab-claimed"
AT = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}


def claim(cluster):
    """A PersistentVolume that is a folder of the first Node, and the claim of it."""
    on_node = {"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [cluster.name]}]}]}}
    size = {"storage": "1Mi"}
    return [{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "claimed"},
             "spec": {"capacity": size, "accessModes": ["ReadWriteOnce"], "local": {"path": FOLDER}, "nodeAffinity": on_node,
                      "storageClassName": "by-hand", "claimRef": {"name": "claimed", "namespace": "default"}}},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claimed"},
             "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand", "volumeName": "claimed",
                      "resources": {"requests": size}}}]


def run(cluster, cases):
    write = "echo mine > /data/$(hostname); exec sleep 1000000"
    # name -> fields of the sidecar, of the Pod, words of the reason
    kinds = {
        "stays-path": ({**AT, "script": write}, {"volumes": [{"name": "data", "hostPath": {"path": FOLDER}}]}, f"host path '{FOLDER}'"),
        "stays-claim": ({**AT, "script": write}, {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "claimed"}}]},
                        "mount '/data': host path"),
        "stays-shared": ({**AT, "script": write}, {"volumes": [{"name": "data", "emptyDir": {}}]}, "volume 'data'"),
        "stays-privileged": ({"securityContext": {"privileged": True}}, {}, "privileged: it would own the DPU"),
        "stays-pids": ({}, {"shareProcessNamespace": True}, "shareProcessNamespace"),
    }
    cluster.place("host", "mkdir", "-p", FOLDER)
    bodies = []
    for name, (fields, spec, _) in kinds.items():
        app = container("app", **(AT if name == "stays-shared" else {}))
        bodies.append(pod(name, [app, container("sidecar", **fields)], True, nodeName=cluster.name, **spec))
    cluster.apply(*claim(cluster), *bodies)
    for name, (_, _, words) in kinds.items():
        with cases.case(f"{name}: Ready, both containers on the host, and why says '{words}'"):
            cluster.wait_ready(name)
            rows = {row["container"]: row for row in cluster.why(f"default/{name}")["containers"]}
            assert {which: row["pu"] for which, row in rows.items()} == {"app": "host", "sidecar": "host"}, json.dumps(rows)
            assert words in rows["sidecar"]["reason"], rows["sidecar"]
    for name in ("stays-path", "stays-claim"):
        with cases.case(f"{name}: what it writes is in the Node's folder"):
            wait_for("its file", lambda n=name: cluster.place("host", "cat", f"{FOLDER}/{n}", check=False).stdout == "mine\n", 60, every=0.5)
    with cases.case("stays-shared: both containers see what one writes"):
        wait_for("its file", lambda: cluster.exec("stays-shared", "app", "cat", "/data/stays-shared", check=False).stdout == "mine\n", 60, every=0.5)
    cluster.delete("pod", *kinds, "--grace-period=0", "--force")
    cluster.delete("pvc", "claimed")
    cluster.delete("pv", "claimed")
    cluster.place("host", "rm", "-rf", FOLDER)
