"""The end of a Router with requests under way that hang: http-api.md 1.13."""

import signal
import socket
import threading
import time

import pytest

import harness
from harness import MiB, Raw, Router, Sandbox, wait_for

PATIENCE = 10  # seconds in which something must move
STEPS = 14  # seconds that the others go on, longer than that


def head(box, method, path, *more):
    lines = [f"{method} {box.base}/files{path} HTTP/1.1", "Host: localhost", "X-API-Key: " + box.router.keys["u1"], *more]
    return "\r\n".join(lines) + "\r\n\r\n"


def small_window(router):
    """A connection of which the kernel takes little that nobody reads."""
    raw = Raw.__new__(Raw)
    raw.socket, raw.buffer = socket.socket(), b""
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    raw.socket.settimeout(60)
    raw.socket.connect(("127.0.0.1", router.port))
    return raw


@pytest.mark.tsan
def test_1_13_a_drain_waits_for_what_moves_and_not_for_what_hangs(fresh):
    router = Router(keys=("u1", "admin"))
    router.start()
    box = router.sandbox(fresh, key="u1")
    box.run("head -c 30000000 /dev/zero > /workspace/large")
    upload, download = small_window(router), small_window(router)
    moving, reading = small_window(router), small_window(router)
    upload.send(head(box, "PUT", "/workspace/stuck", f"Content-Length: {MiB}", "Expect: 100-continue"))
    moving.send(head(box, "PUT", "/workspace/moving", f"Content-Length: {STEPS * 10}", "Expect: 100-continue"))
    download.send(head(box, "GET", "/workspace/large"))
    reading.send(head(box, "GET", "/workspace/large"))
    assert (upload.response()[0], moving.response()[0]) == (100, 100)
    assert download._receive().startswith(b"HTTP/1.1 200 ") and reading._receive().startswith(b"HTTP/1.1 200 ")
    upload.send(b"x" * 1000)
    moving.send(b"y" * 10)
    results = {}

    def run_long():
        results["exec"] = box.post("/exec", json={"command": f"touch /tmp/begun; sleep {STEPS}; echo done"})

    def wait_for_cut():
        assert not upload._receive()
        results["cut"] = time.monotonic()

    threads = [threading.Thread(target=run_long), threading.Thread(target=wait_for_cut)]
    for thread in threads:
        thread.start()
    wait_for(lambda: box.exec("test -e /tmp/begun")["exitCode"] == 0, what="the command begun")
    began = time.monotonic()
    router.process.send_signal(signal.SIGTERM)
    for _ in range(STEPS - 1):
        time.sleep(1)
        moving.send(b"y" * 10)
        assert reading._receive()
    assert moving.response()[0] == 201
    reading.socket.close()
    for thread in threads:
        thread.join(40)
    assert results["exec"].json()["stdout"] == "done\n"
    assert PATIENCE - 1 < results["cut"] - began < 25  # the drain's own end is after 30 s
    assert router.process.wait(30) == 0  # although nobody has read the download
    assert time.monotonic() - began < 25
    assert not router.alarms()
    harness.running.remove(router)
    for raw in (upload, download, moving):
        raw.socket.close()
    router.start()
    assert Sandbox(router, router.client("u1"), fresh).read("/workspace/moving") == b"y" * STEPS * 10
    router.stop()
