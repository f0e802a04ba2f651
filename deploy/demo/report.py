"""The table a person reads: sections of rows; each row is what should be true and, per column, whether it is and why."""
import os
import sys

WIDTH = 62  # characters of evidence per column


def clip(text):
    text = " ".join(str(text).split())
    return text if len(text) <= WIDTH else text[:WIDTH - 1] + "…"


class Report:
    def __init__(self):
        self.good = self.bad = 0
        self.columns = []
        self.pending = []
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def paint(self, text, code):
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def say(self, text):
        self.flush()
        print(text, flush=True)

    def quote(self, title, text):
        """A command and what it printed."""
        self.say("\n" + self.paint(title, "1"))
        print("\n".join("  " + line for line in text.splitlines()), flush=True)

    def section(self, title, columns):
        self.flush()
        self.columns = columns
        self.title = title

    def row(self, what, results):
        """results: per column (is it true, evidence), (None, text) for what is only told, or None where the row says nothing."""
        self.pending.append((what, results))
        for result in results:
            if result is not None and result[0] is not None:
                if result[0]:
                    self.good += 1
                else:
                    self.bad += 1

    def flush(self):
        """Prints the section, its columns as wide as their widest cell."""
        if not self.pending:
            return
        first = max([len(self.title)] + [len(what) + 2 for what, _ in self.pending])
        widths = [max([len(name) + 2] + [len(clip(r[i][1])) + 2 for _, r in self.pending if r[i] is not None])
                  for i, name in enumerate(self.columns)]
        head = self.title.ljust(first) + "".join("  " + name.ljust(width) for name, width in zip(self.columns, widths))
        print("\n" + self.paint(head.rstrip(), "1"))
        for what, results in self.pending:
            line = ("  " + what).ljust(first)
            for result, width in zip(results, widths):
                if result is None:
                    line += "  " + " " * width
                    continue
                mark = " " if result[0] is None else self.paint("✓", "32") if result[0] else self.paint("✗", "31")
                line += "  " + mark + " " + clip(result[1]).ljust(width - 2)
            print(line.rstrip())
        sys.stdout.flush()
        self.pending = []

    def fail(self, text):
        self.flush()
        self.bad += 1
        print("\n" + self.paint("✗ " + text, "31"), flush=True)

    def finish(self, seconds):
        self.flush()
        verdict = self.paint("all true", "32") if self.bad == 0 else self.paint(f"{self.bad} not true", "31")
        print(f"\n{self.good + self.bad} checks in {seconds:.0f} s: {verdict}")
        return 0 if self.bad == 0 else 1
