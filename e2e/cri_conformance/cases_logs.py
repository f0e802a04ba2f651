"""Logs: files on this machine, in CRI's format, that kubelet reads, rotates and follows."""
import os
import re

from harness import case, expect, refused
from node import wait_for

LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) (.*)$")


def raw(path):
    """All that is there now: of a log that is being written the last line need not be whole."""
    with open(path, newline="\n") as file:
        return file.read()


def read(path):
    """(stream, tag, text) of every line; each must be whole."""
    text = raw(path)
    expect(not text or text.endswith("\n"), f"the last line of {path} is not whole")
    lines = [LINE.match(line) for line in text.split("\n")[:-1]]
    expect(all(lines), f"{path} is not all in CRI's format")
    return [match.group(2, 3, 4) for match in lines]


@case("log", "all lines are there when the status says that it has ended, each with its stream")
def complete(node):
    pod = node.common()
    container = pod.run("second", "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; echo e$i >&2; done; printf unended")
    expect(node.status(container).log_path == pod.log(container), node.status(container).log_path)
    node.ended(container)
    lines = read(pod.log(container))
    expect([t for s, _, t in lines if s == "stdout"] == [str(i) for i in range(1, 11)] + ["unended"], lines)
    expect([t for s, _, t in lines if s == "stderr"] == [f"e{i}" for i in range(1, 11)], lines)
    node.remove(container)


@case("log", "a long line comes in parts that make the line again")
def parts(node):
    pod = node.common()
    container = pod.run("second", "head -c 50000 /dev/zero | tr '\\0' x; echo; echo short")
    node.ended(container)
    lines = read(pod.log(container))
    expect(len(lines) > 3 and [tag for _, tag, _ in lines[-2:]] == ["F", "F"] and all(tag == "P" for _, tag, _ in lines[:-2]), [x[:2] for x in lines])
    expect("".join(t for _, _, t in lines[:-1]) == "x" * 50000 and lines[-1][2] == "short", "the parts do not make the line")
    node.remove(container)


@case("log", "rotation: renamed and reopened, no line lost, none doubled")
def rotation(node):
    pod = node.common()
    # It writes until all turns are done, however long they take.
    container = pod.run("second", "i=0; while [ ! -e /enough ]; do echo $i; i=$((i+1)); sleep 0.005; done; echo end; exec sleep 100")
    log, texts = pod.log(container), []
    for turn in range(3):
        wait_for("some lines", lambda: os.path.exists(log) and os.path.getsize(log) > 1000)
        os.rename(log, f"{log}.{turn}")
        node.cri.ReopenContainerLog(container_id=container)
        expect(os.path.exists(log), "no new file")
    node.sh(container, "touch /enough")
    wait_for("the last line", lambda: raw(log).endswith(" stdout F end\n"))
    for path in [f"{log}.{turn}" for turn in range(3)] + [log]:
        texts += [text for _, _, text in read(path)]
    want = [str(i) for i in range(len(texts) - 1)] + ["end"]
    expect(texts == want, f"{len(texts)} lines, first difference at {next((i for i, t in enumerate(texts) if t != want[i]), None)}")
    node.cri.StopContainer(container_id=container, timeout=0)
    refused(lambda: node.cri.ReopenContainerLog(container_id=container))
    node.remove(container)


@case("log", "each attempt has a log of its own")
def attempts(node):
    pod = node.common()
    containers = [pod.run("second", f"echo attempt {attempt}", attempt=attempt) for attempt in (0, 1)]
    for attempt, container in enumerate(containers):
        node.ended(container)
        expect(read(pod.log(container)) == [("stdout", "F", f"attempt {attempt}")], read(pod.log(container)))
        node.remove(container)
