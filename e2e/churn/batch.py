#!/usr/bin/env python3
"""batch.py PODS PARALLEL: attaches PODS Pods (every second one split), then detaches them; prints one JSON line:
failures, seconds, attach milliseconds. Runs inside the host PU."""
import concurrent.futures
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib.cni import Network, Pod  # noqa: E402


def timed(action):
    start = time.monotonic()
    try:
        action()
        return (time.monotonic() - start) * 1e3, None
    except Exception as error:  # every failure is counted and shown
        return None, str(error)


def main():
    pods, parallel = map(int, sys.argv[1:3])
    network = Network()
    start = time.monotonic()
    batch = [Pod(network, split=bool(i % 2)) for i in range(pods)]
    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        added = list(pool.map(lambda pod: timed(pod.add), batch))
        addresses = [pod.address() for pod in batch if pod.result]
        deleted = list(pool.map(lambda pod: timed(pod.delete), batch))
    errors = [error for _, error in added + deleted if error]
    took = sorted(ms for ms, _ in added if ms is not None)
    print(json.dumps({"failures": len(errors), "first": errors[:3], "duplicates": len(addresses) - len(set(addresses)),
                      "seconds": round(time.monotonic() - start, 1),
                      "add_ms_p50": round(took[len(took) // 2], 1) if took else None,
                      "add_ms_p99": round(took[int(len(took) * 0.99)], 1) if took else None}))


if __name__ == "__main__":
    main()
