"""Manifests that cannot run: exit code 1, words that say what and where, and nothing made."""
import os
import tempfile

from lib.manifest import IMAGE, container, manifest

POD = "kind: Pod\nmetadata: {name: bad}\nspec:\n"
ONE = f"  containers:\n  - name: a\n    image: {IMAGE}\n"

# manifest, words of the error
TEXTS = [
    ("", "no document of kind Pod"),
    ("kind: Pod\n  bad: [", "line 2"),
    ("just words", "expected a mapping"),
    ("kind: Pod\n\x1b[31m", "line 2: byte 0x1b cannot be part of a text"),
    ("kind: Deployment\nmetadata: {name: d}\n", "kind: 'Deployment' cannot be run here"),
    ("kind: Pod\nmetadata: {name: bad}\n", "spec: is required"),
    ("kind: Pod\nspec: {containers: []}\n", "metadata.name: is required"),
    (POD + "  containers: []\n", "needs at least one container"),
    ("kind: Pod\nmetadata: {name: Bad_Name}\nspec:\n" + ONE, "'Bad_Name' is not a name"),
    (POD + ONE + "    imaje: x\n", "spec.containers[0].imaje"),
    (POD + ONE.replace(f"    image: {IMAGE}\n", ""), "spec.containers[0].image"),
    (POD + ONE + "    ports: [{containerPort: 99999}]\n", "spec.containers[0].ports[0].containerPort"),
    (POD + ONE + "    ports: [{containerPort: 80, protocol: ICMP}]\n", "spec.containers[0].ports[0].protocol"),
    (POD + ONE + "    ports: [{containerPort: 80, hostPort: -1}]\n", "spec.containers[0].ports[0].hostPort"),
    (POD + ONE + "    ports: [{containerPort: 80, hostPort: 8081, hostIP: 300.1.1.1}]\n", "300.1.1.1"),
    (POD + ONE + "    resources: {limits: {memory: lots}}\n", "spec.containers[0].resources.limits.memory"),
    (POD + ONE + "    volumeMounts: [{name: v, mountPath: /v}]\n", "'v' is no volume of this Pod"),
    (POD + ONE + "  volumes: [{name: v, configMap: {name: c}}]\n", "no ConfigMap 'c' in this file"),
    (POD + ONE + "  volumes: [{name: v}]\n", "spec.volumes[0]: needs exactly one of"),
    (POD + ONE + "  - name: a\n    image: b\n", "container 'a' is there twice"),
    (POD + ONE + "    env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n", "secretKeyRef"),
    (POD + ONE + "---\n" + POD + ONE, "more than one Pod"),
    ("kind: Pod\nmetadata: {name: bad, uid: ../../../tmp}\nspec:\n" + ONE, "'../../../tmp' is not a UID"),
    ("kind: Pod\nmetadata: {name: bad, uid: ..}\nspec:\n" + ONE, "'..' is not a UID"),
    ("kind: Pod\nmetadata: {name: bad, namespace: ../x}\nspec:\n" + ONE, "'../x' is not a name"),
    ("kind: Pod\nmetadata: {name: ..}\nspec:\n" + ONE, "'..' is not a name"),
    (POD + ONE + "  volumes: [{name: .., emptyDir: {}}]\n", "'..' is not a name"),
    ("#" * (4 << 20) + "\n", "standard input is longer than 4194304 bytes"),
]


def refuses(cases, lab, what, words, *args, code=1, stdin=None):
    done = lab.ctl(*args, check=False, stdin=stdin)
    cases.check(f"{what}: exit {code}: {words}", done.returncode == code and words in done.stderr
                and (code == 2 or "error:" in done.stderr) and "terminate" not in done.stderr, f"exit {done.returncode}: {done.stderr}")
    return done


def all_kinds(cases, lab):
    before = lab.ctl_json("ps")
    for number, (text, words) in enumerate(TEXTS, 1):
        refuses(cases, lab, f"manifest {number}", words, "run", "-", stdin=text)
    refuses(cases, lab, "a file that is not there", "no-such.yaml", "run", "/tmp/no-such.yaml")
    refuses(cases, lab, "a folder", "/tmp", "run", "/tmp")
    with tempfile.NamedTemporaryFile() as binary:
        binary.write(os.urandom(4096))
        binary.flush()
        refuses(cases, lab, "a file of noise", "cannot be part of a text", "run", binary.name)
    refuses(cases, lab, "no file named", "file is required", "run", code=2)
    refuses(cases, lab, "an unknown flag", "--nonsense", "run", "--nonsense", "x", code=2)
    refuses(cases, lab, "an annotation without a value", "key=value", "run", "-", "--annotate", "novalue",
            stdin=manifest("bad", [container("a")]))
    for offload in (None, "a"):
        kind = "ordinary" if offload is None else "split"
        refuses(cases, lab, f"{kind}: an image that is nowhere", "nowhere.invalid/x:1", "run", "-",
                stdin=manifest("bad", [dict(container("a"), image="nowhere.invalid/x:1")], offload=offload))
        refuses(cases, lab, f"{kind}: a bandwidth that is no quantity", "annotation kubernetes.io/ingress-bandwidth: '10Mbit'", "run", "-",
                stdin=manifest("bad", [container("a")], offload=offload, annotations={"kubernetes.io/ingress-bandwidth": "10Mbit"}))
        refuses(cases, lab, f"{kind}: a program that is not in the image", "/no/such", "run", "-",
                stdin=manifest("bad", [container("a", "/no/such")], offload=offload))
    uid = lab.run_pod(manifest("twice", [container("a")]))["uid"]
    done = refuses(cases, lab, "a Pod that exists", "Pod 'default/twice' exists", "run", "-", stdin=manifest("twice", [container("a")]))
    cases.check("and what to do is said", "heteroctl rm default/twice" in done.stderr, done.stderr)
    refuses(cases, lab, "the UID of another Pod", f"a Pod with UID '{uid}' exists", "run", "-",
            stdin=f"kind: Pod\nmetadata: {{name: other, uid: {uid}}}\nspec:\n" + ONE)
    lab.ctl("rm", "twice")
    names_no_folder(cases, lab)
    for verb in ("rm", "why", "logs"):
        refuses(cases, lab, f"{verb} of a Pod that is not there", "nobody", verb, "nobody")
    lab.ctl("rm", "--force", "nobody")
    cases.check("none of them left a Pod", lab.ctl_json("ps") == before, lab.ctl("ps").stdout)


def names_no_folder(cases, lab):
    """What a Pod's author writes into heteroctl's own annotation is never removed."""
    with tempfile.TemporaryDirectory() as precious:
        lab.run_pod(manifest("claims", [container("a")], annotations={"heteroctl.heteropod.io/folder": precious}))
        done = lab.ctl("rm", "claims")
        cases.check("rm removes no folder that a Pod's author named", os.path.isdir(precious) and precious not in done.stderr, done.stderr)
