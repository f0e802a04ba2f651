#!/usr/bin/env python3
"""greedy.py COUNT PORT: binds COUNT (protocol, address, port) combinations in one network namespace, with ports from PORT
on, and holds what it gets until standard input ends. Prints {"held": n, "refused": {"ENOBUFS": n, …}}."""
import collections
import errno
import json
import resource
import socket
import sys


def main():
    count, first = int(sys.argv[1]), int(sys.argv[2])
    most = max(count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) + 100
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held, refused = [], collections.Counter()
    for number in range(count):
        tcp = number % 4 == 0
        greedy = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        try:
            greedy.bind((f"127.{1 + number // 40000}.{number // 200 % 200}.{1 + number % 200}", first + number % 7000))
            if tcp:
                greedy.listen(1)
            held.append(greedy)
        except OSError as error:
            refused[errno.errorcode[error.errno]] += 1
            greedy.close()
    print(json.dumps({"held": len(held), "refused": refused}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
