#!/usr/bin/env python3
"""Packets that no honest program sends, from inside a Pod's namespace.

  forge.py udp SRC DST SPORT DPORT [COUNT]     raw IP over the Pod's interface, addresses of one family as given
  forge.py tls HOST PORT [CERT KEY]            a TLS client that speaks HTTP/2; prints what became of it
  forge.py plain HOST PORT                     the same without TLS
"""
import json
import socket
import ssl
import struct
import subprocess
import sys


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_packet(src, dst, sport, dport, payload=b"forged"):
    length = 8 + len(payload)
    if ":" not in src:
        udp = struct.pack("!HHHH", sport, dport, length, 0) + payload  # no checksum: IPv4 allows that
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0, 64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst))
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + udp
    ends = socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst)
    udp = struct.pack("!HHHH", sport, dport, length, 0) + payload
    total = checksum(ends + struct.pack("!II", length, 17) + udp) or 0xFFFF  # RFC 8200: 0 would be no checksum
    return struct.pack("!IHBB", 6 << 28, length, 17, 64) + ends + udp[:6] + struct.pack("!H", total) + payload


class Wire:
    """The Pod's eth0 below IP, so that this kernel's own rules about sources and destinations stop nothing first."""

    def __init__(self):
        neighbour = json.loads(subprocess.run(["ip", "-j", "neigh", "show", "dev", "eth0"], capture_output=True, text=True).stdout)
        gateway = next(n["lladdr"] for n in neighbour if ":" not in n["dst"] and "lladdr" in n)  # both families' is the same
        mine = json.loads(subprocess.run(["ip", "-j", "link", "show", "dev", "eth0"], capture_output=True, text=True).stdout)[0]["address"]
        self.ends = bytes.fromhex(gateway.replace(":", "") + mine.replace(":", ""))
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind(("eth0", 0))

    def send(self, packet):
        self.socket.send(self.ends + (b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00") + packet)


def send_udp(src, dst, sport, dport, count="20"):
    wire = Wire()
    for _ in range(int(count)):
        wire.send(udp_packet(src, dst, int(sport), int(dport)))
    print(json.dumps({"sent": int(count)}))


# The beginning of a connection: the client's preface and empty SETTINGS. A server that serves answers by SETTINGS.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
SETTINGS = 4


def hello(connection):
    connection.settimeout(3)
    connection.sendall(HELLO)
    # TLS 1.3: the server's verdict on the client's certificate comes with the first read.
    data = connection.recv(64)
    accepted = len(data) >= 9 and data[3] == SETTINGS  # and no TLS alert
    print(json.dumps({"accepted": accepted, "error": "" if accepted else f"answered {data!r}" if data else "closed"}))


def plain(host, port):
    try:
        with socket.create_connection((host, int(port)), 3) as connection:
            hello(connection)
    except OSError as error:
        print(json.dumps({"accepted": False, "error": str(error)}))


def tls(host, port, cert=None, key=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if cert:
        context.load_cert_chain(cert, key)
    try:
        with socket.create_connection((host, int(port)), 3) as plain, context.wrap_socket(plain) as wrapped:
            hello(wrapped)
    except OSError as error:
        print(json.dumps({"accepted": False, "error": str(error)}))


if __name__ == "__main__":
    {"udp": send_udp, "tls": tls, "plain": plain}[sys.argv[1]](*sys.argv[2:])
