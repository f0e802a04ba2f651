"""heteropod.io/fallback with the DPU's heterod stopped: what can, runs on the host and says so; what must not waits or fails.

And with the DPU's containerd stopped while the DPU is alive: nothing is lost.
"""
from lib.lab import wait_for
from lib.manifest import container, manifest
from places import DPU, HOST, check

FALLBACK = "heteropod.io/fallback"


def pod(name, fallback):
    annotations = {FALLBACK: fallback} if fallback else {}
    return manifest(name, [container("app"), container("proxy")], offload="proxy", annotations=annotations)


def gauge(lab, name):
    lines = lab.place("host", "curl", "-s", "http://127.0.0.1:9465/metrics").stdout.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def dpu_ready(lab):
    return gauge(lab, "heterocri_dpu_ready") == 1


def lost(lab):
    """Whether ps and why show the sidecar of Pod 'before' as ended with the DPU, and its other container as before."""
    rows = {row["container"]: row for row in lab.ctl_json("ps") if row["pod"] == "default/before"}
    why = {c["container"]: c["reason"] for c in lab.why("before")["containers"]}
    return (rows["app"]["state"] == "running" and rows["proxy"]["state"] == "exited" and rows["proxy"]["ended"] == "DPULost"
            and "did not answer for longer than the lease" in why["proxy"])


def on_dpu(lab, pod, container):
    """The containers of that name which the DPU's runtime has, running or not."""
    labels = f'labels."io.kubernetes.pod.name"=={pod},labels."io.kubernetes.container.name"=={container}'
    return lab.place("dpu", "ctr", "-n", "k8s.io", "containers", "ls", "-q", labels).stdout.split()


def runtime_away(cases, lab):
    """A DPU that is alive without its runtime: its containers go on, and are the same when it is back."""
    lab.run_pod(pod("goes-on", "fail"))
    before, epoch = on_dpu(lab, "goes-on", "proxy"), gauge(lab, "heterocri_dpu_epoch")

    def shown():
        return {row["container"]: row["state"] for row in lab.ctl_json("ps") if row["pod"] == "default/goes-on"}
    lab.daemon("stop", "containerd", "dpu")
    try:
        wait_for("heterocri to call the DPU's runtime down", lambda: not dpu_ready(lab))
        cases.check("the DPU counts as alive, its containers as running", gauge(lab, "heterocri_dpu_alive") == 1
                    and shown() == {"app": "running", "proxy": "running"}, shown())
        for fallback in ("pending", "fail"):
            done = lab.ctl("run", "-", stdin=pod("refused", fallback), check=False)
            cases.check(f"fallback {fallback}: nothing new is put there, and why",
                        done.returncode == 1 and "the DPU's runtime is away" in done.stderr, done.stderr)
    finally:
        lab.daemon("start", "containerd", "dpu")
    with cases.case("when the runtime is back the same container runs, and no epoch has begun"):
        wait_for("the DPU's runtime to answer", lambda: dpu_ready(lab), 60)
        assert on_dpu(lab, "goes-on", "proxy") == before and shown()["proxy"] == "running", shown()
        assert gauge(lab, "heterocri_dpu_epoch") == epoch
    done = lab.ctl("rm", "goes-on", check=False)
    cases.check("rm goes-on", done.returncode == 0, done.stderr)


def all_kinds(cases, lab):
    runtime_away(cases, lab)
    lab.run_pod(pod("before", "fail"))
    cases.check("the sidecar is on the DPU", len(on_dpu(lab, "before", "proxy")) == 1)
    lab.daemon("stop", "heterod", "dpu")
    try:
        for fallback in ("pending", "fail"):
            done = lab.ctl("run", "-", stdin=pod("at-once", fallback), check=False)
            cases.check(f"fallback {fallback}, the DPU just gone: refused",
                        done.returncode == 1 and f"fallback is '{fallback}'" in done.stderr, done.stderr)
        wait_for("the lease to end", lambda: not dpu_ready(lab))
        for fallback in ("pending", "fail"):
            done = lab.ctl("run", "-", stdin=pod("fails", fallback), check=False)
            cases.check(f"fallback {fallback}: refused, and why", done.returncode == 1 and f"fallback is '{fallback}'" in done.stderr
                        and "twin sandbox on the DPU" in done.stderr, done.stderr)
        cases.check("the refused Pods left nothing", {row["pod"] for row in lab.ctl_json("ps")} == {"default/before"}, lab.ctl("ps").stdout)
        reason = "twin sandbox on the DPU:"
        with cases.case("ps says what became of the DPU's containers, and why too"):
            wait_for("it to be shown as lost", lambda: lost(lab))
        check(cases, lab, "falls", pod("falls", "host"), {"app": (HOST, reason), "proxy": (HOST, reason)})
        check(cases, lab, "default", pod("default", None), {"app": (HOST, reason), "proxy": (HOST, reason)})
    finally:
        lab.daemon("start", "heterod", "dpu")
    wait_for("the DPU to be there again", lambda: dpu_ready(lab))
    with cases.case("what was shown as lost has ended on the DPU and stays ended"):
        assert lost(lab), lab.ctl("ps").stdout
        wait_for("the sidecar of Pod 'before' to be gone from the DPU", lambda: not on_dpu(lab, "before", "proxy"))
    check(cases, lab, "after", pod("after", "fail"), {"app": (HOST, "application"), "proxy": (DPU, "offload-containers")})
    places = {row["container"]: row["pu"] for row in lab.ctl_json("ps") if row["pod"] == "default/falls"}
    cases.check("a Pod that fell back stays on the host", set(places.values()) == {HOST}, places)
    for name in ("before", "falls", "default", "after"):
        done = lab.ctl("rm", name, check=False)
        cases.check(f"rm {name}", done.returncode == 0, done.stderr)
