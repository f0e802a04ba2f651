"""What kubelet asks before and between Pods: versions, conditions, methods that a runtime may not know, images."""
import os

from cri import pb
import registry
from harness import case, expect, refused, served
from node import IMAGE


@case("runtime", "Version names a runtime that speaks v1")
def version(node):
    answer = node.cri.Version(version="0.1.0")
    expect(answer.runtime_name and answer.runtime_version and answer.runtime_api_version == "v1", answer)


@case("runtime", "Status has RuntimeReady and NetworkReady, both true")
def status(node):
    conditions = {c.type: c.status for c in node.cri.Status().status.conditions}
    expect(conditions.get("RuntimeReady") and conditions.get("NetworkReady"), conditions)


@case("runtime", "verbose Status has more")
def verbose_status(node):
    expect("config" in node.cri.Status(verbose=True).info and not node.cri.Status().info, "no config, or unasked")


@case("runtime", "RuntimeConfig says the cgroup driver")
def runtime_config(node):
    expect(served(node.cri.RuntimeConfig).linux.cgroup_driver == pb.CGROUPFS, "not what containerd is configured for")


@case("runtime", "UpdateRuntimeConfig is accepted")
def update_runtime_config(node):
    node.cri.raw("/runtime.v1.RuntimeService/UpdateRuntimeConfig", b"")


@case("runtime", "methods that are not known are UNIMPLEMENTED")
def unknown_methods(node):
    for path in ("RuntimeService/Nothing", "ImageService/StreamNothing", "RuntimeService/StreamNothing"):
        refused(lambda: node.cri.raw(f"/runtime.v1.{path}", b""), "UNIMPLEMENTED")


# Each part of a streamed List is as its List's answer: the same field 1, again and again.
STREAMED = {"RuntimeService/StreamPodSandboxes": "ListPodSandbox", "RuntimeService/StreamContainers": "ListContainers",
            "ImageService/StreamImages": "ListImages"}


@case("runtime", "a streamed List says what its List says")
def streamed_lists(node):
    node.common()
    for path, method in STREAMED.items():
        parts = served(lambda: node.cri.stream(f"/runtime.v1.{path}"))
        service = path.split("/")[0]
        whole = type(getattr(node.cri, method)()).FromString(b"".join(parts))
        plain = node.cri.raw(f"/runtime.v1.{service}/{method}", b"")
        ids = [sorted(item.id for _, items in message.ListFields() for item in items) for message in (whole, type(whole).FromString(plain))]
        expect(ids[0] == ids[1], (path, ids))


@case("runtime", "streamed figures are those of a List")
def streamed_figures(node):
    node.common()
    parts = served(lambda: node.cri.stream("/runtime.v1.RuntimeService/StreamContainerStats"))
    ids = [stats.attributes.id for stats in pb.ListContainerStatsResponse.FromString(b"".join(parts)).stats]
    expect(ids.count(node.long) == 1, ids)
    for method in ("StreamPodSandboxStats", "StreamPodSandboxMetrics"):
        served(lambda: node.cri.stream(f"/runtime.v1.RuntimeService/{method}"))


@case("runtime", "bytes that are no message are refused, and the next call works")
def garbage(node):
    for method in ("RunPodSandbox", "CreateContainer", "ListContainers", "ContainerStatus", "StartContainer", "ListContainerStats"):
        refused(lambda: node.cri.raw(f"/runtime.v1.RuntimeService/{method}", b"\x0a\xff\xff\xff"))
    node.cri.Version()


@case("image", "ListImages has the image, by its tag and with id and size; a filter does not hide it")
def list_images(node):
    everything = node.cri.ListImages().images
    found = [i for i in everything if IMAGE in i.repo_tags]
    expect(len(found) == 1 and found[0].id and found[0].size > 0, found)
    filtered = node.cri.ListImages(filter=pb.ImageFilter(image=pb.ImageSpec(image=IMAGE))).images
    expect(found[0].id in [i.id for i in filtered], filtered)  # containerd 1.6 gives all, whatever the filter


@case("image", "ImageStatus knows an image by tag and by id; of one that is not there it says nothing")
def image_status(node):
    def ask(name):
        return node.cri.ImageStatus(image=pb.ImageSpec(image=name, annotations=node.annotations))
    by_tag = ask(IMAGE).image
    expect(by_tag.id and ask(by_tag.id).image.id == by_tag.id, by_tag)
    expect(not ask("no.such/image:1").HasField("image"), "an image")


@case("image", "RemoveImage of one that is not there succeeds")
def remove_image(node):
    node.cri.RemoveImage(image=pb.ImageSpec(image="no.such/image:1"))


@case("image", "PullImage from nowhere fails with the image's name")
def pull_nothing(node):
    words = refused(lambda: node.cri.PullImage(image=pb.ImageSpec(image="127.0.0.1:1/no/image:1", annotations=node.annotations)))
    expect("no/image" in words, words)


@case("image", "a private image: refused without credentials, pulled with them, used without, removed")
def private_image(node):
    pod, name = node.common(), registry.reference(f"private/{node.target}")
    image = pb.ImageSpec(image=name, annotations=node.annotations)
    node.cri.RemoveImage(image=image)
    refused(lambda: node.cri.PullImage(image=image, sandbox_config=pod.config))
    auth = pb.AuthConfig(username=registry.USER, password=registry.PASSWORD)
    reference = node.cri.PullImage(image=image, auth=auth, sandbox_config=pod.config).image_ref
    status = node.cri.ImageStatus(image=image).image
    expect(reference and reference in [status.id, *status.repo_digests], (reference, status))
    request = pod.request("second", argv=["/note"], script="")
    request.config.image.image = reference  # as kubelet, which also says the name that the Pod has
    request.config.image.user_specified_image = name
    container = node.cri.CreateContainer(request).container_id
    shown = node.status(container)
    expect(name in (shown.image.image, shown.image.user_specified_image) or shown.image_ref == reference, shown)
    node.cri.RemoveContainer(container_id=container)
    node.cri.RemoveImage(image=pb.ImageSpec(image=reference))
    expect(name not in [tag for i in node.cri.ListImages().images for tag in i.repo_tags], "still listed")


@case("image", "ImageFsInfo names folders of this machine, each once")
def image_fs(node):
    systems = [fs.fs_id.mountpoint for fs in node.cri.ImageFsInfo().image_filesystems]
    expect(systems and len(set(systems)) == len(systems) and all(os.path.isdir(path) for path in systems), systems)
