"""Numbered lines of what was tried, and a count at the end.

    cases = Cases("split Pod")
    with cases.case("localhost reaches the DPU"):
        assert reply == expected, reply
    sys.exit(cases.finish())
"""
import contextlib
import sys
import time
import traceback


class Cases:
    def __init__(self, title):
        self.passed = self.failed = 0
        print(f"# {title}", flush=True)

    @contextlib.contextmanager
    def case(self, what):
        start = time.monotonic()
        try:
            yield
        except Exception as error:  # any failure of one case must not hide the others
            self.failed += 1
            print(f"FAIL {what}: {error}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc(file=sys.stdout)
        else:
            self.passed += 1
            print(f"ok   {what} ({time.monotonic() - start:.2f} s)", flush=True)

    def check(self, what, truth, evidence=""):
        with self.case(what):
            assert truth, evidence or "not so"

    def finish(self):
        print(f"# {self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0
