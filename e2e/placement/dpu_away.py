"""heteropod.io/fallback with the DPU's heterod stopped: what can, runs on the host and says so; what must not, fails."""
from lib.lab import wait_for
from lib.manifest import container, manifest
from places import DPU, HOST, check

FALLBACK = "heteropod.io/fallback"


def pod(name, fallback):
    annotations = {FALLBACK: fallback} if fallback else {}
    return manifest(name, [container("app"), container("proxy")], offload="proxy", annotations=annotations)


def dpu_ready(lab):
    text = lab.place("host", "curl", "-s", "http://127.0.0.1:9465/metrics").stdout
    return "\nheterocri_dpu_ready 1\n" in text


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


def all_kinds(cases, lab):
    lab.run_pod(pod("before", "fail"))
    cases.check("the sidecar is on the DPU", len(on_dpu(lab, "before", "proxy")) == 1)
    lab.daemon("stop", "heterod", "dpu")
    try:
        done = lab.ctl("run", "-", stdin=pod("at-once", "fail"), check=False)
        cases.check("fallback fail, the DPU just gone: refused", done.returncode == 1 and "fallback is 'fail'" in done.stderr, done.stderr)
        wait_for("the lease to end", lambda: not dpu_ready(lab), 15)
        done = lab.ctl("run", "-", stdin=pod("fails", "fail"), check=False)
        cases.check("fallback fail: refused, and why", done.returncode == 1 and "fallback is 'fail'" in done.stderr
                    and "twin sandbox on the DPU" in done.stderr, done.stderr)
        cases.check("the refused Pods left nothing", {row["pod"] for row in lab.ctl_json("ps")} == {"default/before"}, lab.ctl("ps").stdout)
        reason = "twin sandbox on the DPU:"
        cases.check("ps says what became of the DPU's containers, and why too", lost(lab), lab.ctl("ps").stdout + lab.ctl("why", "before").stdout)
        check(cases, lab, "falls", pod("falls", "host"), {"app": (HOST, reason), "proxy": (HOST, reason)})
        check(cases, lab, "default", pod("default", None), {"app": (HOST, reason), "proxy": (HOST, reason)})
    finally:
        lab.daemon("start", "heterod", "dpu")
    wait_for("the DPU to be there again", lambda: dpu_ready(lab), 20)
    with cases.case("what was shown as lost has ended on the DPU and stays ended"):
        assert lost(lab), lab.ctl("ps").stdout
        wait_for("the sidecar of Pod 'before' to be gone from the DPU", lambda: not on_dpu(lab, "before", "proxy"), 20)
    check(cases, lab, "after", pod("after", "fail"), {"app": (HOST, "application"), "proxy": (DPU, "offload-containers")})
    places = {row["container"]: row["pu"] for row in lab.ctl_json("ps") if row["pod"] == "default/falls"}
    cases.check("a Pod that fell back stays on the host", set(places.values()) == {HOST}, places)
    for name in ("before", "falls", "default", "after"):
        done = lab.ctl("rm", name, check=False)
        cases.check(f"rm {name}", done.returncode == 0, done.stderr)
