"""logs and exec of containers on both PUs: the same, wherever they run."""
import json
import subprocess

from lib.lab import HETEROCTL
from lib.manifest import AFTER_TOUCH, manifest, shell

# Standard output and error are two pipes: only a pause keeps their order.
TALK = "echo one; echo two; sleep 0.3; echo three >&2; sleep 0.3; printf half; echo; trap 'exit 0' TERM; while [ ! -e /stop ]; do sleep 0.1; done; " + AFTER_TOUCH + "; echo last; exit 3"


def talkers(lab, name):
    lab.run_pod(manifest(name, [shell("app", TALK), shell("proxy", TALK)], offload="proxy"))


def logs(cases, lab):
    talkers(lab, "talk")
    for who in ("app", "proxy"):
        follow = subprocess.Popen([HETEROCTL, "--lab", lab.name, "logs", "-f", "talk", "-c", who], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        first = follow.stdout.readline()
        cases.check(f"{who}: logs -f shows lines while it runs", first == "one\n" and follow.poll() is None, first)
        lab.ctl("exec", "talk", "-c", who, "--", "touch", "/stop")
        out, errors = follow.stdout.read(), follow.stderr.read()
        follow.wait(20)
        cases.check(f"{who}: logs -f ends with the container and has all", (first + out, errors, follow.returncode) ==
                    ("one\ntwo\nhalf\nlast\n", "three\n", 0), (out, errors, follow.returncode))
        for tail, expected in (("0", ""), ("2", "half\nlast\n"), ("100", "one\ntwo\nhalf\nlast\n")):
            done = lab.ctl("logs", "talk", "-c", who, "--tail", tail)
            cases.check(f"{who}: logs --tail {tail}", done.stdout == expected, done)
        lines = [json.loads(line) for line in lab.ctl("-o", "json", "logs", "talk", "-c", who).stdout.splitlines()]
        told = {stream: [line["text"] for line in lines if line["stream"] == stream] for stream in ("stdout", "stderr")}
        cases.check(f"{who}: logs -o json is one object per line", told == {"stdout": ["one", "two", "half", "last"], "stderr": ["three"]} and
                    all(line["time"] and line["partial"] is False for line in lines), lines)
        stamped = lab.ctl("logs", "talk", "-c", who, "--timestamps", "--tail", "1").stdout
        cases.check(f"{who}: --timestamps", stamped.endswith("Z last\n") or stamped.endswith(" last\n") and stamped[:2] == "20", stamped)
    states = {row["container"]: row["state"] for row in lab.ctl_json("ps") if row["pod"] == "default/talk"}
    cases.check("ps shows both as exited", set(states.values()) == {"exited"}, states)
    for args, words in (((), ""), (("-c", "nobody"), "has no container 'nobody'; it has: app, proxy")):
        done = lab.ctl("logs", "talk", *args, check=False)
        cases.check(f"logs {args}: {words or 'the first container'}", words in done.stderr and done.returncode == (1 if words else 0), done)
    lab.ctl("rm", "talk")


def exec_codes(cases, lab):
    talkers(lab, "codes")
    for who in ("app", "proxy"):
        def do(*argv, flags=()):
            return lab.ctl("exec", "codes", "-c", who, *flags, "--", *argv, check=False)
        for code in (0, 1, 7, 255):
            cases.check(f"{who}: exit code {code}", do("/bin/sh", "-c", f"exit {code}").returncode == code)
        done = do("/bin/sh", "-c", "echo out; echo err >&2; exit 4")
        cases.check(f"{who}: output and errors apart", (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 4), done)
        done = do("/bin/sh", "-c", "kill -9 $$")
        cases.check(f"{who}: killed by signal 9 is 137", done.returncode == 137, done)
        done = do("/no/such")
        cases.check(f"{who}: a program that is not there is an error that names it", done.returncode != 0 and "/no/such" in done.stderr, done)
        done = do("/bin/sleep", "30", flags=("--timeout", "1"))
        cases.check(f"{who}: --timeout ends it", done.returncode == 1 and "error:" in done.stderr, done)
        done = do("/bin/sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x")
        cases.check(f"{who}: 300 kB of output", len(done.stdout) == 300000, len(done.stdout))
    for args, words in ((("codes", "-c", "nobody", "--", "true"), "no container 'nobody'"), (("codes",), "no command"),
                        (("nobody", "--", "true"), "no Pod 'nobody'")):
        done = lab.ctl("exec", *args, check=False)
        cases.check(f"exec {' '.join(args)}: {words}", done.returncode == 1 and words in done.stderr, done)
    lab.ctl("exec", "codes", "-c", "proxy", "--", "touch", "/stop")
    lab.ctl("logs", "-f", "codes", "-c", "proxy")
    done = lab.ctl("exec", "codes", "-c", "proxy", "--", "true", check=False)
    cases.check("exec in an ended container of the DPU is an error", done.returncode == 1 and "error:" in done.stderr, done)
    lab.ctl("rm", "codes")
