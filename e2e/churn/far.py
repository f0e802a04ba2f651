#!/usr/bin/env python3
"""far.py NETNS_FOLDER HOST_PORT DPU_PORT: the DPU's half of a batch. In every half of a Pod there is: calls localhost:HOST_PORT,
which the host's side serves, and listens on DPU_PORT. Prints {"halves", "errors"}, and closes its listeners when its
standard input closes. Runs inside the DPU PU."""
import glob
import json
import sys

from sockets import Answers, call


def main():
    folder, host_port, dpu_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answers, errors, halves = Answers(), [], sorted(glob.glob(f"{folder}/*"))
    for path in halves:
        try:
            answers.listen(path, dpu_port)
            call("127.0.0.1", host_port, path)
        except Exception as error:  # every failure is counted and shown
            errors.append(f"{path}: {error}")
            if len(errors) == 3:
                break  # each took as long as a call may
    print(json.dumps({"halves": len(halves), "errors": errors}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
