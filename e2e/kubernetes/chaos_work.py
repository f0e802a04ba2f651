"""The rolling workload of chaos: one worker makes one Pod after the other, looks at it, and deletes it."""
import datetime
import json
import re
import subprocess
import threading
import time

from cluster import Failed, container, pod

# A line each 20 ms, some 100 bytes; the last one, when told or after COUNT lines, says how many there were.
COUNTING = ('pad=$(head -c 80 /dev/zero | tr "\\0" x); i=0; while [ ! -e /tmp/stop ] && [ $i -lt ${COUNT:-100000000} ]; do echo $i $pad; '
            'i=$((i+1)); sleep 0.02; done; echo end $i; touch /tmp/ended; ')
CONTAINERD_STARTS = 30  # seconds from a kill until it has looked at its containers, on a busy machine
KILL_TAKES = 2  # seconds from the note of a kill to the kill, on a busy machine
PATIENCE = 240  # seconds; everything a Pod needs may die several times meanwhile


def counting(name, lines=None):
    """Counts to `lines` and ends, or until told and stays."""
    if lines is None:
        return container(name, 'trap "exit 0" TERM; ' + COUNTING + "while :; do sleep 1 & wait $!; done")
    return container(name, COUNTING + "exit 0", env=[{"name": "COUNT", "value": str(lines)}])


def stubborn(call, seconds=PATIENCE):
    """Calls until it works: what is in its way is to come back."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (Failed, json.JSONDecodeError, subprocess.TimeoutExpired):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def seconds_of(stamp):
    """A time as 2026-01-02T15:04:05.123456789Z, or with an offset, since 1970."""
    text = re.sub(r"\.(\d{1,6})\d*", r".\1", stamp).replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(text).timestamp()


class Worker(threading.Thread):
    """`kills(split, container)`: when the containerd of such a container was killed; `cuts`: or another through which an
    exec session in it goes; `check`: chaos.check_lines of one."""

    def __init__(self, cluster, label, split, chance, kills, cuts, check, report):
        super().__init__()
        self.cluster, self.label, self.split, self.chance, self.report = cluster, label, split, chance, report
        self.kills, self.cuts, self.check_lines = kills, cuts, check
        self.stop, self.pods, self.failures = threading.Event(), 0, []

    def run(self):
        while not self.stop.is_set() and len(self.failures) < 5:
            name = f"{self.label}-{self.pods}"
            try:
                (self.ends_by_itself if self.chance.random() < 0.5 else self.is_deleted)(name)
            except Exception as error:  # told by the main thread; the next Pod is tried
                self.report.wrong(error)
                situation = self.cluster.kubectl("get", "pods", "-o", "wide", check=False).stdout
                self.failures.append(f"{time.strftime('%H:%M:%S')} {name}: {error}\n{situation}")
                print(f"FAILURE {self.failures[-1]}", flush=True)
                try:
                    self.remove(name)
                except Exception as late:  # what is left is found at the end
                    print(f"FAILURE {name} could not be deleted: {late}", flush=True)
            self.pods += 1

    def check(self, *args):
        self.report.spoke(*self.check_lines(*args))

    def wait_phase(self, name, *wanted):
        def reached():
            status = self.cluster.get("pod", name)["status"]
            if status.get("phase") not in wanted:
                raise Failed(f"{name} is {status.get('phase')}, not {wanted}: {json.dumps(status.get('containerStatuses'))}")
            return status
        return stubborn(reached)

    def make(self, name, lines, **spec):
        body = pod(name, [counting("app", lines), counting("sidecar", lines)], self.split, **spec)
        stubborn(lambda: self.cluster.apply(body))
        return stubborn(lambda: self.cluster.get("pod", name))["metadata"]["uid"]

    def remove(self, name):
        # Of an answer that was lost the Pod knows nothing: deleted is what is not there.
        def gone():
            self.cluster.kubectl("delete", "pod", name, "--ignore-not-found", "--wait", "--timeout=30s", timeout=40)
        stubborn(gone)

    def logs(self, name, which):
        """`kubectl logs` shows numbered lines; whether none is missing is told by the files, of which it reads the last."""
        lines = self.cluster.kubectl("logs", name, "-c", which).stdout.splitlines()
        # Without its runtime kubelet answers with a sentence, and success.
        if not lines or not all(line[:1].isdigit() for line in lines):
            raise Failed(f"logs of {name}/{which}: {lines[:3]}")

    def exec_echo(self, name, which):
        """An exec whose session is cut before the command's status has come is a success without output to kubectl.

        client-go takes an error stream that ends empty for success (tools/remotecommand/errorstream.go), and who is
        killed can write nothing to it.
        """
        began = time.time()
        said = self.cluster.exec(name, which, "echo", "here").stdout
        if not said and any(began - KILL_TAKES <= kill <= time.time() for kill in self.cuts(self.split, which)):
            self.report.session_cut()
            raise Failed(f"{name}/{which}: the exec session was cut")
        assert said == "here\n", f"{name}/{which}: exec said {said!r}"

    def ends_by_itself(self, name):
        uid = self.make(name, self.chance.randrange(1, 300), restartPolicy="Never")
        status = self.wait_phase(name, "Succeeded", "Failed")
        self.check_exits(name, status["containerStatuses"])
        for which in ("app", "sidecar"):
            self.check(f"{name}/{which}", uid, which, self.split, True)
        self.remove(name)

    def check_exits(self, name, statuses):
        """Each container has ended with 0, but for those whose end went with their containerd.

        One that is killed between taking an exit from the shim and writing it down finds no task when it starts, and says
        "Unknown", 255, ended now (containerd 1.6: pkg/cri/server/restart.go, loadContainer); kubelet hears no better.
        """
        for status in statuses:
            ended = status["state"].get("terminated", {})
            if ended.get("exitCode") == 0:
                continue
            at = seconds_of(ended["finishedAt"]) if ended.get("finishedAt") else 0
            unknown = (ended.get("exitCode"), ended.get("reason")) == (255, "Unknown")
            if not unknown or not any(at - CONTAINERD_STARTS <= kill <= at + 1 for kill in self.kills(self.split, status["name"])):
                raise Failed(f"{name}/{status['name']} did not end with 0: {json.dumps(status)}")
            self.report.end_went_with_containerd()

    def is_deleted(self, name):
        uid = self.make(name, None)
        self.wait_phase(name, "Running")
        for which in ("app", "sidecar"):
            for _ in range(3):
                stubborn(lambda w=which: self.exec_echo(name, w))
            stubborn(lambda w=which: self.logs(name, w))
        time.sleep(self.chance.random() * 5)
        for which in ("app", "sidecar"):
            self.check(f"{name}/{which}", uid, which, self.split, False)
        self.remove(name)
