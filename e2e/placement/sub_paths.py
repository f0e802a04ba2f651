"""A subPath leads into its volume and nowhere else, whatever a container has put there."""
from lib.lab import wait_for
from lib.manifest import container, manifest, shell

FILL = ("mkdir /cache/real; echo mine > /cache/real/file; echo settings > /cache/app.conf; ln -s real /cache/inside; "
        "ln -s /etc /cache/absolute; ln -s ../../../../../etc /cache/up; ln -s /proc/self/root /cache/magic")
MOUNTS = {"/inside": "inside", "/app.conf": "app.conf", "/new": "new/below"}


def at(path, sub_path):
    return {"name": "cache", "mountPath": path, "subPath": sub_path}


def pod(name, mounts, volume):
    fill = shell("fill", FILL, volumeMounts=[{"name": "cache", "mountPath": "/cache"}])
    return manifest(name, [container("app", volumeMounts=mounts)], initContainers=[fill], volumes=[{"name": "cache", "emptyDir": volume}])


def all_kinds(cases, lab):
    for kind, volume in (("disk", {}), ("memory", {"medium": "Memory"})):
        name = f"sub-{kind}"
        lab.run_pod(pod(name, [at(*each) for each in MOUNTS.items()], volume))
        done = lab.ctl("exec", name, "-c", "app", "--", "/bin/sh", "-c", "cat /inside/file /app.conf; echo x > /new/file && cat /new/file")
        cases.check(f"subPaths to a folder by a link, to a file and to what was missing ({kind})", done.stdout == "mine\nsettings\nx\n", done)
        mounts = lab.place("host", "cat", "/proc/self/mountinfo").stdout
        cases.check(f"nothing is held when the container runs ({kind})", "volume-subpaths" not in mounts, mounts)
        lab.ctl("rm", name)
        for bad in ("absolute", "up", "magic/etc"):
            done = lab.ctl("run", "-", check=False, stdin=pod("leads-out", [at("/etc-of-the-host", bad)], volume))
            cases.check(f"a subPath that a link leads out of its volume is refused ({kind}, {bad})",
                        done.returncode == 1 and f"subPath '{bad.split('/', maxsplit=1)[0]}" in done.stderr and "leaves its volume" in done.stderr, done.stderr)
            wait_for("the refused Pod to be gone", lambda: not lab.ctl_json("ps"))
    # A subPath keeps its container on the host, where the volume is not.
    both = [container("app"), container("proxy", volumeMounts=[{"name": "cache", "mountPath": "/cache"}]),
            container("shipper", volumeMounts=[at("/cache", "sub")])]
    done = lab.ctl("run", "-", check=False, stdin=manifest("half", both, offload="proxy,shipper", volumes=[{"name": "cache", "emptyDir": {}}],
                                                           annotations={"heteropod.io/volumes": "cache=proxy,shipper"}))
    cases.check("a subPath of a volume that is on the DPU is refused, with the reason",
                done.returncode == 1 and "volume 'cache' is on the DPU with proxy, but 'shipper' stays on the host" in done.stderr
                and "a subPath of a volume" in done.stderr, done.stderr)
    wait_for("the refused Pod to be gone", lambda: not lab.ctl_json("ps"))
