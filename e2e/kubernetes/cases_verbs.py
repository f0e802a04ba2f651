"""kubectl's verbs on both containers of a Pod: what a person does."""
import os
import subprocess
import tempfile
import threading
import time
import urllib.request

from cluster import IMAGE, container, pod, talker, wait_for
from terminal import Terminal

OVER_SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}  # kubectl's way before 1.31


def make(cluster, split):
    name = "verbs-split" if split else "verbs-whole"
    cluster.apply(pod(name, [
        talker("app", ports=[{"containerPort": 8081}]),
        talker("sidecar"),
    ], split))
    cluster.wait_ready(name)
    return name


def placement(cluster, cases, name, split):
    with cases.case(f"{name}: Running and Ready, containers where they were asked to be"):
        found = cluster.places(name)
        assert found == {"app": "host", "sidecar": "dpu" if split else "host"}, found


def logs(cluster, cases, name):
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: logs shows its lines from the first on, and logs -f those to come"):
            text = cluster.kubectl("logs", name, "-c", which).stdout
            assert text.startswith(f"{which} starts\n{which} 1\n"), text[:200]
            with cluster.start("logs", "-f", "--tail=1", name, "-c", which) as follow:
                numbers = [int(follow.stdout.readline().split()[1]) for _ in range(6)]
                follow.kill()
            assert numbers == list(range(numbers[0], numbers[0] + 6)), numbers


def execs(cluster, cases, name):
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: exec has its output, its errors and its exit code"):
            done = cluster.exec(name, which, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
            assert (done.stdout, done.returncode) == ("out\n", 7) and "err\n" in done.stderr, done
        with cases.case(f"{name}/{which}: exec -i reads stdin to its end, one MiB"):
            text = "x" * 1023 + "\n"
            done = cluster.kubectl("exec", "-i", name, "-c", which, "--", "wc", "-c", stdin=text * 1024)
            assert done.stdout.strip() == str(1 << 20), done
        with cases.case(f"{name}/{which}: exec over SPDY does the same"):
            done = cluster.exec(name, which, "sh", "-c", "echo out; echo err >&2; exit 7", check=False, env={**os.environ, **OVER_SPDY})
            assert (done.stdout, done.returncode) == ("out\n", 7) and "err\n" in done.stderr, done
        with cases.case(f"{name}/{which}: exec -it is a terminal with its size, another size too, and Ctrl-C arrives"):
            terminal(cluster, name, which)


def terminal(cluster, name, which):
    with Terminal(cluster.kubectl_argv("exec", "-it", name, "-c", which, "--", "sh"), rows=33, columns=111) as shell:
        shell.until("# ")
        shell.type("tty; stty size; echo mark$((40+2))\n")
        shell.until("/dev/pts/")
        shell.until("33 111")
        shell.until("mark42")
        shell.resize(44, 122)
        shell.type("while [ \"$(stty size)\" != '44 122' ]; do sleep 0.1; done; echo now $(stty size)\n")
        shell.until("now 44 122")
        shell.until("# ")
        shell.type("sleep 1000; echo code $?\n")
        time.sleep(0.3)  # the shell must have begun to wait; a terminal does not say so
        shell.type("\x03")
        shell.until("# ")
        shell.type("exit 5\n")
        assert shell.wait() == 5, shell.program.returncode


def attach(cluster, cases, name):
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: attach shows what it says from now on"):
            with cluster.start("attach", name, "-c", which) as attached:
                line = attached.stdout.readline()
                attached.kill()
            assert line.split()[0] == which and line.split()[1].isdigit(), line


def listen(cluster, cases, split):
    """attach -i, to a container that reads."""
    name = "listens-split" if split else "listens-whole"
    hears = 'while read line; do echo "heard $line"; done; echo over; exec sleep 1000000'
    cluster.apply(pod(name, [container(which, hears, stdin=True, stdinOnce=True) for which in ("app", "sidecar")], split))
    cluster.wait_ready(name)
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: attach -i says what is typed to the container, and that it is over"):
            with cluster.start("attach", "-i", name, "-c", which, stderr=subprocess.DEVNULL) as attached:
                lines = []
                reader = threading.Thread(target=lambda: lines.extend(attached.stdout), daemon=True)
                reader.start()

                def heard(line, again=""):
                    if line not in lines and again:
                        attached.stdin.write(again)
                        attached.stdin.flush()
                    return line in lines
                try:
                    # containerd takes what is typed before it shows what the container says of it.
                    wait_for("heard one", lambda: heard("heard one\n", again="one\n"), every=0.5)
                    attached.stdin.write("two\n")
                    attached.stdin.close()
                    wait_for("over", lambda: heard("over\n"))
                finally:
                    attached.kill()
            reader.join()
            assert set(lines[:-2]) == {"heard one\n"} and lines[-2:] == ["heard two\n", "over\n"], lines
    cluster.delete("pod", name, "--grace-period=0", "--force")


def by_hand(cluster, cases, split):
    """`kubectl run -it --rm`: a Pod of one container, a terminal in it, its exit code, and no trace."""
    name = "by-hand-split" if split else "by-hand-whole"
    asks = ("heteropod.io/offload=dpu", f"heteropod.io/offload-containers={name}") if split else ()
    argv = cluster.kubectl_argv("run", "-it", "--rm", "--restart=Never", f"--image={IMAGE}", "--image-pull-policy=IfNotPresent",
                                *[f"--annotations={each}" for each in asks], name, "--", "sh")
    with cases.case(f"{name}: run -it --rm is a shell in a new Pod, ends with its exit code, and takes the Pod away"):
        with Terminal(argv, rows=33, columns=111) as shell:
            # What was shown before kubectl was attached is not shown again.
            shell.until("# ", 120, again="\n")
            assert cluster.places(name) == {name: "dpu" if split else "host"}, cluster.places(name)
            # kubectl says the size of the window after it has attached, and first another one.
            shell.type("while [ \"$(stty size)\" != '33 111' ]; do sleep 0.1; done; echo mark$((40+2))\n")
            shell.until("mark42")
            shell.type("exit 5\n")
            assert shell.wait() == 5, (shell.program.returncode, shell.seen)
        wait_for("its end", lambda: cluster.kubectl("get", "pod", name, check=False).returncode != 0)


def copy(cluster, cases, name):
    data = os.urandom(3 << 20)
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: cp there and back"), tempfile.TemporaryDirectory() as folder:
            there, back = os.path.join(folder, "there"), os.path.join(folder, "back")
            with open(there, "wb") as file:
                file.write(data)
            cluster.kubectl("cp", "-c", which, there, f"{name}:/tmp/copied")
            cluster.kubectl("cp", "-c", which, f"{name}:/tmp/copied", back)
            with open(back, "rb") as file:
                assert file.read() == data


def port_forward(cluster, cases, name):
    for which, port in (("app", 8081), ("sidecar", 8082)):
        with cases.case(f"{name}/{which}: port-forward reaches what listens on localhost there"):
            cluster.exec(name, which, "sh", "-c",
                         f"mkdir -p /tmp/www; echo page of {which} > /tmp/www/index.html; httpd -p 127.0.0.1:{port} -h /tmp/www")
            with cluster.start("port-forward", f"pod/{name}", f"0:{port}") as forward:
                line = forward.stdout.readline()  # Forwarding from 127.0.0.1:41234 -> 8081
                local = line.split("127.0.0.1:")[1].split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{local}/", timeout=60) as answer:
                    page = answer.read().decode()
                forward.kill()
            assert page == f"page of {which}\n", page


def describe(cluster, cases, name):
    with cases.case(f"{name}: describe names both containers, Running, and the events of each"):
        text = cluster.kubectl("describe", "pod", name).stdout
        assert text.count("State:          Running") == 2, text
        # kubelet's sentences change from minor to minor; reason and container do not.
        events = {(each["reason"], each["involvedObject"].get("fieldPath"))
                  for each in cluster.get("events", "--field-selector", f"involvedObject.name={name}")["items"]}
        for which in ("app", "sidecar"):
            for reason in ("Created", "Started"):
                assert reason in text and (reason, f"spec.containers{{{which}}}") in events, (text, events)


def debug(cluster, cases, name):
    for target in ("app", "sidecar"):
        with cases.case(f"{name}/{target}: an ephemeral container beside it sees its processes"):
            helper = f"debug-{target}"
            cluster.kubectl("debug", name, f"--image={IMAGE}", f"--target={target}", "-c", helper,
                            "--", "sh", "-c", "ps; sleep 100000")
            wait_for("the helper runs", lambda: "trap" in cluster.kubectl("logs", name, "-c", helper, check=False).stdout)


def run(cluster, cases, split):
    name = make(cluster, split)
    placement(cluster, cases, name, split)
    for part in (logs, execs, attach, copy, port_forward, describe, debug):
        part(cluster, cases, name)
    with cases.case(f"{name}: delete takes it away"):
        cluster.delete("pod", name)
    listen(cluster, cases, split)
    by_hand(cluster, cases, split)
