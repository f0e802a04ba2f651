"""deploy/examples/web.yaml, split over two kernels and whole on one, side by side: nothing but the places may differ."""
import time

from lab import DemoFailed, addresses_of, is_alive, until

SPLIT = {"redis": "host", "nginx": "host", "haproxy": "dpu", "rsyslog": "dpu"}
WHOLE = dict.fromkeys(SPLIT, "host")
SAME = "you are 127.0.0.1, I am 127.0.0.1:80"  # nginx about a call that came by localhost
GET = "GET / HTTP/1.0\\r\\n\\r\\n"


class Web:
    """The Pod, running and serving."""

    def __init__(self, lab, manifest, name, places):
        self.lab, self.name, self.places = lab, name, places
        start = time.monotonic()
        info = lab.ctl_json("run", "-", "--name", name, stdin=manifest)
        self.seconds = time.monotonic() - start
        self.ip = info["ip"]
        self.containers = {c["name"]: c for c in info["containers"]}
        self.processes = {c["name"]: lab.process_of(c["id"]) for c in info["containers"]}
        self.ip6 = next((a for a in addresses_of(self.processes["nginx"]["pid"]) if ":" in a), "none")
        for url in (f"http://{self.ip}/", f"http://{self.ip}:8080/"):
            if not until(lambda: lab.curl(url)[0]):
                raise DemoFailed(f"Pod {name} does not serve {url}: {lab.curl(url)[1]}")

    @property
    def is_split(self):
        return "dpu" in self.places.values()

    def probe(self, container, *argv):
        """netprobe in a container; its first words."""
        done = self.lab.exec(self.name, container, "netprobe", *map(str, argv))
        return (done.stdout or done.stderr).strip()


# Each check takes a Web and returns (is it true, evidence), or None where there is nothing to say.

def where(pod, container):
    process = pod.processes[container]
    good = process["pu"] == pod.places[container] == pod.containers[container]["pu"]
    return good, f"{process['pu']}: pid {process['pid']}, a child of {pod.lab.name}-{process['pu']}'s init"


def namespaces(pod):
    nets = {pu: {p["net"] for p in pod.processes.values() if p["pu"] == pu} for pu in ("host", "dpu")}
    good = len(nets["host"]) == 1 and len(nets["dpu"]) == int(pod.is_split) and not nets["host"] & nets["dpu"]
    return good, ", ".join(f"{pu} {net}" for pu, found in nets.items() for net in found)


def one_address(pod):
    seen = {side: set(addresses_of(pod.processes[side]["pid"])) for side in ("nginx", "haproxy")}
    return all({pod.ip, pod.ip6} <= found for found in seen.values()), f"{pod.ip}, {pod.ip6}"


def answer(pod, url, expected, *options):
    worked, text = pod.lab.curl(url, *options)
    return worked and expected in text, text


def redis_through_haproxy(pod):
    said = pod.lab.client("sh", "-c", f"printf 'PING\\r\\nQUIT\\r\\n' | nc -w 3 {pod.ip} 6380").stdout
    return "+PONG" in said, "PING → " + said


def called(pod, container, address, port, message, *expected):
    text = pod.probe(container, "call", "tcp", address, port, message)
    return all(word in text for word in expected), text


def shipped(pod):
    """A request with a name of its own, looked for in what the log shipper printed."""
    path = f"/line-{time.monotonic_ns()}"
    pod.lab.curl(f"http://{pod.ip}:8080{path}")

    def line():
        text = pod.lab.ctl("logs", pod.name, "-c", "rsyslog", check=False).stdout
        return next((entry for entry in text.splitlines() if path in entry), None)
    found = until(line, 10)
    return bool(found), found or "the line never came"


def refused(pod):
    worked, text = pod.lab.curl(f"http://{pod.ip}:9/", "-w", "%{errormsg}")
    return not worked and ("refused" in text or "Couldn't connect" in text), text


def pinged(pod):
    text = pod.lab.client("ping", "-c", "3", "-i", "0.2", "-w", "4", pod.ip).stdout
    return "3 received" in text and "DUP" not in text, next((line for line in text.splitlines() if "received" in line), text)


def bind(pod, container, protocol, address, port, expected):
    said = pod.probe(container, "bind", protocol, address, port).split(" ")[0]
    return said == expected, said


def owners(pod):
    if not pod.is_split:
        return None
    said = {f"{port['protocol']} {port['number']}": port["owner"] for port in pod.lab.ports(pod.name)}
    wanted = {"tcp 80": "host", "tcp 6379": "host", "tcp 8080": "dpu", "tcp 8443": "dpu", "udp 514": "dpu"}
    return all(said.get(port) == owner for port, owner in wanted.items()), \
        ", ".join(f"{port.split()[1]} {said.get(port, 'nobody')}" for port in wanted)


def logged(pod, container, expected):
    def line():
        done = pod.lab.ctl("logs", pod.name, "-c", container, check=False)
        return next((entry for entry in (done.stdout + done.stderr).splitlines() if expected in entry), None)
    found = until(line, 10)
    return bool(found), found or f"no '{expected}'"


def removed(pod):
    pod.lab.ctl("rm", pod.name)
    gone = until(lambda: not any(is_alive(p) for p in pod.processes.values()), 10)
    return gone, "no process of it is left" if gone else "processes are left"


def whole(manifest):
    """The manifest without the annotations that ask for a split."""
    lines = [line for line in manifest.splitlines() if not line.strip().startswith("heteropod.io/")]
    return "\n".join(line for line in lines if line.strip() != "annotations:") + "\n"


def show(lab, report, path):
    with open(path, encoding="utf-8") as file:
        manifest = file.read()
    pods = [Web(lab, manifest, "web", SPLIT), Web(lab, whole(manifest), "web-whole", WHOLE)]
    columns = ["split over host and DPU", "the same Pod, whole, on the host"]

    def row(what, check, *args):
        report.row(what, [check(pod, *args) for pod in pods])

    report.section("Its processes", columns)
    for container in SPLIT:
        row(container, where, container)
    row("network namespaces", namespaces)
    row("time to start", lambda p: (None, f"{p.seconds:.1f} s"))
    row("one Pod IP, in each of them", one_address)

    report.section("localhost", columns)
    row("haproxy → nginx, localhost:80", lambda p: answer(p, f"http://{p.ip}:8080/", SAME))
    row("haproxy → redis, 127.0.0.1:6379", redis_through_haproxy)
    row("nginx → rsyslog, UDP 127.0.0.1:514", shipped)
    row("beside haproxy → redis", called, "haproxy", "127.0.0.1", 6379, "PING\\r\\n", "+PONG", "peer 127.0.0.1:6379")
    row("beside nginx → haproxy", called, "nginx", "127.0.0.1", 8080, GET, "200 OK", "peer 127.0.0.1:8080")
    row("beside nginx → haproxy, [::1]", called, "nginx", "::1", 8080, GET, "200 OK", "peer [::1]:8080")
    row("beside nginx → haproxy, Pod IP", lambda p: called(p, "nginx", p.ip, 8080, GET, "200 OK", f"peer {p.ip}:8080"))

    report.section("From outside", columns)
    row("client → IP:8080, haproxy", lambda p: answer(p, f"http://{p.ip}:8080/", SAME))
    row("client → IP:8443, haproxy, TLS", lambda p: answer(p, f"https://{p.ip}:8443/", SAME, "-k"))
    row("client → IP:80, nginx", lambda p: answer(p, f"http://{p.ip}/", f"you are {lab.env['client_v4']}, I am {p.ip}:80"))
    row("client → IPv6:8080, haproxy", lambda p: answer(p, f"http://[{p.ip6}]:8080/", "hello from nginx"))
    row("client → IPv6:80, nginx", lambda p: answer(p, f"http://[{p.ip6}]/", f"you are {lab.env['client_v6']}"))
    row("client → a port nobody has", refused)
    row("client pings, answered once each", pinged)

    report.section("One port space", columns)
    row("beside nginx: bind haproxy's TCP 8080", bind, "nginx", "tcp", "0.0.0.0", 8080, "EADDRINUSE")
    row("beside nginx: bind rsyslog's UDP 127.0.0.1:514", bind, "nginx", "udp", "127.0.0.1", 514, "EADDRINUSE")
    row("beside haproxy: bind nginx's TCP 80", bind, "haproxy", "tcp", "0.0.0.0", 80, "EADDRINUSE")
    row("beside haproxy: bind redis's TCP 127.0.0.1:6379", bind, "haproxy", "tcp", "127.0.0.1", 6379, "EADDRINUSE")
    row("beside nginx: bind UDP 8080, free", bind, "nginx", "udp", "0.0.0.0", 8080, "ok")
    row("beside haproxy: bind TCP 81, free", bind, "haproxy", "tcp", "0.0.0.0", 81, "ok")
    row("heteroctl why: owners", owners)

    report.section("Logs, read on the host", columns)
    row("nginx", logged, "nginx", "start worker process")
    row("redis", logged, "redis", "Ready to accept connections")
    row("haproxy", logged, "haproxy", "(outside/HTTP)")
    row("rsyslog", logged, "rsyslog", "GET /")

    report.quote("heteroctl why web", lab.ctl("why", "web").stdout)

    report.section("The end", columns)
    row("heteroctl rm", removed)
