#!/usr/bin/env python3
"""inside.py PORT: hears, forges and counts in one network namespace. One JSON object a line on standard input, one back.

  {"do": "heard"}                                          payload -> datagrams, of all that came to PORT, both families
  {"do": "forge", "source", "target", "ports", "payload"}  COUNT packets to each port, below IP
  {"do": "send", "to": [[address, port], …], "payload"}    an honest datagram to each; what is refused is not sent
  {"do": "counters"}                                       packets refused here: "nft martian", "kernel Ip6InHdrErrors", …

All packets leave on one CPU: at each hop they wait in one queue, so an honest datagram that arrives has none before it
still on the way.
"""
import collections
import json
import os
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib import forge  # noqa: E402

COUNT = 5  # of each forged packet: a Pod's very first may meet a device whose queue is not there yet

heard, lock = collections.Counter(), threading.Lock()


def listen(family, port):
    server = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))

    def receive():
        while True:
            payload = server.recv(100).decode()
            with lock:
                heard[payload] += 1

    threading.Thread(target=receive, daemon=True).start()


def send(to, payload):
    for address, port in to:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            try:
                sender.sendto(payload.encode(), (address, port))
            except OSError:
                pass  # sent again until it is heard


def counters():
    values = collections.Counter()
    listing = subprocess.run(["nft", "-j", "list", "counters"], capture_output=True, text=True, check=True).stdout
    for item in json.loads(listing)["nftables"]:
        if "counter" in item:
            values["nft " + item["counter"]["name"]] += item["counter"]["packets"]
    with open("/proc/net/netstat", encoding="ascii") as file:
        lines = [line.split()[1:] for line in file if line.startswith("TcpExt:")]
    values["kernel IPReversePathFilter"] = int(dict(zip(*lines))["IPReversePathFilter"])
    with open("/proc/net/snmp6", encoding="ascii") as file:
        values["kernel Ip6InHdrErrors"] = int(dict(line.split() for line in file)["Ip6InHdrErrors"])
    return values


def main():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    port, wire = int(sys.argv[1]), None
    for family in (socket.AF_INET, socket.AF_INET6):
        listen(family, port)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order, answer = json.loads(line), None
        if order["do"] == "heard":
            with lock:
                answer = dict(heard)
        elif order["do"] == "forge":
            wire = wire or forge.Wire()
            for target_port in order["ports"]:
                packet = forge.udp_packet(order["source"], order["target"], 4444, target_port, order["payload"].encode())
                for _ in range(COUNT):
                    wire.send(packet)
        elif order["do"] == "send":
            send(order["to"], order["payload"])
        elif order["do"] == "counters":
            answer = counters()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
