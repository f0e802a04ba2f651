"""Volumes that kubelet makes and keeps up to date: what a container sees of them."""
import itertools
import os
import shutil
import subprocess

from cri import pb
from harness import case, expect
from node import LONG, wait_for


class Volume:
    """A configMap, secret or projected volume, changed by kubelet's steps: a new folder, "..data" in one step, the rest."""

    def __init__(self, pod, kind, name):
        self.path, self.versions = f"{pod.folder}/volumes/kubernetes.io~{kind}/{name}", itertools.count(1)
        os.makedirs(self.path)

    def put(self, files, mode=0o644, owner=0):
        version = f"..2026_11_21_{next(self.versions)}"
        os.mkdir(f"{self.path}/{version}")
        for name, text in files.items():
            with open(f"{self.path}/{version}/{name}", "w") as file:
                file.write(text)
            os.chown(file.name, owner, owner)
            os.chmod(file.name, mode)
        old = os.readlink(f"{self.path}/..data") if os.path.islink(f"{self.path}/..data") else None
        os.symlink(version, f"{self.path}/..data_tmp")
        os.rename(f"{self.path}/..data_tmp", f"{self.path}/..data")
        for name in files:
            if not os.path.islink(f"{self.path}/{name}"):
                os.symlink(f"..data/{name}", f"{self.path}/{name}")
        for name in os.listdir(self.path):
            if not name.startswith("..") and name not in files:
                os.remove(f"{self.path}/{name}")
        if old:
            shutil.rmtree(f"{self.path}/{old}")

    def mount(self, where):
        return pb.Mount(host_path=self.path, container_path=where, readonly=True)


@case("volume", "a projected volume that changes: new content, new names, names that are gone, mode and owner")
def changes(node):
    pod = node.common()
    volume = Volume(pod, "projected", f"p{node.unique}")
    volume.put({"token": "first", "old": "x"})
    container = pod.run("second", LONG, mounts=[volume.mount("/p")])
    expect(node.sh(container, "cat /p/token /p/old") == "firstx", "the first version")
    for turn in range(3):
        volume.put({"token": f"turn {turn}", "new": "y"}, mode=0o440, owner=1000 + turn)
        want = f"turn {turn}y\n440 {1000 + turn} {1000 + turn}\nnew token\n"
        wait_for(f"version {turn}", lambda: node.sh(container, "cat /p/token /p/new; echo; stat -L -c '%a %u %g' /p/token; echo $(ls /p)") == want, 60, 0.2)


@case("volume", "a reader never sees two versions mixed")
def one_version(node):
    pod = node.common()
    volume = Volume(pod, "configmap", f"c{node.unique}")
    volume.put({"a": "0", "b": "0"})
    script = ("while [ ! -e /stop ]; do cd -P /c/..data 2>/dev/null || continue; a=$(cat a 2>/dev/null); b=$(cat b 2>/dev/null); "
              "[ -z \"$a\" ] || [ -z \"$b\" ] || [ $a = $b ] || echo mixed $a $b; cd /; done; echo done")
    container = pod.run("second", script, mounts=[volume.mount("/c")])
    for turn in range(1, 6):
        volume.put({"a": str(turn), "b": str(turn)})
        wait_for("the version", lambda: node.sh(container, "cat /c/a") == str(turn), 60, 0.1)
    node.sh(container, "(sleep 0.2; touch /stop) > /dev/null 2>&1 &")  # by when the exec has ended: it would be killed
    node.ended(container)
    with open(pod.log(container)) as log:
        said = [line.split(" ", 3)[3] for line in log]
    expect(said == ["done\n"], said)


@case("volume", "a Secret that is in memory stays in memory")
def in_memory(node):
    pod = node.common()
    volume = Volume(pod, "secret", f"s{node.unique}")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", volume.path], check=True)
    try:
        volume.put({"password": "sesame"}, mode=0o400)
        container = pod.run("second", LONG, mounts=[volume.mount("/s")])
        expect(node.sh(container, "cat /s/password; stat -f -c ' %T' /s") == "sesame tmpfs\n", node.sh(container, "stat -f /s"))
        volume.put({"password": "open"}, mode=0o400)
        wait_for("the change", lambda: node.sh(container, "cat /s/password") == "open", 60, 0.2)
        node.remove(container)
        node.made.clear()
    finally:
        subprocess.run(["umount", "-l", volume.path], check=True)


@case("volume", "an emptyDir that only containers of one PU use: what one writes, the other reads")
def empty_dir(node):
    name = f"e{node.unique}"
    pod = node.pod("empty", annotations={"heteropod.io/volumes": f"{name}=side,second"})
    path = f"{pod.folder}/volumes/kubernetes.io~empty-dir/{name}"
    os.makedirs(path)
    os.chmod(path, 0o777)
    mount = pb.Mount(host_path=path, container_path="/shared")
    writer = pod.run("side", "umask 022; echo hello >/shared/note; " + LONG, mounts=[mount], security=pb.LinuxContainerSecurityContext(
        run_as_user=pb.Int64Value(value=1000)))
    reader = pod.run("second", LONG, mounts=[mount])
    wait_for("the note", lambda: node.sh(reader, "cat /shared/note 2>/dev/null; true") == "hello\n")
    expect(node.sh(reader, "stat -c %u /shared/note") == "1000\n", "its owner")
    node.remove(writer)
    expect(node.sh(reader, "cat /shared/note") == "hello\n", "it went with its writer")
    node.made.clear()
    pod.end()


@case("volume", "an emptyDir in memory is in memory, of its size, and full when it is full")
def empty_dir_in_memory(node):
    name = f"m{node.unique}"
    pod = node.pod("memory", annotations={"heteropod.io/volumes": f"{name}=side,second"})
    path = f"{pod.folder}/volumes/kubernetes.io~empty-dir/{name}"
    os.makedirs(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0777", "tmpfs", path], check=True)
    try:
        mount = pb.Mount(host_path=path, container_path="/cache")
        writer = pod.run("side", LONG, mounts=[mount], security=pb.LinuxContainerSecurityContext(run_as_user=pb.Int64Value(value=1000)))
        reader = pod.run("second", LONG, mounts=[mount])
        expect(node.sh(writer, "stat -f -c '%T %b %S' /cache") == "tmpfs 512 4096\n", node.sh(writer, "stat -f /cache"))
        expect(node.sh(writer, "echo hello >/cache/note; head -c 3000000 /dev/zero >/cache/much 2>/dev/null || echo full") == "full\n", "3 MB in 2 MB")
        expect(node.sh(reader, "cat /cache/note") == "hello\n", "the note")
        for container in (writer, reader):
            node.remove(container)
        node.made.clear()
        pod.end()
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@case("volume", "a subPath of a ConfigMap is that file, as it was when the container was made, and new in the next container")
def sub_path(node):
    pod = node.common()
    name = f"f{node.unique}"
    volume = Volume(pod, "configmap", name)
    path = f"{pod.folder}/volume-subpaths/{name}/second/0"
    os.makedirs(os.path.dirname(path))
    containers = []
    for turn, text in enumerate(("first", "second")):
        volume.put({"a.cfg": text, "other": "x"}, mode=0o440, owner=1000)
        open(path, "w").close()
        # As kubelet does it: the file that the volume's links lead to now.
        subprocess.run(["mount", "--bind", os.path.realpath(f"{volume.path}/a.cfg"), path], check=True)
        try:
            containers.append(pod.run("second", LONG, mounts=[pb.Mount(host_path=path, container_path="/etc/a.cfg", readonly=True)]))
        finally:
            subprocess.run(["umount", "-l", path], check=True)
        expect(node.sh(containers[turn], "cat /etc/a.cfg; stat -c ' %a %u' /etc/a.cfg") == f"{text} 440 1000\n", text)
        node.remove(containers[turn])
    node.made.clear()
