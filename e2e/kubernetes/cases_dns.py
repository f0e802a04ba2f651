"""Names: a container of each PU asks CoreDNS, which runs in the cluster, by UDP and by TCP.

    app, sidecar ── 10.96.0.10:53 (kube-proxy of the host or the DPU) ── coredns ── API server
                                                                            └── the outside's server
"""
import contextlib
import itertools
import os
import struct

from cluster import KINDS, PROGRAMS, Failed, container, pod, wait_for, workload

DNS = "10.96.0.10"
ZONE = "default.svc.cluster.local"
OUTSIDE = ("www.somewhere.example", "203.0.113.7")
STUB = ".:53 {{\n  hosts {{\n    {1} {0}\n  }}\n}}\n".format(*OUTSIDE)


def query(name):
    """A question for A records, as TCP carries it."""
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    message = struct.pack(">6H", 0x1234, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    return struct.pack(">H", len(message)) + message


def skip_name(message, at):
    while message[at] and message[at] < 0xC0:
        at += 1 + message[at]
    return at + (2 if message[at] else 1)


def addresses(answer):
    """Of an answer as TCP carries it; ValueError for one that is not whole."""
    message = answer[2:]
    if len(answer) < 14 or len(message) != struct.unpack(">H", answer[:2])[0]:
        raise ValueError(f"{len(answer)} bytes")
    identity, flags, questions, answers = struct.unpack(">4H", message[:8])
    if identity != 0x1234 or flags & 0x800F != 0x8000:
        raise ValueError(f"flags {flags:04x}")
    at, found = 12, set()
    for _ in range(questions):
        at = skip_name(message, at) + 4
    for _ in range(answers):
        at = skip_name(message, at)
        kind, _, _, length = struct.unpack(">2HIH", message[at:at + 10])
        at += 10 + length
        if kind == 1:
            found.add(".".join(map(str, message[at - 4:at])))
    return found


def by_udp(cluster, name, which, what, server=DNS):
    said = cluster.exec(name, which, "nslookup", "-type=a", what, server, check=False).stdout
    found = set()
    for line in said.partition("\nName:")[2].splitlines():
        if line.startswith("Address"):
            found.add(line.split(":", 1)[1].strip())
    return found


def by_tcp(cluster, name, which, what, server=DNS):
    octal = "".join(f"\\{byte:03o}" for byte in query(what))
    ask = f"printf '{octal}' | nc -w 5 {server} 53 | hexdump -v -e '1/1 \"%02x\"'"
    try:
        return addresses(bytes.fromhex(cluster.exec(name, which, "sh", "-c", ask, check=False).stdout))
    except (ValueError, IndexError, struct.error) as wrong:
        return {f"no answer: {wrong}"}


@contextlib.contextmanager
def outside(cluster):
    """A name server beyond the cluster, for names that CoreDNS does not know."""
    path = f"/run/heterok8s-lab/{cluster.name}/outside.corefile"
    with open(path, "w", encoding="utf-8") as file:
        file.write(STUB)
    with cluster.start_in("client", os.path.join(PROGRAMS, "coredns"), "-conf", path) as server:
        try:
            yield
        finally:
            server.kill()


def make(cluster):
    labels = {"app": "named"}
    names = {f"asks-{kind}": split for kind, split in KINDS.items()}
    ports = [{"port": 80}]
    cluster.apply(
        *[pod(name, [container("app"), container("sidecar")], split, labels) for name, split in names.items()],
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "one"}, "spec": {"selector": labels, "ports": ports}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "all"},
         "spec": {"clusterIP": "None", "selector": labels, "ports": ports}},
        *[workload("StatefulSet", f"member-{kind}", [container("app"), container("sidecar")], split, replicas=1,
                   serviceName=f"member-{kind}") for kind, split in KINDS.items()],
        *[{"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"member-{kind}"},
           "spec": {"clusterIP": "None", "selector": {"app": f"member-{kind}"}, "ports": ports}} for kind in KINDS])
    cluster.wait_ready(*names)
    for kind in KINDS:
        cluster.rolled_out(f"statefulset/member-{kind}")
    ip = {each: cluster.get("pod", each)["status"]["podIP"] for each in (*names, *[f"member-{kind}-0" for kind in KINDS])}
    wanted = {f"one.{ZONE}": {cluster.get("service", "one")["spec"]["clusterIP"]},
              f"all.{ZONE}": {ip[name] for name in names},
              OUTSIDE[0]: {OUTSIDE[1]}}
    for kind in KINDS:
        wanted[f"member-{kind}-0.member-{kind}.{ZONE}"] = {ip[f"member-{kind}-0"]}
    return names, wanted


def run(cluster, cases):
    with cases.case("CoreDNS runs in the cluster"):
        cluster.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s", timeout=130)
    names, wanted = make(cluster)
    with outside(cluster):
        for name, which in itertools.product(names, ("app", "sidecar")):
            with cases.case(f"{name}/{which}: names lead to the cluster's server"):
                text = cluster.exec(name, which, "cat", "/etc/resolv.conf").stdout
                assert f"nameserver {DNS}\n" in text and ZONE in text, text
            for protocol, ask in (("UDP", by_udp), ("TCP", by_tcp)):
                with cases.case(f"{name}/{which}: a Service, a headless one, Pods of StatefulSets and a name outside, by {protocol}"):
                    for what, right in wanted.items():
                        resolves(cluster, ask, name, which, what, right)
    clean(cluster, names)


def resolves(cluster, ask, name, which, what, right):
    """CoreDNS learns of an endpoint some time after the Pod is Ready, and remembers for 5 s what it was asked."""
    seen = set()

    def asked():
        seen.clear()
        seen.update(ask(cluster, name, which, what))
        return seen == right
    try:
        wait_for(what, asked, 60, every=0.5)
    except Failed as late:
        raise Failed(f"{late}: {sorted(seen)}, not {sorted(right)}\n{cluster.situation()}") from late


def clean(cluster, names):
    members = [f"member-{kind}" for kind in KINDS]
    cluster.delete("service", "one", "all", *members)
    cluster.delete("statefulset", *members)
    cluster.delete("pod", *names)


def on_dpu(cluster, cases):
    """CoreDNS itself as the DPU container of a split Pod: it finds the API server, and answers under a Service."""
    name, asker = "dns-on-dpu", "asks-dpu"
    serve = "until [ -f /tmp/all ]; do sleep 0.1; done; exec /tmp/coredns -conf /etc/coredns/Corefile"
    server = pod(name, [container("app"), container("sidecar", serve, volumeMounts=[{"name": "config", "mountPath": "/etc/coredns"}],
                                                    readinessProbe={"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1})],
                 True, {"app": name}, serviceAccountName="coredns", dnsPolicy="Default",
                 volumes=[{"name": "config", "configMap": {"name": "coredns"}}])
    server["metadata"]["namespace"] = "kube-system"
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "kube-system"},
               "spec": {"selector": {"app": name}, "ports": ports}}
    cluster.apply(server, service, pod(asker, [container("app"), container("sidecar")], True))
    cluster.wait_ready(asker)
    with cases.case(f"{name}: CoreDNS starts in a container of the DPU"):
        cluster.kubectl("-n", "kube-system", "wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Running", "--timeout=120s", timeout=130)
        cluster.kubectl("-n", "kube-system", "cp", "-c", "sidecar", os.path.join(PROGRAMS, "coredns"), f"{name}:/tmp/coredns", timeout=120)
        cluster.kubectl("-n", "kube-system", "exec", name, "-c", "sidecar", "--", "touch", "/tmp/all")
        cluster.kubectl("-n", "kube-system", "wait", f"pod/{name}", "--for=condition=Ready", "--timeout=120s", timeout=130)
    address = cluster.get("-n", "kube-system", "service", name)["spec"]["clusterIP"]
    for which, (protocol, ask) in itertools.product(("app", "sidecar"), (("UDP", by_udp), ("TCP", by_tcp))):
        with cases.case(f"{asker}/{which}: it answers under its Service, by {protocol}"):
            what = f"{name}.kube-system.svc.cluster.local"
            resolves(cluster, lambda c, n, w, q, a=ask: a(c, n, w, q, address), asker, which, what, {address})
    cluster.kubectl("-n", "kube-system", "delete", "--wait=false", "pod,service", name)
    cluster.delete("pod", asker)
