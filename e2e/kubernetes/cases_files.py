"""Files that kubelet makes for a container, and the one that it reads when the container has ended: the same on both PUs."""
from cluster import Failed, container, pod, wait_for
from cases_life import name_of

FIELDS = {"name": "about", "downwardAPI": {"items": [
    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
    {"path": "memory", "resourceFieldRef": {"containerName": "sidecar", "resource": "limits.memory", "divisor": "1Mi"}}]}}


def files(cluster, cases, split):
    """downwardAPI, /etc/hosts and /etc/resolv.conf as the Pod asks for them."""
    name = name_of("files", split)
    limit = {"limits": {"memory": "40Mi"}}
    mounts = [{"name": "about", "mountPath": "/about"}]
    containers = [container(which, volumeMounts=mounts, resources=limit if which == "sidecar" else {},
                            env=[{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]) for which in ("app", "sidecar")]
    cluster.apply(pod(name, containers, split, {"color": "red"}, volumes=[FIELDS], nodeName=cluster.name,
                      hostAliases=[{"ip": "192.0.2.7", "hostnames": ["friend", "friend.example"]}], hostname="itself", subdomain="below",
                      dnsPolicy="None", dnsConfig={"nameservers": ["192.0.2.53"], "searches": ["somewhere.example"],
                                                   "options": [{"name": "ndots", "value": "3"}]}))
    cluster.wait_ready(name)
    address = cluster.get("pod", name)["status"]["podIP"]

    def said(which, *argv):
        return cluster.exec(name, which, *argv).stdout
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: downwardAPI tells of the Pod and of a container's limit, by file and by variable"):
            text = said(which, "sh", "-c", "cat /about/labels; echo; cat /about/memory; echo; echo $NODE")
            assert text.split() == ['color="red"', "40", cluster.name], text
        with cases.case(f"{name}/{which}: /etc/hosts has the Pod under its names, and hostAliases"):
            hosts = [line.split() for line in said(which, "cat", "/etc/hosts").splitlines() if line and not line.startswith("#")]
            assert ["192.0.2.7", "friend", "friend.example"] in hosts, hosts
            assert any(words[0] == address and words[-1] == "itself" and words[1].startswith("itself.below.default.svc") for words in hosts), hosts
        with cases.case(f"{name}/{which}: /etc/resolv.conf is dnsConfig's"):
            lines = said(which, "cat", "/etc/resolv.conf").splitlines()
            assert {"nameserver 192.0.2.53", "search somewhere.example", "options ndots:3"} == set(lines), lines
    with cases.case(f"{name}: a new label is seen in both, in running containers"):
        cluster.kubectl("label", "--overwrite", "pod", name, "color=blue")
        for which in ("app", "sidecar"):
            wait_for("the label inside", lambda w=which: said(w, "cat", "/about/labels").strip() == 'color="blue"', 120, every=1)
    cluster.delete("pod", name, "--grace-period=0", "--force")


def messages(cluster, cases, split):
    """How a container ended, in its own words: from a file, or from the end of its log."""
    from_log = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    kinds = {
        "says": ("echo not this; echo farewell > /dev/termination-log; exit 3", {}, "farewell\n"),
        "elsewhere": ("echo farewell > /tmp/message; exit 3", {"terminationMessagePath": "/tmp/message"}, "farewell\n"),
        "by-log": ("echo it went wrong; exit 3", from_log, "it went wrong\n"),
        "well": ("echo it went well", from_log, None),
    }
    names = {kind: name_of(f"message-{kind}", split) for kind in kinds}
    cluster.apply(*[pod(names[kind], [container(which, script, **fields) for which in ("app", "sidecar")], split, restartPolicy="Never",
                        nodeName=cluster.name) for kind, (script, fields, _) in kinds.items()])
    for kind, (_, _, right) in kinds.items():
        for which in ("app", "sidecar"):
            with cases.case(f"{names[kind]}/{which}: its status has {'no message' if right is None else repr(right)}"):
                try:
                    wait_for("its end", lambda k=kind, w=which: "terminated" in cluster.status(names[k], w).get("state", {}), 120, every=0.5)
                except Failed as late:
                    raise Failed(f"{late}\n{cluster.situation()}") from late
                ended = cluster.status(names[kind], which)["state"]["terminated"]
                assert ended["exitCode"] == (0 if right is None else 3) and ended.get("message") == right, ended
    cluster.delete("pod", *names.values(), "--grace-period=0", "--force")


ALL = (files, messages)
