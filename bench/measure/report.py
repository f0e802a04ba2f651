"""One suite's figures: a table for people and the same as JSON.

Each row stands beside a baseline measured in the same run, so that a noisy machine disturbs both alike. What has been
measured is told on stderr as it comes; the table is on stdout.

    report = Report("calls", "bench/run calls")
    report.row("direct call, TCP", "us", times, baseline=("one veth hop", base_times), goal=("<=", 1.05, "ratio"))
    report.finish(path_or_none)

JSON: {"suite","machine":{cpus,kernel,cpu},"command","rows":[{"what","unit","n","p50","p99",
       "baseline":{"what","p50","p99"},"ratio","ratio_p99","goal":{"op","value","of"},"met"}]}
ratio is p50 over the baseline's p50, ratio_p99 the same of the p99; of says what the goal is about: ratio, ratio_p99, p50
or p99.
"""
import json
import os
import platform
import sys

OPERATORS = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}


def percentile(values, percent):
    """Nearest rank; values need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * percent // 100) - 1))]


def machine():
    model = ""
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpus": os.cpu_count(), "kernel": platform.release(), "cpu": model}


def short(value):
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


class Report:
    def __init__(self, suite, command):
        self.data = {"suite": suite, "machine": machine(), "command": command, "rows": []}

    def row(self, what, unit, samples, baseline=None, goal=None):
        """samples: numbers; baseline: (what, numbers) or None; goal: (op, value, "ratio"|"ratio_p99"|"p50"|"p99") or None."""
        row = {"what": what, "unit": unit, "n": len(samples), "p50": percentile(samples, 50), "p99": percentile(samples, 99)}
        if baseline:
            base_what, base = baseline
            row["baseline"] = {"what": base_what, "p50": percentile(base, 50), "p99": percentile(base, 99)}
            # None beside a baseline that is below the clock's resolution.
            for name, of in (("ratio", "p50"), ("ratio_p99", "p99")):
                row[name] = row[of] / row["baseline"][of] if row["baseline"][of] > 0 else None
        if goal:
            op, value, of = goal
            row["goal"] = {"op": op, "value": value, "of": of}
            row["met"] = row[of] is not None and OPERATORS[op](row[of], value)
        self.data["rows"].append(row)
        # A suite takes minutes, and the table comes at its end.
        print(f"  {what}: {short(row['p50'])} {unit}", file=sys.stderr, flush=True)

    def table(self):
        header = ["WHAT", "UNIT", "N", "P50", "P99", "BASELINE", "P50", "RATIO", "GOAL", ""]
        lines = [header]
        for r in self.data["rows"]:
            base, goal = r.get("baseline", {}), r.get("goal")
            lines.append([r["what"], r["unit"], str(r["n"]), short(r["p50"]), short(r["p99"]), base.get("what", ""),
                          short(base.get("p50")), short(r.get("ratio")),
                          f"{goal['of']} {goal['op']} {goal['value']}" if goal else "",
                          "" if goal is None else "met" if r["met"] else "MISSED"])
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)

    def finish(self, path=None):
        m = self.data["machine"]
        print(f"{self.data['suite']}: {m['cpus']} CPUs, {m['cpu']}, Linux {m['kernel']}")
        print(self.table())
        sys.stdout.flush()
        if path:
            with open(path, "w") as file:
                json.dump(self.data, file, indent=2)
                file.write("\n")
