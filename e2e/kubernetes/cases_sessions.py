"""TCP sessions outlive every agent: between the halves of a Pod, between Pods by ClusterIP, from outside by NodePort.

Who calls says a number each second; who is called writes down what it hears. Numbers must go on, with none missing.
"""
import itertools

from cases_daemons import DAEMONS
from cluster import KINDS, Failed, container, pod, wait_for

PORTS = {"app": 7001, "sidecar": 7002}
TAKE = "printf '#!/bin/sh\\nread name; exec cat >> /tmp/from.$name\\n' > /tmp/take; chmod 755 /tmp/take; exec nc -ll -p {port} -e /tmp/take"
# A Service may not be there yet, and whoever dials it too early may have an ICMP error for its SYN: the kernel queues that
# (tcp_v4_err), the next SYN gets through, and from then on poll() says POLLERR, after which nc reads what never comes. So a
# session begins when one of no name has passed. One that broke and is made anew begins with 1 again, which shows.
SAY = "until echo | timeout 5 {nc} {address} {port}; do sleep 0.5; done; while :; do (echo {name}; i=0; while echo $((i+=1)); do sleep 1; done) | {nc} {address} {port}; sleep 1; done"


class Sessions:
    def __init__(self, cluster):
        self.cluster, self.outside = cluster, []
        self.heard_by = {}  # name of a session -> Pod, container

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.outside:
            process.kill()
            process.wait()

    def inside(self, name, caller, called, address, port):
        say = SAY.format(name=name, nc="nc", address=address, port=port)
        self.cluster.exec(*caller, "sh", "-c", f"setsid sh -c '{say}' >/dev/null 2>&1 </dev/null &")
        self.heard_by[name] = called

    def from_outside(self, name, called, address, port):
        say = SAY.format(name=name, nc="busybox nc", address=address, port=port)
        self.outside.append(self.cluster.start_in("client", "busybox", "sh", "-c", say))
        self.heard_by[name] = called

    def heard(self):
        """name -> the numbers that arrived."""
        numbers = {}
        for called in set(self.heard_by.values()):
            names = sorted(name for name, each in self.heard_by.items() if each == called)
            done = self.cluster.exec(*called, "sh", "-c", "for n in " + " ".join(names) + "; do echo $(cat /tmp/from.$n); done", check=False)
            lines = done.stdout.split("\n")
            numbers.update({name: [int(word) for word in line.split()] for name, line in zip(names, lines)})
        return numbers

    def last(self):
        heard = self.heard()
        return {name: (heard.get(name) or [0])[-1] for name in self.heard_by}

    def go_on(self, seconds=60):
        """Until every session has two more numbers than now."""
        before, now = {}, {}

        def known():
            before.update(self.last())
            return all(before.values())
        wait_for("a number of every session", known, seconds, every=0.5)

        def more():
            now.update(self.last())
            return all(now[name] >= before[name] + 2 for name in before)
        try:
            wait_for("two more numbers of every session", more, seconds, every=1)
        except Failed as late:
            raise Failed(f"{late}: stuck: {[name for name in before if now.get(name, 0) < before[name] + 2]}") from late


def run(cluster, cases):
    here = {"nodeName": cluster.name}
    names = {kind: f"talks-{kind}" for kind in KINDS}
    for kind, split in KINDS.items():
        services = [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{which}-{names[kind]}", "labels": {"app": "talks"}},
                     "spec": {"type": "NodePort", "selector": {"who": names[kind]}, "ports": [{"port": 80, "targetPort": port}]}}
                    for which, port in PORTS.items()]
        servers = [container(which, TAKE.format(port=port)) for which, port in PORTS.items()]
        cluster.apply(pod(names[kind], servers, split, {"app": "talks", "who": names[kind]}, **here), *services)
    cluster.wait_ready(*names.values())
    node = cluster.get("node", cluster.name)["status"]["addresses"][0]["address"]
    with Sessions(cluster) as sessions:
        for kind, which in itertools.product(KINDS, PORTS):
            caller = (names[kind], which)
            sibling = next(each for each in PORTS if each != which)
            sessions.inside(f"{kind}-{which}-localhost", caller, (names[kind], sibling), "127.0.0.1", PORTS[sibling])
            other = next(each for each in KINDS if each != kind)
            for target in PORTS:
                spec = cluster.get("service", f"{target}-{names[other]}")["spec"]
                sessions.inside(f"{kind}-{which}-service-{target}", caller, (names[other], target), spec["clusterIP"], 80)
            spec = cluster.get("service", f"{which}-{names[kind]}")["spec"]
            sessions.from_outside(f"outside-{kind}-{which}", caller, node, spec["ports"][0]["nodePort"])
        with cases.case(f"{len(sessions.heard_by)} sessions: localhost, ClusterIP and NodePort, from and to both PUs"):
            sessions.go_on()
        for daemon, pu in DAEMONS:
            with cases.case(f"they go on after kill -9 of {daemon} on the {pu}"):
                cluster.daemon("kill", daemon, pu, "-9")
                sessions.go_on(90)
        with cases.case("and none has lost a number"):
            for name, numbers in sessions.heard().items():
                assert numbers == list(range(1, len(numbers) + 1)), (name, numbers)
    cluster.delete("pod,service", "-l", "app=talks", "--grace-period=0", "--force")
