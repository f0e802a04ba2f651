"""Every daemon of a Node ends and comes back: containers go on, nothing is lost, the Node works."""
from cluster import KINDS, pod, talker, wait_for


DAEMONS = [("kubelet", "host"), ("heterocri", "host"), ("heterod", "host"), ("heterod", "dpu"), ("containerd", "host"),
           ("containerd", "dpu"), ("kube-proxy", "host"), ("kube-proxy", "dpu")]


def run(cluster, cases):
    names = [f"lives-{kind}" for kind in KINDS]
    cluster.apply(*[pod(f"lives-{kind}", [talker("app"), talker("sidecar")], split, nodeName=cluster.name) for kind, split in KINDS.items()])
    cluster.wait_ready(*names)
    before = {(name, which): cluster.status(name, which)["containerID"] for name in names for which in ("app", "sidecar")}
    for daemon, pu in DAEMONS:
        with cases.case(f"after kill -9 of {daemon} on the {pu} exec works in every container, and none is another"):
            cluster.daemon("kill", daemon, pu, "-9")
            for name, which in before:
                wait_for(f"exec in {name}/{which}",
                         lambda n=name, w=which: cluster.exec(n, w, "echo", "here", check=False).stdout == "here\n", 60, every=0.5)
            for (name, which), container_id in before.items():
                status = cluster.status(name, which)
                assert (status["containerID"], status["restartCount"]) == (container_id, 0), status
    for name, which in before:
        with cases.case(f"{name}/{which}: after all of that the log has every line, once, in order"):
            numbers = [int(line.split()[1]) for line in cluster.kubectl("logs", name, "-c", which).stdout.splitlines()[1:]]
            assert numbers == list(range(1, len(numbers) + 1)), [pair for pair in zip(numbers, numbers[1:]) if pair[1] != pair[0] + 1][:5]
    with cases.case("the Node is Ready, and a new Pod of each kind starts"):
        cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=60s", timeout=70)
        cluster.apply(*[pod(f"after-{kind}", [talker("app"), talker("sidecar")], split, nodeName=cluster.name) for kind, split in KINDS.items()])
        cluster.wait_ready(*[f"after-{kind}" for kind in KINDS])
    cluster.delete("pod", *names, *[f"after-{kind}" for kind in KINDS])
