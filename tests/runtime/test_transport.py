"""Transport, token, limits and hostile requests: docs/runtime-protocol.md, controller.md 18.1 to 18.3, lessons S18, S26."""

import contextlib
import os
import socket
import subprocess
import time

import pytest

from client import BINARY, TOKEN, Runtime, read_answer, read_head, wait_for


def test_18_3_health_needs_no_token(rt):
    for method in ("GET", "HEAD", "POST", "PUT"):
        assert rt.ask(method, "/healthz", token=False).status == 200
    health = rt.ask("GET", "/healthz").json()
    assert health["status"] == "ok" and health["version"]
    assert {"files", "dir", "stat", "archive", "exec-stream", "exec-attach", "dial", "pty"} <= set(health["features"])


@pytest.mark.parametrize("header, text", [
    (None, "missing bearer token"), (TOKEN, "missing bearer token"), (f"bearer {TOKEN}", "missing bearer token"),
    (f"Basic {TOKEN}", "missing bearer token"), ("Bearer", "missing bearer token"), ("Bearer wrong", "invalid bearer token"),
    (f"Bearer {TOKEN}x", "invalid bearer token"), (f"Bearer {TOKEN[:-1]}", "invalid bearer token"),
    (f"Bearer  {TOKEN}", "invalid bearer token"),
])
def test_18_2_token(tcp, header, text):
    headers = [("Authorization", header)] if header else []
    for method, target in (("POST", "/exec"), ("GET", "/files?path=/etc/hostname"), ("POST", "/dial?port=1"), ("GET", "/pty"),
                           ("GET", "/nowhere"), ("DELETE", "/exec/x")):
        assert tcp.ask(method, target, headers=headers, token=False).error(401, "unauthorized")["error"] == text


def test_18_2_token_is_in_no_environment(tcp):
    assert TOKEN not in tcp.sh("env; tr '\\0' '\\n' < /proc/self/environ")
    # and not in what the kernel shows of the runtime's own
    with open(f"/proc/{tcp.process.pid}/environ", "rb") as environ:
        assert TOKEN.encode() not in environ.read()


def test_without_a_token_tcp_serves_nothing_but_health(own):
    for token in (None, ""):
        runtime = own("tcp", token=token)
        assert runtime.ask("GET", "/healthz").status == 200
        runtime.ask("POST", "/exec", {"command": ["true"]}).error(401)
        runtime.ask("POST", "/exec", {"command": ["true"]}, headers=[("Authorization", "Bearer ")]).error(401)


def test_insecure_no_token(own):
    runtime = own("tcp", token=None, flags=["--insecure-no-token"])
    assert runtime.exec(["/bin/echo", "hello"])["stdout"] == "hello\n"


def test_flags():
    run = lambda *a: subprocess.run([BINARY, *a], capture_output=True, text=True, timeout=30, check=False)
    assert run("--version").stdout.startswith("agenttier-runtime ")
    assert "Usage" in run("--help").stdout
    for bad in (["--nonsense"], ["extra"], ["--grace-seconds=x"], ["--log-format=xml"], ["--listen-fd=-1"]):
        assert run(*bad).returncode == 2, bad
    for bad in (["--listen-addr=nowhere"], ["--listen-addr=127.0.0.1:99999"], ["--listen-addr=example.org:80"], ["--listen-fd=2"]):
        assert run(*bad).returncode == 1, bad


def test_paths_and_methods(rt):
    rt.ask("GET", "/").error(404)
    rt.ask("GET", "/Exec").error(404)
    rt.ask("GET", "/files/").error(404)
    rt.ask("GET", "/exec").error(405)
    rt.ask("POST", "/stat?path=/").error(405)
    rt.ask("PATCH", "/files?path=/x").error(405)
    rt.ask("GET", "/invoke/cancel/x").error(405)
    rt.ask("PUT", "/exec/x").error(405)


HOSTILE = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "no version": b"GET /healthz\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bare lf": b"GET /healthz HTTP/1.1\nHost: x\n\n",
    "two spaces": b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "nul": b"GET /heal\0thz HTTP/1.1\r\nHost: x\r\n\r\n",
    "fold": b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "space before colon": b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    "two lengths": b"POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length and chunked": b"POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip": b"POST /exec HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(400)) + b"\r\n",
    "huge head": b"GET /healthz HTTP/1.1\r\nA: " + b"x" * 80000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_S18_hostile_heads(rt, name):
    answer = rt.raw(HOSTILE[name])
    assert answer is None or answer.status in (400, 431, 505), answer.body
    assert rt.alive()


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"-1\r\n", b"5\r\nhello", b"5\r\nhelloXX", b"ffffffffffffffffff\r\n", b"1;" + b"x" * 9000 + b"\r\n"])
def test_S18_hostile_chunks(rt, chunks):
    head = rt.head("PUT", f"/files?path={rt.folder}/chunks", [("Transfer-Encoding", "chunked")])
    answer = rt.raw(head + chunks, end=True)
    assert answer is None or answer.status == 400, answer.body
    assert not (rt.folder / "chunks").exists()


def test_S26_slow_heads_are_dropped(rt):
    started = time.monotonic()
    with rt.connect() as connection:
        connection.sendall(b"GET /healthz HT")
        connection.settimeout(30)
        data = connection.recv(1000)
        assert 3 < time.monotonic() - started < 25
        assert not data or b" 408 " in data or b" 400 " in data


def test_one_request_for_each_connection(rt):
    with rt.connect() as connection:
        connection.sendall(rt.head("GET", "/healthz") * 2)
        answer = read_answer(connection)
    assert answer.status == 200 and answer.headers["connection"] == "close" and b"HTTP/1.1" not in answer.body


def test_expect_continue(rt):
    with rt.connect() as connection:
        connection.sendall(rt.head("PUT", f"/files?path={rt.folder}/expected", [("Content-Length", 2), ("Expect", "100-continue")]))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"ok")
        assert read_answer(connection).status == 201


def test_a_refused_upload_is_answered_not_reset(rt):
    """The whole error arrives though the client still sends."""
    with rt.connect() as connection:
        connection.sendall(rt.head("PUT", "/files?path=relative", [("Content-Length", 3000000)]) + bytes(3000000))
        read_answer(connection).error(400, "bad_path")


def test_many_connections_at_once(rt):
    """Those above the limit are refused in words, and the runtime is well afterwards."""
    connections = []
    for _ in range(400):
        with contextlib.suppress(BlockingIOError):  # the queue of a UNIX socket is full
            connections.append(rt.connect())
    time.sleep(0.5)
    for connection in connections:
        connection.close()
    wait_for(rt.alive, 30)
    assert rt.exec(["/bin/true"])["exitCode"] == 0


def test_descriptors_of_the_runtime_do_not_reach_commands(rt):
    assert sorted(rt.sh("ls /proc/self/fd").split()) == ["0", "1", "2", "3"]  # 3 is ls's own
