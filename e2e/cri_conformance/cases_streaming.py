"""Exec, Attach and PortForward through the URL that the runtime gives, with Kubernetes's own client (stream/)."""
import os
import subprocess
import urllib.parse

from harness import case, expect
from node import Failed, wait_for

CLIENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../.build/bin/cri-stream")
KINDS = ("spdy", "websocket")


def stream(what, url, *flags, stdin=b"", kind="spdy", seconds=20):
    """Returns (exit code, stdout, stderr). 250 is a failure of the connection."""
    expect(os.path.exists(CLIENT), f"{CLIENT} is not built")
    done = subprocess.run([CLIENT, what, "--url", url, "--kind", kind, *flags], input=stdin, capture_output=True, timeout=seconds, check=False)
    return done.returncode, done.stdout, done.stderr


def execute(node, script, *flags, typed=b"", kind="spdy", **fields):
    """fields: of ExecRequest."""
    node.common()
    url = node.cri.Exec(container_id=node.long, cmd=["/bin/sh", "-c", script], stdout=True, stderr=not fields.get("tty"), **fields).url
    if fields.get("stdin"):
        flags += ("--stdin",)
    if fields.get("tty"):
        flags += ("--tty",)
    return stream("exec", url, *flags, stdin=typed, kind=kind)


@case("streaming", "the URL is absolute, plain HTTP, of this machine alone, and good for one connection")
def one_time(node):
    node.common()
    url = node.cri.Exec(container_id=node.long, cmd=["true"], stdout=True, stderr=True).url
    parts = urllib.parse.urlparse(url)
    expect(parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1") and parts.port, url)
    expect(stream("exec", url)[0] == 0, "the first connection")
    code, _, errors = stream("exec", url)
    expect(code == 250 and b"404" in errors or b"not found" in errors.lower() or b"unable to upgrade" in errors, (code, errors))


@case("streaming", "exec: output, errors and exit code apart")
def exec_apart(node):
    for kind in KINDS:
        got = execute(node, "echo out; echo err >&2; exit 7", kind=kind)
        expect(got == (7, b"out\n", b"err\n"), (kind, got))


@case("streaming", "exec: what is typed reaches the program, and its end too")
def exec_stdin(node):
    got = execute(node, "cat; echo over", typed=b"one\ntwo\n", stdin=True)
    expect(got == (0, b"one\ntwo\nover\n", b""), got)


@case("streaming", "exec: two megabytes there and back")
def exec_much(node):
    data = os.urandom(1 << 20) * 2
    got = execute(node, "cat", typed=data, stdin=True)
    expect(got[0] == 0 and got[1] == data, (got[0], len(got[1]), got[2]))


@case("streaming", "exec in a terminal: it has the size of ours, and changes with it")
def exec_tty(node):
    for kind in KINDS:
        code, out, errors = execute(node, "until [ \"$size\" = '50 132' ]; do size=$(stty size 2>&1); echo $size; sleep 0.1; done; exit 4", "--size", "80x24", "--then", "132x50",
                                    kind=kind, tty=True, stdin=True)
        sizes = out.decode().split("\r\n")
        expect(code == 4 and "24 80" in sizes and sizes[-2] == "50 132", (kind, code, sizes, errors))


@case("streaming", "exec: a program that is not there")
def exec_nothing(node):
    node.common()
    url = node.cri.Exec(container_id=node.long, cmd=["/no/such"], stdout=True, stderr=True).url
    code, _, errors = stream("exec", url)
    expect(code != 0 and b"/no/such" in errors, (code, errors))


@case("streaming", "attach: what it says and hears while it runs")
def attach(node):
    pod = node.common()
    container = pod.run("second", "while read line; do echo heard $line; [ $line != end ] || exit 0; done", stdin=True, stdin_once=True)
    url = node.cri.Attach(container_id=container, stdout=True, stderr=True, stdin=True).url
    code, out, errors = stream("attach", url, "--stdin", stdin=b"hello\nend\n")
    expect((code, out) == (0, b"heard hello\nheard end\n"), (code, out, errors))
    node.ended(container)
    node.remove(container)


@case("streaming", "port-forward: a server on localhost, again and again")
def port_forward(node):
    pod = node.common()
    container = pod.run("second", "echo ready; while :; do echo reply | nc -l -p 7654; done")
    wait_for("the server", lambda: os.path.exists(pod.log(container)) and os.path.getsize(pod.log(container)))
    url = node.cri.PortForward(pod_sandbox_id=pod.id, port=[7654]).url
    expect(url.startswith("http://"), url)
    got = []

    def reply():
        got.append(stream("forward", node.cri.PortForward(pod_sandbox_id=pod.id, port=[7654]).url, "--port", "7654"))
        return got[-1][:2] == (0, b"reply\n")
    for _ in range(2):
        try:
            wait_for("a reply", reply, 60, 0.2)
        except Failed as late:
            raise Failed(f"{late}: {got[-1]}") from late
    node.remove(container)
    node.made.clear()
