"""The demo's lab and the things done in it: commands in its places, Pods, and what the kernel says about a process."""
import json
import os
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HETEROCTL = os.path.join(ROOT, "bazel-bin", "heteroctl", "heteroctl")


class DemoFailed(Exception):
    """A command without which the demo cannot go on."""


def call(argv, check=True, timeout=120, stdin=None):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=timeout, input=stdin)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DemoFailed(f"{' '.join(argv)}: {error}") from error
    if check and done.returncode != 0:
        raise DemoFailed(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def until(condition, seconds=15):
    """Asks until the answer is true or the time is over; returns the last answer."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer or time.monotonic() > end:
            return answer
        time.sleep(0.05)


def build_images():
    done = subprocess.run([os.path.join(ROOT, "deploy", "images", "build")], check=False)
    if done.returncode != 0:
        raise DemoFailed("the images could not be built")


class Lab:
    def __init__(self, name, keep=False):
        self.name = name
        self.keep = keep
        self.namespaces = set()

    def __enter__(self):
        start = time.monotonic()
        os.chdir(ROOT)  # where the images are found
        try:
            call([HETEROCTL, "lab", "up", "--name", self.name])
        except BaseException:
            self.down()
            raise
        self.up_seconds = time.monotonic() - start
        with open(f"/run/heterok8s-lab/{self.name}/env.json", encoding="utf-8") as file:
            self.env = json.load(file)
        self.inits = {pu: self.init_of(pu) for pu in ("host", "dpu")}
        return self

    def __exit__(self, *_):
        if self.keep:
            print(f"\nlab '{self.name}' is kept: heteroctl --lab {self.name} ps; heteroctl lab down {self.name}")
        else:
            self.down()

    def down(self):
        call([HETEROCTL, "lab", "down", "--name", self.name])

    def ctl(self, *args, check=True, stdin=None, timeout=120):
        return call([HETEROCTL, "--lab", self.name, *args], check=check, stdin=stdin, timeout=timeout)

    def ctl_json(self, *args, stdin=None):
        return json.loads(self.ctl("-o", "json", *args, stdin=stdin).stdout)

    def inside(self, place, *argv, timeout=30):
        return call([HETEROCTL, "lab", "exec", "--name", self.name, place, "--", *argv], check=False, timeout=timeout)

    def client(self, *argv):
        return self.inside("client", *argv)

    def curl(self, url, *options):
        """(worked, the answer or curl's words)."""
        done = self.client("curl", "-sS", "-g", "-m", "3", *options, url)
        return done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr).strip()

    def exec(self, pod, container, *argv):
        return self.ctl("exec", pod, "-c", container, "--", *argv, check=False)

    def ports(self, pod):
        """What `heteroctl why` says of a Pod's ports: {"protocol", "address", "number", "owner"} each."""
        done = self.ctl("-o", "json", "why", pod, check=False)
        why = json.loads(done.stdout) if done.returncode == 0 else {}
        found = {}
        for side in ("host", "dpu"):
            for port in (why.get(side) or {}).get("ports", []):
                protocol, socket = port["port"].split(" ")[:2]
                address, number = socket.rsplit(":", 1)
                found[port["port"]] = {"protocol": protocol, "address": address.strip("[]"), "number": number, "owner": port["owner"]}
        return [found[key] for key in sorted(found)]

    def netns_paths(self, pod):
        """PU -> path of the Pod's network namespace there."""
        why = self.ctl_json("why", pod)
        return {side: why[side]["netns_path"] for side in ("host", "dpu") if why.get(side)}

    # --- what the kernel says ----------------------------------------------------------------------------------------
    def init_of(self, pu):
        """PID 1 of a PU: the parent of all there."""
        for daemon in self.ctl_json("lab", "list"):
            if daemon["lab"] == self.name and daemon["pu"] == pu and daemon.get("pid", -1) > 0:
                return parents(daemon["pid"])[0]
        raise DemoFailed(f"nothing runs on the {pu}")

    def process_of(self, container_id):
        """The container's first process."""
        process = self.find_process(container_id)
        if process is None:
            raise DemoFailed(f"no process of container {container_id}")
        return process

    def find_process(self, container_id):
        """The container's first process: found by its cgroup, described by /proc; None when it has none."""
        for pid in pids():
            try:
                with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                    if container_id not in file.read():
                        continue
                chain = parents(pid)
                namespaces = {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "pid", "uts", "mnt")}
            except OSError:
                continue
            pu = next((name for name, init in self.inits.items() if init in chain), "neither")
            self.namespaces.update(namespaces.values())
            return {"pid": pid, "pu": pu, "net": namespaces["net"]}
        return None

    def leftovers(self):
        """Looked for by other means than `lab down` itself uses."""
        left = []
        for root in ("/run/heterok8s-lab", "/var/lib/heterok8s-lab"):
            if os.path.exists(os.path.join(root, self.name)):
                left.append(os.path.join(root, self.name))
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            left += [f"mount {line.split()[4]}" for line in file if f"/{self.name}/" in line]
        for folder, folders, _ in os.walk("/sys/fs/cgroup"):
            left += [f"cgroup {folder}/{name}" for name in folders if name == self.name]
        for pid in pids():
            try:
                seen = {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "pid")}
            except OSError:
                continue
            if seen & self.namespaces:
                left.append(f"process {pid}")
        return left


def pids():
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def is_alive(process):
    """A process of process_of(), and not another one with its number."""
    try:
        return os.readlink(f"/proc/{process['pid']}/ns/net") == process["net"]
    except OSError:
        return False


def addresses_of(pid):
    """Global addresses in the network namespace of a process."""
    text = call(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-j", "address", "show", "scope", "global"]).stdout
    return [a["local"] for link in json.loads(text) for a in link.get("addr_info", []) if "local" in a]  # ip prints {} for the rest


def parents(pid):
    """The parents of a process, nearest first."""
    chain = []
    while pid > 1:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            pid = int(file.read().rsplit(")", 1)[1].split()[1])
        chain.append(pid)
    return chain
