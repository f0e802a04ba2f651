"""A manifest of the user's: what can be checked of any Pod."""
import re

from lab import DemoFailed, addresses_of, is_alive, until

LOCALHOST = ("127.0.0.1", "::1")


def read(path):
    """The manifest's text; raises OSError or ValueError (no text). Read before there is a lab: a wrong name costs nothing."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def where(lab, container):
    """(its process or None, "running" or "exited", exit code). An init container has ended, and others may at any time."""
    def seen():
        row = next((row for row in lab.ctl_json("ps") if row["id"] == container["id"]), {})
        if row.get("state") == "exited":
            return None, "exited", row["exit_code"]
        process = lab.find_process(container["id"])
        return (process, "running", 0) if process else None
    found = until(seen)
    if found is None:
        raise DemoFailed(f"container '{container['name']}' neither runs nor has it ended: {lab.ctl('ps').stdout}")
    return found


def show(lab, report, manifest):
    # A Pod that does not say is asked to split: that is what the demo is about.
    ask = () if "heteropod.io/offload:" in manifest else ("--annotate", "heteropod.io/offload=dpu")
    info = lab.ctl_json("run", "-", *ask, stdin=manifest)
    name = f"{info['namespace']}/{info['name']}"

    report.section(f"Pod {name}", ["runs on", "because"])
    processes = {}
    for container in info["containers"]:
        process, state, code = where(lab, container)
        if state == "running":
            processes[container["name"]] = process
            shown = process["pu"] == container["pu"], f"{process['pu']}, pid {process['pid']}"
        else:
            shown = code == 0, f"{container['pu']}, ended with exit code {code}"
        report.row(container["name"], [shown, (None, container["reason"] or "nothing asks for another place")])
    if info["ip"]:
        seen = [addresses_of(process["pid"]) for process in processes.values() if is_alive(process)]
        report.row("one Pod IP, for all of them", [(all(info["ip"] in found for found in seen), info["ip"]), None])
        calls(lab, report, name, info["ip"], declared=set(re.findall(r'containerPort"?\s*:\s*(\d+)', manifest)))

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


def calls(lab, report, name, ip, declared):
    """Every TCP listener, called from outside and by localhost from the side that does not own it. The ports that the
    manifest declares are waited for; a program need not open them."""
    def opened():
        ports = lab.ports(name)
        return ports if ports and declared <= {port["number"] for port in ports} else None
    listeners = [port for port in until(opened, 10) or lab.ports(name) if port["protocol"] == "tcp"]
    if not listeners:
        return
    netns = lab.netns_paths(name)
    report.section("Its listeners", ["from outside", "by localhost, from the other kernel"])
    for port in listeners:
        v6 = ":" in port["address"]
        outside = other = None
        if port["address"] not in LOCALHOST and not v6:
            outside = connects(lambda: lab.client("nc", "-z", "-w", "3", ip, port["number"]))
        side = "dpu" if port["owner"] == "host" else "host"
        if side in netns and port["address"] in ("0.0.0.0", "::") + LOCALHOST:
            other = connects(lambda: lab.inside(side, "nsenter", f"--net={netns[side]}", "nc", "-z", "-w", "3",
                                                "::1" if v6 else "127.0.0.1", port["number"]))
        report.row(f"{port['address']} port {port['number']}, owned by the {port['owner']}", [outside, other])


def connects(call):
    """The other PU learns of a port within milliseconds of its owner: a call may come too early once, not for seconds."""
    last = None

    def tried():
        nonlocal last
        last = call()
        return last.returncode == 0
    worked = until(tried, 5)
    return worked, "connected" if worked else last.stderr.strip() or "no connection"
