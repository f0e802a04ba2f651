"""The table on the terminal and the JSON file, from the same rows."""
import json

WIDTH = 92


def save(path, name, rows, about):
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"suite": "cni_conformance", "plugin": name, **about,
                   "cases": [{"group": g, "case": t, "outcome": o, "reason": r} for g, t, o, r in rows]}, file, indent=1)
        file.write("\n")


def load(path):
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    return report["plugin"], {(c["group"], c["case"]): c["outcome"] for c in report["cases"]}


class Table:
    """Prints a line as each case ends; `beside` are former reports, each a column."""

    def __init__(self, name, beside):
        self.beside = beside
        print(f"{'':10} {'case':{WIDTH}} {name:>10}" + "".join(f" {other:>8}" for other, _ in beside))

    def line(self, group, title, outcome, reason):
        print(f"{group:10} {title[:WIDTH]:{WIDTH}} {outcome:>10}" +
              "".join(f" {cases.get((group, title), '-'):>8}" for _, cases in self.beside), flush=True)
        if reason:
            print(f"{'':13}{reason}", flush=True)


def summary(name, rows):
    count = {outcome: sum(1 for row in rows if row[2] == outcome) for outcome in ("PASS", "FAIL", "n.a.")}
    return f"{name}: {count['PASS']} passed, {count['FAIL']} failed, {count['n.a.']} not applicable"
