"""What kubelet says of processor and memory, per container and per Pod: `kubectl top` shows no other figures.

They are kubelet's own answers (/stats/summary, /metrics/resource), of which a metrics server makes its API.
"""
import re

from cluster import Failed, container, pod, wait_for

HELD = 40 << 20  # bytes, in memory
IDLE = "exec sleep 1000000"
BUSY = f"dd if=/dev/zero of=/dev/shm/held bs=1M count={HELD >> 20} 2>/dev/null; while :; do :; done"


def summary(cluster, node, name):
    """{} while kubelet has none of this Pod."""
    pods = cluster.raw(f"/api/v1/nodes/{node}/proxy/stats/summary")["pods"]
    return next((each for each in pods if each["podRef"]["name"] == name), {})


def metrics(cluster, node, name):
    """(metric, container or "") -> value, of this Pod."""
    found = {}
    text = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics/resource").stdout
    for metric, labels, value in re.findall(r"^(\w+)\{([^}]*)\} (\S+)", text, re.MULTILINE):
        fields = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if fields.get("pod") == name:
            found[metric, fields.get("container", "")] = float(value)
    return found


def run(cluster, cases, split):
    """One container works and holds memory, the other sleeps; then the other way around."""
    node = cluster.name
    for busy, idle in (("sidecar", "app"), ("app", "sidecar")):
        name = f"figures-{busy}-{'split' if split else 'whole'}"
        limit = {"limits": {"cpu": "200m", "memory": "96Mi"}}
        containers = [container(each, BUSY if each == busy else IDLE, **({"resources": limit} if each == busy else {}))
                      for each in ("app", "sidecar")]
        cluster.apply(pod(name, containers, split, nodeName=node))
        cluster.wait_ready(name)
        on_host = not (split and busy == "sidecar")
        seen = {}

        def settled():
            seen.clear()
            seen.update(summary(cluster, node, name))
            of = {each["name"]: each for each in seen.get("containers", [])}
            return (set(of) == {"app", "sidecar"} and all("usageNanoCores" in each["cpu"] for each in of.values())
                    and of[busy]["memory"]["workingSetBytes"] >= HELD and of[busy]["cpu"]["usageCoreNanoSeconds"] > 2e9
                    and of[busy]["cpu"]["usageNanoCores"] > 0 and ("memory" in seen))
        with cases.case(f"{name}: the summary has both containers; {busy} holds {HELD >> 20} MiB and works, {idle} does not"):
            try:
                wait_for("figures", settled, 180, every=1)
            except Failed as late:
                raise Failed(f"{late}: {seen}") from late
            of = {each["name"]: each for each in seen["containers"]}
            assert of[busy]["memory"]["workingSetBytes"] < 96 << 20, of[busy]["memory"]
            assert of[idle]["memory"]["workingSetBytes"] < HELD // 2, of[idle]["memory"]
            assert of[idle]["cpu"]["usageCoreNanoSeconds"] < of[busy]["cpu"]["usageCoreNanoSeconds"] / 2, of
        with cases.case(f"{name}: {'all of it is' if on_host else 'nothing of it is'} charged to the Pod on the host"):
            # kubelet reads a Pod's cgroup less often than it asks for containers.
            settled_at = next(each["cpu"]["time"] for each in seen["containers"] if each["name"] == busy)

            def newer():
                seen.update(summary(cluster, node, name))
                return min(seen["cpu"]["time"], seen["memory"]["time"]) > settled_at
            wait_for("figures of the Pod's cgroup", newer, 120, every=1)
            memory, cpu = seen["memory"]["workingSetBytes"], seen["cpu"]["usageCoreNanoSeconds"]
            assert (memory >= HELD) == on_host, (memory, seen)
            assert (cpu > 1e9) == on_host, (cpu, seen)
        with cases.case(f"{name}: /metrics/resource says the same of both containers"):
            wait_for("seconds of the one that works", lambda: metrics(cluster, node, name).get(("container_cpu_usage_seconds_total", busy), 0) > 2, 60, every=1)
            found = metrics(cluster, node, name)
            assert found["container_memory_working_set_bytes", busy] >= HELD, found
            assert found["container_memory_working_set_bytes", idle] < HELD // 2, found
            assert (found["pod_memory_working_set_bytes", ""] >= HELD) == on_host, found
        cluster.delete("pod", name, "--grace-period=0", "--force")
