"""The text format of Prometheus, version 0.0.4, read strictly: what a scraper would reject raises here.

    scrape = parse(text)
    scrape.value("heterod_ports", owner="dpu")
"""
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*$")
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")


class Malformed(AssertionError):
    pass


def need(truth, what):
    if not truth:
        raise Malformed(what)


def labels_of(text):
    labels, at = {}, 0
    while at < len(text):
        found = LABEL.match(text, at)
        need(found, f"labels '{text}'")
        need(found.group(1) not in labels, f"label '{found.group(1)}' is there twice: {text}")
        labels[found.group(1)], at = found.group(2), found.end()
    return labels


class Scrape:
    def __init__(self):
        self.types, self.help, self.samples = {}, {}, {}  # samples: (name, sorted labels) -> value

    def value(self, name, **labels):
        """The sum of the samples that have these labels; None when there is none."""
        found = [value for (n, have), value in self.samples.items() if n == name and labels.items() <= dict(have).items()]
        return sum(found) if found else None

    def labels(self, name, label):
        return {dict(have).get(label) for n, have in self.samples if n == name}

    def family(self, name):
        if name in self.types:
            return name
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        need(self.types.get(base) in ("histogram", "summary"), f"sample '{name}' has no TYPE")
        return base


def parse(text):
    need(text.endswith("\n"), "the last line has no end")
    scrape, current, done = Scrape(), None, set()
    for line in text.splitlines():
        if line.startswith("# "):
            word, name, rest = (line[2:].split(" ", 2) + [""])[:3]
            need(NAME.match(name), line)
            if name != current:
                need(name not in done, f"the family '{name}' is in two places")
                done.add(name)
                current = name
            if word == "TYPE":
                need(name not in scrape.types and rest in TYPES, line)
                scrape.types[name] = rest
            else:
                need(word == "HELP" and name not in scrape.help, line)
                scrape.help[name] = rest
            continue
        found = SAMPLE.match(line)
        need(found, f"line '{line}'")
        name, labels = found.group(1), labels_of(found.group(2) or "")
        need(scrape.family(name) == current, f"'{name}' stands among '{current}'")
        key = (name, tuple(sorted(labels.items())))
        need(key not in scrape.samples, f"{line}: there twice")
        scrape.samples[key] = float(found.group(3))
    check_families(scrape)
    return scrape


def check_families(scrape):
    for name, kind in scrape.types.items():
        need(scrape.help.get(name), f"'{name}' says nothing of itself")
        need(kind != "counter" or name.endswith("_total"), f"counter '{name}' does not end in _total")
        if kind == "histogram":
            check_histogram(scrape, name)
        for (sample, _), value in scrape.samples.items():
            need(kind != "counter" or sample != name or value >= 0, f"counter '{name}' is {value}")


def check_histogram(scrape, name):
    series = {}
    for (sample, labels), value in scrape.samples.items():
        rest = tuple(pair for pair in labels if pair[0] != "le")
        if sample == f"{name}_bucket":
            series.setdefault(rest, []).append((float(dict(labels)["le"].replace("+Inf", "inf")), value))
    for rest, buckets in series.items():
        need(buckets == sorted(buckets), f"{name}{rest}: buckets are not in order or not cumulative: {buckets}")
        need(all(a[1] <= b[1] for a, b in zip(buckets, buckets[1:])), f"{name}{rest}: not cumulative")
        need(buckets[-1][0] == float("inf") and buckets[-1][1] == scrape.samples[(f"{name}_count", rest)],
             f"{name}{rest}: the last bucket is not the count")
        need((f"{name}_sum", rest) in scrape.samples, f"{name}{rest}: no sum")
