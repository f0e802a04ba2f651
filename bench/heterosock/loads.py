"""Real programs under load: each function starts a scene's servers, drives them, and returns requests a second.

LOADS has (what, function, its options, goal of the ratio or None). The scene (e2e/heterosock/stage.py) knows how much CPU
all programs together took. The servers keep connections: what is measured is the way of a request, not a handshake.
"""
import json
import os
import re
import sys

E2E = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "e2e", "heterosock")
sys.path.append(E2E)
from stage import free_port, need  # noqa: E402


def redis(scene, at_once):
    need("redis-server", "redis-benchmark")
    port = free_port()
    scene.start("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", scene.folder, port=port)
    # Plain, a second's worth on this kind of machine; redis-benchmark knows no duration.
    count = 100_000 if at_once == 1 else 1_500_000
    out = scene.load("redis-benchmark", "-p", port, "-t", "get", "-n", count, "-c", "10", "-P", at_once, "--csv")
    return float(out.splitlines()[-1].split(",")[1].strip('"'))


def memcached(scene):
    need("memcached")
    port = free_port()
    scene.start("memcached", "-l", "127.0.0.1", "-p", port, "-U", "0", "-u", "root", "-t", "2", port=port)
    return json.loads(scene.load("/usr/bin/python3", f"{E2E}/clients/memcached.py", port, scene.seconds))["rate"]


def start_nginx(scene, extra=""):
    need("nginx", "wrk")
    port = free_port()
    os.makedirs(scene.path("www"), exist_ok=True)
    scene.path("www/small", "s" * 1000)
    scene.path("www/large", "l" * 200_000)
    folders = "".join(f"{kind}_temp_path {scene.folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    conf = scene.path("nginx.conf", f"""
daemon off; worker_processes 1; pid {scene.folder}/pid; error_log {scene.folder}/error.log; user root;
events {{ worker_connections 500; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; {extra} {folders}
  server {{ listen 127.0.0.1:{port}; root {scene.folder}/www; }} }}""")
    scene.start("nginx", "-c", conf, "-p", scene.folder, port=port)
    return port


def wrk(scene, port, connections, file):
    out = scene.load("wrk", "-t", "1", "-c", connections, "-d", f"{max(1, round(scene.seconds))}s", f"http://127.0.0.1:{port}/{file}")
    assert "Non-2xx" not in out and "Socket errors" not in out, out
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))


def nginx(scene, cache):
    return wrk(scene, start_nginx(scene, "open_file_cache max=100;" if cache else ""), 10, "small")


def haproxy(scene, file):
    need("haproxy")
    back, front = start_nginx(scene), free_port()
    conf = scene.path("haproxy.cfg", f"""
global
  maxconn 200
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
listen web
  bind 127.0.0.1:{front}
  server s 127.0.0.1:{back}
""")
    scene.start("haproxy", "-f", conf, "-db", port=front)
    return wrk(scene, front, 4, file)


LOADS = [
    ("redis, 10 connections", redis, (1,), 1.9),
    ("redis, 10 connections, 16 requests at once", redis, (16,), None),
    ("memcached, 1 connection", memcached, (), None),
    ("nginx, 10 connections, 1 KB", nginx, (False,), 1.9),
    ("nginx, 10 connections, 1 KB, open_file_cache", nginx, (True,), 1.9),
    ("haproxy before nginx, 4 connections, 1 KB", haproxy, ("small",), None),
    ("haproxy before nginx, 4 connections, 200 KB", haproxy, ("large",), None),
]
