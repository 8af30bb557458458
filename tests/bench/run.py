#!/usr/bin/env python3
"""Measures the release build and prints a table. Each row is a ratio or a difference within one run: the two sides
take turns in short rounds, so that whatever else the machine does meets both; the median of the pairs counts.

    ./dev bench [--rounds N] [--only WORD] [--json FILE]
    ./dev bench kubernetes [...]: kubernetes.py
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from measure import (BLOCK, CORES, SIZE, ask, begin, compare_rates, cpu_of, cpu_per_request, finish, harness, many_sandboxes, memory_of, receive,
                     request, row, wrk)
from harness import MiB, free_port

HELPERS = pathlib.Path(os.environ["AGENTTIER_BUILD"]) / "tests" / "bench"


@contextlib.contextmanager
def program(*command, **options):
    process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.stdin.close()
        process.terminate()
        process.wait()


def listening(port):
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    raise SystemExit(f"nothing listens on {port}")


@contextlib.contextmanager
def bare_server(body, threads=CORES):
    port = free_port()
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        with program(HELPERS / "bare_server", port, threads, file.name) as process:
            listening(port)
            yield f"http://127.0.0.1:{port}", process.pid


# ---- the rows ----

def reads(router, rounds):
    key = f"X-API-Key: {router.keys['admin']}"
    client = router.client("admin")
    for name, path, goal in (("read of one sandbox", "/api/v1/sandboxes/bench-1", 0.6),
                             ("list of 50 sandboxes", "/api/v1/sandboxes?limit=50", 0.4)):
        body = client.get(path).content
        if "list" in name:
            assert len(json.loads(body)["sandboxes"]) == 50
        with bare_server(body) as (url, pid):
            def ours():
                return wrk(router.url + path, [key])

            def peer():
                return wrk(url, [key])

            ratio, a, b = compare_rates(ours, peer, rounds)
            cost = [cpu_per_request(p, load) for p, load in ((router.process.pid, ours), (pid, peer))]
        row(name, f"{ratio:.2f}", f">= {goal}", ratio >= goal,
            f"{a:,.0f}/s against {b:,.0f}/s of bare libmicrohttpd, {len(body):,} bytes; {cost[0]:.1f} and {cost[1]:.1f} µs of processor time")


NGINX = """
daemon off; pid {dir}/pid; error_log {dir}/error.log crit; worker_processes {cores};
events {{ worker_connections 1024; }}
http {{
    access_log {dir}/access.log;
    client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
    upstream app {{ server 127.0.0.1:{backend}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} reuseport;
        location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(backend):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="at-nginx-"))
    port = free_port()
    (folder / "conf").write_text(NGINX.format(dir=folder, cores=CORES, backend=backend, port=port))
    binary = shutil.which("nginx")
    try:
        with program(binary, "-p", folder, "-c", folder / "conf", stderr=subprocess.DEVNULL) as process:
            listening(port)
            yield f"http://127.0.0.1:{port}", process.pid
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def children_of(pid):
    return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def preview(router, rounds):
    if not shutil.which("nginx"):
        print("preview: there is no nginx to compare with")
        return
    body = b"x" * 1024
    box = harness.Sandbox(router, router.client("admin"), "bench-1")
    box.write("/workspace/bare_server", (HELPERS / "bare_server").read_bytes())
    box.write("/workspace/body", body)
    box.run("chmod +x /workspace/bare_server; (sleep 100000 | nohup /workspace/bare_server 8000 %d /workspace/body) > /dev/null 2>&1 &" % CORES)
    assert box.post("/ports", json={"port": 8000}).status_code == 201
    path = f"{box.base}/preview/8000/"
    harness.wait_for(lambda: box.client.get(path).status_code == 200, what="the previewed application")
    key = f"X-API-Key: {router.keys['admin']}"
    with bare_server(body) as (backend, _), nginx(int(backend.rpartition(":")[2])) as (url, pid):
        def ours():
            return wrk(router.url + path, [key])

        def peer():
            return wrk(url + "/")

        ratio, a, b = compare_rates(ours, peer, rounds)
        cost = cpu_per_request(router.process.pid, ours)
        before, started = sum(map(cpu_of, children_of(pid))), time.monotonic()
        rate = peer()
        peer_cost = (sum(map(cpu_of, children_of(pid))) - before) / (rate * (time.monotonic() - started)) * 1e6
    row("preview", f"{ratio:.2f}", ">= 1.0", ratio >= 1.0,
        f"{a:,.0f}/s against {b:,.0f}/s of nginx proxy_pass, 1 KiB; {cost:.1f} and {peer_cost:.1f} µs of processor time")


def raw_server(folder):
    """A process that copies between a socket and a file: "u" then bytes, or "d" and the file's bytes come."""
    source = f"""
import os, socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
path, buffer = sys.argv[2], bytearray({BLOCK})
while True:
    c, _ = s.accept()
    kind = c.recv(1)
    if kind == b"u":
        with open(path + ".new", "wb", buffering=0) as f:
            left = {SIZE}
            while left:
                n = c.recv_into(buffer, min(left, {BLOCK}))
                f.write(memoryview(buffer)[:n]); left -= n
        os.rename(path + ".new", path)
        c.sendall(b"k")
    elif kind == b"d":
        with open(path, "rb", buffering=0) as f:
            while n := f.readinto(buffer): c.sendall(memoryview(buffer)[:n])
    c.close()
"""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", source, str(port), str(folder / "raw")])
    listening(port)
    return port, process


def transfers(router, rounds):
    box = harness.Sandbox(router, router.client("admin"), "bench-1")
    data = os.urandom(SIZE)
    path = box.base + "/files/workspace/big"
    head = f"{path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {router.keys['admin']}\r\n"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="at-raw-", dir=router.state_dir))
    port, process = raw_server(folder)

    def timed(action):
        def run():
            started = time.perf_counter()
            action()
            return SIZE / (time.perf_counter() - started)
        return run

    def dial(to):
        connection = socket.create_connection(("127.0.0.1", to), 60)
        return connection

    def our_upload():
        with dial(router.port) as c:
            c.sendall(f"PUT {head}Content-Length: {SIZE}\r\n\r\n".encode())
            c.sendall(data)
            assert c.recv(4096).startswith(b"HTTP/1.1 201")

    def raw_upload():
        with dial(port) as c:
            c.sendall(b"u")
            c.sendall(data)
            assert c.recv(1) == b"k"

    def our_download():
        with dial(router.port) as c:
            c.sendall(f"GET {head}\r\n".encode())
            got = b""
            while b"\r\n\r\n" not in got:
                got += c.recv(4096)
            answer, _, rest = got.partition(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200") and f"Content-Length: {SIZE}".encode() in answer
            receive(c, SIZE - len(rest))

    def raw_download():
        with dial(port) as c:
            c.sendall(b"d")
            receive(c, SIZE)

    try:
        for name, ours, peer in (("upload of 32 MiB", our_upload, raw_upload), ("download of 32 MiB", our_download, raw_download)):
            ours(), peer()
            ratio, a, b = compare_rates(timed(ours), timed(peer), rounds * 4)
            row(name, f"{ratio:.2f}", ">= 0.6", ratio >= 0.6, f"{a / MiB:,.0f} MiB/s against {b / MiB:,.0f} MiB/s of a raw loopback copy")
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def process_one(router, name):
    """The pid of a sandbox's process 1: the runtime whose workspace is that sandbox's."""
    uid = router.client("admin").get(f"/api/v1/sandboxes/{name}").json()
    for pid, command in harness.processes_of(router.state_dir.name).items():
        if command.startswith("/.agenttier/runtime") and "\t1\n" in pathlib.Path(f"/proc/{pid}/status").read_text().replace(f"NSpid:\t{pid}", "NSpid:"):
            if pathlib.Path(f"/proc/{pid}/root/workspace/big").exists() or len(harness.running) == 1:
                return pid
    raise SystemExit(f"no process 1 of {name} was found ({uid})")


def exec_true(router, rounds):
    data = request(router, "POST", "/api/v1/sandboxes/bench-1/exec", {"command": ["/bin/true"]})
    pid = process_one(router, "bench-1")
    connection = socket.create_connection(("127.0.0.1", router.port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    more, ours, peer = [], [], []
    with program(HELPERS / "enter", pid) as enter:
        for _ in range(rounds * 40):
            started = time.perf_counter()
            status, body = ask(connection, data)
            a = time.perf_counter() - started
            assert status == 200 and json.loads(body)["exitCode"] == 0, body
            enter.stdin.write("\n")
            enter.stdin.flush()
            b = int(enter.stdout.readline()) / 1e9
            more.append(a - b)
            ours.append(a)
            peer.append(b)
    value = statistics.median(more) * 1000
    row("exec of /bin/true, more than bare entry", f"{value:.2f} ms", "<= 1 ms", value <= 1,
        f"{statistics.median(ours) * 1000:.2f} ms against {statistics.median(peer) * 1000:.2f} ms of setns, fork and exec")


def first_exec(router, rounds):
    times, creates = [], []
    connection = socket.create_connection(("127.0.0.1", router.port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(rounds * 4):
        name = f"first-{i}"
        started = time.perf_counter()
        status, body = ask(connection, request(router, "POST", "/api/v1/sandboxes", {"name": name, "template": harness.TEMPLATE}))
        assert status == 201, body
        created = time.perf_counter()
        while json.loads(ask(connection, request(router, "GET", f"/api/v1/sandboxes/{name}"))[1])["status"] != "Running":
            time.sleep(0.0005)
        status, body = ask(connection, request(router, "POST", f"/api/v1/sandboxes/{name}/exec", {"command": ["/bin/true"]}))
        assert status == 200 and json.loads(body)["exitCode"] == 0, body
        times.append(time.perf_counter() - started)
        creates.append(created - started)
        client = router.client("admin")
        client.delete(f"/api/v1/sandboxes/{name}")
        harness.wait_for(lambda: client.get(f"/api/v1/sandboxes/{name}").status_code == 404, what="deletion")
    value = statistics.median(times) * 1000
    row("create to first exec's answer", f"{value:.1f} ms", "<= 25 ms", value <= 25,
        f"best {min(times) * 1000:.1f} ms; the create's answer after {statistics.median(creates) * 1000:.1f} ms")


def start_time(rounds):
    for label, keep in (("start to serving, state that is there", True), ("start to serving, first of all", False)):
        times = []
        state = pathlib.Path(tempfile.mkdtemp(prefix="at-start-"))
        for i in range(rounds * 2 + 1):
            if not keep:
                shutil.rmtree(state, ignore_errors=True)
            port = free_port()
            started = time.perf_counter()
            process = subprocess.Popen([harness.BINARY, "--backend=local", f"--state-dir={state}", f"--listen-addr=127.0.0.1:{port}",
                                        "--dev-auth"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as c:
                    c.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert c.recv(4096).startswith(b"HTTP/1.1 200")
                    break
                time.sleep(0.0003)
            if i or not keep:
                times.append(time.perf_counter() - started)
            process.terminate()
            process.wait()
        shutil.rmtree(state, ignore_errors=True)
        value = statistics.median(times) * 1000
        row(label, f"{value:.1f} ms", "<= 20 ms", value <= 20, f"best {min(times) * 1000:.1f} ms")


def memory(rounds):
    """On a Router of its own, so that what other rows left behind does not count."""
    with harness.Router(keys=("admin",)) as router:
        pid = router.process.pid
        router.sandbox("memory", key="admin")
        box = harness.Sandbox(router, router.client("admin"), "memory")
        box.write("/workspace/big", os.urandom(SIZE))
        time.sleep(0.5)
        idle, own = memory_of(pid, "VmRSS"), memory_of(pid, "RssAnon")
        row("resident memory, idle", f"{idle / 1e6:.1f} MB", "<= 10 MB", idle <= 10e6, f"of it {own / 1e6:.1f} MB not from files")
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
        data = os.urandom(BLOCK)
        failures = []

        def one(i):
            head = f"{box.base}/files/workspace/{'big' if i % 2 else f'up{i}'} HTTP/1.1\r\nHost: x\r\nX-API-Key: {router.keys['admin']}\r\n"
            try:
                with socket.create_connection(("127.0.0.1", router.port), 300) as c:
                    if i % 2:
                        c.sendall(f"GET {head}\r\n".encode())
                        got = c.recv(4096)
                        assert got.startswith(b"HTTP/1.1 200"), got
                        receive(c, SIZE - len(got.partition(b"\r\n\r\n")[2]), bytearray(BLOCK))
                    else:
                        c.sendall(f"PUT {head}Content-Length: {SIZE}\r\n\r\n".encode())
                        for _ in range(SIZE // BLOCK):
                            c.sendall(data)
                        got = c.recv(4096)
                        assert got.startswith(b"HTTP/1.1 201"), got
            except (OSError, AssertionError, SystemExit) as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=one, args=(i,)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise SystemExit(f"transfers failed: {failures[:3]}")
        more = memory_of(pid, "VmHWM") - idle
        row("more memory with 64 transfers of 32 MiB", f"{more / 1e6:.1f} MB", "<= 16 MB", more <= 16e6, "32 up and 32 down at once")


REFUSED = """
wrk.method = "POST"
wrk.body = '{"name": "one-more", "namespace": "full", "template": "t"}'
function response(status) if status ~= 403 then os.exit(1) end end
"""


def quota(rounds):
    """A create that the quota refuses, with 10,000 sandboxes in the namespace beside one that has 10."""
    with contextlib.ExitStack() as stack:
        script = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".lua"))
        script.write(REFUSED)
        script.flush()
        routers = []
        for count in (10, 10000):
            router = harness.Router("--log-level=warn", dev_auth=True)
            stack.callback(shutil.rmtree, router.state_dir, ignore_errors=True)
            router.start()
            router.terminate()
            many_sandboxes(router, count)
            router.restart()
            stack.callback(router.terminate)
            with router.client() as client:
                client.put("/api/v1/governance/policies/full", json={"maxSandboxesTotal": 5}).raise_for_status()
            routers.append(router)

        def refused(router):
            text = subprocess.run(["wrk", "-t1", "-c8", "-d1s", "-s", script.name, router.url + "/api/v1/sandboxes"],
                                  capture_output=True, text=True, check=True).stdout
            return float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])

        few, many = routers
        ratio, a, b = compare_rates(lambda: refused(many), lambda: refused(few), rounds)
        cost = [cpu_per_request(r.process.pid, lambda r=r: refused(r)) for r in (many, few)]
    row("quota check, 10,000 sandboxes", f"{ratio:.2f}", ">= 0.9", ratio >= 0.9,
        f"{a:,.0f}/s refused against {b:,.0f}/s with 10 sandboxes; {cost[0]:.1f} and {cost[1]:.1f} µs of processor time")


MINT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = "{key}"
wrk.body = '{{"name": "bench"}}'
"""


def mint(router, count):
    """At least `count` keys of one user, made over the API; how many a second."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(MINT.format(key=router.keys["u1"]))
        script.flush()
        made = 0
        while made < count:
            text = subprocess.run(["wrk", "-t1", "-c64", "-d5s", "--timeout", "20s", "-s", script.name, router.url + "/api/v1/user/api-keys"],
                                  capture_output=True, text=True, check=True).stdout
            assert "Non-2xx" not in text, text
            made += int(re.search(r"(\d+) requests in", text)[1])
    return made, made / (time.monotonic() - started)


def authentication(rounds):
    """Reads of one sandbox with credentials, beside the same without (--dev-auth); and with many keys loaded."""
    import issuer as provider
    path = "/api/v1/sandboxes/bench-1"
    sandbox = {"name": "bench-1", "template": "no-such-template"}
    with provider.Issuer([provider.Key("RSA", "k")]) as issuer:
        flags = [f"--oidc-issuer={issuer.url}", f"--oidc-client-id={provider.AUDIENCE}", "--api-keys-per-user=0"]
        with harness.Router(dev_auth=True) as open_router, harness.Router(*flags, keys=("u1", "admin")) as router:
            for one, client in ((open_router, open_router.client()), (router, router.client("u1"))):
                client.post("/api/v1/sandboxes", json=sandbox).raise_for_status()
                harness.wait_for(lambda client=client: client.get(path).json()["status"] == "Error", 20)
            harness.wait_for(lambda: router.anonymous().get("/readyz").text == "ok", 20)
            key = f"X-API-Key: {router.keys['u1']}"
            token = issuer.token("u1", groups=[f"team-{n}" for n in range(10)], exp=int(time.time()) + 3600)
            without = lambda: wrk(open_router.url + path)  # noqa: E731
            for name, header, goal in (("read with an API key, to without", key, 0.9), ("read with a JWT, to without", f"Authorization: Bearer {token}", 0.85)):
                def load(header=header):
                    return wrk(router.url + path, [header])

                ratio, a, b = compare_rates(load, without, rounds)
                cost = [statistics.median(cpu_per_request(r.process.pid, one) for _ in range(3)) for r, one in ((router, load), (open_router, without))]
                row(name, f"{ratio:.2f}", f">= {goal}", ratio >= goal,
                    f"{a:,.0f}/s against {b:,.0f}/s; {cost[0]:.1f} and {cost[1]:.1f} µs of processor time")
            with harness.Router(*flags, keys=("u1", "admin")) as full:
                full.client("u1").post("/api/v1/sandboxes", json=sandbox).raise_for_status()
                harness.wait_for(lambda: full.client("u1").get(path).json()["status"] == "Error", 20)
                before = memory_of(full.process.pid, "VmRSS")
                made, rate = mint(full, 100_000)
                grown = memory_of(full.process.pid, "VmRSS") - before
                row("memory of 100,000 API keys", f"{grown * 1e5 / made / 1e6:.0f} MB", "<= 200 MB", grown * 1e5 / made <= 200e6,
                    f"{grown / made:,.0f} bytes a key, as object and in the table; {made:,} were made at {rate:,.0f}/s")
                many = f"X-API-Key: {full.keys['u1']}"
                ratio, a, b = compare_rates(lambda: wrk(full.url + path, [many]), lambda: wrk(router.url + path, [key]), rounds)
                row("read with one key of 100,000, to one of 2", f"{ratio:.2f}", ">= 0.95", ratio >= 0.95, f"{a:,.0f}/s against {b:,.0f}/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of each comparison")
    parser.add_argument("--only", default="", help="a word in the row's function: reads, preview, transfers, exec_true, first_exec, start_time, memory, quota, authentication")
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    begin(options.rounds)
    with_router = [f for f in (reads, preview, transfers, exec_true, first_exec) if options.only in f.__name__]
    if with_router:
        with harness.Router(keys=("admin",)) as router:
            for i in range(50):
                router.sandbox(f"bench-{i}", key="admin") if i == 1 else router.client("admin").post(
                    "/api/v1/sandboxes", json={"name": f"bench-{i}", "template": harness.TEMPLATE}).raise_for_status()
            client = router.client("admin")
            harness.wait_for(lambda: {s["status"] for s in client.get("/api/v1/sandboxes").json()["sandboxes"]} == {"Running"}, 60)
            for function in with_router:
                function(router, options.rounds)
    for function in (start_time, memory, quota, authentication):
        if options.only in function.__name__:
            function(options.rounds)
    finish(options.json)


if __name__ == "__main__":
    main()
