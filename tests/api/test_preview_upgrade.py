"""Upgrades in previews, with a real WebSocket application and with raw ones: http-api.md 2.11, lessons S1 to S3,
S20, S25, I19, I20, M3."""

import contextlib
import hashlib
import io
import json
import pathlib
import socket
import tarfile
import threading
import time

import pytest
import websockets
from websockets.sync.client import connect

from harness import MiB, Raw, Router, error_of, wait_for

APP = r'''
import asyncio, hashlib, json, sys
sys.path.insert(0, "/workspace/lib")
from websockets.asyncio.server import serve
from websockets.http11 import Response
from websockets.datastructures import Headers
count = 0
def plain(connection, request):
    global count
    if request.path == "/count":
        return Response(200, "OK", Headers({"Content-Length": str(len(str(count)))}), str(count).encode())
    count += 1
    if request.path == "/refuse":
        return Response(403, "Forbidden", Headers({"Content-Length": "2", "X-App": "said no"}), b"no")
async def app(ws):
    path = ws.request.path
    if path.startswith("/headers"):
        await ws.send(json.dumps([path, list(ws.request.headers.raw_items())]))
    elif path == "/close":
        await ws.close(4001, "because")
    elif path == "/flood":
        piece = bytes(range(256)) * 1024
        for _ in range(160): await ws.send(piece)
    elif path == "/sink":
        digest = hashlib.sha256()
        async for message in ws:
            if message == "end": break
            digest.update(message)
        await ws.send(digest.hexdigest())
    else:
        async for message in ws: await ws.send(message)
async def main():
    async with serve(app, "127.0.0.1", 8300, max_size=2**26, process_request=plain, subprotocols=["chat.v2", "chat.v1"],
                     select_subprotocol=lambda ws, offered: offered[0] if offered else None) as s:
        await s.serve_forever()
asyncio.run(main())
'''


def install_websockets(box):
    """The sandbox gets the package that the tests have."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(pathlib.Path(websockets.__file__).parent, "lib/websockets",
                filter=lambda i: None if "__pycache__" in i.name else i)
    answer = box.put("/archive", params={"path": "/workspace"}, content=data.getvalue())
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def app(box):
    install_websockets(box)
    return box.server(APP, 8300)


@pytest.fixture(scope="module")
def ws(box, app):
    """connect(path): a WebSocket to the application, as a client makes one from previewUrl."""
    preview = next(p for p in box.get("/ports").json()["ports"] if p["port"] == 8300)["previewUrl"]
    assert preview.startswith(f"http://127.0.0.1:{box.router.port}/")
    base = "ws" + preview.removeprefix("http").rstrip("/")

    def dial(path="/echo", **options):
        headers = {"X-API-Key": box.router.keys["u1"], **options.pop("headers", {})}
        options = {"max_size": 2**26, "open_timeout": 60, "close_timeout": 30, "compression": None, **options}
        return connect(base + path, additional_headers=headers, **options)

    return dial


KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def handshake(box, path, *extra, key=True, method="GET", websocket=True):
    lines = [f"{method} {path} HTTP/1.1", "Host: router.test"]
    if key:
        lines.append(f"X-API-Key: {box.router.keys['u1']}")
    if websocket:
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}"]
    return "\r\n".join([*lines, *extra]) + "\r\n\r\n"


# ---- a real application ----

def test_2_11_websocket_echo_of_every_size(ws):
    with ws() as socket_:
        for size in (0, 1, 125, 126, 65535, 65536, 65537, 4 * MiB):
            message = bytes(i * 7 & 255 for i in range(min(size, 4096))) * (size // 4096 + 1)
            socket_.send(message[:size])
            assert socket_.recv(timeout=60) == message[:size]
        socket_.send("text ü €")
        assert socket_.recv(timeout=60) == "text ü €"
        socket_.send(iter(["in ", "many ", "fragments"]))
        assert socket_.recv(timeout=60) == "in many fragments"
        assert socket_.ping().wait(60)


def test_2_11_close_codes_pass(ws):
    with ws("/close") as socket_, pytest.raises(websockets.ConnectionClosed) as closed:
        socket_.recv(timeout=60)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "because")


def test_2_11_extensions_and_subprotocols_are_the_applications(ws):
    with ws(compression="deflate", subprotocols=["chat.v1", "chat.v2"]) as socket_:
        assert socket_.subprotocol in ("chat.v1", "chat.v2")
        socket_.send("a" * 100000)
        assert socket_.recv(timeout=60) == "a" * 100000


def test_2_11_with_the_url_of_the_sdk(dev):
    """The tutorial's previewUrl, as the published SDK gives it, carries a WebSocket."""
    from agenttier import AgentTierClient
    handle = dev.sandbox("ws-sdk")
    install_websockets(handle)
    handle.server(APP, 8300)
    client = AgentTierClient(api_url=dev.url)
    forward = client.get_sandbox("ws-sdk").forward_port(8300)
    url = getattr(forward, "preview_url", None) or forward["previewUrl"]
    with connect("ws" + url.removeprefix("http").rstrip("/") + "/echo", open_timeout=60) as socket_:
        socket_.send("hello")
        assert socket_.recv(timeout=60) == "hello"
    handle.remove()


def test_M3_no_delay_between_message_and_answer(ws):
    """With Nagle's algorithm on either side every round trip would take 40 ms; on a busy machine some do."""
    best = 1.0
    with ws() as socket_:
        for turn in range(400):
            if turn >= 40 and best < 0.03:
                break
            started = time.monotonic()
            socket_.send(bytes(16384))
            socket_.recv(timeout=60)
            best = min(best, time.monotonic() - started)
    assert best < 0.03


@pytest.mark.tsan
def test_2_11_many_at_once(ws):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(ws()) for _ in range(60)]
        for i, socket_ in enumerate(sockets):
            socket_.send(str(i))
        assert [s.recv(timeout=60) for s in sockets] == [str(i) for i in range(60)]


def test_I19_request_limits_do_not_apply(ws, box):
    """A quiet connection outlives the time that a request's head may take, and the sandbox knows of its use."""
    with ws() as socket_:
        time.sleep(6.5)
        socket_.send("still here")
        assert socket_.recv(timeout=60) == "still here"


def test_W19_traffic_is_use_of_the_sandbox(keyed):
    box = keyed.sandbox("ws-idle", key="u1", overrides={"idleTimeout": "12s"})
    path = raw_app(box, 8400, "c.sendall(GRANT)\n        while True:\n            c.sendall(b'tick'); time.sleep(0.2)")
    with Raw(keyed, timeout=20) as raw:
        raw.send(handshake(box, path + "/", "Connection: Upgrade", "Upgrade: echo", websocket=False))
        assert raw.response()[0] == 101
        end = time.monotonic() + 15
        while time.monotonic() < end:
            assert raw.socket.recv(65536)
        assert box.status() == "Running"
    box.remove()


def test_headers_are_those_of_any_preview(ws, box):
    """S20, S25, S3: no credential of ours reaches the application; Connection strips nothing of ours."""
    secret = box.router.keys["u1"]
    with ws("/headers?x=1&y=%2F", origin=f"http://127.0.0.1:{box.router.port}",
            headers={"Cookie": f"agenttier_session={secret}; app=1", "X-Forwarded-For": "6.6.6.6", "X-Own": "yes"}) as socket_:
        path, headers = json.loads(socket_.recv(timeout=60))
    assert path == "/headers?x=1&y=%2F"
    names = [name.lower() for name, _ in headers]
    values = {name.lower(): value for name, value in headers}
    assert secret not in json.dumps(headers)
    assert not {"x-api-key", "authorization"} & set(names)
    assert values["cookie"] == "app=1" and values["x-own"] == "yes"
    assert values["host"] == "localhost:8300" and values["origin"] == "http://localhost:8300"
    assert values["x-forwarded-for"] == "127.0.0.1" and values["x-forwarded-prefix"].endswith("/preview/8300")
    for name in ("connection", "upgrade", "sec-websocket-key", "sec-websocket-version", "host"):
        assert names.count(name) == 1, (name, headers)


# ---- refused before anything is dialled ----

def dialled(box, app):
    return int(box.client.get(app + "/count").text)


@pytest.mark.parametrize("credential", ["none", "wrong", "other user", "query", "cookie"])
def test_S01_upgrade_without_credentials_never_reaches_the_application(box, app, credential):
    before = dialled(box, app)
    extra = {"none": [], "wrong": ["X-API-Key: atk_" + "x" * 43], "query": [],
             "other user": [f"X-API-Key: {box.router.keys['u2']}"],
             "cookie": [f"Cookie: token={box.router.keys['u1']}"]}[credential]
    path = app + ("/echo?token=" + box.router.keys["u1"] if credential == "query" else "/echo")
    with Raw(box.router) as raw:
        raw.send(handshake(box, path, *extra, key=False))
        status, _, body = raw.response()
        assert status == (404 if credential == "other user" else 401), body
        assert json.loads(body)["error"]
    assert dialled(box, app) == before


BAD = {
    "no key": ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
    "short key": ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="],
    "two keys": ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Key: {KEY}"],
    "no version": ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}"],
    "two upgrades": ["Connection: Upgrade", "Upgrade: websocket", "Upgrade: echo", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}"],
    "body": ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", "Content-Length: 3"],
    "chunked body": ["Connection: Upgrade", "Upgrade: echo", "Transfer-Encoding: chunked"],
    "not a token": ["Connection: Upgrade", "Upgrade: web socket"],
}


@pytest.mark.parametrize("name", BAD)
def test_S18_bad_handshakes_are_400(box, app, name):
    before = dialled(box, app)
    with Raw(box.router) as raw:
        body = {"body": "abc", "chunked body": "3\r\nabc\r\n0\r\n\r\n"}.get(name, "")
        raw.send(handshake(box, app + "/echo", *BAD[name], websocket=False) + body)
        status, _, answer = raw.response()
        assert status == 400, answer
        assert json.loads(answer)["code"] == "bad_request"
    assert dialled(box, app) == before


def test_S18_post_is_no_websocket(box, app):
    with Raw(box.router) as raw:
        raw.send(handshake(box, app + "/echo", "Content-Length: 0", method="POST"))
        assert raw.response("POST")[0] == 400


@pytest.mark.parametrize("headers", [["Connection: keep-alive", "Upgrade: websocket"], ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
                                     ["Connection: Upgrade", "Upgrade: a, b"]])
def test_2_11_upgrades_that_may_be_ignored_are(box, app, headers):
    with Raw(box.router) as raw:
        raw.send(handshake(box, app + "/count", *headers, websocket=False))
        assert raw.response()[0] == 200


def test_S03_a_foreign_page_cannot_use_the_development_mode(dev):
    box = dev.sandbox("ws-origin")
    path = raw_app(box, 8401, "c.sendall(GRANT + b'granted')")
    lines = ["Connection: Upgrade", "Upgrade: echo"]
    for origin, wanted in (("http://evil.example", 403), (f"http://127.0.0.1:{dev.port + 1}", 403), ("null", 101),
                           ("http://box.localhost:81", 101), (None, 101)):
        with Raw(dev) as raw:
            request = "\r\n".join([f"GET {path}/ HTTP/1.1", "Host: box.localhost:81", *lines, *([f"Origin: {origin}"] if origin else [])])
            raw.send(request + "\r\n\r\n")
            status, _, body = raw.response()
            assert status == wanted, (origin, body)
    box.remove()


# ---- what the application answers ----

def test_S02_a_refusal_is_an_ordinary_answer(box, app):
    """And what the client has sent ahead is neither relayed nor taken for a request."""
    with Raw(box.router) as raw:
        raw.send(handshake(box, app + "/refuse") + f"GET {app}/count HTTP/1.1\r\nHost: x\r\nX-API-Key: {box.router.keys['u1']}\r\n\r\n")
        status, headers, body = raw.response()
        assert (status, body, headers["X-App"], headers["Connection"]) == (403, b"no", "said no", "close")
        assert raw.rest() == b""


def raw_app(box, port, handle):
    """An application on a bare socket: `handle` runs for each connection `c` after its request's head."""
    source = f"""
import hashlib, os, socket, struct, threading, time
GRANT = b'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n'
def work(c):
    try:
        data = b''
        while b'\\r\\n\\r\\n' not in data:
            more = c.recv(65536)
            if not more: return
            data += more
        head, _, ahead = data.partition(b'\\r\\n\\r\\n')
        {handle}
    except OSError: pass
    finally: c.close()
s = socket.create_server(('127.0.0.1', {port}), backlog=64)
while True:
    c, _ = s.accept()
    threading.Thread(target=work, args=(c,), daemon=True).start()
"""
    return box.server(source, port)


LIES = {
    "no connection": "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    "no upgrade": "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    "other protocol": "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    "no accept": "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "wrong accept": "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
    "with a length": "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 9\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    "malformed": "HTTP/1.1 101 S\r\nConnection : Upgrade\r\n\r\n",
}


@pytest.fixture(scope="module")
def liars(box):
    return raw_app(box, 8410, f"c.sendall({LIES!r}[head.split(b' ')[1][1:].decode().replace('_', ' ')].encode() + b'raw bytes'); time.sleep(1)")


@pytest.mark.parametrize("name", LIES)
def test_S02_a_grant_that_is_none_relays_nothing(box, liars, name):
    with Raw(box.router, timeout=20) as raw:
        raw.send(handshake(box, liars + "/" + name.replace(" ", "_")))
        status, _, body = raw.response()
        assert status == 502 and json.loads(body)["code"] == "upstream_bad_answer", body
        assert b"raw bytes" not in body


def test_2_11_other_protocols_and_bytes_sent_ahead(box):
    """The application's first bytes come with its 101, the client's with its request; both arrive once and in order."""
    path = raw_app(box, 8411, "c.sendall(GRANT + b'welcome ')\n        c.sendall(ahead)\n        while True:\n"
                              "            d = c.recv(65536)\n            if not d: break\n            c.sendall(d)\n        c.sendall(b' bye')")
    for ahead in (b"", b"ahead "):
        with Raw(box.router, timeout=20) as raw:
            raw.send(handshake(box, path + "/", "Connection: upgrade", "Upgrade: echo", websocket=False).encode() + ahead)
            status, headers, _ = raw.response()
            assert status == 101 and headers["Upgrade"] == "echo" and headers["Connection"].lower() == "upgrade"
            raw.send(b"\x00\xff bytes")
            raw.socket.shutdown(socket.SHUT_WR)
            assert raw.rest() == b"welcome " + ahead + b"\x00\xff bytes bye"


def rss(router):
    return int(pathlib.Path(f"/proc/{router.process.pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.tsan
def test_I26_a_slow_reader_stops_the_application(box, app, ws):
    before = rss(box.router)
    with ws("/flood", max_queue=1) as socket_:
        time.sleep(1)
        held = rss(box.router) - before
        digest, size = hashlib.sha256(), 0
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                message = socket_.recv(timeout=60)
                digest.update(message)
                size += len(message)
    assert size == 40 * MiB and digest.hexdigest() == hashlib.sha256(bytes(range(256)) * 1024 * 160).hexdigest()
    assert held < 8 * MiB


def test_I26_a_slow_application_stops_the_writer(box, ws):
    piece = bytes(range(256)) * 1024
    with ws("/sink") as socket_:
        for _ in range(160):
            socket_.send(piece)
        socket_.send("end")
        assert socket_.recv(timeout=60) == hashlib.sha256(piece * 160).hexdigest()


def test_2_11_either_side_that_leaves_ends_the_other(box):
    path = raw_app(box, 8412, "c.sendall(GRANT)\n        open('/tmp/ws-ends', 'a').write('+')\n        c.recv(100)\n        open('/tmp/ws-ends', 'a').write('-')")
    for leave in ("client", "application", "reset"):
        with Raw(box.router, timeout=20) as raw:
            raw.send(handshake(box, path + "/", "Connection: Upgrade", "Upgrade: echo", websocket=False))
            assert raw.response()[0] == 101
            if leave == "application":
                raw.send(b"go")
                assert raw.rest() == b""
            if leave == "reset":
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_for(lambda: sorted(box.read("/tmp/ws-ends")) == sorted(b"+-" * 3), what="end of all connections")


def test_stop_of_the_sandbox_ends_the_connection(keyed):
    box = keyed.sandbox("ws-stop", key="u1")
    path = raw_app(box, 8413, "c.sendall(GRANT); time.sleep(600)")
    with Raw(keyed, timeout=30) as raw:
        raw.send(handshake(box, path + "/", "Connection: Upgrade", "Upgrade: echo", websocket=False))
        assert raw.response()[0] == 101
        assert box.post("/stop").status_code == 200
        assert raw.rest() == b""
    box.remove()


@pytest.mark.tsan
def test_1_13_a_drain_does_not_wait_for_upgraded_connections():
    """But for requests: one that runs is finished, and its answer is whole."""
    with Router(keys=("u1",)) as router:
        box = router.sandbox("ws-drain", key="u1")
        path = raw_app(box, 8414, "c.sendall(GRANT); time.sleep(600)")
        with Raw(router, timeout=30) as raw:
            raw.send(handshake(box, path + "/", "Connection: Upgrade", "Upgrade: echo", websocket=False))
            assert raw.response()[0] == 101
            answers = []
            running = threading.Thread(target=lambda: answers.append(box.exec("touch /workspace/began; sleep 2; echo done")))
            running.start()
            wait_for(lambda: box.get("/files/workspace/began").status_code == 200, what="the command")
            started = time.monotonic()
            assert router.terminate() == 0
            assert time.monotonic() - started < 25  # the drain's limit is 30 s
            running.join()
            assert answers[0]["stdout"] == "done\n"
            assert raw.rest() == b""
        router.restart()
        box.client = router.client("u1")
        box.remove()
