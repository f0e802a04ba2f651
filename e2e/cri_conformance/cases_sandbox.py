"""Pod sandboxes."""
from cri import pb
from harness import case, expect, ok_or_refused, refused
from node import LONG


def listed(node, **fields):
    return [item.id for item in node.cri.ListPodSandbox(filter=pb.PodSandboxFilter(**fields)).items]


@case("sandbox", "RunPodSandbox makes it ready, with an address, and with all that was said of it")
def run(node):
    pod = node.common()
    status = node.cri.PodSandboxStatus(pod_sandbox_id=pod.id).status
    expect(status.state == pb.SANDBOX_READY and status.network.ip and status.created_at > 10**18, status)
    expect(status.metadata == pod.config.metadata, status.metadata)
    for key in ("labels", "annotations"):
        said, shown = dict(getattr(pod.config, key)), dict(getattr(status, key))
        expect(said.items() <= shown.items(), (said, shown))


@case("sandbox", "ListPodSandbox shows each Pod once, by id, part of an id, label and state")
def filters(node):
    pod = node.common()
    for fields in ({"id": pod.id}, {"id": pod.id[:13]}, {"label_selector": {"who": pod.uid}},
                   {"label_selector": {"who": pod.uid}, "state": pb.PodSandboxStateValue(state=pb.SANDBOX_READY)}):
        expect(listed(node, **fields) == [pod.id], (fields, listed(node, **fields)))
    for fields in ({"id": "f" * 64}, {"label_selector": {"who": "nobody"}},
                   {"id": pod.id, "state": pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY)}):
        expect(not listed(node, **fields), (fields, listed(node, **fields)))


@case("sandbox", "one that is not there: PodSandboxStatus says NOT_FOUND, Remove succeeds, Stop does one of both")
def nobody(node):
    refused(lambda: node.cri.PodSandboxStatus(pod_sandbox_id="f" * 64), "NOT_FOUND")
    ok_or_refused(lambda: node.cri.StopPodSandbox(pod_sandbox_id="f" * 64), "NOT_FOUND")  # containerd 1.6; newer ones succeed
    node.cri.RemovePodSandbox(pod_sandbox_id="f" * 64)


@case("sandbox", "the same name, uid and attempt twice is refused, and the first one is unharmed")
def twice(node):
    pod = node.common()
    refused(lambda: node.cri.RunPodSandbox(config=pod.config))
    expect(listed(node, label_selector={"who": pod.uid}) == [pod.id], "not one")
    expect(node.sh(node.long, "echo alive") == "alive\n", "its container")


@case("sandbox", "Stop ends its containers and can be repeated; Remove takes all away and can be repeated")
def stop_and_remove(node):
    pod = node.pod("short")
    container = pod.run("side", LONG)
    for _ in range(2):
        node.cri.StopPodSandbox(pod_sandbox_id=pod.id)
    expect(node.cri.PodSandboxStatus(pod_sandbox_id=pod.id).status.state == pb.SANDBOX_NOTREADY, "still ready")
    expect(listed(node, id=pod.id, state=pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY)) == [pod.id], "not listed")
    node.ended(container)
    refused(lambda: pod.create("second", "true"))
    for _ in range(2):
        node.cri.RemovePodSandbox(pod_sandbox_id=pod.id)
    expect(not listed(node, id=pod.id), "still listed")
    refused(lambda: node.cri.ContainerStatus(container_id=container), "NOT_FOUND")


@case("sandbox", "another attempt of a Pod whose sandbox has stopped")
def attempts(node):
    pod = node.pod("again")
    node.cri.StopPodSandbox(pod_sandbox_id=pod.id)
    first, pod.config.metadata.attempt = pod.id, 1
    pod.id = node.cri.RunPodSandbox(config=pod.config).pod_sandbox_id
    container = pod.run("side", LONG)
    node.cri.RemovePodSandbox(pod_sandbox_id=first)
    expect(node.sh(container, "hostname") == "again\n", "its container")
    expect(listed(node, label_selector={"who": pod.uid}) == [pod.id], "not one")
    pod.end()
