"""What a case is made of: the plugin under test, Pods (network namespaces), and the state of the node around them.

A case is a function marked by @case; it gets a Bench and returns when the plugin behaves, calls fail(reason) when it
does not, and na(reason) when the plugin does not claim to do it. Everything a case makes is removed after it.
"""
import contextlib
import copy
import ipaddress
import json
import os
import secrets
import shutil
import subprocess
import time

ALL_VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
CASES = []


class Failed(Exception):
    pass


class NotApplicable(Exception):
    pass


def fail(reason):
    raise Failed(reason)


def na(reason):
    raise NotApplicable(reason)


def check(condition, reason):
    if not condition:
        fail(reason)


def case(group, title, **parameters):
    """Registers a case. parameters: version=..., passed on to the function; several @case may sit on one function."""

    def mark(function):
        CASES.append((group, title, function, parameters))
        return function

    return mark


def version_key(version):
    return tuple(int(part) for part in version.split("."))


class Answer:
    """What one run of the plugin came to."""

    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    @property
    def json(self):
        try:
            return json.loads(self.out)
        except ValueError:
            fail(f"stdout is not one JSON document: {self.out[:120]!r}")

    def ok(self, what):
        if self.code != 0:
            text = self.out.strip() or self.err.strip()
            with contextlib.suppress(ValueError, KeyError, TypeError):
                text = json.loads(self.out)["msg"]
            fail(f"{what}: exit {self.code}: {text[:160]}")
        return self

    def silent(self, what):
        self.ok(what)
        check(self.out.strip() == "", f"{what}: prints on stdout: {self.out[:80]!r}")
        return self

    def error(self, what, codes=None, says=()):
        """A CNI error: exit status not 0, and on stdout exactly one error object; `codes` are those that are right."""
        check(self.code != 0, f"{what}: exit 0, an error was due")
        error = self.json
        check(isinstance(error, dict) and isinstance(error.get("code"), int) and isinstance(error.get("msg"), str),
              f"{what}: stdout is no CNI error: {self.out[:120]!r}")
        if codes is not None:
            check(error["code"] in codes, f"{what}: code {error['code']}, due {' or '.join(map(str, codes))}: {error['msg'][:80]}")
        for word in says:
            text = error["msg"] + error.get("details", "")
            check(word in text, f"{what}: the message does not name {word!r}: {text[:100]}")
        return error


def run(argv, **options):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, **options)


def ip_json(*args, netns=None):
    argv = ["ip"] + (["-n", netns] if netns else []) + ["-j"] + list(args)
    done = run(argv)
    return json.loads(done.stdout or "[]") if done.returncode == 0 else []


def within(seconds, condition):
    """Asks until condition() is true or the time is over; its last answer."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Pod:
    """A network namespace and a container id."""

    def __init__(self, bench):
        self.bench = bench
        self.name = f"{bench.id}p{secrets.token_hex(3)}"
        self.id = f"{bench.id}-{secrets.token_hex(8)}"
        self.netns = f"/run/netns/{self.name}"
        self.calls = []  # (config, ifname) to DEL at the end
        done = run(["ip", "netns", "add", self.name])
        if done.returncode != 0:
            raise RuntimeError(f"ip netns add {self.name}: {done.stderr}")

    def remove_netns(self):
        run(["ip", "netns", "del", self.name])

    def environment(self, command, ifname="eth0", **changes):
        environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": self.id, "CNI_NETNS": self.netns,
                       "CNI_IFNAME": ifname, "CNI_PATH": self.bench.cni_path, "PATH": os.environ["PATH"]}
        environment.update({key: value for key, value in changes.items() if value is not None})
        return {key: value for key, value in environment.items() if changes.get(key, "") is not None}

    def call(self, command, config, ifname="eth0", **changes):
        if command == "ADD" and isinstance(config, dict):
            self.calls.append((config, ifname))
        return self.bench.execute(self.environment(command, ifname, **changes), config)

    def add(self, config, ifname="eth0", **changes):
        return self.call("ADD", config, ifname, **changes).ok("ADD").json

    def add_unless_refused(self, config, key):
        """ADD; a plugin may refuse a field it cannot honour by code 2, and must then name it."""
        answer = self.call("ADD", config)
        if answer.code != 0 and answer.json.get("code") == 2:
            answer.error("ADD", [2], [key])
            na(f"refused by code 2: {answer.json['msg'][:120]}")
        return answer.ok("ADD").json

    def delete(self, config, ifname="eth0", **changes):
        return self.call("DEL", config, ifname, **changes).silent("DEL")

    def links(self):
        return {link["ifname"]: link for link in ip_json("addr", netns=self.name)}

    def addresses(self, ifname="eth0"):
        link = self.links().get(ifname, {})
        return {info["local"] for info in link.get("addr_info", []) if info.get("scope") == "global"}

    def ip(self, *args):
        return run(["ip", "-n", self.name] + list(args))

    def close(self):
        for config, ifname in reversed(self.calls):
            with contextlib.suppress(Exception):
                self.bench.execute(self.environment("DEL", ifname), without(config, "prevResult"))
        self.remove_netns()


def is_bookkeeping(line, before):
    """IPv6 routes that the kernel makes for an older device when duplicate address detection has ended there."""
    words = line.split()
    return words[:2] == ["route", "-6"] and (words[-1] == "local" or words[2].startswith("fe80")) and f"link {words[4]}" in before


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


class Bench:
    """The plugin under test and what the cases may assume of it."""

    def __init__(self, plugin, conf, second_conf, cni_path, runtime_config, cnitool, folder):
        self.plugin, self.cni_path, self.cnitool, self.folder = plugin, cni_path, cnitool, folder
        self.id = f"hkc{os.getpid()}"
        self.runtime_config = runtime_config
        self.base = self.fill(conf)
        self.second = self.fill(second_conf) if second_conf else None
        self.pods = []
        self.networks = set()
        self.ranges_used = 0
        self.supported = []

    def fill(self, text):
        """{tmp} and {id} in a configuration are ours to fill in: a folder, and a word that nobody else uses."""
        conf = json.loads(text.replace("{tmp}", self.folder).replace("{id}", str(os.getpid())))
        return conf["plugins"][0] if "plugins" in conf else conf

    # -- calls

    def execute(self, environment, config, timeout=60):
        stdin = json.dumps(config) if isinstance(config, (dict, list)) else config
        start = time.monotonic()
        try:
            done = subprocess.run([self.plugin], input=stdin, capture_output=True, text=True, timeout=timeout,
                                  env=environment, cwd="/")
        except subprocess.TimeoutExpired:
            fail(f"{environment.get('CNI_COMMAND')} does not end within {timeout} s")
        return Answer(done.returncode, done.stdout, done.stderr, time.monotonic() - start)

    def start(self, environment, config):
        """The plugin, running; its configuration is on its stdin already."""
        process = subprocess.Popen([self.plugin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env=environment, cwd="/")
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(config))
            process.stdin.close()
        process.stdin = None
        return process

    def pod(self):
        self.pods.append(Pod(self))
        return self.pods[-1]

    # -- configurations

    @property
    def newest(self):
        return max(self.supported, key=version_key)

    def needs_version(self, version):
        if version not in self.supported:
            na(f"the plugin does not speak {version}")

    def config(self, version=None, base=None, **changes):
        """The plugin's configuration as a runtime would pass it; a network of its own for each case unless name=."""
        version = version or self.newest
        config = copy.deepcopy(base or self.base)
        config.update({"cniVersion": version, "name": f"{self.id}-{secrets.token_hex(3)}"})
        self.add_runtime_config(config, self.runtime_config)
        runtime = changes.pop("runtimeConfig", None)
        config.update(changes)
        if runtime:
            self.add_runtime_config(config, runtime)
        self.networks.add(config["name"])
        return config

    def add_runtime_config(self, config, values):
        allowed = {key: value for key, value in values.items() if config.get("capabilities", {}).get(key)}
        if allowed:
            config["runtimeConfig"] = {**config.get("runtimeConfig", {}), **allowed}

    def needs_capability(self, name):
        if not self.base.get("capabilities", {}).get(name):
            na(f"the configuration does not declare the capability {name}")

    def small_network(self, count, version=None, **changes):
        """A network that has exactly `count` addresses of each family: a leak shows as exhaustion."""
        sets = self.base.get("ipam", {}).get("ranges")
        if not sets:
            na("the configuration has no ipam.ranges to make small")
        ranges = []
        for number, old in enumerate(sets):
            subnet = ipaddress.ip_network(old[0]["subnet"])
            start = 16 + (self.ranges_used * 16) % max(1, min(subnet.num_addresses, 256) - 64)
            ranges.append([{"subnet": str(subnet), "rangeStart": str(subnet[start]), "rangeEnd": str(subnet[start + count - 1])}])
        self.ranges_used += 1
        config = self.config(version, **changes)
        config["ipam"] = {**config["ipam"], "ranges": ranges}
        return config

    def takes_all(self, config, count):
        """Every address of a small network can be had, so none is leaked."""
        pods = [self.pod() for _ in range(count)]
        for number, pod in enumerate(pods):
            answer = pod.call("ADD", config)
            if answer.code != 0:
                fail(f"only {number} of {count} addresses are free, the others are leaked: {answer.json.get('msg', '')[:80]}")
        for pod in pods:
            pod.delete(config)

    # -- the node

    def node_state(self):
        """What the plugin may leave behind outside of Pods, as a set of lines."""
        lines = set()
        for link in ip_json("link"):
            lines.add(f"link {link['ifname'].split('@')[0]}")
        for family in ("-4", "-6"):
            for route in ip_json(family, "route", "show", "table", "all"):
                lines.add(f"route {family} {route.get('dst')} dev {route.get('dev')} table {route.get('table', 'main')}")
            for rule in ip_json(family, "rule"):
                lines.add(f"rule {family} {json.dumps(rule, sort_keys=True)}")
        if shutil.which("nft"):
            for line in run(["nft", "--stateless", "list", "ruleset"]).stdout.splitlines():
                lines.add("nft " + line.strip())
        return lines

    def expect_state(self, before, what, seconds=60):
        """The kernel takes links apart after the plugin has ended, so what is left is looked at for a while."""
        left = []

        def nothing_left():
            left[:] = sorted(line for line in self.node_state() - before if not is_bookkeeping(line, before))
            return not left

        if not within(seconds, nothing_left):
            fail(f"{what} leaves {len(left)} thing(s) on the node: {'; '.join(left[:3])}")

    # -- life

    def probe(self):
        answer = self.execute({"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]}, json.dumps({"cniVersion": "1.0.0"}))
        self.supported = [v for v in json.loads(answer.out)["supportedVersions"] if v in ALL_VERSIONS]

    def clean(self):
        for pod in self.pods:
            pod.close()
        self.pods.clear()
        for network in self.networks:
            for folder in ("/var/lib/cni/results",):
                with contextlib.suppress(FileNotFoundError):
                    for name in os.listdir(folder):
                        if name.startswith(network + "-"):
                            os.unlink(f"{folder}/{name}")
        self.networks.clear()
