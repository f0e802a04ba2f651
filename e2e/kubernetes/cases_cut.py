"""A session of exec in a container on the DPU that is cut ends with an error, not as a command that ended well."""
from cluster import pod, talker, wait_for


def run(cluster, cases):
    cluster.apply(pod("cut", [talker("app"), talker("sidecar")], True, nodeName=cluster.name))
    cluster.wait_ready("cut")
    for daemon in ("containerd", "heterod"):
        with cases.case(f"kubectl exec fails when {daemon} on the DPU is killed before the command has ended"):
            session = cluster.start("exec", "cut", "-c", "sidecar", "--", "sh", "-c", "echo here; exec sleep 1000000")
            assert session.stdout.readline() == "here\n"
            cluster.daemon("kill", daemon, "dpu", "-9")
            _, said = session.communicate(timeout=120)
            assert session.returncode != 0 and "was cut before it had a result" in said, (session.returncode, said)
        with cases.case(f"and works again with the next {daemon}; a command's own exit code is its own"):
            wait_for("exec", lambda: cluster.exec("cut", "sidecar", "echo", "here", check=False).stdout == "here\n", 60, every=0.5)
            done = cluster.exec("cut", "sidecar", "sh", "-c", "exit 7", check=False)
            assert done.returncode == 7, done
    cluster.delete("pod", "cut", "--grace-period=0", "--force")
