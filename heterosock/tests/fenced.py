#!/usr/bin/env python3
"""An operator has connections go back to TCP by heterosockctl: those of a process, all that are there, and all that come."""
import sys

from installed import Connection, Place, Program, missing, until

BACK, ASKED = "back on TCP", "an operator asked for TCP"


def was_declined(place, connection):
    def look():
        connection.exchange()
        return any(each["pid"] in connection.pids and each["reason"] == ASKED for each in place.status()["recent_declines"])

    until(look, "the agent declines a connection")


def check(place):
    place.start_agent()
    first, second, third = Program(place), Program(place), Program(place)
    of_first, other = Connection(first, second), Connection(second, third)
    of_first.moves(place)
    other.moves(place)

    place.ctl("fence", "--pid", str(first.process.pid))
    of_first.comes_to(place, BACK)
    assert other.sends_on(place) == {"shared"}
    later = Connection(first, third)
    later.moves(place)

    said = place.ctl("fence", "--all", "--stay")
    assert "no other one moves" in said, said
    other.comes_to(place, BACK)
    later.comes_to(place, BACK)
    fresh = Connection(first, second)
    was_declined(place, fresh)
    assert fresh.sends_on(place) == set()
    assert "until `heterosockctl resume`" in place.ctl("status")

    place.ctl("resume")
    fresh.moves(place)
    assert "resume" not in place.ctl("status")
    for gone_back in (of_first, other, later):  # these do not move a second time
        gone_back.exchange()
        assert gone_back.sends_on(place) == {BACK}


def main():
    why = missing()
    if why:
        print(why)
        return 77
    with Place() as place:
        check(place)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
