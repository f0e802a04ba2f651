"""What programs read: `why -o json` of a Pod whose ports just changed, and -o json of every command that meets a Pod."""
import json
import time

from lib.lab import PORTS, wait_for


def why(cases, pod):
    """Both PUs say the same of a port that one of them has just opened, and who was refused it."""
    for owner, other in (("host", "dpu"), ("dpu", "host")):
        before = time.time() * 1000
        with pod.serve(owner, "tcp:0.0.0.0:0") as server:
            name = f"tcp 0.0.0.0:{server.ports[0]}"

            def known():
                answer = pod.lab.why(pod.name)
                owners = {side: [p["owner"] for p in answer[side]["ports"] if p["port"] == name] for side in ("host", "dpu")}
                return answer if owners == {"host": [owner], "dpu": [owner]} else None
            answer = wait_for(f"both PUs to say that the {owner} owns {name}", known)
            wait_for("the other side to be refused", lambda: not pod.probe(other, "bind", "tcp", "0.0.0.0", server.ports[0])["ok"])
            after = time.time() * 1000
            port = next(p for p in answer["ports"] if p["port"] == name)
            # Told by the kernel's clock since boot, compared with the wall's: a second for the difference.
            cases.check(f"why: {owner}'s port has its owner and since when", port["owner"] == owner and
                        (PORTS == "placeholder" or before - 1000 <= int(port["since_unix_ms"]) <= after + 1000), (before, port, after))
            halves = [answer[side] for side in ("host", "dpu")]
            generations = {half["generation"] for half in halves} | {half["peer_generation"] for half in halves}
            cases.check("why: one generation on both PUs, which know each other's", len(generations) == 1 and generations != {"0"}, halves)
            if PORTS != "placeholder":  # a placeholder does not know who was refused
                refused = wait_for("the refusal to be told", lambda: [r for r in pod.lab.why(pod.name)["last_refusals"] if name in r])
                cases.check(f"why: the last refusal names port, program and PU of who was refused",
                            all(word in refused[0] for word in (name, "python3", f"on the {other}")), refused)
    answer = pod.lab.why(pod.name)
    containers = {c["container"]: c["pu"] for c in answer["containers"]}
    cases.check("why: containers and their PUs; all daemons answered", containers == {"app": "host", "sidecar": "dpu"} and
                answer["not_asked"] == [], answer)


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def commands(cases, pod):
    """Every answer is one JSON document, errors too; exit codes stay."""
    lab = pod.lab

    def ask(*args):
        return lab.ctl("-o", "json", *args, check=False)
    for who in ("app", "sidecar"):
        done = ask("exec", pod.name, "-c", who, "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 3")
        cases.check(f"exec -o json in {who}: one object, the command's exit code", done.returncode == 3 and parsed(done.stdout) ==
                    {"exit_code": 3, "stdout": "out\n", "stderr": "err\n"} and done.stderr == "", done)
        done = ask("exec", pod.name, "-c", who, "--", "/bin/sh", "-c", "printf '\\377\\n'")
        cases.check(f"exec -o json in {who}: bytes that are no text are replaced", (parsed(done.stdout) or {}).get("stdout") == "\ufffd\n", done)
    for args, code, words in ((("why", "nobody"), 1, "nobody"), (("logs", "nobody"), 1, "nobody"), (("rm", "nobody"), 1, "nobody"),
                              (("exec", pod.name, "-c", "nobody", "--", "true"), 1, "nobody"), (("exec", pod.name), 1, "no command"),
                              (("why",), 2, "POD")):
        done = ask(*args)
        error = (parsed(done.stderr) or {}).get("error", {})
        cases.check(f"-o json {' '.join(args)}: exit {code}, the error is an object", done.returncode == code and done.stdout == "" and
                    words in error.get("message", "") and error.get("code"), done)
    for args in (("status",), ("ps",)):
        done = ask(*args)
        cases.check(f"-o json {' '.join(args)}: one document", parsed(done.stdout) is not None and done.stderr == "", done)


def removed(cases, pod):
    done = pod.lab.ctl("-o", "json", "rm", pod.name)
    cases.check("rm -o json says what was removed", parsed(done.stdout) == {"removed": [pod.name]} and done.stderr == "", done)
