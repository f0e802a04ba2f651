"""ADD, CHECK and DEL: the result, the kernel, and everything that may be missing by the time of DEL."""
import ipaddress

from harness import ALL_VERSIONS, case, check, ip_json, na, run, version_key, within, without


def expect_shape(result, version, pod):
    check(result.get("cniVersion") == version, f"result's cniVersion is {result.get('cniVersion')!r}, config's {version}")
    interfaces, ips = result.get("interfaces", []), result.get("ips", [])
    check(interfaces, "no interfaces")
    check(ips, "no ips")
    inside = [i for i, interface in enumerate(interfaces) if interface.get("sandbox") == pod.netns]
    check(inside, "no interface has sandbox = CNI_NETNS")
    check(any(interfaces[i]["name"] == "eth0" for i in inside), "no interface in the sandbox is named CNI_IFNAME")
    for ip in ips:
        address = ipaddress.ip_interface(ip["address"])
        check("/" in ip["address"], f"address {ip['address']} has no prefix length")
        check(ip.get("interface") in inside, f"{ip['address']}: interface {ip.get('interface')!r} is not one in the sandbox")
        if version_key(version) < (1, 0, 0):
            check(ip.get("version") == str(address.version), f"{ip['address']}: version {ip.get('version')!r}, due before 1.0.0")
        else:
            check("version" not in ip, "ips have 'version', which 1.0.0 removed")
    if version_key(version) < (1, 1, 0):
        new = [key for interface in interfaces for key in ("mtu", "socketPath", "pciID") if key in interface]
        check(not new, f"interfaces have {new}, which came with 1.1.0")
    for route in result.get("routes", []):
        ipaddress.ip_network(route["dst"])
    check(isinstance(result.get("dns", {}), dict), "dns is no object")


def expect_kernel(result, pod):
    links = pod.links()
    check("eth0" in links, "CNI_IFNAME does not exist in the Pod")
    check(links["eth0"]["operstate"] in ("UP", "UNKNOWN") or "UP" in links["eth0"]["flags"], "CNI_IFNAME is not up")
    for interface in result["interfaces"]:
        if interface.get("sandbox") == pod.netns and interface.get("mac"):
            check(links[interface["name"]]["address"] == interface["mac"].lower(), "mac in the result is not the kernel's")
        if interface.get("sandbox") == pod.netns and interface.get("mtu"):
            check(links[interface["name"]]["mtu"] == interface["mtu"], "mtu in the result is not the kernel's")
    for ip in result["ips"]:
        check(str(ipaddress.ip_interface(ip["address"]).ip) in pod.addresses(), f"{ip['address']} is not on the interface")


def default_routes(pod):
    routes = set()
    for family in ("-4", "-6"):
        for route in ip_json(family, "route", "show", "default", netns=pod.name):
            routes |= {(family, hop.get("gateway"), hop.get("dev")) for hop in route.get("nexthops", [route])}
    return routes


for version in ALL_VERSIONS:
    @case("attach", f"{version}: ADD answers in this version's shape, and the kernel agrees", version=version)
    def add_shape(bench, version):
        bench.needs_version(version)
        pod, config = bench.pod(), bench.config(version)
        result = pod.add(config)
        expect_shape(result, version, pod)
        expect_kernel(result, pod)

    @case("attach", f"{version}: DEL takes everything away", version=version)
    def del_clean(bench, version):
        bench.needs_version(version)
        warm, pod, config = bench.pod(), bench.pod(), bench.config(version)
        warm.add(config)
        before = bench.node_state()
        result = pod.add(config)
        pod.delete({**config, "prevResult": result} if version_key(version) >= (0, 4, 0) else config)
        check("eth0" not in pod.links(), "the interface is still in the Pod")
        bench.expect_state(before, "ADD and DEL")

    if version_key(version) >= (0, 4, 0):
        @case("attach", f"{version}: CHECK of a good attachment succeeds, silently", version=version)
        def check_good(bench, version):
            bench.needs_version(version)
            pod, config = bench.pod(), bench.config(version)
            pod.call("CHECK", {**config, "prevResult": pod.add(config)}).silent("CHECK")


def attached(bench):
    bench.needs_version("0.4.0")
    pod, config = bench.pod(), bench.config()
    return pod, {**config, "prevResult": pod.add(config)}


@case("attach", "CHECK finds a removed interface")
def check_no_link(bench):
    pod, config = attached(bench)
    pod.ip("link", "del", "eth0")
    pod.call("CHECK", config).error("CHECK")


for family in ("4", "6"):
    @case("attach", f"CHECK finds a removed IPv{family} address", family=family)
    def check_no_address(bench, family):
        pod, config = attached(bench)
        ips = [ip["address"] for ip in config["prevResult"]["ips"] if str(ipaddress.ip_interface(ip["address"]).version) == family]
        if not ips:
            na(f"the configuration gives no IPv{family} address")
        pod.ip("addr", "del", ips[0], "dev", "eth0")
        pod.call("CHECK", config).error("CHECK")


@case("attach", "CHECK finds removed routes")
def check_no_route(bench):
    pod, config = attached(bench)
    if not config["prevResult"].get("routes"):
        na("the result has no routes")
    pod.ip("-4", "route", "flush", "dev", "eth0")
    pod.call("CHECK", config).error("CHECK")


@case("attach", "CHECK finds an interface that is down")
def check_down(bench):
    pod, config = attached(bench)
    pod.ip("link", "set", "eth0", "down")
    pod.call("CHECK", config).error("CHECK")


@case("attach", "CHECK without prevResult is an error")
def check_without_result(bench):
    pod, config = attached(bench)
    pod.call("CHECK", without(config, "prevResult")).error("CHECK")


@case("attach", "CHECK tolerates what a later plugin added")
def check_tolerates(bench):
    pod, config = attached(bench)
    pod.ip("addr", "add", "192.0.2.77/32", "dev", "eth0")
    config["prevResult"]["interfaces"].append({"name": "later0", "sandbox": ""})
    pod.call("CHECK", config).silent("CHECK")


@case("attach", "ADD of an existing attachment fails and leaves it whole")
def add_twice(bench):
    pod, config = bench.pod(), bench.config()
    result = pod.add(config)
    pod.call("ADD", config).error("second ADD")
    expect_kernel(result, pod)
    if version_key(config["cniVersion"]) >= (0, 4, 0):
        pod.call("CHECK", {**config, "prevResult": result}).silent("CHECK after the second ADD")


@case("attach", "ADD onto an interface somebody else made fails and leaves it")
def add_onto_foreign(bench):
    pod, config = bench.pod(), bench.config()
    pod.ip("link", "add", "eth0", "type", "bridge")
    before = bench.node_state()
    pod.call("ADD", config).error("ADD")
    check("eth0" in pod.links(), "the foreign interface is gone")
    pod.calls.clear()
    pod.call("DEL", config)  # a runtime does this after a failed ADD; the foreign interface may go with the namespace
    bench.expect_state(before, "failed ADD")


@case("attach", "a failed ADD leaks no address")
def failed_add_leak(bench):
    config = bench.small_network(2)
    for _ in range(4):
        pod = bench.pod()
        pod.call("ADD", config, CNI_NETNS="/nonexistent/netns").error("ADD")
        pod.delete(config, CNI_NETNS=None)
    bench.takes_all(config, 2)


@case("attach", "an exhausted range is an error, and DEL makes room")
def exhausted(bench):
    config = bench.small_network(2)
    pods = [bench.pod() for _ in range(3)]
    pods[0].add(config)
    pods[1].add(config)
    pods[2].call("ADD", config).error("ADD of one too many")
    pods[2].call("DEL", config).silent("DEL after the failed ADD")
    pods[0].delete(config)
    pods[2].add(config)


@case("attach", "DEL succeeds twice")
def del_twice(bench):
    pod, config = bench.pod(), bench.config()
    pod.add(config)
    pod.delete(config)
    pod.delete(config)


@case("attach", "DEL of what was never added succeeds")
def del_unknown(bench):
    bench.pod().delete(bench.config())


@case("attach", "DEL without CNI_NETNS frees the address")
def del_without_netns(bench):
    config, pod = bench.small_network(1), bench.pod()
    result = pod.add(config)
    pod.remove_netns()
    pod.delete({**config, "prevResult": result}, CNI_NETNS=None)
    bench.takes_all(config, 1)


@case("attach", "DEL without CNI_NETNS and without prevResult frees the address")
def del_with_nothing(bench):
    config, pod = bench.small_network(1), bench.pod()
    pod.add(config)
    pod.remove_netns()
    pod.delete(config, CNI_NETNS=None)
    bench.takes_all(config, 1)


@case("attach", "DEL after the namespace was deleted succeeds and leaves nothing")
def del_after_netns(bench):
    warm, config, pod = bench.pod(), bench.config(), bench.pod()
    warm.add(config)
    before = bench.node_state()
    pod.add(config)
    pod.remove_netns()
    pod.delete(config)
    bench.expect_state(before, "DEL")


@case("attach", "DEL after the interface was deleted succeeds and frees the address")
def del_after_link(bench):
    config, pod = bench.small_network(1), bench.pod()
    pod.add(config)
    pod.ip("link", "del", "eth0")
    pod.delete(config)
    bench.takes_all(config, 1)


@case("attach", "DEL with an empty prevResult succeeds")
def del_empty_result(bench):
    pod, config = bench.pod(), bench.config()
    pod.add(config)
    pod.delete({**config, "prevResult": {"cniVersion": config["cniVersion"]}})


@case("attach", "ADD after DEL of the same Pod works")
def add_again(bench):
    pod, config = bench.pod(), bench.config()
    for _ in range(3):
        expect_kernel(pod.add(config), pod)
        pod.delete(config)


@case("attach", "DEL takes only its own attachment away")
def del_only_own(bench):
    config, first, second = bench.config(), bench.pod(), bench.pod()
    first.add(config)
    result = second.add(config)
    first.delete(config)
    expect_kernel(result, second)


@case("attach", "one Pod on one network twice, by two interfaces")
def two_interfaces(bench):
    pod, config = bench.pod(), bench.config()
    first = pod.add(config, "eth0")
    routes = default_routes(pod)
    second = pod.add(config, "net1")
    check({ip["address"] for ip in first["ips"]}.isdisjoint({ip["address"] for ip in second["ips"]}), "the same address twice")
    check(routes <= default_routes(pod), f"the default routes were {routes}, with net1 they are {default_routes(pod)}")
    pod.delete(config, "net1")
    check(default_routes(pod) == routes, f"the default routes were {routes}, after net1 they are {default_routes(pod)}")
    expect_kernel(first, pod)


ROUTES = {"-4": "203.0.113.0/24", "-6": "2001:db8:77::/64"}


def with_routes(bench):
    config = bench.config()
    if "ranges" not in config["ipam"]:
        na("the configuration has no ipam.ranges, so its IPAM may not know ipam.routes")
    config["ipam"] = {**config["ipam"], "routes": [{"dst": dst} for dst in ROUTES.values()]}
    return config


@case("attach", "the configuration's routes are the Pod's, and no default route")
def routes(bench):
    pod = bench.pod()
    result = pod.add(with_routes(bench))
    check({route["dst"] for route in result["routes"]} == set(ROUTES.values()), f"the result's routes: {result['routes']}")
    for family, dst in ROUTES.items():
        check(ip_json(family, "route", "show", dst, netns=pod.name), f"no route to {dst}")
    check(not default_routes(pod), f"the default routes are {default_routes(pod)}")
    for ip in result["ips"]:
        ping = ["ping", "-n", "-c", "1", "-W", "1", str(ipaddress.ip_interface(ip["address"]).ip)]
        check(within(60, lambda: run(ping).returncode == 0), f"the node has no echo from {ip['address']} within 60 s")


@case("attach", "CHECK compares the configuration's routes")
def check_routes(bench):
    pod, config = bench.pod(), with_routes(bench)
    config["prevResult"] = pod.add(config)
    pod.call("CHECK", config).silent("CHECK")
    pod.ip("-4", "route", "del", ROUTES["-4"])
    pod.call("CHECK", config).error("CHECK")


@case("attach", "one Pod on two networks")
def two_networks(bench):
    if bench.second is None:
        na("no second configuration given (--second-conf)")
    pod, first, second = bench.pod(), bench.config(), bench.config(base=bench.second)
    result = pod.add(first)
    pod.add(second, "net1")
    check("net1" in pod.links(), "no net1 in the Pod")
    pod.delete(second, "net1")
    expect_kernel(result, pod)


@case("attach", "Pods of one network have different addresses and MACs")
def different(bench):
    config, pods = bench.config(), [bench.pod() for _ in range(4)]
    results = [pod.add(config) for pod in pods]
    ips = [ip["address"] for result in results for ip in result["ips"]]
    macs = [pod.links()["eth0"]["address"] for pod in pods]
    check(len(set(ips)) == len(ips), f"addresses repeat: {ips}")
    check(len(set(macs)) == len(macs), f"MACs repeat: {macs}")


@case("attach", "the node reaches the Pod and the Pod the node")
def reaches(bench):
    pod, config = bench.pod(), bench.config()
    for ip in pod.add(config)["ips"]:
        address = ipaddress.ip_interface(ip["address"]).ip
        # Plugins that do not wait for the node's own address (ptp) have it tentative for a second or two after ADD.
        ping = ["ping", "-n", "-c", "1", "-W", "1", str(address)]
        check(within(60, lambda: run(ping).returncode == 0), f"no echo from {address} within 60 s")


@case("chain", "ADD with prevResult passes it on or amends it")
def chained(bench):
    pod = bench.pod()
    pod.ip("link", "add", "prev0", "type", "bridge")
    previous = {"cniVersion": bench.newest, "interfaces": [{"name": "prev0", "mac": "02:00:00:00:00:77", "sandbox": pod.netns}],
                "ips": [{"address": "192.0.2.5/24", "interface": 0}], "routes": [{"dst": "198.51.100.0/24"}],
                "dns": {"nameservers": ["192.0.2.53"]}}
    if version_key(bench.newest) < (1, 0, 0):
        previous["ips"][0]["version"] = "4"
    result = pod.add_unless_refused(bench.config(prevResult=previous), "prevResult")
    check("prev0" in [i["name"] for i in result["interfaces"]], "the former plugin's interface is lost")
    addresses = {ip["address"]: ip.get("interface") for ip in result["ips"]}
    check("192.0.2.5/24" in addresses, "the former plugin's address is lost")
    check(result["interfaces"][addresses["192.0.2.5/24"]]["name"] == "prev0", "the former address points at another interface")
    check("198.51.100.0/24" in [route["dst"] for route in result.get("routes", [])], "the former route is lost")
    check("192.0.2.53" in result.get("dns", {}).get("nameservers", []), "the former name server is lost")
    for ip in result["ips"]:
        check(ip.get("interface") is None or ip["interface"] < len(result["interfaces"]), "an index points nowhere")
