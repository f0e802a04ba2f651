"""A hundred Pods at once, half of them split: every one becomes Ready, none starts twice, and all go."""
import time

from cluster import KINDS, container, wait_for, workload

EACH = 50  # of each kind
AGENTS = [("heterocri", "host"), ("heterod", "host"), ("heterod", "dpu"), ("containerd", "host"), ("containerd", "dpu")]


def run(cluster, cases):
    names = [f"crowd-{kind}" for kind in KINDS]
    print_memory(cluster, "before")
    with cases.case(f"{EACH} Pods of each kind at once become Ready, none starts twice, and no two have one address"):
        start = time.monotonic()
        cluster.apply(*[workload("Deployment", f"crowd-{kind}", [container("app"), container("sidecar")], split, replicas=EACH)
                        for kind, split in KINDS.items()])
        for name in names:
            cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=400s", timeout=410)
            print(f"#    all of {name} are Ready after {time.monotonic() - start:.1f} s", flush=True)
        pods = cluster.get("pods", "-l", "app in (crowd-split, crowd-whole)")["items"]
        assert len({each["status"]["podIP"] for each in pods}) == len(pods) == 2 * EACH, len(pods)
        again = [each["metadata"]["name"] for each in pods
                 if any(status["restartCount"] for status in each["status"]["containerStatuses"])]
        assert not again, again
        print_times(pods)
        print_memory(cluster, f"with {len(pods)} Pods")
    with cases.case("every one of the split Pods has its second container on the DPU"):
        whole = {each["metadata"]["name"]: cluster.reasons_of(each) for each in pods
                 if each["metadata"]["labels"]["app"] == "crowd-split" and cluster.places_of(each)["sidecar"] != "dpu"}
        assert not whole, whole
    with cases.case("the Nodes stayed Ready, and all of them go"):
        assert all(condition["status"] == "True" for node in cluster.get("nodes")["items"]
                   for condition in node["status"]["conditions"] if condition["type"] == "Ready")
        start = time.monotonic()
        cluster.kubectl("delete", "deployment", *names, "--wait=false")
        wait_for("all are gone", lambda: not cluster.get("pods", "-l", "app in (crowd-split, crowd-whole)")["items"], 300, every=1)
        print(f"#    all are gone after {time.monotonic() - start:.1f} s", flush=True)
        cluster.wait_nothing_left()
        print_memory(cluster, "afterwards")


def print_memory(cluster, when):
    """What each agent and runtime of the first Node holds, without the shims of its containers."""
    held = []
    for daemon, pu in AGENTS:
        told = cluster.place(pu, "sh", "-c", f"cat /proc/$(pidof -s {daemon})/status").stdout
        fields = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
        resident, peak = (int(fields[each].split()[0]) >> 10 for each in ("VmRSS", "VmHWM"))
        held.append(f"{daemon} ({pu}) {resident}, at most {peak}")
    print(f"#    MiB {when}: {'; '.join(held)}", flush=True)


def print_times(pods):
    """From the Pod's making to Ready, by the API server's clock, which counts seconds."""
    for kind in KINDS:
        took = sorted(seconds(ready["lastTransitionTime"]) - seconds(each["metadata"]["creationTimestamp"])
                      for each in pods if each["metadata"]["labels"]["app"] == f"crowd-{kind}"
                      for ready in each["status"]["conditions"] if ready["type"] == "Ready")
        print(f"#    {kind}: Ready after {took[len(took) // 2]} s (median), {took[-1]} s (last)", flush=True)


def seconds(stamp):
    return int(time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))
