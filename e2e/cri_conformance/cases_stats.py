"""Figures and events."""
import os
import threading

from cri import CriError, pb
from harness import case, expect, served
from node import wait_for


def whole(stats, name):
    expect(stats.attributes.metadata.name == name and stats.cpu.timestamp and stats.cpu.usage_core_nano_seconds.value > 0, stats)
    expect(stats.memory.working_set_bytes.value > 0 and stats.HasField("writable_layer"), stats)


@case("stats", "ContainerStats: processor, memory and disk of one")
def container_stats(node):
    node.common()
    stats = node.cri.ContainerStats(container_id=node.long).stats
    expect(stats.attributes.id == node.long and stats.attributes.labels["io.kubernetes.container.name"] == "side", stats)
    # containerd looks at the disk every ten seconds.
    wait_for("figures", lambda: node.cri.ContainerStats(container_id=node.long).stats.writable_layer.timestamp)
    whole(node.cri.ContainerStats(container_id=node.long).stats, "side")


@case("stats", "ListContainerStats: every container once; by id, sandbox and label")
def list_stats(node):
    pod = node.common()
    mine = {"who": pod.uid, "io.kubernetes.container.name": "side"}
    everything = [s.attributes.id for s in node.cri.ListContainerStats().stats]
    expect(everything.count(node.long) == 1 and len(set(everything)) == len(everything), everything)
    for fields in ({"id": node.long}, {"id": node.long[:13]}, {"pod_sandbox_id": pod.id, "id": node.long}, {"label_selector": mine},
                   {"pod_sandbox_id": pod.id, "label_selector": mine}):
        found = node.cri.ListContainerStats(filter=pb.ContainerStatsFilter(**fields)).stats
        expect([s.attributes.id for s in found] == [node.long], (fields, found))
        whole(found[0], "side")
    expect(not node.cri.ListContainerStats(filter=pb.ContainerStatsFilter(label_selector={"who": "nobody"})).stats, "somebody")


# containerd 1.6 was seen to end in the whole list while others came and went.
@case("stats", "PodSandboxStats and ListPodSandboxStats: the Pod with its containers and network", alone=True)
def pod_stats(node):
    pod = node.common()
    stats = served(lambda: node.cri.PodSandboxStats(pod_sandbox_id=pod.id)).stats
    names = sorted(c.attributes.metadata.name for c in stats.linux.containers)
    expect(stats.attributes.id == pod.id and "side" in names and (node.target != "split" or "app" in names) and len(set(names)) == len(names), names)
    expect(stats.linux.network.default_interface.name and stats.linux.cpu.timestamp, stats.linux)

    def listed(**fields):
        """containerd 1.6 fails the whole list while any sandbox is stopped, and a twin goes a moment after its Pod."""
        try:
            return node.cri.ListPodSandboxStats(**fields).stats
        except CriError as error:
            if error.code == "NOT_FOUND" or "is not in ready state" in error.text:
                return []
            raise
    mine = pb.PodSandboxStatsFilter(label_selector={"who": pod.uid})
    wait_for("it alone, with its containers", lambda: [sorted(c.attributes.metadata.name for c in s.linux.containers) for s in listed(filter=mine)] == [names])
    wait_for("it among all", lambda: pod.id in [s.attributes.id for s in listed()])


@case("stats", "metrics: descriptors and Pods, or neither")
def metrics(node):
    descriptors = {d.name for d in served(node.cri.ListMetricDescriptors).descriptors}
    for pod in node.cri.ListPodSandboxMetrics().pod_metrics:
        expect({m.name for m in pod.metrics} <= descriptors, "a metric without a descriptor")


@case("events", "GetContainerEvents tells of every start, end and removal, with all containers of the Pod")
def events(node):
    pod, seen, end = node.common(), [], []
    stream = node.cri.GetContainerEvents(seconds=30)

    def listen():
        try:
            seen.extend(event for event in iter(stream.__next__, None))
        except Exception as error:  # its end, by whoever ends it
            end.append(error.code().name)

    def types():
        return [event.container_event_type for event in list(seen) if event.container_id == container]
    listener = threading.Thread(target=listen)
    listener.start()
    container = pod.run("second", "true")
    try:
        wait_for("the end", lambda: end or pb.CONTAINER_STOPPED_EVENT in types())
        node.ended(container)
        node.remove(container)
        node.made.remove(container)
        wait_for("the removal", lambda: end or pb.CONTAINER_DELETED_EVENT in types())
    finally:
        stream.cancel()
        listener.join()
    if "UNIMPLEMENTED" in end:
        served(lambda: (_ for _ in ()).throw(CriError("GetContainerEvents", "UNIMPLEMENTED", "not served")))
    order = [pb.CONTAINER_CREATED_EVENT, pb.CONTAINER_STARTED_EVENT, pb.CONTAINER_STOPPED_EVENT, pb.CONTAINER_DELETED_EVENT]
    expect(types() == order, types())
    started = next(e for e in seen if e.container_id == container and e.container_event_type == pb.CONTAINER_STARTED_EVENT)
    expect(started.pod_sandbox_status.id == pod.id and started.pod_sandbox_status.metadata.uid == pod.uid, started)
    names = {status.metadata.name for status in started.containers_statuses}
    expect({"side", "second"} <= names and (node.target != "split" or "app" in names), names)
