"""What kubelet mounts, and that changes arrive inside containers of both PUs."""
import json
import time

from cluster import KINDS, container, pod, wait_for

# kubelet asks for another token when 80 % of these have passed, and looks every minute or so. Less is not allowed.
TOKEN_SECONDS = 600
FILES = "/settings/color /password/word /token/token"
TOKEN = {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}}]}}


def run(cluster, cases, split):
    name = f"volumes-{'split' if split else 'whole'}"
    mounts = [{"name": each, "mountPath": f"/{each}"} for each in ("settings", "password", "token")]
    volumes = [{"name": "settings", "configMap": {"name": name, "defaultMode": 0o444}},
               {"name": "password", "secret": {"secretName": name, "defaultMode": 0o440}}, TOKEN]
    objects = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"color": "red"}},
               {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"word": "open sesame"}}]
    cluster.apply(*objects, pod(name, [container("app", volumeMounts=mounts), container("sidecar", volumeMounts=mounts)], split, volumes=volumes,
                                 nodeName=cluster.name, securityContext={"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000}))
    cluster.wait_ready(name)
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: configMap, secret and token are there"):
            text = cluster.exec(name, which, "sh", "-c", "cat /settings/color /password/word; echo; wc -c < /token/token").stdout
            assert text.startswith("redopen sesame\n") and int(text.split()[-1]) > 200, text
    with cases.case(f"{name}: mode and owner are the same in both, and kubelet's"):
        said = {which: cluster.exec(name, which, "sh", "-c", f"stat -Lc '%a %u %g %n' {FILES}; stat -c '%a %u %g' /settings/. /token/.").stdout
                for which in ("app", "sidecar")}
        assert said["app"] == said["sidecar"], said
        assert "440 0 2000 /password/word\n" in said["app"], said
    objects[0]["data"]["color"] = "blue"
    objects[1]["stringData"]["word"] = "close sesame"
    cluster.apply(*objects)
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: a change of both is seen inside"):
            wait_for("the change", lambda w=which: cluster.exec(name, w, "cat", "/settings/color", "/password/word").stdout == "blueclose sesame", 120, every=1)
    with cases.case(f"{name}: a kubelet that starts anew has another token, and both containers see it"):
        before = token(cluster, name, "app")
        cluster.daemon("kill", "kubelet", "host", "-9")
        wait_for("another token", lambda: token(cluster, name, "app") not in ("", before), 120, every=1)
        wait_for("the same on both", lambda: token(cluster, name, "app") == token(cluster, name, "sidecar"), 60, every=1)
    cluster.delete("pod", name)


def token(cluster, name, which):
    """"" while there is no answer."""
    return cluster.exec(name, which, "cat", "/token/token", check=False).stdout


class Rotation:
    """A token that kubelet changes by its age: begun early, looked at again when its time has come.

    On the last Node, whose kubelet no other part ends; drain leaves these Pods alone by their label.
    """

    def __init__(self, cluster):
        self.cluster = cluster
        self.names = {kind: f"token-{kind}" for kind in KINDS}
        mounts = [{"name": "token", "mountPath": "/token"}]
        cluster.apply(*[pod(self.names[kind], [container(each, volumeMounts=mounts) for each in ("app", "sidecar")], split,
                            {"app": "token"}, volumes=[TOKEN], nodeName=cluster.node_names()[-1]) for kind, split in KINDS.items()])
        cluster.wait_ready(*self.names.values())
        self.start = time.monotonic()
        self.first = {name: token(cluster, name, "app") for name in self.names.values()}

    def run(self, cases):
        left = max(60, TOKEN_SECONDS + 60 - (time.monotonic() - self.start))
        for name, first in self.first.items():
            with cases.case(f"{name}: before {TOKEN_SECONDS} s are over both containers have another token, the same"):
                assert len(first) > 200, first
                wait_for("another token", lambda n=name, f=first: token(self.cluster, n, "app") not in ("", f), left, every=5)
                wait_for("the same on both", lambda n=name: token(self.cluster, n, "app") == token(self.cluster, n, "sidecar"), 60, every=1)
        self.cluster.delete("pod", *self.names.values())


def seccomp(cluster, cases, split):
    """A profile that is a file of the Node binds containers of both PUs."""
    name, folder = f"seccomp-{'split' if split else 'whole'}", "/var/lib/kubelet/seccomp"
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}
    cluster.place("host", "sh", "-c", f"mkdir -p {folder} && cat > {folder}/no-folders.json", stdin=json.dumps(profile))
    cluster.apply(pod(name, [container("app"), container("sidecar")], split, nodeName=cluster.name,
                      securityContext={"seccompProfile": {"type": "Localhost", "localhostProfile": "no-folders.json"}}))
    cluster.wait_ready(name)
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: what a seccomp profile of the Node forbids is forbidden, and no more"):
            done = cluster.exec(name, which, "sh", "-c", "touch /tmp/file && echo a file; mkdir /tmp/folder; grep Seccomp: /proc/self/status", check=False)
            assert "a file\n" in done.stdout and "Seccomp:\t2" in done.stdout, done
            assert "not permitted" in done.stderr, done
    with cases.case(f"{name}: each where it was asked to be"):
        assert cluster.places(name)["sidecar"] == ("dpu" if split else "host"), cluster.places(name)
    cluster.delete("pod", name, "--grace-period=0", "--force")
