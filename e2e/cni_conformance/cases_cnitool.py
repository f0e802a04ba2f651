"""The same plugin as a runtime drives it: libcni, by its own command line, with a list of plugins."""
import json
import os

from harness import ALL_VERSIONS, case, check, na, run, version_key


class Network:
    """A conflist in a folder, for cnitool."""

    def __init__(self, bench, version, after=()):
        if not bench.cnitool:
            na("no cnitool (e2e/cni_conformance/build makes it)")
        bench.needs_version(version)
        self.bench, config = bench, bench.config(version)
        self.name, self.folder = config["name"], f"{bench.folder}/{config['name']}"
        os.mkdir(self.folder)
        for key in ("name", "cniVersion", "runtimeConfig"):
            config.pop(key, None)
        with open(f"{self.folder}/10.conflist", "w", encoding="ascii") as file:
            json.dump({"cniVersion": version, "name": self.name, "plugins": [config, *after]}, file)

    def run(self, verb, pod, **extra):
        path = os.path.dirname(self.bench.plugin) + ":" + self.bench.cni_path
        environment = {"PATH": os.environ["PATH"], "CNI_PATH": path, "NETCONFPATH": self.folder,
                       "CAP_ARGS": json.dumps(self.bench.runtime_config), **extra}
        return run([self.bench.cnitool, verb, self.name, pod.netns], env=environment)

    def good(self, verb, pod, **extra):
        done = self.run(verb, pod, **extra)
        check(done.returncode == 0, f"cnitool {verb}: {done.stderr.strip()[:160]}")
        return done.stdout

    def bad(self, verb, pod):
        done = self.run(verb, pod)
        check(done.returncode != 0, f"cnitool {verb} succeeds")
        return done.stderr


for version in ALL_VERSIONS:
    @case("cnitool", f"{version}: add, check, del", version=version)
    def life(bench, version):
        network, pod = Network(bench, version), bench.pod()
        result = json.loads(network.good("add", pod))
        check(result["cniVersion"] == version and result["ips"], f"result: {result}")
        if version_key(version) >= (0, 4, 0):
            network.good("check", pod)
        network.good("del", pod)
        check("eth0" not in pod.links(), "the interface is still in the Pod")


@case("cnitool", "adding twice fails; del twice succeeds")
def twice(bench):
    network, pod = Network(bench, bench.newest), bench.pod()
    network.good("add", pod)
    network.bad("add", pod)
    network.good("del", pod)
    network.good("del", pod)


@case("cnitool", "check fails after damage")
def damage(bench):
    network, pod = Network(bench, bench.newest), bench.pod()
    network.good("add", pod)
    pod.ip("link", "del", "eth0")
    network.bad("check", pod)
    network.good("del", pod)


@case("cnitool", "first of a chain: tuning and portmap after it")
def first_of_chain(bench):
    if not os.path.exists(bench.cni_path.split(":")[-1] + "/tuning"):
        na("the reference plugins are not there")
    after = [{"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    network, pod = Network(bench, "1.0.0", after), bench.pod()
    network.good("add", pod)
    network.good("check", pod)
    network.good("del", pod)


@case("cnitool", "gc removes an attachment that libcni remembers")
def gc(bench):
    bench.needs_version("1.1.0")
    network, pod = Network(bench, "1.1.0"), bench.pod()
    network.good("add", pod)
    network.good("gc", pod)
    check("eth0" not in pod.links(), "the interface is still in the Pod")


@case("cnitool", "status of a working network succeeds")
def status(bench):
    bench.needs_version("1.1.0")
    network, pod = Network(bench, "1.1.0"), bench.pod()
    network.good("status", pod)


@case("cnitool", "del after the namespace was deleted succeeds")
def del_gone(bench):
    network, pod = Network(bench, bench.newest), bench.pod()
    network.good("add", pod)
    pod.remove_netns()
    network.good("del", pod)
