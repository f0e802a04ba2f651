#!/usr/bin/env python3
"""batch.py PODS PARALLEL HOST_PORT DPU_PORT: attaches PODS Pods, every second one split, and listens on HOST_PORT in each;
calls each from outside; then for every line on standard input the next step:

  1. calls DPU_PORT of each split Pod, which the DPU's side serves by now (far.py): from outside, and its localhost
  2. detaches them. Of some the listener is closed before, of some after: a program may outlive its Pod.

Prints one JSON line after each: failures, seconds, and in the end attach milliseconds. Runs inside the host PU."""
import concurrent.futures
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib.cni import Network, Pod  # noqa: E402
from sockets import Answers, call  # noqa: E402


def timed(action):
    start = time.monotonic()
    try:
        action()
        return (time.monotonic() - start) * 1e3, None
    except Exception as error:  # every failure is counted and shown
        return None, str(error)


def main():
    pods, parallel, host_port, dpu_port = map(int, sys.argv[1:5])
    network, answers, listeners = Network(), Answers(), {}
    start = time.monotonic()
    batch = [Pod(network, split=bool(i % 2)) for i in range(pods)]

    def say(tried, **more):
        errors = [error for _, error in tried if error]
        print(json.dumps({"failures": len(errors), "first": errors[:3], "seconds": round(time.monotonic() - start, 1), **more}),
              flush=True)

    unanswered = []

    def must_answer(*where):
        assert len(unanswered) < 3, "not called: three calls had no answer"  # each took as long as a call may
        try:
            call(*where)
        except RuntimeError:
            unanswered.append(where)
            raise

    def open_and_call(pod):
        listeners[pod] = answers.listen(pod.netns, host_port)
        must_answer(pod.address(), host_port)

    def call_the_dpu(pod):
        must_answer(pod.address(), dpu_port)
        must_answer("127.0.0.1", dpu_port, pod.netns)

    def delete(number, pod):
        if pod in listeners and number % 4 < 2:
            answers.close(listeners.pop(pod))
        pod.delete()
        if pod in listeners:
            answers.close(listeners.pop(pod))

    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        added = list(pool.map(lambda pod: timed(pod.add), batch))
        there = [pod for pod in batch if pod.result]
        served = list(pool.map(lambda pod: timed(lambda: open_and_call(pod)), there))
        addresses = [pod.address() for pod in there]
        took = sorted(ms for ms, _ in added if ms is not None) or [0]
        say(added + served, duplicates=len(addresses) - len(set(addresses)), split=sum(pod.split for pod in there),
            add_ms_p50=round(took[len(took) // 2], 1), add_ms_p99=round(took[int(len(took) * 0.99)], 1))
        sys.stdin.readline()
        say(list(pool.map(lambda pod: timed(lambda: call_the_dpu(pod)), [pod for pod in there if pod.split])))
        sys.stdin.readline()
        say(list(pool.map(lambda item: timed(lambda: delete(*item)), enumerate(batch))))


if __name__ == "__main__":
    main()
