"""Cases, and their outcome per target.

    @case("container", "an exit code is what the program said")
    def exit_code(node):
        expect(node.ended(node.common().run(…)).exit_code == 7, "…")
"""
import contextlib
import fcntl
import re
import time
import traceback

from cri import CriError
from node import Failed

CASES = []


class NotServed(Exception):
    """The runtime says UNIMPLEMENTED, and kubelet does without."""


def case(group, sentence, alone=False):
    """alone: while no case runs on another target, which may have the same runtime below it."""
    def register(function):
        CASES.append((group, sentence, function, alone))
        return function
    return register


@contextlib.contextmanager
def turn(node, alone):
    """The targets of a run share node.pod_root. Whoever waits to be alone lets nobody past."""
    with open(f"{node.pod_root}/.turn", "w", encoding="utf-8") as held:
        with open(f"{node.pod_root}/.gate", "w", encoding="utf-8") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def expect(truth, evidence):
    if not truth:
        raise Failed(str(evidence))


def refused(call, *codes):
    """The call fails, with one of the codes if any are given. Returns its words."""
    try:
        call()
    except CriError as error:
        expect(not codes or error.code in codes, f"{error.code} ({error.text}), expected {' or '.join(codes)}")
        return error.text
    raise Failed("it was accepted")


def ok_or_refused(call, code):
    try:
        call()
    except CriError as error:
        expect(error.code == code, error)


def served(call):
    try:
        return call()
    except CriError as error:
        if error.code == "UNIMPLEMENTED":
            raise NotServed(error.text) from None
        raise


def run_cases(node, only):
    """Yields group, sentence, outcome, detail, seconds."""
    for group, sentence, function, alone in CASES:
        if only not in f"{group}: {sentence}":
            continue
        start, outcome, detail = time.monotonic(), "PASS", ""
        with turn(node, alone):
            try:
                function(node)
            except NotServed as missing:
                outcome, detail = "n.a.", str(missing)
            except (Failed, CriError) as error:
                outcome, detail = "FAIL", str(error)
            except Exception as error:  # an answer of a shape that the case did not think of
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcome, detail = "FAIL", f"{type(error).__name__}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
            node.clean()
        yield group, sentence, outcome, re.sub(r"[0-9a-f]{64}", "ID", detail), time.monotonic() - start
