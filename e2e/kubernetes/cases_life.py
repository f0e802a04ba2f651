"""How containers end and begin again, by kubelet's rules, on both PUs."""
from cluster import AFTER_TOUCH, Failed, container, job, pod, wait_for, workload


def name_of(what, split):
    return f"{what}-{'split' if split else 'whole'}"


def restarts(cluster, cases, split):
    """A container ends once, beside one that goes on, and kubelet starts it again.

    It ends when told: of one that ends again and again kubelet may have removed the log that its status speaks of.
    """
    for which in ("app", "sidecar"):
        name = name_of(f"ends-{which}", split)
        other = "sidecar" if which == "app" else "app"
        ends = "echo first words; while [ ! -f /tmp/end ]; do sleep 0.1; done; " + AFTER_TOUCH + "; echo last words; exit 3"
        cluster.apply(pod(name, sorted([container(which, ends), container(other)], key=lambda c: c["name"]), split))
        cluster.wait_ready(name)
        with cases.case(f"{name}: {which} that exits with 3 is started again, and logs --previous has its last words"):
            cluster.exec(name, which, "touch", "/tmp/end")
            seen = {}

            def again():
                seen.update(cluster.status(name, which))
                return "running" in seen.get("state", {}) and "terminated" in seen.get("lastState", {})
            try:
                wait_for("a second start, and the former's end", again, every=0.2)
            except Failed as late:
                raise Failed(f"{late}: {seen}\n{cluster.situation()}") from late
            assert seen["restartCount"] == 1, seen
            ended = cluster.status(name, which)["lastState"]["terminated"]
            assert (ended["exitCode"], ended["reason"]) == (3, "Error"), ended
            previous = cluster.kubectl("logs", "--previous", name, "-c", which).stdout
            assert previous == "first words\nlast words\n", previous
            assert cluster.kubectl("logs", name, "-c", which).stdout == "first words\n"
        with cases.case(f"{name}: the other container did not notice"):
            assert cluster.status(name, other)["restartCount"] == 0
        cluster.delete("pod", name, "--grace-period=0", "--force")


def probes(cluster, cases, split):
    """A failing liveness probe ends its container; readiness takes the Pod out and brings it back."""
    for which in ("app", "sidecar"):
        name = name_of(f"probed-{which}", split)
        # What is late has not failed: a probe has time. And none looks for a file that nobody has had the time to make.
        alive = {"exec": {"command": ["test", "-f", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 30}
        begun = {**alive, "failureThreshold": 120}
        ready = {"httpGet": {"path": "/", "port": 8090}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 30}
        script = "mkdir -p /tmp/www; echo yes > /tmp/www/index.html; touch /tmp/alive; exec httpd -f -p 8090 -h /tmp/www"
        containers = [container(each, **({"command": ["sh", "-c", script], "startupProbe": begun, "livenessProbe": alive, "readinessProbe": ready}
                                         if each == which else {})) for each in ("app", "sidecar")]
        cluster.apply(pod(name, containers, split))
        with cases.case(f"{name}: an HTTP readiness probe of {which} finds it, and misses it when its page is gone"):
            cluster.wait_ready(name)
            cluster.exec(name, which, "rm", "/tmp/www/index.html")
            cluster.wait(f"pod/{name}", "condition=Ready=false", 60)
            cluster.exec(name, which, "sh", "-c", "echo yes > /tmp/www/index.html")
            cluster.wait_ready(name)
        with cases.case(f"{name}: a failing exec liveness probe of {which} ends it and kubelet starts it again"):
            assert cluster.status(name, which)["restartCount"] == 0, cluster.status(name, which)
            cluster.exec(name, which, "rm", "/tmp/alive")
            wait_for("a second start", lambda: cluster.status(name, which)["restartCount"] == 1)
            cluster.wait_ready(name)
        cluster.delete("pod", name, "--grace-period=0", "--force")


def out_of_memory(cluster, cases, split):
    for which in ("app", "sidecar"):
        name = name_of(f"oom-{which}", split)
        limit = {"limits": {"memory": "24Mi"}}
        containers = [container(each, "sleep 1; exec tail /dev/zero" if each == which else "exec sleep 10000",
                                **({"resources": limit} if each == which else {})) for each in ("app", "sidecar")]
        cluster.apply(pod(name, containers, split, restartPolicy="Never"))
        with cases.case(f"{name}: {which} that takes more memory than its limit ends as OOMKilled"):
            wait_for("its end", lambda: "terminated" in cluster.status(name, which).get("state", {}))
            ended = cluster.status(name, which)["state"]["terminated"]
            assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137), ended
        cluster.delete("pod", name, "--grace-period=0", "--force")


def jobs(cluster, cases, split):
    name = name_of("job", split)
    cluster.apply(job(name, [container("app", "echo done; exit 0"), container("sidecar", "echo done too; exit 0")], split))
    with cases.case(f"{name}: a Job of two containers completes"):
        cluster.wait(f"job/{name}", "condition=Complete", 120)
        assert cluster.kubectl("logs", f"job/{name}", "-c", "sidecar").stdout == "done too\n"
    cluster.delete("job", name)


def rollout(cluster, cases, split):
    name = name_of("rolls", split)

    def version(number):
        return workload("Deployment", name, [container("app"), container("sidecar", f"echo version {number}; exec sleep 100000")],
                        split, replicas=2)
    with cases.case(f"{name}: a Deployment of two comes up"):
        cluster.apply(version(1))
        cluster.rolled_out(f"deployment/{name}")
    with cases.case(f"{name}: it rolls to another version, and only that runs"):
        cluster.apply(version(2))
        cluster.rolled_out(f"deployment/{name}")
        wait_for("the former ones are gone", lambda: len(cluster.get("pods", "-l", f"app={name}")["items"]) == 2)
        for each in cluster.get("pods", "-l", f"app={name}")["items"]:
            text = cluster.kubectl("logs", each["metadata"]["name"], "-c", "sidecar").stdout
            assert text == "version 2\n", text
    cluster.delete("deployment", name)


def sets(cluster, cases, split):
    name = name_of("set", split)
    with cases.case(f"{name}: a StatefulSet's Pod has its name again after its end"):
        cluster.apply(workload("StatefulSet", name, [container("app"), container("sidecar")], split, replicas=1, serviceName=name))
        cluster.rolled_out(f"statefulset/{name}")
        uid = cluster.get("pod", f"{name}-0")["metadata"]["uid"]
        cluster.delete("pod", f"{name}-0")
        wait_for("another Pod of this name", lambda: cluster.kubectl("get", "pod", f"{name}-0", "-o", "jsonpath={.metadata.uid}", check=False).stdout not in ("", uid))
        cluster.wait_ready(f"{name}-0")
        for which in ("app", "sidecar"):
            assert cluster.exec(f"{name}-0", which, "hostname").stdout == f"{name}-0\n"
    cluster.delete("statefulset", name)
    name = name_of("daemon", split)
    with cases.case(f"{name}: a DaemonSet has a Pod on every Node"):
        cluster.apply(workload("DaemonSet", name, [container("app"), container("sidecar")], split))
        cluster.rolled_out(f"daemonset/{name}")
        where = {each["spec"]["nodeName"] for each in cluster.get("pods", "-l", f"app={name}")["items"]}
        assert len(where) == cluster.nodes, where
    cluster.delete("daemonset", name)


def drain(cluster, cases, split):
    """Every Pod leaves the second Node, to the other when something makes it anew."""
    name, node = name_of("moves", split), f"{cluster.name}.2"
    selector = {"kubernetes.io/hostname": node}
    preferred = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}
                                                            for key, value in selector.items()]}}]}}
    with cases.case(f"{name}: drain moves a Deployment's Pod to the other Node, uncordon lets Pods in again"):
        cluster.apply(workload("Deployment", name, [container("app"), container("sidecar")], split, replicas=1,
                               pod_spec={"affinity": preferred}))
        cluster.rolled_out(f"deployment/{name}")

        def where():
            return [each["spec"]["nodeName"] for each in cluster.get("pods", "-l", f"app={name}")["items"]]
        assert where() == [node], where()
        try:
            cluster.kubectl("drain", node, "--force", "--ignore-daemonsets", "--delete-emptydir-data",
                            "--pod-selector=app!=token", "--timeout=120s", timeout=130)
            cluster.rolled_out(f"deployment/{name}")
            assert where() == [cluster.name], where()
        finally:
            cluster.kubectl("uncordon", node)
    cluster.delete("deployment", name)


def many(cluster, cases, split):
    """Many at once, and their end."""
    name, count = name_of("many", split), 16
    with cases.case(f"{name}: {count} Pods at once become Ready, each with an address of its own, and go"):
        cluster.apply(workload("Deployment", name, [container("app"), container("sidecar")], split, replicas=count))
        cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=240s", timeout=250)
        pods = cluster.get("pods", "-l", f"app={name}")["items"]
        addresses = {each["status"]["podIP"] for each in pods}
        assert len(addresses) == count, len(addresses)
        restarted = [each["metadata"]["name"] for each in pods
                     if any(status["restartCount"] for status in each["status"]["containerStatuses"])]
        assert not restarted, restarted
        cluster.kubectl("delete", "deployment", name, "--wait=false")
        wait_for("all are gone", lambda: not cluster.get("pods", "-l", f"app={name}")["items"], 180, every=1)
    with cases.case(f"{name}: the agents hold nothing of them any more"):
        cluster.wait_nothing_left()


BASIC = (restarts, jobs)
LONG = (probes, out_of_memory, rollout, sets, drain, many)
