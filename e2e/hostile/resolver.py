#!/usr/bin/env python3
"""resolver.py HELD QUESTIONS: as a resolver does, binds a UDP port of the kernel's choice for each question and closes it
after the answer; HELD other ports it keeps. Prints {"held": n, "bound": n, "refused": {"ENOBUFS": n, …}}."""
import collections
import errno
import json
import socket
import sys


def main():
    held, refused = [], collections.Counter()

    def bind():
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            bound.bind(("0.0.0.0", 0))
            return bound
        except OSError as error:
            refused[errno.errorcode[error.errno]] += 1
            bound.close()
            return None

    for _ in range(int(sys.argv[1])):
        if port := bind():
            held.append(port)
    questions = 0
    for _ in range(int(sys.argv[2])):
        if port := bind():
            port.close()
            questions += 1
    print(json.dumps({"held": len(held), "bound": questions, "refused": refused}))


if __name__ == "__main__":
    main()
