"""What a runtime may ask for: capabilities, CNI_ARGS, args.cni; and GC and STATUS of specification 1.1."""
import contextlib
import ipaddress
import json
import secrets
import socket
import subprocess
import sys

from harness import case, check, fail, na


def addresses(result):
    return [ip["address"].split("/")[0] for ip in result["ips"]]


def free_address(bench, config):
    """An address that this network can give: one it gave a moment ago."""
    pod = bench.pod()
    found = addresses(pod.add(config))[0]
    pod.delete(config)
    return found


@case("runtime", "ips: the requested address is given, and only once")
def ips(bench):
    bench.needs_capability("ips")
    config = bench.config()
    wanted = free_address(bench, config)
    bench.add_runtime_config(config, {"ips": [wanted]})
    pod, other = bench.pod(), bench.pod()
    check(wanted in addresses(pod.add(config)), f"{wanted} was requested")
    other.call("ADD", config).error("ADD of a taken address")


@case("runtime", "ips: with a prefix length, as the conventions write them")
def ips_prefix(bench):
    bench.needs_capability("ips")
    config = bench.config()
    wanted = free_address(bench, config)
    bench.add_runtime_config(config, {"ips": [f"{wanted}/24" if ":" not in wanted else f"{wanted}/64"]})
    check(wanted in addresses(bench.pod().add(config)), f"{wanted} was requested")


@case("runtime", "ips: an address of no range is an error")
def ips_foreign(bench):
    bench.needs_capability("ips")
    bench.pod().call("ADD", bench.config(runtimeConfig={"ips": ["192.0.2.9"]})).error("ADD")


@case("runtime", "CNI_ARGS IP: the requested address is given")
def args_ip(bench):
    config = bench.config()
    wanted = free_address(bench, config)
    result = bench.pod().add(config, CNI_ARGS=f"IgnoreUnknown=1;IP={wanted}")
    check(wanted in addresses(result), f"{wanted} was requested, {addresses(result)} given")


@case("runtime", "args.cni.ips: the requested address is given")
def args_cni_ips(bench):
    config = bench.config()
    wanted = free_address(bench, config)
    result = bench.pod().add({**config, "args": {"cni": {"ips": [wanted]}}})
    check(wanted in addresses(result), f"{wanted} was requested, {addresses(result)} given")


@case("runtime", "mac: the interface has the requested one")
def mac(bench):
    bench.needs_capability("mac")
    pod, wanted = bench.pod(), "02:11:22:33:44:55"
    result = pod.add_unless_refused(bench.config(runtimeConfig={"mac": wanted}), "mac")
    check(pod.links()["eth0"]["address"] == wanted, f"it has {pod.links()['eth0']['address']}")
    shown = [i.get("mac", "").lower() for i in result["interfaces"] if i["name"] == "eth0"]
    check(shown == [wanted], f"the result shows {shown}")


@case("runtime", "mac: what is no MAC address is an error")
def bad_mac(bench):
    bench.needs_capability("mac")
    bench.pod().call("ADD", bench.config(runtimeConfig={"mac": "banana"})).error("ADD")


@case("runtime", "dns: what the runtime says is in the result")
def dns(bench):
    bench.needs_capability("dns")
    result = bench.pod().add(bench.config(runtimeConfig={"dns": {"servers": ["192.0.2.53"], "searches": ["svc.test"]}}))
    check(result.get("dns", {}).get("nameservers") == ["192.0.2.53"], f"dns is {result.get('dns')}")
    check(result["dns"].get("search") == ["svc.test"], f"dns is {result['dns']}")


SERVER = """
import socket, sys
s = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b"pod")
    c.close()
"""


@contextlib.contextmanager
def server(pod, port):
    process = subprocess.Popen(["ip", "netns", "exec", pod.name, sys.executable, "-c", SERVER, str(port)],
                               stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def host_port():
    """A port of the node that nobody else has, and that refuses: bound, never listening."""
    with socket.socket() as holder:
        holder.bind(("", 0))
        yield holder.getsockname()[1]


@case("runtime", "portMappings: the host port leads to the Pod, until DEL")
def port_mapping(bench):
    bench.needs_capability("portMappings")
    pod = bench.pod()
    with host_port() as port, server(pod, 8000):
        config = bench.config(runtimeConfig={"portMappings": [{"hostPort": port, "containerPort": 8000, "protocol": "tcp"}]})
        pod.add(config)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            check(client.recv(3) == b"pod", "somebody else answers")
        pod.delete(config)
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
            fail("the host port still answers after DEL")
        except OSError:
            pass


@case("runtime", "portMappings: a port that another Pod has is an error")
def port_taken(bench):
    bench.needs_capability("portMappings")
    with host_port() as port:
        config = bench.config(runtimeConfig={"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]})
        first, second = bench.pod(), bench.pod()
        first.add(config)
        second.call("ADD", config).error("ADD")
        second.delete(config)
        first.delete(config)
        second.add(config)


@case("runtime", "portMappings: a port that is no port is an error")
def port_bad(bench):
    bench.needs_capability("portMappings")
    config = bench.config(runtimeConfig={"portMappings": [{"hostPort": 70000, "containerPort": 80, "protocol": "tcp"}]})
    bench.pod().call("ADD", config).error("ADD")


@case("runtime", "bandwidth: a limit is accepted, checked, and gone after DEL")
def bandwidth(bench):
    bench.needs_capability("bandwidth")
    warm, pod = bench.pod(), bench.pod()
    warm.add(bench.config())
    before = bench.node_state()
    limits = {"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000}
    config = bench.config(runtimeConfig={"bandwidth": limits})
    result = pod.add(config)
    pod.call("CHECK", {**config, "prevResult": result}).silent("CHECK")
    pod.delete({**config, "prevResult": result})
    bench.expect_state(before, "DEL")


@case("runtime", "CNI_ARGS: what Kubernetes sends is accepted")
def args_kubernetes(bench):
    pod, config = bench.pod(), bench.config()
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=" + pod.id
    # The UID is this Pod's own: a plugin may know a Pod by it.
    args += ";K8S_POD_UID=" + secrets.token_hex(16)
    pod.add(config, CNI_ARGS=args)
    pod.delete(config, CNI_ARGS=args)


@case("runtime", "CNI_ARGS: an unknown key is an error without IgnoreUnknown, and nothing with it")
def args_unknown(bench):
    config, pod = bench.config(), bench.pod()
    bench.pod().call("ADD", config, CNI_ARGS="SURPRISE=1").error("ADD")
    pod.add(config, CNI_ARGS="SURPRISE=1;IgnoreUnknown=true")


@case("runtime", "CNI_ARGS: what is no KEY=value is an error")
def args_bad(bench):
    bench.pod().call("ADD", bench.config(), CNI_ARGS="nonsense").error("ADD")


@case("gc", "STATUS of a working plugin succeeds, silently, without a container")
def status(bench):
    bench.needs_version("1.1.0")
    bench.execute({"CNI_COMMAND": "STATUS", "CNI_PATH": bench.cni_path}, bench.config("1.1.0")).silent("STATUS")


def collect(bench, config, valid, *keys):
    listed = [{"containerID": pod.id, "ifname": "eth0"} for pod in valid]
    return bench.execute({"CNI_COMMAND": "GC", "CNI_PATH": bench.cni_path},
                         {**config, **{key: listed for key in keys}}).silent("GC")


for label, keys in [("cni.dev/valid-attachments", ["cni.dev/valid-attachments"]), ("cni.dev/attachments", ["cni.dev/attachments"]),
                    ("both keys", ["cni.dev/valid-attachments", "cni.dev/attachments"])]:
    @case("gc", f"GC by {label} frees what is not listed and nothing else", keys=keys)
    def gc(bench, keys):
        bench.needs_version("1.1.0")
        config = bench.small_network(2)
        kept, stale = bench.pod(), bench.pod()
        result = kept.add(config)
        stale.add(config)
        stale.remove_netns()
        collect(bench, config, [kept], *keys)
        kept.call("CHECK", {**config, "prevResult": result}).silent("CHECK of the listed attachment")
        bench.takes_all(config, 1)


@case("gc", "GC with an empty list frees everything; DEL afterwards succeeds")
def gc_all(bench):
    bench.needs_version("1.1.0")
    config, pods = bench.small_network(3), [bench.pod() for _ in range(3)]
    for pod in pods:
        pod.add(config)
        pod.remove_netns()
    collect(bench, config, [], "cni.dev/valid-attachments")
    bench.takes_all(config, 3)
    for pod in pods:
        pod.delete(config)


@case("gc", "GC of one network leaves the others")
def gc_other(bench):
    bench.needs_version("1.1.0")
    if bench.second is None:
        na("no second configuration given (--second-conf)")
    pod, mine, other = bench.pod(), bench.config("1.1.0"), bench.config("1.1.0", base=bench.second)
    result = pod.add(mine)
    collect(bench, other, [], "cni.dev/valid-attachments")
    pod.call("CHECK", {**mine, "prevResult": result}).silent("CHECK")


@case("gc", "GC with nothing to do succeeds, also twice")
def gc_nothing(bench):
    bench.needs_version("1.1.0")
    config = bench.config("1.1.0")
    for _ in range(2):
        collect(bench, config, [], "cni.dev/valid-attachments")
