"""The DPU goes for longer than a lease and returns: what becomes of containers there, by fallback, under kubelet's policy.

The Node stays Ready, containers of the host go on, and kubelet makes anew what ended.
"""
from cluster import AFTER_TOUCH, Failed, container, pod, talker, wait_for

PATIENCE = 180


def told(cluster, what, condition, seconds=PATIENCE):
    try:
        return wait_for(what, condition, seconds, every=0.5)
    except Failed as late:
        raise Failed(f"{late}\n{cluster.situation()}") from late


def falling(name, fallback, containers, **spec):
    body = pod(name, containers, True, **spec)
    body["metadata"]["annotations"].update({"heteropod.io/fallback": fallback, "heteropod.io/volumes": "cache=sidecar"})
    return body


def now_on(cluster, name):
    """The PU of the newest sidecar; the lost one is still shown beside it."""
    return [row["pu"] for row in cluster.ctl_json("ps") if (row["pod"], row["container"]) == (f"default/{name}", "sidecar")][-1]


def state_of(cluster, name, which="sidecar"):
    """("waiting", its reason and message), ("running", "") or ("terminated", reason)."""
    state = cluster.status(name, which).get("state", {})
    for kind, fields in state.items():
        return kind, f"{fields.get('reason', '')} {fields.get('message', '')}"
    return "", ""


def run(cluster, cases):
    here = {"nodeName": cluster.name}
    cache = {"volumeMounts": [{"name": "cache", "mountPath": "/cache"}, {"name": "settings", "mountPath": "/settings"}]}
    volumes = [{"name": "cache", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "of-lost"}}]
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-lost"}, "data": {"color": "red"}}
    names = {fallback: f"lost-{fallback}" for fallback in ("host", "pending", "fail")}
    cluster.apply(settings, *[falling(name, fallback, [talker("app"), talker("sidecar", **cache)], volumes=volumes, **here)
                              for fallback, name in names.items()],
                  falling("lost-never", "fail", [container("app", "while [ ! -e /tmp/end ]; do sleep 0.2; done; " + AFTER_TOUCH), talker("sidecar", **cache)],
                          volumes=volumes, restartPolicy="Never", **here))
    cluster.wait_ready(*names.values(), "lost-never", seconds=120)
    before = {name: cluster.status(name, "app")["containerID"] for name in [*names.values(), "lost-never"]}
    started = cluster.get("node", cluster.name)["status"]["conditions"]
    ready_since = next(each["lastTransitionTime"] for each in started if each["type"] == "Ready")
    cluster.daemon("kill", "heterod", "dpu", "-9", "--hold")
    try:
        while_away(cluster, cases, names, here)
    finally:
        cluster.daemon("start", "heterod", "dpu")
    with cases.case("the DPU is back: what was pending runs there"):
        for name in ("lost-pending", "new-pending"):
            told(cluster, f"{name}/sidecar", lambda n=name: state_of(cluster, n)[0] == "running" and cluster.status(n, "sidecar")["ready"])
            assert now_on(cluster, name) == "dpu", cluster.ctl("ps").stdout
    with cases.case("the DPU is back: one that failed is started there by kubelet's policy, one that fell back stays on the host"):
        told(cluster, "lost-fail/sidecar", lambda: state_of(cluster, "lost-fail")[0] == "running", 400)
        assert now_on(cluster, "lost-fail") == "dpu", cluster.ctl("ps").stdout
        assert now_on(cluster, "lost-host") == "host", cluster.ctl("ps").stdout
    with cases.case("no container of the host noticed, and the Node was Ready all the time"):
        for name, container_id in before.items():
            status = cluster.status(name, "app")
            assert (status["containerID"], status["restartCount"]) == (container_id, 0), (name, status)
        ready = next(each for each in cluster.get("node", cluster.name)["status"]["conditions"] if each["type"] == "Ready")
        assert (ready["status"], ready["lastTransitionTime"]) == ("True", ready_since), ready
    cluster.delete("pod", *before, *[f"new-{fallback}" for fallback in names], "--grace-period=0", "--force")
    with cases.case("nothing of them is left on either PU"):
        cluster.wait_nothing_left()


def while_away(cluster, cases, names, here):
    with cases.case("fallback host: kubelet starts the lost container on the host, with its volumes; logs has both lives"):
        told(cluster, "lost-host/sidecar on the host", lambda: cluster.status("lost-host", "sidecar").get("restartCount")
             and state_of(cluster, "lost-host")[0] == "running")
        ended = cluster.status("lost-host", "sidecar")["lastState"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("DPULost", 137), ended
        assert now_on(cluster, "lost-host") == "host", cluster.ctl("ps").stdout
        assert cluster.exec("lost-host", "sidecar", "sh", "-c", "cat /settings/color; touch /cache/new; ls /cache").stdout == "rednew\n"
        assert cluster.kubectl("logs", "lost-host", "-c", "sidecar").stdout.startswith("sidecar starts\nsidecar 1\n")
        assert cluster.kubectl("logs", "--previous", "lost-host", "-c", "sidecar").stdout.startswith("sidecar starts\nsidecar 1\n")
    with cases.case("fallback pending: the lost container waits, and says for what"):
        told(cluster, "it waits", lambda: "the DPU is away" in state_of(cluster, "lost-pending")[1]
             and "fallback is 'pending'" in state_of(cluster, "lost-pending")[1])
        assert cluster.status("lost-pending", "sidecar")["restartCount"] == 0, cluster.status("lost-pending", "sidecar")
    with cases.case("fallback fail: the lost container ends each time that kubelet starts it"):
        told(cluster, "a second end", lambda: cluster.status("lost-fail", "sidecar").get("restartCount", 0) >= 1
             and cluster.status("lost-fail", "sidecar").get("lastState", {}).get("terminated", {}).get("reason") == "DPUUnavailable")
        assert cluster.status("lost-fail", "sidecar")["lastState"]["terminated"]["exitCode"] == 128
    with cases.case("a Pod that is never restarted has failed when its other container ends"):
        cluster.exec("lost-never", "app", "touch", "/tmp/end")
        cluster.wait("pod/lost-never", "jsonpath={.status.phase}=Failed", PATIENCE)
        ended = cluster.status("lost-never", "sidecar")["state"]["terminated"]
        assert ended["reason"] == "DPULost", ended

    new = {fallback: f"new-{fallback}" for fallback in names}
    cluster.apply(*[falling(name, fallback, [talker("app"), talker("sidecar")], restartPolicy="Never" if fallback == "fail" else "Always", **here)
                    for fallback, name in new.items()])
    with cases.case("a new Pod of fallback host is Ready on the host"):
        cluster.wait_ready("new-host", seconds=PATIENCE)
        assert cluster.places("new-host") == {"app": "host", "sidecar": "host"}, cluster.places("new-host")
    with cases.case("a new Pod of fallback pending is Pending, and an event says why"):
        def events():
            return cluster.kubectl("get", "events", "--field-selector", "involvedObject.name=new-pending", "-o", "jsonpath={.items[*].message}").stdout
        told(cluster, "the event", lambda: "fallback is 'pending'" in events())
        assert cluster.get("pod", "new-pending")["status"]["phase"] == "Pending"
    with cases.case("the DPU's container of a new Pod of fallback fail has failed, and its status says why"):
        told(cluster, "its end", lambda: state_of(cluster, "new-fail")[0] == "terminated")
        ended = cluster.status("new-fail", "sidecar")["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (128, "DPUUnavailable") and "the DPU is away" in ended["message"], ended
        assert state_of(cluster, "new-fail", "app")[0] == "running", cluster.status("new-fail", "app")
