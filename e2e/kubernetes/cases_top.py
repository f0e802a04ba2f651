"""`kubectl top`, through a metrics-server: of containers of both PUs, and of the Node, which is the host.

    kubectl top ── API server ── metrics-server (a Pod) ── kubelet ── heterocri ── containerds
"""
import os

from cases_figures import BUSY, HELD, IDLE
from cluster import KINDS, ROOT, Failed, container, pod, wait_for

MANIFEST = os.path.join(ROOT, "deploy", "kubernetes", "metrics-server", "metrics-server.yaml")
LIMIT = {"limits": {"cpu": "300m", "memory": "96Mi"}}
PATIENCE = 180  # seconds; it looks each 15 s, and needs two looks at a container


def number(text):
    """Of "250m" thousandths of a processor, of "40Mi" bytes."""
    units = {"m": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    unit = next(each for each in units if text.endswith(each))
    return int(text[:-len(unit)]) * units[unit]


def top(cluster, *args):
    """The rows of `kubectl top … --no-headers`; none while there are no figures."""
    done = cluster.kubectl("top", *args, "--no-headers", check=False)
    return [line.split() for line in done.stdout.splitlines()] if done.returncode == 0 else []


def of_containers(cluster, name):
    """container -> thousandths of a processor, bytes."""
    return {row[1]: (number(row[2]), number(row[3])) for row in top(cluster, "pods", name, "--containers")}


def make(cluster):
    """A Pod of each kind for each container that is the one to work: name -> the one that works, the one that sleeps."""
    names = {f"top-{busy}-{kind}": (busy, idle, split) for kind, split in KINDS.items()
             for busy, idle in (("app", "sidecar"), ("sidecar", "app"))}
    cluster.apply(*[pod(name, [container(busy, BUSY, resources=LIMIT), container(idle, IDLE)], split, {"app": "top"},
                        nodeName=cluster.name) for name, (busy, idle, split) in names.items()])
    cluster.wait_ready(*names)
    return {name: (busy, idle) for name, (busy, idle, _) in names.items()}


def run(cluster, cases):
    failed = cases.failed
    with cases.case("metrics-server runs in the cluster, and its API is the cluster's"):
        cluster.kubectl("apply", "-f", MANIFEST)
        cluster.kubectl("-n", "kube-system", "rollout", "status", "deployment/metrics-server", "--timeout=120s", timeout=130)
        cluster.kubectl("wait", "apiservice/v1beta1.metrics.k8s.io", "--for=condition=Available", "--timeout=120s", timeout=130)
    if cases.failed > failed:
        return  # without it nothing else is to be seen
    names = make(cluster)
    for name, (busy, idle) in names.items():
        with cases.case(f"top of {name}: {busy} holds {HELD >> 20} MiB and works, {idle} does neither; the Pod is their sum"):
            seen = {}

            def settled(n=name, b=busy, i=idle):
                seen.clear()
                seen.update(of_containers(cluster, n))
                return set(seen) == {b, i} and seen[b][1] >= HELD and seen[b][0] > max(10, 5 * seen[i][0])
            try:
                wait_for("figures", settled, PATIENCE, every=2)
            except Failed as late:
                raise Failed(f"{late}: {seen}\n{cluster.situation()}") from late
            print(f"#    {name}: {seen}", flush=True)
            assert seen[busy][1] < 96 << 20 and seen[idle][1] < HELD // 2, seen
            # Another look may have come meanwhile; memory does not change.
            whole = number(top(cluster, "pods", name)[0][2])
            assert abs(whole - seen[busy][1] - seen[idle][1]) <= 4 << 20, (whole, seen)
    with cases.case("top of the Nodes has every one, with what it uses"):
        def every_one():
            rows = {row[0]: row for row in top(cluster, "nodes")}
            return rows if set(rows) == set(cluster.node_names()) and all("<unknown>" not in row for row in rows.values()) else None
        rows = wait_for("figures", every_one, PATIENCE, every=2)
        print(f"#    {rows}", flush=True)
        assert number(rows[cluster.name][1]) > 0 and number(rows[cluster.name][3]) > HELD, rows
    cluster.delete("pod", "-l", "app=top", "--grace-period=0", "--force")
    cluster.kubectl("delete", "-f", MANIFEST, "--ignore-not-found", "--wait=false")
