"""What an installation leaves in the kernel and in its ledgers, counted per PU: for tests that must end where they began.

    before = count(lab, "host"); …; assert not grown(before, count(lab, "host"))

As a program, inside a PU: prints the figures of BPF there as JSON.
"""
import glob
import json
import os
import subprocess

COUNTERS = {
    "interfaces": "ip -o link | grep -cv ': hkus' || true",  # without those that wait for the next Pods
    "interface addresses": "ip -o addr | wc -l",
    "routes": "{ ip -o route; ip -o -6 route; } | wc -l",
    "routing rules": "{ ip -o rule; ip -o -6 rule; } | wc -l",
    "neighbours": "{ ip -o neigh; ip -o -6 neigh; } | grep -c PERMANENT || true",
    "nft lines": "nft list ruleset | grep -v counter | wc -l",
    "BPF pins": "find /run/heterok8s/bpf -type f 2>/dev/null | wc -l",
    "namespaces": "find /run/netns /run/heterok8s/netns -type f 2>/dev/null | wc -l",
    "conntrack": "{ conntrack -L; conntrack -L -f ipv6; } 2>/dev/null | grep -cE '=10\\.88\\.|=fd00:88:' || true",  # of Pods; the agents' own connections age
}
# The maps with entries for Pods and ports.
BPF_MAPS = ("pods", "pod_names", "links", "local", "remote", "listeners", "shares", "callers")
# conntrack entries of closed connections age; an agent may hold a descriptor for a call that just ended.
# Memory: an agent that has just started allocates what stays at the first calls; containerd's is garbage for a while.
SLACK = {"conntrack": 2, "open files": 2, "heap bytes": 4 << 20, "resident bytes": 24 << 20}


def slack_of(name, slack):
    """A figure of another daemon, "containerd open files", has the slack of its kind."""
    return slack.get(name, next((value for kind, value in slack.items() if name.endswith(" " + kind)), 0))


def bpf():
    """Programs and links of this PU's heterod, known by its pinned maps, since the kernel's ids are the whole machine's;
    and the entries of those maps. Empty without BPF."""
    def ask(*words):
        done = subprocess.run(["bpftool", "-j", *words], capture_output=True, text=True, timeout=30)
        return json.loads(done.stdout or "[]") if done.returncode == 0 else []

    pinned = {os.path.basename(path): path for path in glob.glob("/run/heterok8s/bpf/**", recursive=True)
              if os.path.basename(path) in BPF_MAPS}
    ids = {ask("map", "show", "pinned", path).get("id") for path in pinned.values()}
    programs = {program["id"] for program in ask("prog", "show") if ids & set(program.get("map_ids", ()))}
    figures = {"BPF programs": len(programs), "BPF links": sum(link.get("prog_id") in programs for link in ask("link", "show"))}
    for name in BPF_MAPS:
        figures[f"BPF map {name}"] = len(ask("map", "dump", "pinned", pinned[name])) if name in pinned else 0
    return figures


def processes(lab, pu):
    """Descriptors, threads and memory of every daemon of the PU but heterod, which tells its own."""
    figures = {}
    for row in json.loads(lab.ctl("-o", "json", "lab", "list").stdout):
        daemon = row.get("daemon")
        if row["lab"] != lab.name or row["pu"] != pu or not daemon or row["state"] != "running":
            continue
        proc = f"/proc/{row['pid']}"
        figures[f"{daemon} threads"] = len(os.listdir(f"{proc}/task"))
        if daemon == "heterod":
            continue
        figures[f"{daemon} open files"] = len(os.listdir(f"{proc}/fd"))
        with open(f"{proc}/statm", encoding="ascii") as file:
            figures[f"{daemon} resident bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return figures


def count(lab, pu, everything=False):
    """name -> figure. `everything`: with BPF and all daemons, which takes a few hundred milliseconds more."""
    script = "; ".join(f"echo $({command})" for command in COUNTERS.values())
    values = lab.place(pu, "sh", "-c", script).stdout.split("\n")
    figures = {name: int(value or 0) for name, value in zip(COUNTERS, values)}
    status = lab.ctl_json("status")[pu]
    for figure, key in (("attachments", "attachments"), ("addresses", "addresses_used"), ("tombstones", "tombstones"),
                        ("open files", "open_files"), ("heap bytes", "heap_bytes"), ("resident bytes", "resident_bytes")):
        figures[figure] = int(status[key])  # 64-bit numbers are texts in Protobuf's JSON
    if everything:
        figures.update(json.loads(lab.place(pu, "python3", os.path.abspath(__file__)).stdout))
        figures.update(processes(lab, pu))
    return figures


def grown(before, now, slack=SLACK):
    """name -> (before, now) of everything that is more than it was."""
    return {name: (value, now[name]) for name, value in before.items() if now.get(name, 0) > value + slack_of(name, slack)}


if __name__ == "__main__":
    print(json.dumps(bpf()))
