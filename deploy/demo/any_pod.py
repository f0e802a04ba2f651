"""A manifest of the user's: what can be checked of any Pod."""
from lab import addresses_of, is_alive, until

LOCALHOST = ("127.0.0.1", "::1")


def show(lab, report, path):
    with open(path, encoding="utf-8") as file:
        manifest = file.read()
    # A Pod that does not say is asked to split: that is what the demo is about.
    ask = () if "heteropod.io/offload:" in manifest else ("--annotate", "heteropod.io/offload=dpu")
    info = lab.ctl_json("run", "-", *ask, stdin=manifest)
    name = f"{info['namespace']}/{info['name']}"
    processes = {c["name"]: lab.process_of(c["id"]) for c in info["containers"]}

    report.section(f"Pod {name}", ["runs on", "because"])
    for container in info["containers"]:
        process = processes[container["name"]]
        report.row(container["name"], [(process["pu"] == container["pu"], f"{process['pu']}, pid {process['pid']}"),
                                       (True, container["reason"] or "nothing asks for another place")])
    if info["ip"]:
        seen = [addresses_of(process["pid"]) for process in processes.values()]
        report.row("one Pod IP, for all of them", [(all(info["ip"] in found for found in seen), info["ip"]), None])
        calls(lab, report, name, info["ip"])

    report.section("Logs, read on the host", ["last line"])
    for container in info["containers"]:
        done = lab.ctl("logs", name, "-c", container["name"], "--tail", "1", check=False)
        report.row(container["name"], [(done.returncode == 0, (done.stdout + done.stderr).strip() or "(it printed nothing)")])

    why = lab.ctl("why", name, check=False)
    report.quote(f"heteroctl why {name}", why.stdout + why.stderr)
    report.section("The end", ["what is left"])
    lab.ctl("rm", name)
    gone = until(lambda: not any(is_alive(p) for p in processes.values()), 15)
    report.row("heteroctl rm", [(gone, "no process" if gone else "processes")])


def calls(lab, report, name, ip):
    """Every TCP listener, called from outside and by localhost from the side that does not own it."""
    listeners = [port for port in until(lambda: lab.ports(name), 3) if port["protocol"] == "tcp"]
    if not listeners:
        return
    netns = lab.netns_paths(name)
    report.section("Its listeners", ["from outside", "by localhost, from the other kernel"])
    for port in listeners:
        v6 = ":" in port["address"]
        outside = other = None
        if port["address"] not in LOCALHOST and not v6:
            outside = connects(lab.client("nc", "-z", "-w", "3", ip, port["number"]))
        side = "dpu" if port["owner"] == "host" else "host"
        if side in netns and port["address"] in ("0.0.0.0", "::") + LOCALHOST:
            other = connects(lab.inside(side, "nsenter", f"--net={netns[side]}", "nc", "-z", "-w", "3",
                                        "::1" if v6 else "127.0.0.1", port["number"]))
        report.row(f"{port['address']} port {port['number']}, owned by the {port['owner']}", [outside, other])


def connects(done):
    return done.returncode == 0, "connected" if done.returncode == 0 else done.stderr.strip() or "no connection"
