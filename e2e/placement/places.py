"""Each kind of Pod once: where its containers run, and what is said about it."""
import json
import os

from lib.lab import wait_for
from lib.manifest import container, manifest, shell, sleeping_on

HOST, DPU = "host", "dpu"
CACHE = {"name": "cache", "emptyDir": {}}
MEMORY = {"name": "cache", "emptyDir": {"medium": "Memory"}}
AT = [{"name": "cache", "mountPath": "/cache"}]
SOURCE = "heteropod.io/volumes"


def pair(**on_the_dpu):
    """app stays, proxy is to move."""
    return [container("app"), container("proxy", **on_the_dpu)]


# name, manifest's arguments, what app and proxy get: PU and words of the reason
KINDS = [
    ("ordinary", dict(containers=pair()), (HOST, "no annotation"), (HOST, "no annotation")),
    ("split", dict(containers=pair(), offload="proxy"), (HOST, "application container"), (DPU, "offload-containers: proxy")),
    ("host-network", dict(containers=pair(), offload="proxy", hostNetwork=True), (HOST, "hostNetwork"), (HOST, "hostNetwork")),
    ("host-network-ordinary", dict(containers=pair(), hostNetwork=True), (HOST, "no annotation"), (HOST, "no annotation")),
    ("host-pid", dict(containers=pair(), offload="proxy", hostPID=True), (HOST, "hostPID"), (HOST, "hostPID")),
    ("host-ipc", dict(containers=pair(), offload="proxy", hostIPC=True), (HOST, "hostIPC"), (HOST, "hostIPC")),
    ("share-pid", dict(containers=pair(), offload="proxy", shareProcessNamespace=True),
     (HOST, "shareProcessNamespace"), (HOST, "shareProcessNamespace")),
    ("unknown-value", dict(containers=pair(), annotations={"heteropod.io/offload": "gpu"}),
     (HOST, "'gpu'"), (HOST, "only 'dpu' is known")),
    ("empty-value", dict(containers=pair(), annotations={"heteropod.io/offload": ""}), (HOST, "''"), (HOST, "only 'dpu'")),
    ("unknown-fallback", dict(containers=pair(), offload="proxy", annotations={"heteropod.io/fallback": "hsot"}),
     (HOST, "'hsot'"), (HOST, "'host', 'pending' and 'fail' are known")),
    ("empty-name", dict(containers=pair(), offload="proxy,,"), (HOST, "separated by commas"), (HOST, "separated by commas")),
    ("bad-volumes", dict(containers=pair(), offload="proxy", annotations={SOURCE: "cache"}),
     (HOST, "'cache'"), (HOST, "is expected")),
    ("unknown-name", dict(containers=pair(), offload="proxy,nobody"), (HOST, "application"), (DPU, "nobody")),
    ("privileged", dict(containers=pair(securityContext={"privileged": True}), offload="proxy"),
     (HOST, "application"), (HOST, "privileged: it would own the DPU")),
    ("host-path", dict(containers=pair(volumeMounts=AT), offload="proxy", volumes=[{"name": "cache", "hostPath": {"path": "/tmp"}}]),
     (HOST, "application"), (HOST, "mount '/cache': host path '/tmp'")),
    ("volume-of-its-own", dict(containers=pair(volumeMounts=AT), offload="proxy", volumes=[CACHE]),
     (HOST, "application"), (DPU, "offload-containers")),
    ("volume-with-a-privileged-one", dict(containers=[container("proxy", volumeMounts=AT), container("app", volumeMounts=AT, securityContext={"privileged": True})],
                                          offload="proxy,app", volumes=[CACHE]),
     (HOST, "privileged"), (HOST, f"annotation {SOURCE} does not say who uses it")),
    ("declared-shared", dict(containers=[container("app", volumeMounts=AT), container("proxy", volumeMounts=AT)], offload="proxy",
                             volumes=[MEMORY], annotations={SOURCE: "cache=app,proxy"}),
     (HOST, "application"), (HOST, "shared volume 'cache' with app")),
]


def log_of(lab, daemon):
    with open(os.path.join(lab.env["logs"], f"{daemon}.log"), encoding="utf-8") as file:
        return file.read()


def said(rows, name_key, pu_key="pu"):
    return {row[name_key]: (row[pu_key], row["reason"]) for row in rows}


def right(found, expected):
    return set(found) == set(expected) and all(found[name][0] == pu and words in found[name][1]
                                               for name, (pu, words) in expected.items())


def check(cases, lab, name, text, expected):
    """Runs a manifest and compares all that tells of it with what is expected: container -> (PU, words of the reason)."""
    info = lab.run_pod(text)
    tells = {"run": said(info["containers"], "name"),
             "ps": said([row for row in lab.ctl_json("ps") if row["pod"] == f"default/{name}"], "container"),
             "why": said(lab.why(name)["containers"], "container")}
    for who, found in tells.items():
        cases.check(f"{name}: {who} says where and why", right(found, expected), found)
    shown = lab.ctl("why", name).stdout
    cases.check(f"{name}: why shows it to people", all(words in shown for _, words in expected.values()), shown)
    sleeps = {c["name"]: c["command"][1] for c in json.loads(text.split("\n---\n")[-1])["spec"]["containers"]
              if c["command"][0] == "/bin/sleep"}
    running = sleeping_on(lab)
    cases.check(f"{name}: they run there", all(running.get(sleeps[c]) == pu for c, (pu, _) in expected.items() if c in sleeps), running)
    if "heteropod.io/offload" in text:
        log = log_of(lab, "host-heterocri")
        lines = [line for line in log.splitlines() if f"Pod default/{name}:" in line or f"Pod default/{name}," in line]
        cases.check(f"{name}: heterocri's log tells every verdict",
                    all(any(f"container '{c}'" in line and words in line for line in lines) for c, (_, words) in expected.items()), lines)
    return info


def all_kinds(cases, lab):
    for name, arguments, app, proxy in KINDS:
        with cases.case(name):
            arguments = dict(arguments)
            check(cases, lab, name, manifest(name, **arguments), {"app": app, "proxy": proxy})
            if name == "host-network":
                mine = lab.ctl("exec", name, "-c", "app", "--", "readlink", "/proc/self/ns/net").stdout.strip()
                cases.check("a hostNetwork Pod has the host's network", mine == lab.place("host", "readlink", "/proc/self/ns/net").stdout.strip(), mine)
                cases.check("why of it names the network", "hostNetwork" in lab.ctl("why", f"default/{name}").stdout)
            if name == "share-pid":
                seen = lab.ctl("exec", name, "-c", "app", "--", "ps").stdout
                cases.check("its containers see each other's processes", seen.count("sleep 70") == 2, seen)
            lab.ctl("rm", name)
    with cases.case("a name that no container has is a warning"):
        done = lab.ctl("run", "-", stdin=manifest("unknown-name", pair(), offload="proxy,nobody"))
        lab.ctl("rm", "unknown-name")
        assert "warning:" in done.stderr and "nobody" in done.stderr, done.stderr
    with cases.case("probes and hooks, which nobody runs here, are warnings by their names"):
        ignored = {"livenessProbe": {"exec": {"command": ["/bin/false"]}}, "readinessProbe": {"tcpSocket": {"port": 1}},
                   "startupProbe": {"httpGet": {"port": 1}}, "lifecycle": {"preStop": {"exec": {"command": ["/bin/true"]}}}}
        done = lab.ctl("run", "-", stdin=manifest("probed", [container("app", **ignored), container("proxy")], offload="proxy"))
        lab.ctl("rm", "probed")
        for field in ignored:
            assert f"warning: spec.containers[0].{field}: has no effect here" in done.stderr, done.stderr


def data(cases, lab):
    """Volumes hold what they should, for whoever mounts them."""
    def inside(name, who, script):
        return lab.ctl("exec", name, "-c", who, "--", "/bin/sh", "-c", script, check=False)

    mount = [{"name": "conf", "mountPath": "/conf"}]
    text = manifest("conf", pair(volumeMounts=mount), offload="proxy", config_maps={"cm": {"a.txt": "alpha\n", "b": "beta"}},
                    volumes=[{"name": "conf", "configMap": {"name": "cm", "defaultMode": 0o440}}])
    check(cases, lab, "conf", text, {"app": (HOST, "application"), "proxy": (DPU, "offload-containers")})
    done = inside("conf", "proxy", "cat /conf/a.txt /conf/b; stat -c %a /conf/a.txt")
    cases.check("a configMap on the DPU has its files and modes", done.stdout == "alpha\nbeta440\n", done)
    done = inside("conf", "proxy", "echo x > /conf/a.txt")
    cases.check("and is read-only", done.returncode != 0 and "ead-only" in done.stderr, done)

    both = [container("app"), container("proxy", volumeMounts=AT), container("shipper", volumeMounts=AT)]
    for kind, volume in (("disk", CACHE), ("memory", MEMORY)):
        name = f"dpu-only-{kind}"
        # heteroctl reads from the manifest who uses it; a kubelet cannot say, so an author does.
        said = {} if kind == "disk" else {SOURCE: "cache=proxy,shipper"}
        text = manifest(name, both, offload="proxy,shipper", volumes=[volume], annotations=said)
        check(cases, lab, name, text, {"app": (HOST, "application"), "proxy": (DPU, "offload"), "shipper": (DPU, "offload")})
        inside(name, "proxy", "echo from proxy > /cache/file")
        cases.check(f"an emptyDir of DPU containers is shared by them ({kind})",
                    inside(name, "shipper", "cat /cache/file").stdout == "from proxy\n")
        lab.ctl("rm", name)

    sharing = [container("app", volumeMounts=AT), container("proxy", volumeMounts=AT)]
    check(cases, lab, "shared", manifest("shared", sharing, offload="proxy", volumes=[MEMORY]),
          {"app": (HOST, "application"), "proxy": (HOST, "shared volume 'cache' with app")})
    inside("shared", "app", "echo from app > /cache/file")
    cases.check("a volume shared with the host keeps both there, and is one", inside("shared", "proxy", "cat /cache/file").stdout == "from app\n")
    # The mover comes first: the one on the host is not there yet, and it must not matter.
    check(cases, lab, "turned", manifest("turned", sharing[::-1], offload="proxy", volumes=[CACHE]),
          {"app": (HOST, "application"), "proxy": (HOST, "shared volume 'cache' with app")})
    # The author forgot one user of the volume: said, not run with half the data.
    done = lab.ctl("run", "-", stdin=manifest("forgot", sharing[::-1], offload="proxy", volumes=[CACHE],
                                              annotations={SOURCE: "cache=proxy"}), check=False)
    cases.check("a volume with a user that its annotation forgot is refused by name",
                done.returncode == 1 and "volume 'cache' is on the DPU with proxy" in done.stderr and "'app'" in done.stderr, done.stderr)
    for name in ("conf", "shared", "turned"):
        lab.ctl("rm", name)
    left = [f for f in os.listdir("/dev/shm/heterok8s-pods") if os.listdir(f"/dev/shm/heterok8s-pods/{f}")] if os.path.isdir("/dev/shm/heterok8s-pods") else []
    mine = [c["uid"] for c in lab.ctl_json("ps") if "uid" in c]
    cases.check("rm removes the volumes in memory", not set(left) & set(mine), left)


def starting(cases, lab):
    """Init containers and sidecars on both sides, in order; what a later one calls, an earlier one serves."""
    call = "for i in 1 2 3 4 5 6 7 8 9 10; do netprobe call tcp 127.0.0.1 {port} && exit 0; sleep 0.3; done; exit 1"
    init = [shell("first-host", "echo first on $(hostname)"),
            shell("first-dpu", "echo first on $(hostname)"),
            container("proxy", "/usr/bin/netprobe", "serve", "tcp", "127.0.0.1", "8001", restartPolicy="Always"),
            container("local", "/usr/bin/netprobe", "serve", "tcp", "127.0.0.1", "8002", restartPolicy="Always"),
            shell("call-proxy", call.format(port=8001)), shell("call-local", call.format(port=8002))]
    text = manifest("starting", [container("app"), container("shipper")], initContainers=init,
                    offload="first-dpu,proxy,call-local,shipper")
    on_dpu, on_host = (DPU, "offload-containers"), (HOST, "application")
    check(cases, lab, "starting", text, {"first-host": on_host, "first-dpu": on_dpu, "proxy": on_dpu, "local": on_host,
                                         "call-proxy": on_host, "call-local": on_dpu, "app": on_host, "shipper": on_dpu})
    for who in ("first-host", "first-dpu"):
        log = lab.ctl("logs", "starting", "-c", who).stdout
        cases.check(f"the log of the ended {who} is there", log.startswith("first on starting"), log)
    for who in ("call-proxy", "call-local"):
        log = lab.ctl("logs", "starting", "-c", who).stdout
        cases.check(f"{who} reached the sidecar of the other PU by localhost", "peer 127.0.0.1:" in log or "local 127.0.0.1:" in log, log)
    ended = {row["container"]: row["state"] for row in lab.ctl_json("ps") if row["pod"] == "default/starting"}
    cases.check("ps shows the ended ones as exited and the sidecars as running",
                ended["first-dpu"] == ended["call-local"] == "exited" and ended["proxy"] == ended["local"] == "running", ended)
    lab.ctl("rm", "starting")

    for where, offload in ((HOST, "other"), (DPU, "bad")):
        done = lab.ctl("run", "-", check=False, stdin=manifest(
            "failing", [container("app")], offload=offload, initContainers=[shell("bad", "echo the reason; exit 9")]))
        cases.check(f"an init container that fails on the {where}: exit code and last words are told",
                    done.returncode == 1 and "init container 'bad'" in done.stderr and "exit code 9" in done.stderr
                    and "the reason" in done.stderr, done.stderr)
        wait_for("the failed Pod to be gone", lambda: not lab.ctl_json("ps"))
