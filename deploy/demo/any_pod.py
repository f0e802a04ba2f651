"""A manifest of the user's: what can be checked of any Pod."""
from lab import addresses_of, is_alive, until


def split_asked_for(manifest):
    return "heteropod.io/offload:" in manifest


def show(lab, report, path):
    with open(path, encoding="utf-8") as file:
        manifest = file.read()
    # A Pod that does not say is asked to split: that is what the demo is about.
    ask = () if split_asked_for(manifest) else ("--annotate", "heteropod.io/offload=dpu")
    info = lab.ctl_json("run", "-", *ask, stdin=manifest)
    name = f"{info['namespace']}/{info['name']}"
    processes = {c["name"]: lab.process_of(c["id"]) for c in info["containers"]}

    report.section(f"Pod {name}", ["evidence"])
    for container in info["containers"]:
        process = processes[container["name"]]
        reason = f" ({container['reason']})" if container["reason"] else ""
        report.row(f"{container['name']} runs where heterocri says", [
            (process["pu"] == container["pu"], f"{process['pu']}: pid {process['pid']}{reason}")])
    report.row("one Pod IP, on every side", [
        (all(info["ip"] in addresses_of(p["pid"]) for p in processes.values()), info["ip"])])

    report.section("Ports", ["from outside"])
    owned = until(lambda: lab.port_owners(name), 5)
    for port, owner in owned or []:
        protocol, number = port.split()
        if protocol == "tcp":
            done = lab.client("nc", "-z", "-w", "3", info["ip"], number)
            report.row(f"{port}, owned by {owner}", [(True, "answers" if done.returncode == 0 else "for localhost only, or closed")])

    report.section("Logs, read on the host", ["last line"])
    for container in info["containers"]:
        done = lab.ctl("logs", name, "-c", container["name"], "--tail", "1", check=False)
        report.row(container["name"], [(done.returncode == 0, (done.stdout + done.stderr).strip() or "(it printed nothing)")])

    report.quote(f"heteroctl why {name}", lab.ctl("why", name).stdout)
    report.section("The end", ["evidence"])
    lab.ctl("rm", name)
    gone = until(lambda: not any(is_alive(p) for p in processes.values()), 15)
    report.row("heteroctl rm", [(gone, "no process of it is left" if gone else "processes are left")])
