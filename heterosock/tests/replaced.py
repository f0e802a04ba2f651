#!/usr/bin/env python3
"""A library that is replaced under programs which have it: tools/install puts another file in its place, they go on with
the one they have, and talk with programs that have the new one. So does the agent's program.

    first, second ── the old file      third ── the new one
"""
import os
import sys

from installed import PATIENCE, Connection, Place, Program, missing, until

OURS = ["usr/bin/heterosock", "usr/bin/heterosockctl", "usr/bin/heterosockd", "usr/lib/heterosock/libheterosock.so",
        "usr/lib/heterosock/musl/libheterosock.so", "etc/heterok8s/heterosockd.yaml", "etc/systemd/system/heterosockd.service"]


def check(place):
    files = {name: os.stat(place.path(name)).st_ino for name in OURS}
    library = place.path("usr/lib/heterosock/libheterosock.so")
    with open(place.path("etc/heterok8s/heterosockd.yaml"), "a", encoding="utf-8") as config:
        config.write("# this machine's own\n")
    agent = place.start_agent()
    first, second = Program(place), Program(place)
    old = Connection(first, second)
    old.moves(place)
    assert first.libraries() == second.libraries() == {library}

    place.install()

    for name, inode in files.items():
        assert (os.stat(place.path(name)).st_ino == inode) == name.endswith(".yaml"), f"{name} is the same file, or another configuration"
    there = {os.path.relpath(os.path.join(folder, name), place.path("")) for folder, _, names in os.walk(place.path("")) for name in names}
    assert there == set(OURS), there
    assert first.libraries() == second.libraries() == {f"{library} (deleted)"}
    old.exchange()
    assert old.sends_on(place) == {"shared"}
    third = Program(place)
    assert third.libraries() == {library}
    mixed = Connection(third, first)
    mixed.moves(place)

    # The agent's program, too: it ends, the new one comes, and is told of what there is.
    agent.terminate()
    assert agent.wait(PATIENCE) == 0
    old.exchange()
    mixed.exchange()
    place.start_agent()
    Connection(second, third).moves(place)
    Connection(third, first).moves(place)
    until(lambda: len(place.status()["channels"]) == 4, "the new agent knows all four")
    old.exchange()
    mixed.exchange()
    assert old.sends_on(place) == mixed.sends_on(place) == {"shared"}


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
