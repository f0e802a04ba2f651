"""What an installation leaves in the kernel and in its ledgers, counted per PU: for tests that must end where they began."""
COUNTERS = {
    "interfaces": "ip -o link | wc -l",
    "routes": "{ ip -o route; ip -o -6 route; } | wc -l",
    "neighbours": "{ ip -o neigh; ip -o -6 neigh; } | grep -c PERMANENT || true",
    "nft lines": "nft list ruleset | grep -v counter | wc -l",
    "BPF pins": "find /run/heterok8s/bpf -type f 2>/dev/null | wc -l",
    "namespaces": "find /run/netns /run/heterok8s/netns -type f 2>/dev/null | wc -l",
    "conntrack": "{ conntrack -L; conntrack -L -f ipv6; } 2>/dev/null | grep -cE '=10\\.88\\.|=fd00:88:' || true",  # of Pods; the agents' own connections age
}
# conntrack entries of closed connections age; an agent may hold a descriptor for a call that just ended.
# Memory: an agent that has just started allocates what stays at the first calls.
SLACK = {"conntrack": 2, "open files": 2, "heap bytes": 4 << 20, "resident bytes": 24 << 20}


def count(lab, pu):
    script = "; ".join(f"echo $({command})" for command in COUNTERS.values())
    values = lab.place(pu, "sh", "-c", script).stdout.split("\n")
    figures = {name: int(value or 0) for name, value in zip(COUNTERS, values)}
    status = lab.ctl_json("status")[pu]
    for figure, key in (("attachments", "attachments"), ("addresses", "addresses_used"), ("tombstones", "tombstones"),
                        ("open files", "open_files"), ("heap bytes", "heap_bytes"), ("resident bytes", "resident_bytes")):
        figures[figure] = int(status[key])  # 64-bit numbers are texts in Protobuf's JSON
    return figures


def grown(before, now, slack=SLACK):
    """name -> (before, now) of everything that is more than it was."""
    return {name: (value, now[name]) for name, value in before.items() if now[name] > value + slack.get(name, 0)}
