"""Real programs with their own clients. Each function makes a scene's server, drives it, and returns
(what must be the same with and without the library, figure or None, unit). It knows nothing of the library."""
import glob
import hashlib
import json
import os
import re
import signal
import time

from stage import Missing, free_port, need, process_table, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"


def sha(text):
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def redis(scene):
    """Requests, a pipeline, a large value; a snapshot and the append-only file's rewrite, each by a child that is forked
    while clients write and lives for a while beside them; and all that was written is there after a restart."""
    need("redis-server", "redis-benchmark", "redis-cli", "redis-check-rdb")
    port = free_port()
    # The forks are ours alone, and DEBUG DIGEST is refused without being allowed.
    start = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", scene.folder,
             "--auto-aof-rewrite-percentage", "0", "--enable-debug-command", "yes"]
    server = scene.start(*start, port=port)
    cli = ["redis-cli", "-p", port]
    said = [scene.run(*cli, "SET", "a", "1"), scene.run(*cli, "INCRBY", "a", "41")]
    said.append(scene.run(*cli, "-x", "SET", "big", stdin=b"x" * 3_000_000))
    said.append(sha(scene.run(*cli, "GET", "big")))
    said.append(sha(scene.run(*cli, stdin="".join(f"RPUSH list {i}\n" for i in range(2000)).encode())))
    said.append(sha(scene.run(*cli, "LRANGE", "list", "0", "-1")))
    out = scene.load("redis-benchmark", "-p", port, "-t", "get,set", "-n", int(20_000 * scene.seconds), "-c", "10", "--csv")
    rates = {line.split(",")[0].strip('"'): float(line.split(",")[1].strip('"')) for line in out.splitlines()[1:]}
    said.append(redis_forks(scene, port, cli))
    whole = [scene.run(*cli, "DEBUG", "DIGEST"), scene.run(*cli, "DBSIZE")]
    scene.run(*cli, "SHUTDOWN", check=False)
    server.wait(10)
    scene.start(*start, port=port)
    wait_for(lambda: scene.run(*cli, "PING") == "PONG\n", "redis after its restart")
    again = [scene.run(*cli, "DEBUG", "DIGEST"), scene.run(*cli, "DBSIZE")]
    assert again == whole, f"before the restart {whole}, after it {again}"
    said += [scene.run(*cli, "GET", "a"), scene.run(*cli, "LLEN", "list")]
    return said, rates["GET"], "GET/s"


def redis_forks(scene, port, cli):
    """What two children said of themselves that redis forked under load."""
    def info(section, key):
        return re.search(f"{key}:(.*)\r", scene.run(*cli, "INFO", section)).group(1)

    load = scene.background("redis-benchmark", "-p", port, "-t", "set", "-n", 1_000_000_000, "-r", 5000, "-c", 10, "--csv")
    scene.underway(load, port, 10)
    wait_for(lambda: int(scene.run(*cli, "DBSIZE")) > 4000, "keys of the load")
    scene.run(*cli, "CONFIG", "SET", "rdb-key-save-delay", "20")  # microseconds a key: the child lives for a third of a second
    scene.run(*cli, "BGSAVE")
    wait_for(lambda: info("persistence", "rdb_bgsave_in_progress") == "0", "the end of BGSAVE")
    scene.run(*cli, "BGREWRITEAOF")
    wait_for(lambda: info("persistence", "aof_rewrite_in_progress") == "0", "the end of BGREWRITEAOF")
    assert load.poll() is None, "the load ended: one of its connections was lost"
    load.terminate()
    load.communicate()
    wait_for(lambda: info("clients", "connected_clients") == "1", "the end of the load's connections")
    scene.run("redis-check-rdb", scene.path("dump.rdb"), env=dict(os.environ))
    return [info("persistence", "rdb_last_bgsave_status"), info("persistence", "aof_last_bgrewrite_status"), info("stats", "total_forks")]


def memcached(scene):
    need("memcached")
    port = free_port()
    scene.start("memcached", "-l", "127.0.0.1", "-p", port, "-U", "0", "-u", "root", "-t", "2", port=port)
    out = json.loads(scene.load(PYTHON, f"{HERE}/clients/memcached.py", port, scene.seconds))
    return out["said"], out["rate"], "ops/s"


def nginx(scene):
    """Two workers, sendfile, a proxied location, keep-alive, and two reloads under load."""
    need("nginx", "wrk", "curl")
    port, second = free_port(), free_port()
    os.makedirs(scene.path("www"), exist_ok=True)
    scene.path("www/small", "s" * 1000)
    scene.path("www/large", "".join(f"{i:07d}\n" for i in range(400_000)))
    conf = scene.path("nginx.conf", f"""
daemon off; worker_processes 2; pid {scene.folder}/pid; error_log {scene.folder}/error.log; user root;
events {{ worker_connections 500; }}
http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {scene.folder}/body; proxy_temp_path {scene.folder}/proxy;
  fastcgi_temp_path {scene.folder}/f; uwsgi_temp_path {scene.folder}/u; scgi_temp_path {scene.folder}/s;
  upstream self {{ server 127.0.0.1:{second}; keepalive 8; }}
  server {{ listen 127.0.0.1:{port}; root {scene.folder}/www;
    location /proxied/ {{ proxy_pass http://self/; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
  server {{ listen 127.0.0.1:{second}; root {scene.folder}/www; }} }}""")
    master = scene.start("nginx", "-c", conf, "-p", scene.folder, port=port)
    url = f"http://127.0.0.1:{port}"
    said = [sha(scene.run("curl", "-s", f"{url}{path}")) for path in ("/small", "/large", "/proxied/small", "/proxied/large")]
    said.append(scene.run("curl", "-s", "-r", "100-199", f"{url}/large"))
    said.append(scene.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/none"))
    said.append(sha(scene.run("curl", "-s", *[f"{url}/small"] * 50)))
    out = scene.load("wrk", "-t", "1", "-c", "10", "-d", f"{max(1, round(scene.seconds))}s", f"{url}/small")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    assert "Non-2xx" not in out and "Socket errors" not in out, out
    said.append(nginx_reloads(scene, port, master))
    said.append(sha(scene.run("curl", "-s", f"{url}/proxied/large")))
    return said, rate, "requests/s"


def nginx_reloads(scene, port, master):
    """Workers come and go under load, and an answer that one of the first is in the middle of comes whole."""
    def workers():
        return {pid for pid, (parent, _) in process_table().items() if parent == master.pid}

    scene.path("www/huge", "".join(f"{i:07d}\n" for i in range(2_500_000)))  # 20 MB, more than TCP and a ring take unread
    held = scene.background(PYTHON, f"{HERE}/clients/held.py", port, "/huge")
    scene.underway(held, port, 1)
    os.write(held.stdin.fileno(), b".")
    assert held.stdout.readline() == b"held\n", "the answer did not begin"
    load = scene.background("wrk", "-t", "1", "-c", "10", "-d", "300s", f"http://127.0.0.1:{port}/small")
    first = workers()
    for left in (1, 0):  # of those that the reload replaces: one has the held answer
        scene.underway(load, port, 10)
        old = workers() - first if left == 0 else first
        master.send_signal(signal.SIGHUP)
        wait_for(lambda: len(workers() - first - old) == 2, "new workers")
        wait_for(lambda: len(workers() & old) == left, f"old workers to {left}")
    scene.underway(load, port, 10)
    # It says what it has so far. A SIGINT that its other thread takes leaves the first one asleep.
    wait_for(lambda: load.send_signal(signal.SIGINT) or load.poll() is not None, "wrk's end")
    out = load.stdout.read().decode()
    assert len(workers() & first) == 1, "the worker that was in the middle of an answer is gone"
    said = held.communicate(b".")[0].decode()
    wait_for(lambda: not workers() & first, "the first worker's end")
    # A worker that ends closes what waits for the next request, and wrk had sent one. Each closes a connection once.
    errors = dict(re.findall(r"(connect|read|write|timeout) (\d+)", re.search(r"Socket errors: .*|$", out).group()))
    ended = int(errors.pop("read", 0))
    assert "Non-2xx" not in out and not any(map(int, errors.values())) and ended <= 2 * 2 * 10, out
    scene.notes.append(("ended by two reloads before an answer", ended))
    return said


def haproxy(scene):
    """HTTP and TCP mode before Python's http.server."""
    need("haproxy", "curl", "wrk")
    back, http, tcp = free_port(), free_port(), free_port()
    scene.path("file", "f" * 200_000)
    scene.start(PYTHON, "-m", "http.server", back, "--bind", "127.0.0.1", port=back)
    conf = scene.path("haproxy.cfg", f"""
global
  maxconn 200
defaults
  timeout connect 5s
  timeout client 20s
  timeout server 20s
frontend web
  mode http
  bind 127.0.0.1:{http}
  default_backend python
backend python
  mode http
  server s 127.0.0.1:{back}
listen raw
  mode tcp
  option splice-auto
  bind 127.0.0.1:{tcp}
  server s 127.0.0.1:{back}
""")
    scene.start("haproxy", "-f", conf, "-db", port=tcp)
    said = [sha(scene.run("curl", "-s", f"http://127.0.0.1:{port}/file")) for port in (back, http, tcp) for _ in range(3)]
    out = scene.load("wrk", "-t", "1", "-c", "4", "-d", f"{max(1, round(scene.seconds))}s", f"http://127.0.0.1:{http}/file")
    return said, float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), "requests/s"


def envoy(scene):
    """HTTP with kept connections on both sides, and TCP, before nginx."""
    root = os.path.dirname(os.path.dirname(HERE))
    binary = next(iter(glob.glob(f"{root}/.build/envoy-venv/lib/python3*/site-packages/envoy/_bin/envoy")), "envoy")
    need(binary, "nginx", "wrk", "curl")
    back, http, tcp = free_port(), free_port(), free_port()
    scene.path("small", "s" * 1000)
    scene.path("large", "".join(f"{i:07d}\n" for i in range(400_000)))
    conf = scene.path("nginx.conf", f"""
daemon off; worker_processes 1; pid {scene.folder}/pid; error_log {scene.folder}/error.log; user root;
events {{ worker_connections 500; }}
http {{ access_log off; client_body_temp_path {scene.folder}/b; proxy_temp_path {scene.folder}/p; fastcgi_temp_path {scene.folder}/f;
  uwsgi_temp_path {scene.folder}/u; scgi_temp_path {scene.folder}/s;
  server {{ listen 127.0.0.1:{back}; root {scene.folder}; }} }}""")
    scene.start("nginx", "-c", conf, "-p", scene.folder, port=back)

    def listener(port, name, kind, config):
        filters = [{"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.filters.network.{kind}", "stat_prefix": name, "cluster": "nginx", **config}}]
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "filter_chains": [{"filters": filters}]}

    web = {"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "nginx"}}]}]},
           "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}
    http_listener = listener(http, "web", "http_connection_manager.v3.HttpConnectionManager", web)
    del http_listener["filter_chains"][0]["filters"][0]["typed_config"]["cluster"]
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": back}}}}
    cluster = {"name": "nginx", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {"cluster_name": "nginx", "endpoints": [{"lb_endpoints": [endpoint]}]}}
    config = {"static_resources": {"listeners": [http_listener, listener(tcp, "raw", "tcp_proxy.v3.TcpProxy", {})], "clusters": [cluster]}}
    scene.start(binary, "-c", scene.path("envoy.json", json.dumps(config)), "--disable-hot-restart", "--concurrency", "1", "-l", "warning", port=tcp)
    said = [sha(scene.run("curl", "-s", f"http://127.0.0.1:{port}/{file}")) for port in (back, http, tcp) for file in ("small", "large")]
    said.append(sha(scene.run("curl", "-s", *[f"http://127.0.0.1:{http}/small"] * 50)))
    out = scene.load("wrk", "-t", "1", "-c", "4", "-d", f"{max(1, round(scene.seconds))}s", f"http://127.0.0.1:{http}/small")
    assert "Non-2xx" not in out and "Socket errors" not in out, out
    return said, float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), "requests/s"


def postgres(scene):
    """initdb, pgbench, a large result, a cancelled query: a postmaster that forks for each client."""
    binaries = next((f"/usr/lib/postgresql/{v}/bin" for v in sorted(os.listdir("/usr/lib/postgresql"), reverse=True)), None) \
        if os.path.isdir("/usr/lib/postgresql") else None
    need("setpriv", "psql", f"{binaries}/pgbench", f"{binaries}/postgres")
    port, data = free_port(), scene.path("data")
    os.makedirs(data)
    os.chown(data, *[int(scene.run("id", flag, "postgres", env=dict(os.environ))) for flag in ("-u", "-g")])
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    plain = dict(os.environ, HOME=scene.folder)
    scene.run(*user, f"{binaries}/initdb", "-D", data, "-A", "trust", "-N", "-U", "postgres", "--no-locale", "-E", "UTF8", env=plain)
    scene.start(*user, f"{binaries}/postgres", "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
                "-c", f"unix_socket_directories={scene.folder}", port=port)
    psql = ["psql", "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-Atc"]
    said = []
    wait_for(lambda: scene.run(*psql, "select 1", check=False).strip() == "1")  # it listens before it serves
    said.append(sha(scene.run(*psql, "select i, md5(i::text) from generate_series(1,100000) i")))
    said.append(scene.run("psql", "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-At", stdin=b"set statement_timeout=50; select pg_sleep(5); select 2;"))
    bench = [f"{binaries}/pgbench", "-h", "127.0.0.1", "-p", port, "-U", "postgres"]
    scene.run(*bench, "-i", "-q", "postgres")
    out = scene.load(*bench, "-S", "-c", "4", "-T", max(1, round(scene.seconds)), "postgres")
    said.append(re.findall(r"number of failed transactions: (\d+)", out))
    return said, float(re.search(r"tps = ([\d.]+)", out).group(1)), "tps"


def python(what):
    def drive(scene):
        need(PYTHON)
        port = free_port()
        scene.start(PYTHON, f"{HERE}/clients/{what}.py", "serve", port, port=port)
        out = json.loads(scene.load(PYTHON, f"{HERE}/clients/{what}.py", "call", port, scene.seconds))
        return out["said"], out["rate"], "round trips/s"
    drive.__name__ = f"python {what}"
    return drive


def grpc(scene):
    """Calls and streams of gRPC's C core, which asks for TCP_INQ and reads by edges, and 3 MB each way."""
    if not glob.glob("/usr/lib/python3/dist-packages/grpc"):
        raise Missing("python3-grpcio")
    return python("grpc_calls")(scene)


def java(scene):
    """Selectors, blocking channels, files to and from a channel, a close under a reader, and 3 MB each way."""
    need("java", "javac")
    port = free_port()
    scene.run("javac", "-d", scene.folder, f"{HERE}/clients/Channels.java", env=dict(os.environ))
    run = ["java", "-Xmx200m", "-cp", scene.folder, "Channels"]
    scene.start(*run, "serve", port, port=port)
    out = json.loads(scene.load(*run, "call", port, scene.seconds))
    return out["said"], out["rate"], "round trips/s"


def mariadb(scene):
    """A thread for each client: a large result, a large row, a killed query, and the smallest query there is."""
    need("mariadbd", "mariadb", "mariadb-install-db", "mysqlslap", "setpriv")
    port, data = free_port(), scene.path("data")
    os.makedirs(data)
    scene.run("mariadb-install-db", "--user=mysql", f"--datadir={data}", "--auth-root-authentication-method=normal", env=dict(os.environ))
    # With its io_uring for files all of its connections would be the kernel's.
    scene.start("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
                "--innodb-use-native-aio=0", f"--socket={data}/s", port=port)
    to = ["-h127.0.0.1", f"-P{port}", "-uroot", "--protocol=tcp"]
    said = [sha(scene.run("mariadb", *to, "mysql", "-Ne", "select seq, md5(seq) from seq_1_to_100000"))]
    said.append(scene.run("mariadb", *to, "-Ne", "select length(@a := repeat('abc', 1000000)), md5(@a)"))
    said.append(sha(scene.run("mariadb", *to, "-Ne", "select repeat('abc', 1000000)")))
    said.append(scene.run("mariadb", *to, "-f", "-Ne", "set statement max_statement_time=0.05 for select sleep(5); select 2", check=False))
    queries = int(20_000 * scene.seconds)
    out = scene.load("mysqlslap", *to, "--concurrency=4", "--query=select 1", f"--number-of-queries={queries}", "--create-schema=mysql")
    return said, queries / float(re.search(r"Average number of seconds.*: ([\d.]+)", out).group(1)), "queries/s"


def node(scene):
    """http with keep-alive and a stream of 8 MB each way."""
    need("node")
    port = free_port()
    scene.start("node", f"{HERE}/clients/node.js", "serve", port, port=port)
    out = json.loads(scene.load("node", f"{HERE}/clients/node.js", "call", port, scene.seconds))
    return out["said"], out["rate"], "requests/s"


def openssh(scene):
    """sshd re-executes itself for each connection and passes it on; 3 MB both ways."""
    need("sshd", "ssh", "ssh-keygen")
    os.makedirs("/run/sshd", exist_ok=True)
    port = free_port()
    quiet = dict(os.environ)
    for key in ("host", "user"):
        scene.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", scene.path(key), env=quiet)
    conf = scene.path("sshd_config", f"Port {port}\nListenAddress 127.0.0.1\nHostKey {scene.folder}/host\nAuthorizedKeysFile {scene.folder}/user.pub\n"
                      "StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n")
    scene.start("sshd", "-D", "-e", "-f", conf, port=port)
    ssh = ["ssh", "-p", port, "-i", scene.path("user"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
           f"{os.environ.get('USER') or 'root'}@127.0.0.1"]
    said = [scene.run(*ssh, "echo hello; exit 3", check=False)]
    blob = bytes(range(250)) * 12_000
    start = time.monotonic()
    said.append(scene.run(*ssh, "sha256sum", stdin=blob))
    said.append(sha(scene.run(*ssh, "head -c 3000000 /dev/zero | tr '\\0' q")))
    return said, 6 / (time.monotonic() - start), "MB/s"


def iperf3(scene):
    need("iperf3")
    port = free_port()
    scene.start("iperf3", "-s", "-B", "127.0.0.1", "-p", port, port=port)
    one = json.loads(scene.load("iperf3", "-c", "127.0.0.1", "-p", port, "-t", max(1, round(scene.seconds)), "-J"))
    back = json.loads(scene.run("iperf3", "-c", "127.0.0.1", "-p", port, "-n", "50M", "-R", "-J"))
    return [one.get("error"), back.get("error"), back["end"]["sum_received"]["bytes"] >= 50_000_000], one["end"]["sum_received"]["bits_per_second"] / 8e9, "GB/s"


def sockperf(scene):
    """At a rate of its own choice sockperf ends with "_seqN > m_maxSequenceNo": its table has room for 600,000 messages a
    second, and over shared memory it sends more. The figure is a message's latency, which a given rate leaves as it is."""
    need("sockperf")
    port = free_port()
    scene.start("sockperf", "server", "--tcp", "-i", "127.0.0.1", "-p", port, port=port)
    out = scene.load("sockperf", "ping-pong", "--tcp", "-i", "127.0.0.1", "-p", port, "-t", max(1, round(scene.seconds)), "-m", "64",
                     "--mps", "500000")
    dropped = re.search(r"# dropped messages = (\d+)", out)
    return [dropped.group(1) if dropped else out[-300:]], 1e6 / float(re.search(r"Latency is ([\d.]+)", out).group(1)), "messages/s one way"


def static(scene):
    """A static program cannot have the library: it must be unharmed by the variable, as a client and as a server."""
    need("busybox", "curl")
    port = free_port()
    scene.path("file", "f" * 300_000)
    scene.start("busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", scene.folder, port=port)
    said = [sha(scene.run("curl", "-s", f"http://127.0.0.1:{port}/file")), sha(scene.run("busybox", "wget", "-qO-", f"http://127.0.0.1:{port}/file"))]
    return said, None, ""


def go(scene):
    """A Go program makes its calls itself; its peer has the library."""
    need("go")
    port = free_port()
    binary = scene.path("gohttp")
    scene.run("go", "build", "-o", binary, f"{HERE}/clients/main.go", env=dict(os.environ, CGO_ENABLED="0", GOFLAGS="-mod=mod"), timeout=180)
    scene.path("file", "f" * 300_000)
    scene.start(binary, "serve", port, scene.path("file"), port=port)
    said = [sha(scene.run("curl", "-s", f"http://127.0.0.1:{port}/file")) for _ in range(3)]
    said.append(scene.run(binary, "call", port))
    return said, None, ""


ALL = [redis, memcached, nginx, haproxy, envoy, postgres, python("asyncio_echo"), python("http_server"), python("processes"), grpc, java, mariadb, node, openssh, iperf3, sockperf,
       static, go]
# Which stay on TCP, and why; docs/heterosock.md has all of them.
STAYS = {
    "static": "it has no libc to put the library before",
    "go": "it makes its system calls itself",
    "openssh": "sshd executes itself for each connection, which is its number 0 and 1 then",
}
