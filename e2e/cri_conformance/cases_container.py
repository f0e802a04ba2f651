"""A container's life, and what its program sees."""
import os

from cri import pb
from harness import case, expect, ok_or_refused, refused
from node import IMAGE, LONG, wait_for


def listed(node, **fields):
    return [item.id for item in node.cri.ListContainers(filter=pb.ContainerFilter(**fields)).containers]


@case("container", "from created to running to exited, each state with its times")
def life(node):
    pod = node.common()
    # containerd takes the time of a start when the start has been answered: the program ends after that.
    container = pod.create("second", "until [ -e /end ]; do sleep 0.02; done; exit 7")
    made = node.status(container)
    expect(made.state == pb.CONTAINER_CREATED and made.created_at > 10**18 and made.started_at == 0, made)
    node.cri.StartContainer(container_id=container)
    node.sh(container, "touch /end")
    ended = node.ended(container)
    expect(ended.exit_code == 7 and ended.reason == "Error", ended)
    expect(made.created_at <= ended.started_at <= ended.finished_at, ended)
    refused(lambda: node.cri.StartContainer(container_id=container))
    node.remove(container)


@case("container", "an orderly end is exit code 0, reason Completed")
def completed(node):
    container = node.common().run("second", "exit 0")
    ended = node.ended(container)
    expect((ended.exit_code, ended.reason) == (0, "Completed"), ended)
    node.remove(container)


@case("container", "ContainerStatus has all that was said of it, by id and by part of an id")
def status(node):
    pod = node.common()
    status = node.status(node.long)
    expect(status == node.status(node.long[:13]), "differs by id")
    expect(status.metadata.name == "side" and status.state == pb.CONTAINER_RUNNING and status.started_at >= status.created_at, status)
    expect(status.labels["who"] == pod.uid and status.annotations["example.org/c"] == "c", status)
    expect(status.image.image == IMAGE and status.image_ref, status)
    expect(status.log_path == pod.log(node.long), status.log_path)
    expect(node.cri.ContainerStatus(container_id=node.long, verbose=True).info.get("info"), "no verbose part")


@case("container", "ListContainers finds it by id, part of an id, sandbox, label and state")
def filters(node):
    pod = node.common()
    mine = {"who": pod.uid, "io.kubernetes.container.name": "side"}
    running = pb.ContainerStateValue(state=pb.CONTAINER_RUNNING)
    for fields in ({"id": node.long}, {"id": node.long[:13]}, {"label_selector": mine}, {"label_selector": mine, "state": running},
                   {"pod_sandbox_id": pod.id, "label_selector": mine}, {"pod_sandbox_id": pod.id, "id": node.long}):
        expect(listed(node, **fields) == [node.long], (fields, listed(node, **fields)))
    for fields in ({"id": "f" * 64}, {"label_selector": {"who": "nobody"}}, {"pod_sandbox_id": "f" * 64, "id": node.long},
                   {"id": node.long, "state": pb.ContainerStateValue(state=pb.CONTAINER_EXITED)}):
        expect(not listed(node, **fields), (fields, listed(node, **fields)))
    found = [c for c in node.cri.ListContainers().containers if c.id == node.long]
    expect(len(found) == 1 and found[0].pod_sandbox_id == pod.id and found[0].metadata.name == "side", found)
    expect(found[0].created_at == node.status(node.long).created_at and found[0].image_ref == node.status(node.long).image_ref, found)


@case("container", "one that is not there: NOT_FOUND; Remove succeeds, Stop does one of both")
def nobody(node):
    ghost = "f" * 64
    refused(lambda: node.cri.ContainerStatus(container_id=ghost), "NOT_FOUND")
    refused(lambda: node.cri.StartContainer(container_id=ghost), "NOT_FOUND", "UNKNOWN")
    refused(lambda: node.cri.ExecSync(container_id=ghost, cmd=["true"]), "NOT_FOUND", "UNKNOWN")
    refused(lambda: node.cri.Exec(container_id=ghost, cmd=["true"], stdout=True), "NOT_FOUND", "UNKNOWN")
    refused(lambda: node.cri.ReopenContainerLog(container_id=ghost), "NOT_FOUND", "UNKNOWN")
    ok_or_refused(lambda: node.cri.StopContainer(container_id=ghost), "NOT_FOUND")
    node.cri.RemoveContainer(container_id=ghost)


@case("container", "in a sandbox that is not there, or of an image that is not there, it is refused by name")
def impossible(node):
    pod = node.common()
    request = pod.request("second", "true")
    request.pod_sandbox_id = "f" * 64
    refused(lambda: node.cri.CreateContainer(request))
    request = pod.request("second", "true")
    request.config.image.image = "no.such/image:1"
    expect("no.such/image" in refused(lambda: node.cri.CreateContainer(request)), "the image is not named")


@case("container", "the same name and attempt twice is refused; the next attempt is not")
def attempts(node):
    pod = node.common()
    refused(lambda: pod.create("side", "true", attempt=0))
    container = pod.create("side", "true", attempt=1)
    expect(sorted(listed(node, label_selector={"who": pod.uid, "io.kubernetes.container.name": "side"})) == sorted([node.long, container]), "not both")
    node.remove(container)


@case("container", "a program that is not there fails to start, and the status says so")
def no_program(node):
    container = node.common().create("second", argv=["/no/such/program"])
    expect("/no/such/program" in refused(lambda: node.cri.StartContainer(container_id=container)), "it is not named")
    ended = node.ended(container)
    expect(ended.exit_code in (127, 128) and ended.reason == "StartError", ended)
    node.remove(container)


@case("container", "Stop gives time to end, then kills; an ended one can be stopped again")
def stop(node):
    pod = node.common()
    gentle = pod.run("second", "trap 'sleep 0.3; exit 9' TERM; echo up; while :; do sleep 0.05; done")
    wait_for("its trap", lambda: os.path.exists(pod.log(gentle)) and os.path.getsize(pod.log(gentle)))
    for _ in range(2):
        node.cri.StopContainer(container_id=gentle, timeout=10)
    expect(node.status(gentle).exit_code == 9 and node.status(gentle).state == pb.CONTAINER_EXITED, node.status(gentle))
    node.remove(gentle)
    stubborn = pod.run("second", "trap '' TERM; while :; do sleep 0.05; done")
    node.cri.StopContainer(container_id=stubborn, timeout=1)
    expect(node.status(stubborn).exit_code == 137, node.status(stubborn))
    node.remove(stubborn)


@case("container", "Remove also takes one that runs; it is gone from Status and List, and its name is free")
def remove(node):
    pod = node.common()
    for _ in range(2):
        container = pod.run("second", LONG, attempt=1)
        node.cri.RemoveContainer(container_id=container)
        node.cri.RemoveContainer(container_id=container)
        refused(lambda: node.cri.ContainerStatus(container_id=container), "NOT_FOUND")
        expect(not listed(node, id=container), "still listed")


@case("container", "too much memory is OOMKilled")
def out_of_memory(node):
    container = node.common().run("second", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done",
                                  resources=pb.LinuxContainerResources(memory_limit_in_bytes=20 << 20))
    node.ended(container, 30)
    # The kernel's word that memory was short reaches containerd beside the news of the end, at times after it.
    wait_for("the reason", lambda: node.status(container).reason == "OOMKilled")
    expect(node.status(container).exit_code != 0, node.status(container))
    node.remove(container)


@case("container", "environment, working folder, arguments, user, groups, and a root file system that is read-only")
def surroundings(node):
    script = "echo $GREETING; pwd; echo $0 $1; id -u; id -G; touch /x 2>/dev/null && echo wrote; hostname; exit 0"
    container = node.common().run("second", script, args=["zero", "one"], working_dir="/tmp", envs=[pb.KeyValue(key="GREETING", value="hi")],
                                  security=pb.LinuxContainerSecurityContext(run_as_user=pb.Int64Value(value=1234), run_as_group=pb.Int64Value(value=5678),
                                                                            supplemental_groups=[42], readonly_rootfs=True))
    node.ended(container)
    with open(node.common().log(container)) as log:
        lines = [line.rstrip("\n").split(" ", 3)[3] for line in log]
    expect(lines[:4] == ["hi", "/tmp", "zero one", "1234"] and set(lines[4].split()) == {"5678", "42"} and lines[5:] == ["common"], lines)
    node.remove(container)


@case("container", "files of kubelet: a ConfigMap to read, the hosts file, and a termination message that comes back")
def files(node):
    pod = node.common()
    volume = f"{pod.folder}/volumes/kubernetes.io~configmap/conf"
    os.makedirs(f"{volume}/..2026")
    for name, text, mode in (("a", "alpha", 0o644), ("b", "beta", 0o400)):
        with open(f"{volume}/..2026/{name}", "w") as file:
            file.write(text)
        os.chmod(f"{volume}/..2026/{name}", mode)
        os.symlink(f"..data/{name}", f"{volume}/{name}")
    os.symlink("..2026", f"{volume}/..data")
    os.makedirs(f"{pod.folder}/containers/second")
    termination, hosts = f"{pod.folder}/containers/second/0000", f"{pod.folder}/etc-hosts"
    for path, text in ((termination, ""), (hosts, "192.0.2.7 friend\n")):
        with open(path, "w") as file:
            file.write(text)
    os.chmod(termination, 0o666)
    mounts = [pb.Mount(host_path=volume, container_path="/conf", readonly=True), pb.Mount(host_path=hosts, container_path="/etc/hosts"),
              pb.Mount(host_path=termination, container_path="/dev/termination-log")]
    container = pod.run("second", "cat /conf/a /conf/b; ls -lL /conf/b | cut -c1-10; cat /etc/hosts; touch /conf/c 2>/dev/null && echo wrote; "
                                  "echo farewell >/dev/termination-log; exit 3", mounts=mounts)
    node.ended(container)
    with open(pod.log(container)) as log:
        text = [line.rstrip("\n").split(" ", 3)[3] for line in log]
    expect(text == ["alphabeta-r--------", "192.0.2.7 friend"], text)
    with open(termination) as file:
        expect(file.read() == "farewell\n", "the message is not there")
    shown = {mount.container_path: mount.host_path for mount in node.cri.ContainerStatus(container_id=container).status.mounts}
    expect(shown.get("/dev/termination-log") == termination, f"kubelet would look for the message elsewhere: {shown}")
    node.remove(container)


@case("container", "UpdateContainerResources changes the limit of one that runs")
def update(node):
    container = node.common().run("second", LONG, resources=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20))
    node.cri.UpdateContainerResources(container_id=container, linux=pb.LinuxContainerResources(memory_limit_in_bytes=96 << 20))
    limit = node.sh(container, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true").split()
    expect(limit == [str(96 << 20)], limit)
    node.remove(container)


@case("exec", "ExecSync: output, errors and exit code apart")
def exec_sync(node):
    node.common()
    done = node.cri.ExecSync(container_id=node.long, cmd=["/bin/sh", "-c", "echo out; echo err >&2; exit 5"], timeout=10)
    expect((done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 5), done)


@case("exec", "ExecSync: one megabyte of output")
def exec_much(node):
    node.common()
    done = node.cri.ExecSync(container_id=node.long, cmd=["/bin/sh", "-c", "head -c 1000000 /dev/zero"], timeout=20)
    expect(done.stdout == bytes(1000000), len(done.stdout))


@case("exec", "ExecSync: its timeout is DEADLINE_EXCEEDED, in time")
def exec_timeout(node):
    node.common()
    refused(lambda: node.cri.ExecSync(container_id=node.long, cmd=["/bin/sleep", "20"], timeout=1, seconds=15), "DEADLINE_EXCEEDED")


@case("exec", "ExecSync: a program that is not there, and a container that does not run")
def exec_refused(node):
    node.common()
    refused(lambda: node.cri.ExecSync(container_id=node.long, cmd=["/no/such"], timeout=5))
    container = node.common().create("second", "true")
    refused(lambda: node.cri.ExecSync(container_id=container, cmd=["true"], timeout=5))
    refused(lambda: node.cri.Exec(container_id=container, cmd=["true"], stdout=True))
    node.remove(container)
