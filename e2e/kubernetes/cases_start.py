"""How Pods begin and end, step by step: init containers, sidecars, probes of every kind, hooks, restart policies."""
import json

from cluster import Failed, container, pod, wait_for
from cases_life import name_of


def offloading(body, names, **annotations):
    """The same Pod with other containers on the DPU, when it is split."""
    said = body["metadata"]["annotations"]
    if said:
        said["heteropod.io/offload-containers"] = names
    said.update(annotations)
    return body


def begins(cluster, cases, split):
    """Init containers one after the other, native sidecars before those that need them, on both PUs in turn."""
    name = name_of("begins", split)
    stamp = "cut -d' ' -f1 /proc/uptime"
    call = "i=0; while [ $i -lt 50 ]; do netprobe call tcp 127.0.0.1 {port} && exit 0; i=$((i+1)); sleep 0.2; done; exit 1"
    serve = ["/usr/bin/netprobe", "serve", "tcp", "127.0.0.1"]
    init = [container("first", stamp), container("second", stamp),
            container("proxy", command=[*serve, "8001"], restartPolicy="Always"),
            container("local", command=[*serve, "8002"], restartPolicy="Always",
                      startupProbe={"exec": {"command": ["netprobe", "call", "tcp", "127.0.0.1", "8002"]}, "periodSeconds": 1, "failureThreshold": 60}),
            container("calls-proxy", call.format(port=8001)), container("calls-local", call.format(port=8002))]
    on_dpu = {"second", "proxy", "calls-local", "sidecar"} if split else set()
    body = pod(name, [container("app", stamp + "; exec sleep 1000000"), container("sidecar", stamp + "; exec sleep 1000000")], split,
               initContainers=init)
    with cases.case(f"{name}: init containers and native sidecars of both PUs begin in their order, and serve those after them"):
        cluster.apply(offloading(body, "second,proxy,calls-local,sidecar"))
        cluster.wait_ready(name, seconds=120)
        said = {which: cluster.kubectl("logs", name, "-c", which).stdout for which in ("first", "second", "app", "sidecar", "calls-proxy", "calls-local")}
        assert float(said["first"]) <= float(said["second"]) <= min(float(said["app"]), float(said["sidecar"])), said
        assert all("127.0.0.1" in said[which] for which in ("calls-proxy", "calls-local")), said
        found = cluster.places(name)
        assert {which for which, pu in found.items() if pu == "dpu"} == on_dpu, found
    with cases.case(f"{name}: the sidecars are running init containers, the others have completed"):
        states = {each["name"]: (next(iter(each["state"])), each["ready"]) for each in cluster.get("pod", name)["status"]["initContainerStatuses"]}
        assert states == {**dict.fromkeys(("first", "second", "calls-proxy", "calls-local"), ("terminated", True)),
                          **dict.fromkeys(("proxy", "local"), ("running", True))}, states
    cluster.delete("pod", name, "--grace-period=0", "--force")

    name = name_of("init-fails", split)
    bad = container("bad", "echo the reason; exit 9")
    with cases.case(f"{name}: an init container that fails ends a Pod that is never restarted, and its log tells why"):
        cluster.apply(offloading(pod(name, [container("app")], split, initContainers=[bad], restartPolicy="Never"), "bad"))
        cluster.wait(f"pod/{name}", "jsonpath={.status.phase}=Failed", 120)
        ended = cluster.get("pod", name)["status"]["initContainerStatuses"][0]["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (9, "Error"), ended
        assert cluster.kubectl("logs", name, "-c", "bad").stdout == "the reason\n"
    cluster.delete("pod", name, "--grace-period=0", "--force")


def kinds_of_probes(cluster, cases, split):
    """On both containers: a startup probe that holds the others up, gRPC for liveness, TCP for readiness."""
    name = name_of("kinds-of-probes", split)
    ports = {"app": (9001, 9101), "sidecar": (9002, 9102)}
    serve = "touch /tmp/alive; grpc-health {0} /tmp/alive & while :; do [ -e /tmp/open ] && netprobe serve tcp 0.0.0.0 {1}; sleep 0.1; done"
    containers = [container(which, serve.format(*ports[which]),
                            startupProbe={"exec": {"command": ["test", "-e", "/tmp/started"]}, "periodSeconds": 1, "failureThreshold": 300},
                            livenessProbe={"grpc": {"port": ports[which][0]}, "periodSeconds": 1, "failureThreshold": 2, "timeoutSeconds": 30},
                            readinessProbe={"tcpSocket": {"port": ports[which][1]}, "periodSeconds": 1, "failureThreshold": 1})
                  for which in ports]
    cluster.apply(pod(name, containers, split))

    def status(which):
        return cluster.status(name, which)
    for which in ports:
        with cases.case(f"{name}: {which} runs, and has not started for kubelet until its startup probe finds a file"):
            wait_for("its start", lambda w=which: "running" in status(w).get("state", {}), 120, every=0.2)
            cluster.exec(name, which, "touch", "/tmp/open")
            assert not status(which).get("started") and not status(which)["ready"], status(which)
            cluster.exec(name, which, "touch", "/tmp/started")
            wait_for("started and ready", lambda w=which: status(w).get("started") and status(w)["ready"], 60, every=0.2)
    for which in ports:
        with cases.case(f"{name}: {which} is started again when its gRPC probe hears NOT_SERVING"):
            assert status(which)["restartCount"] == 0, status(which)
            cluster.exec(name, which, "rm", "/tmp/alive")
            wait_for("a second start", lambda w=which: status(w)["restartCount"] == 1 and "running" in status(w)["state"], 60, every=0.5)
            events = cluster.kubectl("get", "events", "--field-selector", f"involvedObject.name={name},reason=Unhealthy", "-o", "jsonpath={.items[*].message}").stdout
            assert "NOT_SERVING" in events or "service unhealthy" in events, events
    cluster.delete("pod", name, "--grace-period=0", "--force")


def hooks(cluster, cases, split):
    """postStart and preStop run in their containers, and the end is as graceful as the Pod asks for."""
    name = name_of("hooks", split)
    # The shell of an exec hook is no child of the container's; what it says goes to the log of process 1.
    told = "trap 'echo told; sleep 1; echo done; exit 0' TERM; echo begins; while :; do sleep 0.1; done"
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo after the start > /proc/1/fd/1"]}},
            "preStop": {"exec": {"command": ["sh", "-c", "sleep 1; echo before the end > /proc/1/fd/1"]}}}
    cluster.apply(pod(name, [container(which, told, lifecycle=hook) for which in ("app", "sidecar")], split, terminationGracePeriodSeconds=30))
    cluster.wait_ready(name)
    follows = {which: cluster.start("logs", "-f", name, "-c", which) for which in ("app", "sidecar")}
    try:
        for which, follow in follows.items():
            first = {follow.stdout.readline(), follow.stdout.readline()}
            with cases.case(f"{name}/{which}: postStart has run"):
                assert first == {"begins\n", "after the start\n"}, first
        cluster.delete("pod", name, timeout=90)
        for which, follow in follows.items():
            with cases.case(f"{name}/{which}: preStop comes before TERM, and a container that takes its time to end has it"):
                rest = follow.communicate(timeout=60)[0]
                assert rest == "before the end\ntold\ndone\n", rest
    finally:
        for follow in follows.values():
            follow.kill()
            follow.communicate()


def policies(cluster, cases, split):
    """OnFailure: what fails is done again, what succeeds is not; an emptyDir outlives the container."""
    name = name_of("on-failure", split)
    once = "[ -e /keep/$NAME ] && exit 0; touch /keep/$NAME; exit 1"
    containers = [container(which, once, env=[{"name": "NAME", "value": which}], volumeMounts=[{"name": f"of-{which}", "mountPath": "/keep"}])
                  for which in ("app", "sidecar")]
    body = pod(name, containers, split, restartPolicy="OnFailure", volumes=[{"name": f"of-{which}", "emptyDir": {}} for which in ("app", "sidecar")])
    with cases.case(f"{name}: both containers fail once, find what they left, and have succeeded"):
        cluster.apply(offloading(body, "sidecar", **{"heteropod.io/volumes": "of-app=app;of-sidecar=sidecar"} if split else {}))
        cluster.wait(f"pod/{name}", "jsonpath={.status.phase}=Succeeded", 180)
        seen = {which: cluster.status(name, which) for which in ("app", "sidecar")}
        assert all(each["restartCount"] == 1 and each["state"]["terminated"]["exitCode"] == 0 for each in seen.values()), seen
    cluster.delete("pod", name, "--grace-period=0", "--force")


def static(cluster, cases, split):
    """A Pod from a file of the Node, which the API server only mirrors."""
    name, folder = name_of("static", split), "/etc/kubernetes/manifests"
    mirror = f"{name}-{cluster.name}"
    body = json.dumps(pod(name, [container("app"), container("sidecar")], split))

    def put(text):
        cluster.place("host", "sh", "-c", f"mkdir -p {folder} && cat > {folder}/.{name} && mv {folder}/.{name} {folder}/{name}.yaml", stdin=text)
    with cases.case(f"{name}: a file of the Node is a Pod, split as others are, and is changed and ended by its file"):
        put(body)
        wait_for("its mirror", lambda: cluster.kubectl("get", "pod", mirror, check=False).returncode == 0, 120, every=0.5)
        cluster.wait_ready(mirror)
        assert cluster.places(mirror)["sidecar"] == ("dpu" if split else "host")
        assert cluster.exec(mirror, "sidecar", "echo", "here").stdout == "here\n"
        before = cluster.status(mirror, "sidecar")["containerID"]
        put(body.replace("sleep 1000000", "sleep 1000001"))
        try:
            wait_for("other containers", lambda: cluster.status(mirror, "sidecar").get("containerID", before) != before
                     and cluster.status(mirror, "sidecar")["ready"], 180, every=0.5)
        except Failed as late:
            raise Failed(f"{late}: {cluster.situation()}") from late
    cluster.place("host", "rm", "-f", f"{folder}/{name}.yaml")
    with cases.case(f"{name}: without its file it ends"):
        wait_for("its end", lambda: cluster.kubectl("get", "pod", mirror, check=False).returncode != 0, 90, every=0.5)


def resizes(cluster, cases, split):
    """`kubectl patch --subresource resize`: other limits for containers that go on."""
    name = name_of("resizes", split)
    limits = {"limits": {"cpu": "200m", "memory": "64Mi"}, "requests": {"cpu": "200m", "memory": "64Mi"}}
    cluster.apply(pod(name, [container(which, resources=limits) for which in ("app", "sidecar")], split))
    cluster.wait_ready(name)
    before = {which: cluster.status(name, which)["containerID"] for which in ("app", "sidecar")}
    for which in before:
        with cases.case(f"{name}: {which} gets other limits and is the same container"):
            more = {"limits": {"cpu": "300m", "memory": "96Mi"}, "requests": {"cpu": "300m", "memory": "96Mi"}}
            patch = {"spec": {"containers": [{"name": which, "resources": more}]}}
            cluster.kubectl("patch", "pod", name, "--subresource", "resize", "--patch", json.dumps(patch))
            seen = {}

            def bound(w=which):
                text = cluster.exec(name, w, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us "
                                    "2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max").stdout.split()
                seen[w] = text
                return text[:2] == [str(96 << 20), "30000"]
            try:
                wait_for("the new limits inside", bound, 60, every=0.5)
            except Failed as late:
                raise Failed(f"{late}: {seen}, {cluster.get('pod', name)['status']}") from late
            status = cluster.status(name, which)
            assert (status["containerID"], status["restartCount"]) == (before[which], 0), status
    cluster.delete("pod", name, "--grace-period=0", "--force")


def together(cluster, cases, split):
    """Limits of the Pod itself (`spec.resources`): containers without any of their own have them together, on either PU."""
    name, pu = name_of("together", split), "dpu" if split else "host"
    holds = ("while [ ! -e /tmp/go ]; do sleep 0.2; done; mkfifo /tmp/bytes; (head -c 41943040 /dev/zero; exec sleep 100000) > /tmp/bytes & "
             "exec tail < /tmp/bytes")  # 40 MiB without the end of a line
    greedy = ("sidecar", "second")
    body = pod(name, [container("app"), *(container(which, holds) for which in greedy)], split, restartPolicy="Never",
               resources={"limits": {"cpu": "500m", "memory": "64Mi"}})
    cluster.apply(offloading(body, ",".join(greedy)))
    cluster.wait_ready(name)
    uid = cluster.get("pod", name)["metadata"]["uid"]

    def folders():
        return cluster.place(pu, "find", "/sys/fs/cgroup", "-type", "d", "-name", f"pod{uid}").stdout.split()

    def value(v1, v2):
        """Of the Pod's cgroup."""
        return cluster.place(pu, "sh", "-c", f"for f in {' '.join(folders())}; do cat $f/{v1} $f/{v2} 2>/dev/null; done; true").stdout.split()
    with cases.case(f"{name}: the Pod's cgroup on the {pu} has the Pod's limits"):
        places = cluster.places(name)
        assert {places[which] for which in greedy} == {pu}, places
        assert value("memory.limit_in_bytes", "memory.max") == [str(64 << 20)], value("memory.limit_in_bytes", "memory.max")
        assert value("cpu.cfs_quota_us", "cpu.max")[0] == "50000", value("cpu.cfs_quota_us", "cpu.max")
    with cases.case(f"{name}: one container may hold 40 MiB of 64; when the other wants as much, one ends as OOMKilled"):
        cluster.exec(name, "sidecar", "touch", "/tmp/go")
        wait_for("40 MiB", lambda: int(value("memory.usage_in_bytes", "memory.current")[0]) > 40 << 20, 60, every=0.5)
        assert "running" in cluster.status(name, "sidecar")["state"], cluster.status(name, "sidecar")
        cluster.exec(name, "second", "touch", "/tmp/go")

        def ended():
            states = [cluster.status(name, which)["state"].get("terminated") for which in greedy]
            return [state for state in states if state]
        wait_for("an end", ended, 60, every=0.5)
        assert (ended()[0]["reason"], ended()[0]["exitCode"]) == ("OOMKilled", 137), ended()
    cluster.delete("pod", name, "--grace-period=0", "--force")
    with cases.case(f"{name}: the Pod's cgroup on the {pu} goes with it"):
        wait_for("its end", lambda: not folders(), 60, every=0.5)


ALL = (begins, kinds_of_probes, hooks, policies, static, resizes, together)
