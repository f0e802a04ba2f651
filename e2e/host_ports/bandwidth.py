"""kubernetes.io/ingress-bandwidth and egress-bandwidth, measured. containerd gives every limit a bucket of 512 MB, so the
limit shows only after that much: each measurement first empties the bucket, then counts."""
import json
import subprocess

from lib.manifest import container, manifest
from lib.pod import Pod

MBIT = 1_000_000
INGRESS, EGRESS = 80 * MBIT, 40 * MBIT

SINK = r"""
import json, socket, sys, time
server = socket.create_server(("0.0.0.0", 0))
print(server.getsockname()[1], flush=True)
conn, _ = server.accept()
conn.settimeout(10)
limit, began = float(sys.argv[1]), time.monotonic()
buffer, window, since = bytearray(1 << 20), 0, began
drained, fast, slow = None, 0, 0
while True:
    got = conn.recv_into(buffer)
    if not got: break
    now = time.monotonic()
    if drained is None:
        window += got
        if now - since >= 0.5:
            # Half a second at less than four times the limit: the bucket is empty and the queues behind it drain.
            if window * 8 / (now - since) < 4 * limit: drained = now
            else: fast = max(fast, window * 8 / (now - since))
            window, since = 0, now
        if now - began > 20: break
    elif now - drained < 1: since = now
    else:
        window += got
        if now - since >= 4: slow = window * 8 / (now - since); break
print(json.dumps({"fast": round(fast), "limited": round(slow), "emptied_after": round((drained or now) - began, 1)}), flush=True)
"""
SOURCE = r"""
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
sock.settimeout(10)
data = b"x" * (1 << 20)
try:
    while True: sock.sendall(data)
except OSError: pass
"""


def measure(pod, source_side, sink_side, address, limit):
    """Bits per second from one side to the other's address, after the bucket is empty."""
    sink = subprocess.Popen(pod.argv(sink_side, "python3", "-c", SINK, str(limit)), stdout=subprocess.PIPE, text=True)
    port = sink.stdout.readline().strip()
    source = subprocess.Popen(pod.argv(source_side, "python3", "-c", SOURCE, address, port), stderr=subprocess.PIPE, text=True)
    try:
        out, _ = sink.communicate(timeout=60)
        return json.loads(out)
    finally:
        sink.kill()
        source.kill()
        source.wait()


def limits(cases, lab):
    annotations = {"kubernetes.io/ingress-bandwidth": f"{INGRESS // MBIT}M", "kubernetes.io/egress-bandwidth": f"{EGRESS // MBIT}M"}
    for name, offload in (("slow-plain", None), ("slow-split", "sidecar")):
        pod = Pod(lab, manifest(name, [container("app"), container("sidecar")], offload=offload, annotations=annotations))
        for side in pod.netns:
            for what, source, sink, address, limit in (("ingress", "client", side, pod.v4, INGRESS),
                                                       ("egress", side, "client", lab.env["client_v4"], EGRESS)):
                with cases.case(f"{name}: {what} of the {side} side is {limit // MBIT} Mbit/s within a quarter"):
                    result = measure(pod, source, sink, address, limit)
                    print(f"     {result}")
                    assert 0.75 * limit < result["limited"] < 1.25 * limit, result
        pod.remove()
