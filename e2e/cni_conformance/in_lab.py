"""heterok8s-cni under the suite, in a lab: ordinary Pods, split Pods, and what it answers while heterod is away."""
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from lib.cases import Cases  # noqa: E402
from lib.lab import Lab, run, wait_for  # noqa: E402

PLUGIN = "/run/lab/bin/heterok8s-cni"
SPLIT = {"io.kubernetes.cri.pod-annotations": {"heteropod.io/offload": "dpu"}}


def suite(lab, name, runtime_config):
    """The cases, run inside the host PU. The report of the run is printed as it is."""
    done = lab.place("host", sys.executable, f"{HERE}/run", "--name", name, "--plugin", PLUGIN,
                     "--conf", f"{HERE}/heterok8s.conf", "--second-conf", f"{HERE}/heterok8s2.conf",
                     "--runtime-config", json.dumps(runtime_config), check=False, timeout=600)
    print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


class Call:
    """CNI calls for one Pod that is an attachment and no more: its namespace is made and removed here."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        with open(f"{HERE}/heterok8s.conf", encoding="ascii") as file:
            self.config = {**json.load(file), "cniVersion": "1.1.0", "name": "hkaway"}
        # Two addresses in all, so that one that is not freed is missed.
        self.config["ipam"]["ranges"] = [[{"subnet": "10.88.0.0/16", "rangeStart": "10.88.200.1", "rangeEnd": "10.88.200.2"}]]

    def __call__(self, verb, container):
        """(exit status, parsed stdout or None, seconds)"""
        env = [f"CNI_COMMAND={verb}", f"CNI_CONTAINERID={container}", f"CNI_NETNS=/run/netns/{self.name}",
               "CNI_IFNAME=eth0", "CNI_PATH=/run/lab/bin"]
        start = time.monotonic()
        done = self.lab.place("host", "env", *env, PLUGIN, stdin=json.dumps(self.config), check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, time.monotonic() - start


def splits(lab):
    """What the column "split" rests on: that the annotation makes a half on the DPU."""
    cases = Cases("an annotated Pod")
    call = Call(lab, f"hksplit{os.getpid()}")
    call.config["runtimeConfig"] = SPLIT
    lab.place("host", "ip", "netns", "add", call.name)

    def links():
        found = json.loads(lab.place("dpu", "ip", "-j", "link").stdout)
        names = {name for link in found for name in (link["ifname"], *link.get("altnames", []))}
        return {name for name in names if not name.startswith("hkus")}  # those wait for the next Pods

    before = links()
    with cases.case("has an uplink on the DPU, until DEL"):
        added = call("ADD", "split-1")
        assert added[0] == 0, added
        assert links() - before, "no new link in the DPU's root namespace"
        deleted = call("DEL", "split-1")
        assert deleted[0] == 0, deleted
        wait_for("the uplink is gone", lambda: links() == before)
    lab.place("host", "ip", "netns", "del", call.name)
    return cases.finish() == 0


def with_heterod_away(lab):
    cases = Cases("heterok8s-cni while heterod is away")
    call = Call(lab, f"hkaway{os.getpid()}")
    lab.place("host", "ip", "netns", "add", call.name)
    with cases.case("an attachment is made while heterod is there"):
        assert call("ADD", "away-1")[0] == 0
    lab.daemon("kill", "heterod")
    for verb, code in (("ADD", 11), ("STATUS", 50)):
        with cases.case(f"{verb} fails at once with code {code}"):
            status, answer, seconds = call(verb, "away-2")
            assert status != 0 and answer["code"] == code, answer
            assert seconds < 5, f"after {seconds:.1f} s"
    with cases.case("DEL succeeds, silently"):
        status, answer, _ = call("DEL", "away-1")
        assert status == 0 and answer is None, answer
    with cases.case("DEL of what never was succeeds"):
        assert call("DEL", "away-3")[0] == 0
    queue = ("sh", "-c", "ls /var/lib/heterok8s/cni-queue | wc -l")
    cases.check("both DELs are queued", lab.place("host", *queue).stdout.strip() == "2")
    lab.daemon("start", "heterod")
    with cases.case("heterod carries them out when it is back"):
        wait_for("queue empty", lambda: lab.place("host", *queue).stdout.strip() == "0")
        links = lab.place("host", "ip", "-n", call.name, "-br", "link").stdout
        assert "eth0" not in links, links
    with cases.case("the address is free again, and the same attachment can be made"):
        wait_for("STATUS", lambda: call("STATUS", "x")[0] == 0)
        assert call("ADD", "away-1")[0] == 0
        assert call("DEL", "away-1")[0] == 0
    lab.place("host", "ip", "netns", "del", call.name)
    return cases.finish() == 0


def main():
    run([f"{HERE}/build"], timeout=600)
    with Lab("cni") as lab:
        good = [splits(lab), suite(lab, "ordinary", {}), suite(lab, "split", SPLIT), with_heterod_away(lab)]
    return 0 if all(good) else 1
