"""Services: a client in every place reaches a server in every place by its ClusterIP, its NodePort on every Node and its
headless Service's name, and by its hostPort. The places: both containers of a split and of a whole Pod, and the outside.
"""
import itertools

from cluster import KINDS, Failed, container, pod, wait_for

SERVE = "mkdir -p /tmp/www; echo $WHO > /tmp/www/index.html; exec httpd -f -p {port} -h /tmp/www"
GET = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port} | tail -n 1"
PORTS = {"app": 8101, "sidecar": 8102}
HOST_PORTS = {kind: {which: 18000 + 100 * number + port % 100 for which, port in PORTS.items()} for number, kind in enumerate(KINDS)}


def server(who, which, host_port):
    return container(which, SERVE.format(port=PORTS[which]), env=[{"name": "WHO", "value": f"{which} of {who}"}],
                     ports=[{"containerPort": PORTS[which], "hostPort": host_port}],
                     readinessProbe={"tcpSocket": {"port": PORTS[which]}, "periodSeconds": 1})


def make(cluster):
    """A Pod of each kind on each Node, and a Service for each of its containers: who -> Pod, "which of who" -> Service."""
    pods = {}
    for (number, node), (kind, split) in itertools.product(enumerate(cluster.node_names(), 1), KINDS.items()):
        who = f"{kind}-{number}"
        pods[who] = f"serves-{who}"
        services = [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{which}-{who}", "labels": {"app": "serves"}},
                     "spec": {"type": "NodePort", "selector": {"who": who}, "ports": [{"port": 80, "targetPort": port}]}}
                    for which, port in PORTS.items()]
        services.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"headless-{who}", "labels": {"app": "serves"}},
                         "spec": {"clusterIP": "None", "selector": {"who": who}}})
        cluster.apply(pod(pods[who], [server(who, which, HOST_PORTS[kind][which]) for which in PORTS], split, {"app": "serves", "who": who}, nodeName=node),
                      *services)
    cluster.wait_ready(*pods.values())
    specs = {f"{which} of {who}": cluster.get("service", f"{which}-{who}")["spec"] for who in pods for which in PORTS}
    return pods, specs


def ways(cluster, pods, services):
    """way -> "which of who", address and port of each server, as they lead there."""
    nodes = {node["metadata"]["name"]: node["status"]["addresses"][0]["address"] for node in cluster.get("nodes")["items"]}
    servers = [(f"{which} of {who}", who, which) for who, which in itertools.product(pods, PORTS)]
    own = {who: nodes[cluster.get("pod", name)["spec"]["nodeName"]] for who, name in pods.items()}
    return {
        "its ClusterIP": [(what, spec["clusterIP"], 80) for what, spec in services.items()],
        "its NodePort on every Node": [(what, address, spec["ports"][0]["nodePort"])
                                       for (what, spec), address in itertools.product(services.items(), nodes.values())],
        "its hostPort": [(what, own[who], HOST_PORTS[who.partition("-")[0]][which]) for what, who, which in servers],
        "its headless Service's name": [(what, f"headless-{who}", PORTS[which]) for what, who, which in servers]}


def reaches(cluster, name, which, servers):
    """That each of them answers this container with its own page. A proxy learns of an endpoint, and CoreDNS of a name, some
    time after the Pod is Ready."""
    script = "; ".join(f'echo "$({GET.format(address=address, port=port)})"' for _, address, port in servers)
    seen = {}

    def asked():
        lines = cluster.exec(name, which, "sh", "-c", script, check=False, timeout=300).stdout.splitlines()
        seen.clear()
        seen.update({server: lines[number] if number < len(lines) else None for number, server in enumerate(servers)})
        return all(page == server[0] for server, page in seen.items())
    try:
        wait_for("their pages", asked, every=0.5)
    except Failed as late:
        raise Failed(f"{late}: {({server: page for server, page in seen.items() if page != server[0]})}") from late


def run(cluster, cases):
    pods, services = make(cluster)

    def reach(what, ask):
        """A proxy learns of an endpoint some time after the Pod is Ready."""
        wait_for("its page", lambda: ask() == f"{what}\n", every=0.5)
    for (who, name), which, (way, servers) in itertools.product(pods.items(), PORTS, ways(cluster, pods, services).items()):
        with cases.case(f"{which} of {who} reaches every server by {way}"):
            reaches(cluster, name, which, servers)
    for what, spec in services.items():
        with cases.case(f"from outside {what} is reached by its NodePort on every Node"):
            for node in cluster.get("nodes")["items"]:
                url = f"http://{node['status']['addresses'][0]['address']}:{spec['ports'][0]['nodePort']}/"
                reach(what, lambda u=url: cluster.place("client", "curl", "-s", "-m", "5", u, check=False).stdout)
    for (number, node), (kind, which) in itertools.product(enumerate(cluster.node_names(), 1), itertools.product(KINDS, PORTS)):
        what = f"{which} of {kind}-{number}"
        with cases.case(f"from outside {what} is reached by its hostPort"):
            address = cluster.get("node", node)["status"]["addresses"][0]["address"]
            url = f"http://{address}:{HOST_PORTS[kind][which]}/"
            reach(what, lambda u=url: cluster.place("client", "curl", "-s", "-m", "5", u, check=False).stdout)
    cluster.delete("pod,service", "-l", "app=serves", timeout=180)
