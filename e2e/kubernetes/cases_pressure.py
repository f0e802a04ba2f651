"""A Node short of memory: kubelet ends whoever holds most of the host's, and what a Pod holds on its DPU is not that.

kubelet is told that the Node is short, by a threshold above what is free; so nothing of this machine is used up.
"""
from cases_figures import summary
from cluster import Failed, container, pod, wait_for

MIB = 1 << 20
HOLD = "dd if=/dev/zero of=/dev/shm/held bs=1M count={mib} 2>/dev/null; exec sleep 1000000"
# A kubelet that starts on a Node that is short of memory takes no Pod back that asks for nothing.
LITTLE = {"requests": {"memory": "1Mi"}}
CONFIG = "/etc/heterok8s/kubelet.yaml"
# Without the period the Node would count as short for five minutes more.
SHORT = "sed -i.calm 's/memory.available: \"[^\"]*\"/memory.available: \"{bytes}\"/; $a evictionPressureTransitionPeriod: 1s' " + CONFIG


def holds(name, split, mib, **spec):
    """mib: container -> MiB in memory."""
    return pod(name, [container(which, HOLD.format(mib=mib[which]) if which in mib else "exec sleep 1000000", resources=LITTLE)
                      for which in ("app", "sidecar")], split, {"app": "presses"}, **spec)


def short(cluster):
    return next(each["status"] for each in cluster.get("node", cluster.name)["status"]["conditions"] if each["type"] == "MemoryPressure") == "True"


def run(cluster, cases):
    here = {"nodeName": cluster.name}
    # Names say how much is the host's. In all, the one on the DPU holds most, and less-on-host more than most-on-host.
    # More than CoreDNS (some 20), and no more than the 64 MiB of a container's /dev/shm.
    pods = {"most-on-host": (False, {"app": 50}), "less-on-host": (True, {"app": 38, "sidecar": 20}), "on-dpu": (True, {"sidecar": 62})}
    cluster.apply(*[holds(name, split, mib, **here) for name, (split, mib) in pods.items()])
    cluster.wait_ready(*pods)

    def held():
        return {name: sum(each.get("memory", {}).get("workingSetBytes", 0) for each in summary(cluster, cluster.name, name).get("containers", []))
                for name in pods}
    wait_for("kubelet to know what they hold", lambda: all(held()[name] >= sum(mib.values()) * MIB for name, (_, mib) in pods.items()), 120, every=1)
    memory = cluster.raw(f"/api/v1/nodes/{cluster.name}/proxy/stats/summary")["node"]["memory"]
    # Less than the Pods hold is left for them, and the Node can have.
    cluster.place("host", "sh", "-c", SHORT.format(bytes=memory["availableBytes"] + memory["workingSetBytes"] - 64 * MIB))
    cluster.daemon("kill", "kubelet", "host")
    gone = []

    def evicted():
        for each in cluster.get("pods", "-l", "app=presses")["items"]:
            name, status = each["metadata"]["name"], each["status"]
            if status.get("reason") == "Evicted" and name not in gone:
                assert "low on resource: memory" in status["message"], status
                gone.append(name)
        return gone
    try:
        with cases.case("the Pod that holds most of the host's memory goes first, and then the split one that holds less; not the one on the DPU"):
            try:
                wait_for("both to be evicted", lambda: len(evicted()) >= 2, 180, every=0.3)
            except Failed as late:
                seen = cluster.raw(f"/api/v1/nodes/{cluster.name}/proxy/stats/summary")["node"]["memory"]
                raise Failed(f"{late}: {gone}, {seen}, {held()}\n{cluster.place('host', 'tail', '-n', '14', CONFIG).stdout}{cluster.situation()}") from late
            assert gone[:2] == ["most-on-host", "less-on-host"], gone
            assert short(cluster)
    finally:
        cluster.place("host", "mv", f"{CONFIG}.calm", CONFIG)
        cluster.daemon("kill", "kubelet", "host")
    with cases.case("the Node is no longer short; the one on the DPU was never started again"):
        wait_for("the condition", lambda: not short(cluster), 90, every=1)
        assert cluster.status("on-dpu", "sidecar")["restartCount"] == 0, cluster.status("on-dpu", "sidecar")
    cluster.delete("pod", "-l", "app=presses", "--grace-period=0", "--force")
    with cases.case("of those that were evicted nothing is left on either PU"):
        wait_for("the cluster's own Pods", lambda: all(each["status"].get("availableReplicas", 0) == each["spec"]["replicas"]
                                                       for each in cluster.get("deployments", "-n", "kube-system")["items"]), 120, every=1)
        cluster.wait_nothing_left()
