"""Services: a client in every place reaches a server in every place by its ClusterIP and its NodePort, and by its hostPort."""
import itertools

from cluster import KINDS, container, pod, wait_for

SERVE = "mkdir -p /tmp/www; echo $WHO > /tmp/www/index.html; exec httpd -f -p {port} -h /tmp/www"
GET = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80 | tail -n 1"
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
        cluster.apply(pod(pods[who], [server(who, which, HOST_PORTS[kind][which]) for which in PORTS], split, {"app": "serves", "who": who}, nodeName=node),
                      *services)
    cluster.wait_ready(*pods.values())
    specs = {f"{which} of {who}": cluster.get("service", f"{which}-{who}")["spec"] for who in pods for which in PORTS}
    return pods, specs


def run(cluster, cases):
    pods, services = make(cluster)

    def reach(what, ask):
        """A proxy learns of an endpoint some time after the Pod is Ready."""
        wait_for("its page", lambda: ask() == f"{what}\n", every=0.5)
    for (who, name), which in itertools.product(pods.items(), PORTS):
        with cases.case(f"{which} of {who} reaches every server by its ClusterIP"):
            for what, spec in services.items():
                get = GET.format(address=spec["clusterIP"])
                reach(what, lambda n=name, w=which, g=get: cluster.exec(n, w, "sh", "-c", g, check=False).stdout)
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
