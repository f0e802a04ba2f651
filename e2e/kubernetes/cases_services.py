"""Services: a client in every place reaches a server in every place by its ClusterIP and its NodePort."""
import itertools

from cluster import KINDS, container, pod, wait_for

SERVE = "mkdir -p /tmp/www; echo $WHO > /tmp/www/index.html; exec httpd -f -p {port} -h /tmp/www"


def server(kind, which, port):
    return container(which, SERVE.format(port=port), env=[{"name": "WHO", "value": f"{which} of {kind}"}],
                     readinessProbe={"tcpSocket": {"port": port}, "periodSeconds": 1})


def run(cluster, cases):
    services = {}
    for kind, split in KINDS.items():
        name = f"serves-{kind}"
        cluster.apply(pod(name, [server(kind, "app", 8101), server(kind, "sidecar", 8102)], split, labels={"app": name}))
        for which, port in (("app", 8101), ("sidecar", 8102)):
            service = f"{which}-{kind}"
            cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": service},
                           "spec": {"type": "NodePort", "selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]}})
    cluster.wait_ready(*[f"serves-{kind}" for kind in KINDS])
    for kind, which in itertools.product(KINDS, ("app", "sidecar")):
        spec = cluster.get("service", f"{which}-{kind}")["spec"]
        services[f"{which} of {kind}"] = (spec["clusterIP"], spec["ports"][0]["nodePort"])


    for kind, which in itertools.product(KINDS, ("app", "sidecar")):
        for server_name, (cluster_ip, _) in services.items():
            with cases.case(f"{which} of {kind} reaches {server_name} by its ClusterIP"):
                get = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {cluster_ip} 80 | tail -n 1"
                wait_for("its page", lambda: cluster.exec(f"serves-{kind}", which, "sh", "-c", get, check=False).stdout == f"{server_name}\n", 20, every=0.5)
    address = cluster.get("nodes")["items"][0]["status"]["addresses"][0]["address"]
    for server_name, (_, node_port) in services.items():
        with cases.case(f"from outside {server_name} is reached by its NodePort"):
            wait_for("its page", lambda: cluster.place("client", "curl", "-s", "-m", "5", f"http://{address}:{node_port}/", check=False).stdout == f"{server_name}\n", 20, every=0.5)
    cluster.delete("pod,service", "-l", "app", timeout=30)
    cluster.delete("service", *[f"{which}-{kind}" for kind in KINDS for which in ("app", "sidecar")])
