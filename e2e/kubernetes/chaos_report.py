"""What a run of chaos has shown: told at its end, and kept as JSON for whoever compares runs.

    report = Report(seed=7, seconds=1200)
    report.spoke(lines=300, with_containerd=0)
    report.wrong(error)
    report.tell(".build/kubernetes-chaos.json")
"""
import collections
import json
import threading


class Wrong(AssertionError):
    """Something that must not happen; `kind` is one of KINDS_OF_WRONG."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


KINDS_OF_WRONG = ("containers_lost", "containers_doubled", "lines_lost", "lines_doubled", "lines_broken")


class Report:
    """Thread-safe: workers tell it while the killer does."""

    def __init__(self, seed, seconds):
        self.lock = threading.Lock()
        self.values = {"seed": seed, "seconds": seconds, "kills": {}, "pods": {}, "containers_checked": 0, "lines": 0,
                       "lines_gone_with_a_containerd": 0, "ends_gone_with_a_containerd": 0,
                       "exec_sessions_cut_without_an_error": 0, "namespaces_forgotten_by_the_hosts_containerd": 0,
                       **dict.fromkeys(KINDS_OF_WRONG, 0), "other_failures": 0, "node_not_ready": [], "left_behind": {}}

    def spoke(self, lines, with_containerd):
        """A container whose lines are all there, but for those that its containerd had in its hands."""
        with self.lock:
            self.values["containers_checked"] += 1
            self.values["lines"] += lines
            self.values["lines_gone_with_a_containerd"] += with_containerd

    def end_went_with_containerd(self):
        with self.lock:
            self.values["ends_gone_with_a_containerd"] += 1

    def session_cut(self):
        with self.lock:
            self.values["exec_sessions_cut_without_an_error"] += 1

    def wrong(self, error):
        """Any failure, once."""
        with self.lock:
            self.values[getattr(error, "kind", "other_failures")] += 1

    def killed(self, kills):
        """Every (daemon, PU), in order."""
        counted = collections.Counter(f"{daemon} ({pu})" for daemon, pu in kills)
        self.values["kills"] = {**dict(sorted(counted.items())), "all": len(kills)}

    def set(self, **values):
        self.values.update(values)

    def tell(self, path):
        text = json.dumps(self.values, indent=2)
        print(f"# summary, also in {path}\n{text}", flush=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
