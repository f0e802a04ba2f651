"""How a plugin answers before it touches anything: verbs, variables, documents, versions, stdout."""
import json
import os
import subprocess

from harness import ALL_VERSIONS, Answer, case, check, fail, na, version_key


@case("protocol", "VERSION names the supported versions")
def version_answer(bench):
    answer = bench.execute({"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]}, json.dumps({"cniVersion": "1.0.0"}))
    versions = answer.ok("VERSION").json.get("supportedVersions")
    check(isinstance(answer.json.get("cniVersion"), str), "no cniVersion")
    check(versions and all(isinstance(v, str) for v in versions), f"supportedVersions is {versions!r}")


@case("protocol", "VERSION does not wait for stdin to close")
def version_without_stdin(bench):
    process = subprocess.Popen([bench.plugin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]})
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        fail("waits for stdin")
    finally:
        process.stdin.close()
        process.stdout.close()


@case("protocol", "without CNI_COMMAND it introduces itself on stderr and succeeds")
def about(bench):
    answer = bench.execute({"PATH": os.environ["PATH"]}, "")
    answer.silent("no command")
    check("CNI" in answer.err, f"stderr: {answer.err[:80]!r}")


@case("protocol", "an unknown CNI_COMMAND is code 4")
def unknown_command(bench):
    bench.pod().call("JUMP", bench.config()).error("JUMP", [4])


for verb, variable in [("ADD", "CNI_CONTAINERID"), ("ADD", "CNI_NETNS"), ("ADD", "CNI_IFNAME"),
                       ("CHECK", "CNI_NETNS"), ("DEL", "CNI_CONTAINERID"), ("DEL", "CNI_IFNAME")]:
    @case("protocol", f"{verb} without {variable} is code 4 and names it", verb=verb, variable=variable)
    def missing_variable(bench, verb, variable):
        pod = bench.pod()
        pod.call(verb, bench.config(), **{variable: None}).error(verb, [4], [variable])


for ifname in ["a/b", "a:b", "a b", ".", "..", "sixteen-letters-"]:
    @case("protocol", f"CNI_IFNAME {ifname!r} is code 4", ifname=ifname)
    def bad_ifname(bench, ifname):
        bench.pod().call("ADD", bench.config(), ifname=ifname).error("ADD", [4])


for container in ["../x", "a b", "-a", "é"]:
    @case("protocol", f"CNI_CONTAINERID {container!r} is code 4", container=container)
    def bad_container(bench, container):
        bench.pod().call("ADD", bench.config(), CNI_CONTAINERID=container).error("ADD", [4])


for label, text in [("cut off", '{"cniVersion":"1.0.0","name"'), ("empty", ""), ("a list", "[]"), ("no text", "\x00\x01")]:
    @case("protocol", f"a configuration that is {label} is code 6", text=text)
    def bad_json(bench, text):
        bench.pod().call("ADD", text).error("ADD", [6])


@case("protocol", "a stdin that cannot be read is code 5")
def unreadable(bench):
    folder = os.open("/", os.O_RDONLY)
    try:
        done = subprocess.run([bench.plugin], stdin=folder, capture_output=True, text=True, timeout=60,
                              env=bench.pod().environment("ADD"), cwd="/")
    finally:
        os.close(folder)
    Answer(done.returncode, done.stdout, done.stderr, 0).error("ADD", [5])


@case("protocol", "a configuration without a name is code 7")
def no_name(bench):
    config = bench.config()
    del config["name"]
    bench.pod().call("ADD", config).error("ADD", [7])


for name in ["a/b", "../x", "-a", "a b"]:
    @case("protocol", f"network name {name!r} is code 7", name=name)
    def bad_name(bench, name):
        bench.pod().call("ADD", bench.config(name=name)).error("ADD", [7])


for verb in ["ADD", "DEL", "CHECK"]:
    for version in ["99.0.0", "banana"]:
        @case("protocol", f"{verb} with cniVersion {version} is refused", verb=verb, version=version)
        def bad_version(bench, verb, version):
            # A version that is no version is, to the reference library, a document it cannot decode.
            bench.pod().call(verb, {**bench.config(), "cniVersion": version}).error(verb, [1] if version[0] == "9" else [1, 6])


for verb, version in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")]:
    @case("protocol", f"{verb} in a {version} configuration is code 1", verb=verb, version=version)
    def verb_too_new(bench, verb, version):
        bench.needs_version(version)
        if verb != "CHECK":
            bench.needs_version("1.1.0")
        bench.pod().call(verb, bench.config(version)).error(verb, [1])


@case("protocol", "errors are in the configuration's version")
def error_version(bench):
    for version in bench.supported:
        error = bench.pod().call("ADD", bench.config(version), CNI_NETNS="/nonexistent/netns").error("ADD")
        if "cniVersion" not in error:
            fail("error has no cniVersion")
        check(error["cniVersion"] == version, f"config {version}, error {error['cniVersion']}")


@case("protocol", "ADD to a namespace that does not exist fails")
def no_netns(bench):
    before = bench.node_state()
    bench.pod().call("ADD", bench.config(), CNI_NETNS="/nonexistent/netns").error("ADD")
    bench.expect_state(before, "failed ADD")


@case("protocol", "ADD to a file that is no namespace fails")
def file_netns(bench):
    path = f"{bench.folder}/no-namespace"
    with open(path, "w", encoding="ascii"):
        pass
    bench.pod().call("ADD", bench.config(), CNI_NETNS=path).error("ADD")


for verb in ["ADD", "DEL"]:
    @case("protocol", f"{verb} with the plugin's own namespace is code 8", verb=verb)
    def own_netns(bench, verb):
        bench.pod().call(verb, bench.config(), CNI_NETNS="/proc/self/ns/net").error(verb, [8])


@case("protocol", "an unknown key, large or nested, does no harm")
def unknown_keys(bench):
    pod = bench.pod()
    config = bench.config(nobody={"knows": [1, {"me": None}]}, blob="x" * 1_000_000)
    pod.add(config)
    pod.delete(config)


@case("protocol", "variables of a trace do no harm")
def trace(bench):
    pod, config = bench.pod(), bench.config()
    extra = {"TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "TRACESTATE": "a=b"}
    pod.add(config, **extra)
    pod.delete(config, **extra)


@case("protocol", "it needs no variable but those of the specification")
def bare_environment(bench):
    pod, config = bench.pod(), bench.config()
    bench.execute({k: v for k, v in pod.environment("ADD").items() if k != "PATH"}, config).ok("ADD without PATH")
    pod.calls.append((config, "eth0"))


@case("protocol", "0.3.0 to 1.1.0 are all supported")
def all_versions(bench):
    missing = [v for v in ALL_VERSIONS if v not in bench.supported]
    check(not missing, f"not supported: {', '.join(missing)}")
    check(bench.newest == max(ALL_VERSIONS, key=version_key), f"newest is {bench.newest}")
