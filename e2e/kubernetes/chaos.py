"""Every process of a Node and of the control plane dies by SIGKILL, again and again at random, under a rolling workload.

    run --chaos 1200 [--seed 7]

Two Pods of each kind live through all of it; beside them Pods come, are looked at with logs and exec, and go. Every
container prints numbered lines; kubelet rotates its files. Afterwards: each container ran once, each line is in the files
once and in order (but for what a containerd had in its hands when it was killed), the Node was Ready but for kubelet's own
starts, and nothing is left of what was deleted.
A kubectl call may fail while the API server is down; it is made again. What must not happen is never made again.
The end, whatever it is, is a summary (chaos_report.py), which is kept in .build/kubernetes-chaos.json as well.
"""
import contextlib
import gzip
import os
import random
import re
import threading
import time

from chaos_report import Report, Wrong
from chaos_work import KILL_TAKES, Worker, counting, seconds_of, stubborn
from cluster import KINDS, ROOT, Failed, pod, wait_for

# Each with where it runs; the control plane is in the client.
PROCESSES = [("etcd", "client"), ("kube-apiserver", "client"), ("kube-controller-manager", "client"), ("kube-scheduler", "client"),
             ("kubelet", "host"), ("heterocri", "host"), ("heterod", "host"), ("heterod", "dpu"), ("containerd", "host"),
             ("containerd", "dpu"), ("kube-proxy", "host"), ("kube-proxy", "dpu")]
KUBELET_GRACE = 60  # seconds; a kubelet that has just started says NotReady until it has looked at its runtime
LINE = re.compile(rb"^(\S+) (?:stdout|stderr) ([FP]) (.*)$")


class Killer(threading.Thread):
    """One at a time, with pauses from none to long enough for the next to find everything in place again."""

    def __init__(self, cluster, seconds, chance):
        super().__init__()
        self.cluster, self.end, self.chance = cluster, time.monotonic() + seconds, chance
        self.kills, self.kubelet_starts, self.failure = [], [], None
        self.times = {each: [] for each in PROCESSES}  # a moment before each kill

    def kill(self, daemon, pu):
        """Whether it was there: one that has just been killed is started 200 ms later."""
        try:
            self.cluster.daemon("kill", daemon, pu, "-9")
        except Failed as error:
            if "does not run" not in str(error):
                raise
            return False
        return True

    def run(self):
        try:
            while time.monotonic() < self.end:
                daemon, pu = self.chance.choice(PROCESSES)
                self.times[daemon, pu].append(time.time())
                if not self.kill(daemon, pu):
                    continue
                self.kills.append((daemon, pu))
                print(f"{time.strftime('%H:%M:%S')} killed {daemon} ({pu})", flush=True)
                if daemon == "kubelet":
                    self.kubelet_starts.append(time.time())
                time.sleep(self.chance.choice((0.2, 1, 2, 4, 8)) * self.chance.random() + 0.1)
        except Exception as error:  # told by the main thread
            self.failure = error


class NodeWatch(threading.Thread):
    """The Node's Ready condition, as often as the API server answers."""

    def __init__(self, cluster):
        super().__init__()
        self.cluster, self.stop, self.seen = cluster, threading.Event(), []

    def run(self):
        while not self.stop.wait(1):
            try:
                node = self.cluster.get("node", self.cluster.name)
            except (Failed, ValueError):
                continue
            ready = next(each for each in node["status"]["conditions"] if each["type"] == "Ready")
            if ready["status"] != "True" and (not self.seen or self.seen[-1][1] != ready["lastTransitionTime"]):
                self.seen.append((time.time(), ready["lastTransitionTime"], ready["reason"], ready["message"]))


def rotate_early(cluster):
    """Files of 256 KiB instead of 10 MiB, all of them kept; and leases that a machine short of processors can renew."""
    cluster.place("host", "sh", "-c", "printf 'containerLogMaxSize: 256Ki\\ncontainerLogMaxFiles: 10000\\n' >> /etc/heterok8s/kubelet.yaml")
    for pu, files in (("host", "heterod.yaml heterocri.yaml"), ("dpu", "heterod.yaml")):
        cluster.place(pu, "sh", "-c", f"cd /etc/heterok8s && sed -i 's/duration_ms: [0-9]*/duration_ms: 30000/' {files} && grep -q 30000 {files}")
    # What the DPU's containerd forgets goes before the test has looked.
    cluster.place("dpu", "sh", "-c", "cd /etc/heterok8s && sed -i 's/^cri: {/cri: {lost_netns_after_s: 20, /' heterod.yaml && grep -q lost_netns heterod.yaml")
    for daemon, pu in (("heterod", "dpu"), ("heterod", "host"), ("heterocri", "host"), ("kubelet", "host")):
        cluster.daemon("kill", daemon, pu)
    wait_for("the Node", lambda: cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=5s", check=False).returncode == 0
             and all(each["peer"]["lease_valid"] for each in cluster.agents(cluster.name).values()), 60, every=0.5)


def log_files(cluster, uid, container):
    """attempt -> the bytes of all its files, oldest first; read again when kubelet rotated or compressed meanwhile."""
    def names():
        found = cluster.place("host", "sh", "-c", f"ls -d /var/log/pods/*_{uid}/{container}/* 2>/dev/null || true").stdout.split()
        return [path for path in found if not path.endswith(".tmp") and f"{path}.gz" not in found]

    def unchanged():
        listing = names()
        try:
            seen = read_files(cluster, listing)
        except Failed:  # compressed just now
            return None
        return (seen,) if names() == listing else None
    return wait_for(f"the files of {uid}/{container}", unchanged, 60, every=0.3)[0]


def read_files(cluster, listing):
    attempts = {}
    for path in listing:
        attempts.setdefault(os.path.basename(path).split(".")[0], []).append(path)
    found = {}
    for attempt, paths in attempts.items():
        # 0.log.20260102-150405[.gz]: by time; the one that is being written has no time.
        paths.sort(key=lambda path: (path.endswith(".log"), path))
        data = b""
        for path in paths:
            copy = f"/var/tmp/hk-chaos-{os.getpid()}-{threading.get_ident()}"
            try:
                cluster.place("host", "cp", path, copy)
                with open(copy, "rb") as file:
                    piece = file.read()
                data += gzip.decompress(piece) if path.endswith(".gz") else piece
            finally:
                cluster.place("host", "rm", "-f", copy)
        found[attempt] = data
    return found


def killed_between(before, after, kills):
    """Whether that containerd was killed between two lines: it puts the time on a line when it has read it."""
    return any(before - KILL_TAKES <= kill <= after for kill in kills)


def check_lines(cluster, what, uid, container, finished, kills):
    """One attempt has lines, and they are all there, once, in order; of a finished one the last says how many.

    A containerd that is killed takes along what it had read from the container and not written yet: `kills` are the
    times when that of the container's PU was. Returns how many lines there were, and how many went that way.
    """
    spoke = {attempt: data for attempt, data in log_files(cluster, uid, container).items() if data}
    if len(spoke) != 1:
        raise Wrong("containers_doubled" if spoke else "containers_lost", f"{what}: attempts that wrote: {sorted(spoke)}")
    data = next(iter(spoke.values()))
    if not finished:
        data = data[:data.rfind(b"\n") + 1]  # it is just being written
    if not data.endswith(b"\n"):
        raise Wrong("lines_broken", f"{what}: the last line is not whole")
    expected, lost, moment, ended = 0, 0, float("-inf"), None
    for line in data[:-1].split(b"\n"):
        match = LINE.match(line)
        before, moment = moment, seconds_of(match.group(1).decode()) if match else moment
        words = match.group(3).split() if match and match.group(2) == b"F" else []
        if words[:1] == [b"end"]:
            ended = int(words[1])
            number = ended
        elif len(words) == 2 and words[0].isdigit():
            number = int(words[0])
        else:  # the rest of a line whose beginning was lost
            if not killed_between(before, moment, kills):
                raise Wrong("lines_broken", f"{what}: no whole log line: {line[:120]} after {expected}")
            moment = before  # the next line is of the same gap
            continue
        if number < expected:
            raise Wrong("lines_doubled", f"{what}: {number} is there twice, at {moment}")
        if number > expected:
            if not killed_between(before, moment, kills):
                near = [kill for kill in kills if abs(kill - moment) < 60]
                raise Wrong("lines_lost", f"{what}: {expected} to {number - 1} are missing between {before} and {moment}; "
                                          f"containerd was killed at {near}")
            lost += number - expected
        expected = number + (ended is None)
    if finished and ended is None:
        if not killed_between(moment, time.time(), kills):
            tail = [f"{line[:60]} … {line[-20:]}" for line in data[:-1].split(b"\n")[-3:]]
            raise Wrong("lines_lost", f"{what}: no end after {expected} lines: {tail}")
        lost += 1
    return expected, lost


def run(cluster, cases, seconds, seed):
    print(f"seed {seed}, {seconds} s", flush=True)
    report = Report(seed, seconds)
    try:
        storm(cluster, cases, seconds, seed, report)
    finally:
        report.tell(os.path.join(ROOT, ".build", "kubernetes-chaos.json"))


def storm(cluster, cases, seconds, seed, report):
    rotate_early(cluster)
    wait_for("the cluster's own Pods", lambda: all(each["status"].get("availableReplicas", 0) == each["spec"]["replicas"]
                                                   for each in cluster.get("deployments", "-n", "kube-system")["items"]), 120, every=1)
    at_first = present(cluster)
    steady = {f"steady-{kind}-{number}": split for kind, split in KINDS.items() for number in (1, 2)}
    cluster.apply(*[pod(name, [counting("app"), counting("sidecar")], split) for name, split in steady.items()])
    cluster.wait_ready(*steady, seconds=120)
    before = {name: cluster.get("pod", name) for name in steady}
    killer = Killer(cluster, seconds, random.Random(seed))
    watch = NodeWatch(cluster)

    def kills(split, which):
        return killer.times["containerd", "dpu" if split and which == "sidecar" else "host"]

    def cuts(split, which):
        """When one was killed through which an exec session in that container goes, and whom nobody stands in for.

        The host's containerd serves kubelet itself. What dies on the DPU is told to the client by heterocri, in whose
        hands the session is (node-agent/cri/session_status.h).
        """
        through = [("kube-apiserver", "client"), ("kubelet", "host"), ("heterocri" if split and which == "sidecar" else "containerd", "host")]
        return [kill for each in through for kill in killer.times[each]]

    def check(what, uid, which, split, finished):
        return check_lines(cluster, what, uid, which, finished, kills(split, which))
    workers = [Worker(cluster, f"w-{kind}", split, random.Random(f"{seed} {kind}"), kills, cuts, check, report) for kind, split in KINDS.items()]
    for thread in (watch, killer, *workers):
        thread.start()
    killer.join()
    for worker in workers:
        worker.stop.set()
    report.killed(killer.kills)
    for worker in workers:
        worker.join()
        report.values["pods"][worker.label] = worker.pods
        with cases.case(f"{worker.label}: {worker.pods} Pods came, spoke, were looked at and went"):
            assert not worker.failures and worker.pods, "\n".join(worker.failures)
    with cases.case(f"{len(killer.kills)} kills, and then the Node is Ready and a new Pod of each kind starts"):
        if killer.failure:
            raise killer.failure
        wait_for("the Node", lambda: cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=5s", check=False).returncode == 0, 120)
        late = {f"late-{kind}": split for kind, split in KINDS.items()}
        stubborn(lambda: cluster.apply(*[pod(name, [counting("app"), counting("sidecar")], split) for name, split in late.items()]))
        cluster.wait_ready(*late, seconds=120)
        cluster.delete("pod", *late, timeout=120)
    watch.stop.set()
    watch.join()
    with cases.case("the Node was Ready but for kubelet's own starts"):
        strange = [each for each in watch.seen if not any(0 <= each[0] - start < KUBELET_GRACE for start in killer.kubelet_starts)]
        report.set(node_not_ready=[{"at": at, "reason": reason, "message": message, "kubelet_had_started": (at, since, reason, message) not in strange}
                                   for at, since, reason, message in watch.seen])
        assert not strange, strange
    for name, split in steady.items():
        ids = {status["name"]: status["containerID"] for status in before[name]["status"]["containerStatuses"]}
        for which in ("app", "sidecar"):
            with cases.case(f"{name}/{which}: the same container, never started again, with every line once"), told(report):
                stubborn(lambda n=name, w=which: cluster.exec(n, w, "touch", "/tmp/stop"), 120)
                stubborn(lambda n=name, w=which: cluster.exec(n, w, "test", "-e", "/tmp/ended"), 120)
                status = cluster.status(name, which)
                if (status["containerID"], status["restartCount"]) != (ids[which], 0):
                    raise Wrong("containers_lost", str(status))
                uid = before[name]["metadata"]["uid"]
                lines, lost = wait_for_lines(lambda n=name, w=which, s=split, u=uid: check(f"{n}/{w}", u, w, s, True))
                report.spoke(lines, lost)
                print(f"{name}/{which}: {lines} lines, {lost} went with a containerd", flush=True)
    cluster.delete("pod", *steady, timeout=120)
    with cases.case("nothing is left on either PU"):
        def left_over():
            return unforgotten(cluster, more(present(cluster), at_first), len(killer.times["containerd", "host"]), report)
        try:
            wait_for("no container, sandbox, attachment or address", lambda: not left_over(), 120, every=2)
        except Failed as late:
            left = left_over()
            report.set(left_behind={kind: sorted(each) if isinstance(each, set) else each for kind, each in left.items()})
            raise Failed(f"{late}: {left}") from late


@contextlib.contextmanager
def told(report):
    """What goes wrong inside is in the report as well."""
    try:
        yield
    except Exception as error:
        report.wrong(error)
        raise


def wait_for_lines(check):
    """The last line may still be on its way from the DPU."""
    seen = {}

    def there():
        try:
            seen["lines"] = check()
        except AssertionError as error:
            seen["error"] = error
        return "lines" in seen
    try:
        wait_for("all lines", there, 30, every=1)
    except Failed:
        raise seen["error"] from None
    return seen["lines"]


def present(cluster):
    """What is there of Pods, by kind: ids and names, or a number."""
    found = {}
    for pu in ("host", "dpu"):
        for kind, command in (("containers", "ctr -n k8s.io containers ls -q"), ("tasks", "ctr -n k8s.io tasks ls -q"),
                              ("namespaces", "find /run/netns /run/heterok8s/netns -type f -o -type l 2>/dev/null || true"),
                              ("logs", "ls /var/log/pods /var/log/heterok8s/pods 2>/dev/null | grep _ || true"),
                              ("volumes", "ls /var/lib/kubelet/pods /var/lib/heterok8s/volumes 2>/dev/null | grep -- - || true")):
            lines = cluster.place(pu, "sh", "-c", command, check=False).stdout.split()
            found[f"{pu} {kind}"] = set(lines)
        status = cluster.agents(cluster.name)[pu]
        for key in ("attachments", "addresses_used", "tombstones"):
            found[f"{pu} {key}"] = int(status[key])
    return found


def unforgotten(cluster, left, host_kills, report):
    """What is left but for namespaces that the host's containerd forgot when it was killed: one for a kill at most.

    It makes a sandbox's namespace and writes its name down a moment later (1.6: pkg/cri/server/sandbox_run.go, NewNetNS
    and container.Update). Such a one was never given to CNI: its lo is down. On the DPU heterod removes them; the host
    is the cluster's own.
    """
    names = left.get("host namespaces", set())
    forgotten = {path for path in names if os.path.basename(path).startswith("cni-") and not cluster.place(
        "host", "nsenter", f"--net={path}", "ip", "-o", "link", "show", "up", check=False).stdout}
    report.set(namespaces_forgotten_by_the_hosts_containerd=len(forgotten))
    if len(forgotten) > host_kills:
        return left
    return {kind: each for kind, each in {**left, "host namespaces": names - forgotten}.items() if each}


def more(now, before):
    """What is there now and was not before."""
    grown = {kind: now[kind] - value for kind, value in before.items() if not isinstance(value, int) or now[kind] > value}
    return {kind: value for kind, value in grown.items() if value}
