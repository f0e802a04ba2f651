"""kubelet's CPU manager gives processors of the host: to containers there, and to none of the DPU."""
from cluster import Failed, container, pod, wait_for

CONFIG, STATE = "/etc/heterok8s/kubelet.yaml", "/var/lib/kubelet/cpu_manager_state"
# Without something reserved there would be none for everybody else.
STATIC = "cp {0} {0}.calm && printf 'cpuManagerPolicy: static\\ncpuManagerReconcilePeriod: 1s\\nsystemReserved: {{cpu: 100m}}\\n' >> {0}".format(CONFIG)


def allowed(text):
    """The processors of "Cpus_allowed_list:  0-2,5"."""
    found = set()
    for part in text.split(":")[1].strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def kubelet_with(cluster, script):
    """kubelet starts anew with another configuration; what the former one gave to whom is forgotten."""
    cluster.daemon("stop", "kubelet", "host")
    cluster.place("host", "sh", "-c", f"{script}; rm -f {STATE}")
    cluster.daemon("start", "kubelet", "host")
    wait_for("the Node", lambda: cluster.kubectl("wait", f"node/{cluster.name}", "--for=condition=Ready", "--timeout=5s",
                                                 check=False).returncode == 0, 120)


def run(cluster, cases):
    look = ("grep", "Cpus_allowed_list", "/proc/self/status")
    everywhere = {pu: allowed(cluster.place(pu, *look).stdout) for pu in ("host", "dpu")}

    def of(name, which):
        return allowed(cluster.exec(name, which, *look).stdout)

    def guaranteed(name, split):
        one = {"cpu": "1", "memory": "32Mi"}
        few = {"cpu": "50m", "memory": "32Mi"}
        return pod(name, [container("app", resources={"limits": few}), container("sidecar", resources={"limits": one})], split, nodeName=cluster.name)
    kubelet_with(cluster, STATIC)
    try:
        cluster.apply(pod("shares-cpus", [container("app"), container("sidecar")], True, nodeName=cluster.name))
        cluster.wait_ready("shares-cpus")
        for name, split in (("owns-cpu-whole", False), ("owns-cpu-split", True)):
            cluster.apply(guaranteed(name, split))
            cluster.wait_ready(name)
            with cases.case(f"{name}: a container that owns a processor of the host has {'all of the DPU' if split else 'that one'}"):
                found = of(name, "sidecar")
                assert found == everywhere["dpu"] if split else len(found) == 1, (found, everywhere)
            with cases.case(f"{name}: of a Pod that was there, the host's container leaves that processor, and the DPU's does not notice"):
                seen = set()

                def fewer():
                    seen.clear()
                    seen.update(of("shares-cpus", "app"))
                    return len(seen) == len(everywhere["host"]) - 1
                try:
                    wait_for("the CPU manager's next look", fewer, 60, every=0.5)
                except Failed as late:
                    raise Failed(f"{late}: {seen} of {everywhere}") from late
                assert of("shares-cpus", "sidecar") == everywhere["dpu"], everywhere
            cluster.delete("pod", name, "--grace-period=0", "--force")
            cluster.wait_nothing_left()  # else the next one may find no processor free
        with cases.case("the CPU manager asked for a container of the DPU again and again, and never in vain"):
            with open(f"{cluster.env['logs']}/host-kubelet.log", encoding="utf-8", errors="replace") as file:
                bad = [line for line in file if "failed to update container" in line or "ReconcileState: failed" in line]
            # It may also look at one that has just been killed; this one is there all the time.
            bad = [line for line in bad if "shares-cpus" in line and "sidecar" in line]
            assert not bad, bad[-3:]
        cluster.delete("pod", "shares-cpus", "--grace-period=0", "--force")
    finally:
        kubelet_with(cluster, f"mv {CONFIG}.calm {CONFIG}")
