"""A real systemd as init of a PU of a lab, with the units of deploy/systemd and those they need.

    with Machine(lab, "host") as machine:
        machine.systemctl("start", "heterocri")
        machine.show("heterod", "MainPID")

systemd is process 1 of a PID namespace within the PU's; containers that it or its units start are there too. Its unit
folder is a tmpfs with a few of the distribution's targets and our units, and nothing else of the machine is started.
Programs of ours are in /usr/bin, by an overlay that only this systemd sees.
"""
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib.lab import BIN, HETEROCTL, ROOT, run, wait_for  # noqa: E402

SYSTEMD = "/lib/systemd/systemd"
UNITS = "/etc/systemd/system"
WHERE = f"SYSTEMD_UNIT_PATH={UNITS}:/run/systemd/transient"  # the second: what systemd-run makes stays over a daemon-reload
TARGETS = ["sysinit", "basic", "shutdown", "umount", "final", "sockets", "timers", "paths", "slices", "local-fs", "local-fs-pre", "swap", "network",
           "network-online", "multi-user", "rescue", "emergency"]


def why_not():
    """Why this machine cannot do it; None when it can."""
    if not os.access(SYSTEMD, os.X_OK):
        return "there is no systemd (Debian package systemd)"
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers") and not os.path.ismount("/sys/fs/cgroup/systemd"):
        return "there is no cgroup hierarchy for systemd: neither v2 alone nor one named systemd"
    return None


class Machine:
    def __init__(self, lab, place):
        self.lab, self.place, self.process, self.pid = lab, place, None, None

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="hk-systemd-")
        self.output = os.path.join(self.folder, "output")
        shutil.copy(os.path.join(BIN, "heterosock", "agent", "heterosockd"), self.folder)  # which a lab does not have
        ours = os.path.join(ROOT, "deploy", "systemd")
        script = f"""set -e
mount -t proc proc /proc
mount -t tmpfs tmpfs {UNITS}
cp -L {' '.join(f'/lib/systemd/system/{each}.target' for each in TARGETS)} /lib/systemd/system/containerd.service {UNITS}/
cp {ours}/*.service {UNITS}/
mount -t tmpfs tmpfs /lib/systemd/system-generators
mount -t overlay overlay -o lowerdir={self.folder}:/run/lab/bin:/usr/bin /usr/bin
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin {WHERE} {SYSTEMD} --system --unit=basic.target
"""
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [HETEROCTL, "lab", "exec", "--name", self.lab.name, self.place, "--", "unshare", "--pid", "--mount", "--fork", "--kill-child",
                 "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for("systemd", self.runs, 60, every=0.2)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None and self.pid:
            print(self.systemctl("status", "--no-pager", "*.service", check=False).stdout, flush=True)
        self.stop()

    def stop(self):
        # With process 1 its PID namespace ends, and everything in it.
        if self.pid:
            self.lab.place(self.place, "kill", "-9", self.pid, check=False)
        else:
            self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.folder)

    def runs(self):
        if self.process.poll() is not None:
            with open(self.output, encoding="utf-8", errors="replace") as output:
                raise AssertionError(f"systemd ended: {output.read()}")
        # Once it is systemd's program, and not the shell before it.
        found = self.lab.place(self.place, "pgrep", "-xo", "systemd", check=False).stdout.split()
        self.pid = found[0] if found else None
        return self.pid and self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def ends(self, unit):
        """How its main processes have ended so far: "signal", "watchdog", …; told by take_notes."""
        return self.run("cat", f"/run/{unit}.ends", check=False).stdout.split()

    def take_notes(self, unit):
        """There is no journal here."""
        self.write(f"{UNITS}/{unit}.service.d/20-notes.conf",
                   f"[Service]\nExecStopPost=/bin/sh -c 'echo $$SERVICE_RESULT >> /run/{unit}.ends'\n")

    def keep_words(self, *units):
        """What they print from their next start on is kept; there is no journal here."""
        for unit in units:
            self.write(f"{UNITS}/{unit}.service.d/30-words.conf", f"[Service]\nStandardOutput=append:/run/{unit}.words\nStandardError=inherit\n")

    def last_words(self, unit, lines=30):
        return self.run("tail", "-n", str(lines), f"/run/{unit}.words", check=False).stdout

    def run(self, *argv, **kwargs):
        """Runs argv beside systemd."""
        inside = ["nsenter", f"--target={self.pid}", "--pid", "--mount", "--", "env", WHERE, *argv]
        return run([HETEROCTL, "lab", "exec", "--name", self.lab.name, self.place, "--", *inside], **kwargs)

    def systemctl(self, *args, **kwargs):
        return self.run("systemctl", *args, **kwargs)

    def show(self, unit, key):
        return self.systemctl("show", "--value", "--property", key, unit).stdout.strip()

    def write(self, path, text):
        self.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)

    def status_of(self, unit, key):
        """A line of /proc/PID/status of the unit's main process."""
        return self.status_of_process(self.show(unit, "MainPID"), key)

    def status_of_process(self, pid, key):
        text = self.run("cat", f"/proc/{pid}/status").stdout
        return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(key + ":"))

    def take_over(self, daemon, unit):
        """The lab's daemon ends; its unit gets the command line that it had."""
        words = self.lab.place(self.place, "sh", "-c", f"tr '\\0' '\\n' < /proc/$(pgrep -xo {daemon})/cmdline").stdout.split("\n")[:-1]
        self.lab.daemon("stop", daemon, self.place)
        self.write(f"{UNITS}/{unit}.d/10-lab.conf", f"[Service]\nExecStartPre=\nExecStart=\nExecStart={shlex.join(words)}\n")
        self.systemctl("daemon-reload")
