"""Terminals: http-api.md 2.12, 3.6, 3.8, 5.6; W-16, W-17, W-19, W-20, W-27, W-33, W-53, W-64, W-70, W-71; O2, O10."""

import base64
import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest
from websockets.exceptions import InvalidStatus

from harness import BINARY, BUILD, SLOW, WRAP, MiB, Raw, Router, clean_environment, error_of, wait_for
from terminal_client import Terminal

API = "/api/v1"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
UPGRADE = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
APPLETS = ("ash cat cp dd echo env false head id kill ls mkdir mkfifo mv od printf ps pwd rm seq sed sh sleep sort stat stty tail top touch tr "
           "true tty uname vi wc whoami yes sha256sum").split()


def import_image(router, name, applets):
    """A root file system with busybox and nothing else: no bash, no tmux."""
    source = router.state_dir.parent / f"{router.state_dir.name}-image"
    (source / "bin").mkdir(parents=True)
    for folder in ("etc", "tmp", "proc", "dev", "usr", "workspace"):
        (source / folder).mkdir()
    try:
        shutil.copy(shutil.which("busybox"), source / "bin" / "busybox")
        for applet in applets:
            (source / "bin" / applet).symlink_to("busybox")
        # busybox's own shows sizes that it finds likelier. And the runtime of a sanitized build is not static.
        (source / "bin" / "stty").unlink(missing_ok=True)
        shutil.copy(shutil.which("stty"), source / "bin" / "stty")
        for program in (shutil.which("stty"), os.environ.get("AGENTTIER_RUNTIME") or str(BUILD / "agenttier-runtime")):
            needs = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
            for library in re.findall(r"(/\S+) \(0x", needs):
                (source / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, source / library.lstrip("/"))
        done = subprocess.run([*WRAP, str(BINARY), "import-image", f"--state-dir={router.state_dir}", "--name", name, str(source)],
                              capture_output=True, text=True, timeout=60, env=clean_environment(), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        shutil.rmtree(source)


@pytest.fixture(scope="module")
def images(keyed):
    """Templates: `small` has a /bin/sh alone, although it names /bin/bash; `shellless` has no shell at all."""
    if not shutil.which("busybox"):
        pytest.skip("no busybox here")
    import_image(keyed, "small", APPLETS)
    import_image(keyed, "shellless", ["cat"])
    with keyed.client("admin") as admin:
        for name in ("small", "shellless"):
            answer = admin.post(API + "/templates", json={"name": name, "spec": {
                "image": {"repository": name}, "harness": {"shell": "/bin/bash", "workingDir": "/workspace"}}})
            assert answer.status_code == 201, answer.text
        yield
        for name in ("small", "shellless"):
            admin.delete(f"{API}/templates/{name}")


def of_template(keyed, name, template):
    return keyed.sandbox(name, key="u1", templateRef={"name": template, "kind": "ClusterSandboxTemplate"})


@pytest.fixture(scope="module")
def small(keyed, images):
    """A sandbox without tmux: what its terminals show is what the programs wrote."""
    handle = of_template(keyed, "terminal-small", "small")
    yield handle
    handle.remove()


@pytest.fixture
def plain(keyed, small):
    with Terminal(keyed, small.name, "u1") as terminal:
        terminal.type("stty -echo; PS1=; echo r''eady\r")
        terminal.until("ready\r\n")
        yield terminal


def metric(router, name):
    with router.anonymous() as client:
        text = client.get("/metrics").text
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


def ask(router, path, headers="", method="GET", upgrade=UPGRADE):
    with Raw(router) as raw:
        raw.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{upgrade}\r\n")
        return raw.response(method)


def refused(router, status, path, headers="", **options):
    """Every refusal before the upgrade is plain text."""
    got, head, body = ask(router, path, headers, **options)
    assert got == status, (got, body)
    assert head["Content-Type"] == "text/plain; charset=utf-8", dict(head)
    assert options.get("method") == "HEAD" or (body.strip() and not body.startswith(b"{")), body
    return head, body.decode()


def key_of(router, user):
    return f"X-API-Key: {router.keys[user]}\r\n"


def bearer(token):
    return f"Authorization: Bearer {token}\r\n"


@pytest.fixture
def attended(keyed, box):
    """`box` with a terminal that stays: clients that go at once find its session there, and do not end it while it begins."""
    with Terminal(keyed, box.name, "u1") as terminal:
        terminal.run("true")
        yield box


# ---- before the upgrade ----

def test_2_12_vector_47_credentials_come_first(keyed, box):
    answers = set()
    for name in (box.name, "no-such-sandbox"):
        for method in ("GET", "POST", "HEAD", "DELETE"):
            for upgrade in (UPGRADE, ""):
                head, body = refused(keyed, 401, f"/ws/terminal/{name}", method=method, upgrade=upgrade)
                assert head["WWW-Authenticate"]
                if method != "HEAD":
                    answers.add(body)
    assert len(answers) == 1
    for headers in ("X-API-Key: bad\r\n", bearer("bad"), "Authorization: Basic dTE6\r\n"):
        refused(keyed, 401, f"/ws/terminal/{box.name}", headers)


def test_3_6_which_credential_counts(keyed, attended):
    path, sign = f"/ws/terminal/{attended.name}", keyed.issuer.token
    for good in (key_of(keyed, "u1"), bearer(sign("u1")), bearer(keyed.keys["u1"])):
        assert ask(keyed, path, good)[0] == 101, good
    assert ask(keyed, path + "?token=" + sign("u1"))[0] == 101
    assert ask(keyed, path + "?token=" + sign("u1"), bearer("bad"))[0] == 101  # the query comes before the bearer
    # No API keys in queries, and a header that is there decides.
    refused(keyed, 401, path + "?token=" + keyed.keys["u1"])
    refused(keyed, 401, path + "?token=bad", bearer(sign("u1")))
    refused(keyed, 401, path + "?token=" + sign("u1"), "X-API-Key: bad\r\n")
    refused(keyed, 401, path + "?token=" + sign("u1", exp=int(time.time()) - 600))
    assert keyed.issuer.token("u1")[:40] not in keyed.tail(), "a token is in the log"


def test_2_12_vector_48_lookup_then_access_then_phase_then_upgrade(keyed, box, fresh, u1):
    mine, theirs, nobody = key_of(keyed, "u1"), key_of(keyed, "u2"), "/ws/terminal/no-such-sandbox"
    refused(keyed, 404, nobody, mine)
    refused(keyed, 404, nobody, theirs)
    refused(keyed, 404, nobody, key_of(keyed, "admin"), upgrade="", method="POST")
    refused(keyed, 403, f"/ws/terminal/{box.name}", theirs)
    refused(keyed, 403, f"/ws/terminal/{box.name}", theirs, upgrade="")
    refused(keyed, 403, f"/ws/terminal/{box.name}?namespace=default", theirs)
    refused(keyed, 404, f"/ws/terminal/{box.name}?namespace=elsewhere", theirs)
    refused(keyed, 404, f"/ws/terminal/{box.name}?namespace=elsewhere", mine)
    assert u1.post(API + "/sandboxes", json={"name": fresh, "template": "no-such-template"}).status_code == 201
    wait_for(lambda: u1.get(f"{API}/sandboxes/{fresh}").json()["status"] == "Error")
    _, body = refused(keyed, 409, f"/ws/terminal/{fresh}", mine)
    assert "not running" in body
    refused(keyed, 409, f"/ws/terminal/{fresh}", mine, upgrade="")
    refused(keyed, 403, f"/ws/terminal/{fresh}", theirs)
    u1.delete(f"{API}/sandboxes/{fresh}")


def test_2_12_a_request_that_is_no_upgrade(keyed, box):
    mine, path = key_of(keyed, "u1"), f"/ws/terminal/{box.name}"
    lines = UPGRADE.splitlines(keepends=True)
    bad = ["", *("".join(lines[:i] + lines[i + 1:]) for i in range(4)), UPGRADE.replace("13", "8"), UPGRADE.replace("13", "13, 8"),
           UPGRADE.replace("websocket", "h2c"), UPGRADE.replace(KEY, "short"), UPGRADE + f"Sec-WebSocket-Key: {KEY}\r\n",
           UPGRADE + "Sec-WebSocket-Version: 13\r\n", UPGRADE + "Content-Length: 1\r\n", UPGRADE.replace("Connection: Upgrade", "Connection: close")]
    for upgrade in bad:
        with Raw(keyed) as raw:
            raw.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{mine}{upgrade}\r\n" + ("x" if "Content-Length" in upgrade else ""))
            status, head, body = raw.response()
        assert (status, head["Sec-WebSocket-Version"], body) == (400, "13", b"Bad Request\n"), (upgrade, status, body)
    with Raw(keyed) as raw:
        raw.send(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n{mine}{UPGRADE}\r\n")
        assert raw.response()[0] == 400
    for method in ("POST", "PUT", "HEAD", "DELETE", "PATCH", "BREW"):
        head, _ = refused(keyed, 405, path, mine, method=method)
        assert head["Allow"] == "GET"


def test_2_12_vector_49_the_upgrade(keyed, attended):
    for origin in ("", "Origin: https://elsewhere.example\r\n", "Origin: null\r\n"):
        extra = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" + origin
        status, head, _ = ask(keyed, f"/ws/terminal/{attended.name}", key_of(keyed, "u1") + extra)
        assert (status, head["Upgrade"], head["Connection"], head["Sec-WebSocket-Accept"]) == (101, "websocket", "Upgrade", ACCEPT)
        assert not head["Sec-WebSocket-Protocol"] and not head["Sec-WebSocket-Extensions"]
    with Terminal(keyed, attended.name, "u1") as terminal:
        assert "hi-42" in terminal.run("echo hi-$((40+2))")


def test_S3_foreign_pages_open_no_terminal_in_the_development_mode(dev, devbox):
    refused(dev, 403, f"/ws/terminal/{devbox.name}", "Origin: https://elsewhere.example\r\n")
    with Terminal(dev, devbox.name) as terminal:
        terminal.run("true")
    with Terminal(dev, devbox.name, headers={"Origin": dev.url}) as terminal:
        terminal.run("true")


# ---- messages ----

def test_2_12_vector_50_ping(keyed, box):
    with Terminal(keyed, box.name, "u1") as terminal:
        for _ in range(3):
            terminal.send(type="ping")
            assert terminal.wait("pong") == {"type": "pong"}
        assert terminal.ws.ping(b"payload").wait(30)


def test_2_12_anything_else_is_ignored(keyed, plain):
    for text in ("", "{", "[]", "1", "null", '"input"', "{}", '{"type":1}', '{"type":"unknown"}', '{"type":"input"}', '{"type":"input","data":1}',
                 '{"type":"resize","cols":"x"}', '{"type":"output","data":"x"}', '{"type":"close"}', "[" * 100000, "\x00"):
        plain.ws.send(text)
        plain.ws.send(text.encode())
    plain.ws.send(b"\xff\xfe")  # binary frames may be anything
    plain.send(type="ping", more={"a": [1, 2, 3]})
    plain.wait("pong")
    assert plain.messages == [{"type": "pong"}] and "done" in plain.run("true")


def test_2_12_binary_frames_and_pieces(keyed, plain):
    plain.ws.send(json.dumps({"type": "input", "data": "echo b''inary\r"}).encode())
    plain.until("binary")
    message = json.dumps({"type": "input", "data": "echo 'größe €'\r"}, ensure_ascii=False)
    plain.ws.send(iter(message))  # one frame for each character
    plain.until("größe €")
    data = message.encode()
    plain.ws.send(iter([data[:25], data[25:26], b"", data[26:]]))  # within a character
    plain.until("größe €")


def test_2_12_window_sizes(small, plain):
    plain.type("while sleep 0.1; do /bin/stty size >/workspace/size.new; mv /workspace/size.new /workspace/size; done\r")

    def size():
        return small.exec("cat /workspace/size")["stdout"].strip()
    wait_for(lambda: size() == "40 120")
    for wish, wanted in (((132, 43), "43 132"), ((0, -5), "1 1"), ((70000, 65535), "65535 65535"), ((None, None), "1 1")):
        plain.send(type="resize", **({"cols": wish[0], "rows": wish[1]} if wish[0] is not None else {}))
        wait_for(lambda: size() == wanted, what=f"size {wanted}")


def test_2_12_keys_arrive_as_they_are(keyed, plain):
    """Also those that JSON writes as escapes, and NUL, which is control and space."""
    keys = "".join(map(chr, range(256))) + "\u2028\uffff😀\U0010ffff"
    raw = keys.encode()
    plain.type(f"stty raw; echo r''aw; head -c {len(raw)} | od -An -v -tx1 | tr -d ' \\n'; stty sane -echo; echo; echo d''one\r")
    plain.until("raw\n")  # before that, ^C is a signal
    plain.type(keys)
    assert plain.until("done").split()[0] == raw.hex()


def test_2_12_half_a_surrogate_pair_is_replaced(keyed, plain):
    plain.ws.send(r'{"type":"input","data":"echo a\ud83d-\r"}')
    plain.until("a\ufffd-")


# ---- what flows ----

@pytest.mark.tsan
def test_W16_characters_are_never_split(keyed, small, plain):
    text = "".join(random.Random(16).choice("aü€😀\u0301中") for _ in range(200000))
    small.write("/workspace/text", text.encode())
    plain.type("stty raw; cat /workspace/text; stty sane -echo; echo d''one\r")
    assert plain.until("done", 120).removesuffix("done").strip("\r\n") == text
    # What is no text at all is replaced, and does not swallow what follows.
    small.write("/workspace/bytes", b"\xff<\xe2\x82>\xf0\x9f\x98")
    plain.type("cat /workspace/bytes; sleep 0.5; echo '|'\r")
    assert plain.until("|").lstrip("\r\n") == "\ufffd<\ufffd>\ufffd|"


@pytest.mark.tsan
def test_W17_input_arrives_in_full(keyed, small, plain):
    text = "".join(random.Random(17).choice("abcdefgh\n😀é") for _ in range(300000))
    digest = subprocess.run(["sha256sum"], input=text.encode(), capture_output=True, check=True).stdout.split()[0].decode()
    size = len(text.encode())
    plain.type(f"stty raw -echo; echo r''aw; head -c {size} | sha256sum; stty sane -echo; echo d''one\r")
    plain.until("raw")
    plain.type(text)  # one message, above every buffer
    assert digest in plain.until("done", 120)
    plain.type(f"stty raw -echo; echo r''aw; head -c {size} | sha256sum; stty sane -echo; echo d''one\r")
    plain.until("raw")
    for at in range(0, len(text), 1000):
        plain.type(text[at:at + 1000])
    assert digest in plain.until("done", 120)


def test_W44_messages_above_the_limit(keyed, small):
    for kind in ("one frame", "pieces"):
        with Terminal(keyed, small.name, "u1") as terminal:
            terminal.type(" " * (MiB - 100) + "\r" if kind == "one frame" else "true\r")  # still allowed
            terminal.send(type="ping")
            terminal.wait("pong")
            too_long = json.dumps({"type": "input", "data": "x" * MiB})
            with contextlib.suppress(Exception):  # the connection may end while it is sent
                terminal.ws.send(too_long if kind == "one frame" else iter([too_long[:MiB // 2], too_long[MiB // 2:]]))
            assert terminal.end()[0] == 1009


def frame(opcode, payload=b"", fin=True, masked=True, rsv=0, length=None):
    n = len(payload) if length is None else length
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    head += bytes([mask | n]) if n < 126 else bytes([mask | 126]) + struct.pack(">H", n) if n < 65536 else bytes([mask | 127]) + struct.pack(">Q", n)
    return head + (b"\0\0\0\0" if masked else b"") + payload


HOSTILE = {
    "unmasked": (frame(1, b"{}", masked=False), 1002), "reserved bit": (frame(1, b"{}", rsv=4), 1002), "reserved opcode": (frame(3), 1002),
    "long ping": (frame(9, b"x" * 126), 1002), "cut ping": (frame(9, fin=False), 1002), "continuation of nothing": (frame(0, b"x"), 1002),
    "text in text": (frame(1, b"x", fin=False) + frame(1, b"y"), 1002), "not utf-8": (frame(1, b"\xff\xfe"), 1007),
    "2^63": (frame(2, length=1 << 63 | 5), 1002), "2^62": (frame(2, length=1 << 62), 1009), "close 999": (frame(8, b"\x03\xe7"), 1002),
    "close 4000": (frame(8, struct.pack(">H", 4000)), 4000), "close": (frame(8), 1000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_S22_hostile_frames(keyed, small, name):
    data, code = HOSTILE[name]
    with Raw(keyed, timeout=30) as raw:
        # Ahead of the answer, as one packet: what comes with the head is not lost.
        raw.send(f"GET /ws/terminal/{small.name} HTTP/1.1\r\nHost: localhost\r\n{key_of(keyed, 'u1')}{UPGRADE}\r\n".encode() + data)
        assert raw.response()[0] == 101
        rest = raw.rest()
    assert struct.pack(">BBH", 0x88, 2, code) in rest or struct.pack(">H", code) in rest[-40:], (name, rest)


def test_W64_output_and_control_messages_do_not_mix(keyed, plain):
    """Everything goes through one writer: thousands of answers between a flood of output, and every frame is whole."""
    plain.type("seq 1 60000; echo d''one\r")
    for i in range(2000):
        plain.send(type="ping")
        if i % 100 == 0:
            plain.ws.ping(b"x" * 100 + str(i).encode())
    seen = plain.until("done", 120)
    assert re.findall(r"\d+", seen)[-1] == "60000" and len(re.findall(r"\d+", seen)) == 60000
    deadline = time.monotonic() + 60
    while len([m for m in plain.messages if m["type"] == "pong"]) < 2000:
        assert plain.take(deadline - time.monotonic())


def rss(router):
    return int(pathlib.Path(f"/proc/{router.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.tsan
def test_I26_a_client_that_does_not_read_is_not_waited_for_in_memory(keyed, small):
    with Terminal(keyed, small.name, "u1", max_queue=1) as terminal:
        terminal.type("exec yes 'a line that is repeated for ever and ever'\r")
        held = []

        def gone():
            held.append(metric(keyed, "agenttier_terminal_buffered_bytes"))
            return metric(keyed, "agenttier_terminals") == 0
        # http-api.md 1.13: whoever takes nothing for 10 s is gone, and so is the shell.
        wait_for(gone, 60 * SLOW, what="end of the terminal")
        assert 0 < max(held) < 2 * MiB
    wait_for(lambda: "yes" not in small.run("ps"), what="end of the flood")


@pytest.mark.tsan
def test_I26_a_program_that_does_not_read_makes_the_client_wait(keyed, small, plain):
    plain.type("stty raw -echo; echo r''aw; sleep 1000\r")
    plain.until("raw")
    wait_for(lambda: "sleep 1000" in small.run("ps"), what="the program")
    piece = json.dumps({"type": "input", "data": "x" * 100000})
    plain.ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    sent = []

    def flood():
        with contextlib.suppress(Exception):
            for _ in range(1000):
                plain.ws.send(piece)
                sent.append(1)
    thread = threading.Thread(target=flood, daemon=True)
    thread.start()

    def stuck():
        count = len(sent)
        time.sleep(1)
        return count == len(sent)
    wait_for(stuck, 60, what="a client that has to wait")
    assert len(sent) < 500
    assert metric(keyed, "agenttier_terminal_buffered_bytes") < 6 * MiB
    small.run("kill -9 $(ps | sed -n 's/^ *\\([0-9]*\\).*sleep 1000$/\\1/p')")  # now its shell reads on
    wait_for(lambda: not stuck(), 60, what="a client that goes on")
    plain.vanish()
    thread.join(60)


# ---- ends ----

def test_W20_a_shell_that_ends(keyed, small, box):
    for name in (small.name, box.name):
        with Terminal(keyed, name, "u1") as terminal:
            terminal.type("exit 3\r")
            assert terminal.end() == (1000, [])


def test_W70_no_shell_at_all(keyed, images, fresh):
    handle = of_template(keyed, fresh, "shellless")
    with Terminal(keyed, fresh, "u1") as terminal:
        code, messages = terminal.end()
    assert code == 1011 and [m["type"] for m in messages] == ["error"] and messages[0]["message"], messages
    handle.remove()


def test_W70_the_shell_of_the_template(keyed, images, admin, fresh, plain):
    assert "/bin/sh" in plain.run("echo $0")  # the image has no /bin/bash
    assert admin.post(API + "/templates", json={"name": fresh, "spec": {"image": {"repository": "small"},
                                                                        "harness": {"shell": "/bin/ash"}}}).status_code == 201
    handle = of_template(keyed, fresh, fresh)
    with Terminal(keyed, fresh, "u1") as terminal:
        assert "/bin/ash" in terminal.run("echo $0")
    handle.remove()
    admin.delete(f"{API}/templates/{fresh}")


def test_2_12_a_lost_connection_can_be_opened_again(keyed, small, plain):
    plain.type("kill -9 $PPID\r")  # the runtime's process for this connection
    code, messages = plain.end()
    assert (code, messages) == (1011, [])
    with Terminal(keyed, small.name, "u1") as terminal:
        terminal.run("true")


def test_2_12_a_sandbox_that_stops(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1")
    with Terminal(keyed, fresh, "u1") as terminal, Terminal(keyed, fresh, "admin") as other:
        terminal.run("true")
        assert handle.post("/stop").status_code == 200
        wanted = (4004, [{"type": "close", "reason": "sandbox_stopped", "code": 4001}])
        assert terminal.end() == wanted and other.end() == wanted
    handle.wait("Stopped")
    handle.remove()


@pytest.mark.parametrize("why", ["asked for", "idle"])
def test_2_12_a_sandbox_that_takes_its_time_to_stop(keyed, fresh, why):
    """A process that does not listen makes it last for seconds: terminals, which end before, are told the reason all the same."""
    handle = keyed.sandbox(fresh, key="u1")
    handle.run("nohup sh -c 'trap \"\" TERM; touch /workspace/deaf; exec sleep 1000' >/dev/null 2>&1 & until test -e /workspace/deaf; do sleep 0.05; done")
    with Terminal(keyed, fresh, "u1") as terminal, Terminal(keyed, fresh, "admin") as other:
        for one in (terminal, other):
            one.run("true")
        if why == "idle":
            assert handle.request("PATCH", json={"idleTimeout": "1s"}).status_code == 200
        else:
            assert handle.post("/stop").status_code == 200
        wanted = (4004, [{"type": "close", "reason": "sandbox_stopped", "code": 4001}])
        assert terminal.end() == wanted and other.end() == wanted
    handle.wait("Stopped")
    handle.remove()


def test_2_12_a_sandbox_that_is_deleted(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1")
    with Terminal(keyed, fresh, "u1") as terminal:
        terminal.run("true")
        handle.delete()
        assert terminal.end() == (4004, [{"type": "close", "reason": "sandbox_deleted", "code": 4001}])
    handle.gone()


EXPIRED = (4009, [{"type": "close", "reason": "session_expired", "code": 4003}])
REVOKED = (4009, [{"type": "close", "reason": "access_revoked", "code": 4003}])


def test_W53_a_share_that_is_taken_back(keyed, box):
    assert box.post("/share", json={"identity": "u2", "level": "viewer"}).status_code == 200
    with Terminal(keyed, box.name, "u2") as guest, Terminal(keyed, box.name, "u1") as owner:
        guest.send(type="ping")
        guest.wait("pong")
        assert box.delete("/share/u2").status_code == 200
        assert guest.end() == REVOKED
        owner.run("true")
    refused(keyed, 403, f"/ws/terminal/{box.name}", key_of(keyed, "u2"))


@pytest.mark.parametrize("kind", ["revoked key", "expired key", "token", "token in the query"])
def test_W53_credentials_that_end(keyed, box, u1, kind):
    query, headers, made = "", {}, None
    if "token" in kind:
        token = keyed.issuer.token("u1", exp=int(time.time()) - 48)  # twelve seconds, with the leeway
        if "query" in kind:
            query = "?token=" + token
        else:
            headers = {"Authorization": "Bearer " + token}
    else:
        made = u1.post(API + "/user/api-keys", json={"expiresIn": "12s"} if kind == "expired key" else {}).json()
        headers = {"X-API-Key": made["key"]}
    with Terminal(keyed, box.name, query=query, headers=headers) as terminal:
        terminal.send(type="ping")
        terminal.wait("pong")
        if kind == "revoked key":
            assert u1.delete(f"{API}/user/api-keys/{made['id']}").status_code == 200
        assert terminal.end() == (REVOKED if kind == "revoked key" else EXPIRED)


def test_2_12_the_end_of_the_server(fresh):
    with Router(keys=("u1", "admin")) as router:
        handle = router.sandbox(fresh, key="u1")
        with Terminal(router, fresh, "u1") as terminal, Terminal(router, fresh, "u1") as other:
            terminal.type("touch /workspace/typed; sleep 1000\r")
            wait_for(lambda: handle.exec("test -e /workspace/typed")["exitCode"] == 0)
            with concurrent.futures.ThreadPoolExecutor(3) as pool:
                ends = [pool.submit(t.end) for t in (terminal, other)]
                began = time.monotonic()
                assert router.terminate() == 0
                assert time.monotonic() - began < 10  # it is not the drain's 30 s
                assert [e.result() for e in ends] == [(1012, [])] * 2
        router.restart()
        with Terminal(router, fresh, "u1") as terminal:  # clients come back
            terminal.send(type="ping")
            terminal.wait("pong")


# ---- who may do what ----

def scoped(u1, **body):
    answer = u1.post(API + "/user/api-keys", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["key"]


def test_W27_vectors_57_to_60_scoped_keys(keyed, box, u1, fresh):
    path = f"/ws/terminal/{box.name}"
    assert u1.post(API + "/sandboxes", json={"name": fresh, "template": "no-such-template"}).status_code == 201
    lacks, other = scoped(u1, sandboxId=box.name, scopes=["stop", "files:write"]), scoped(u1, sandboxId=fresh)
    for key in (lacks, other):
        for headers in (f"X-API-Key: {key}\r\n", bearer(key)):
            refused(keyed, 403, path, headers)
            refused(keyed, 403, path, headers, upgrade="")
            refused(keyed, 403, "/ws/terminal/no-such-sandbox", headers)
    may = scoped(u1, sandboxId=box.name, scopes=["run-command"])
    with Terminal(keyed, box.name, may) as terminal:
        assert "may-1" in terminal.run("echo may-$((0+1))")
    u1.delete(f"{API}/sandboxes/{fresh}")


def test_W33_viewers_look_on(keyed, small):
    assert small.post("/share", json={"identity": "u2", "level": "viewer"}).status_code == 200
    with Terminal(keyed, small.name, "u2") as guest:
        guest.type("touch /workspace/by-guest\r")
        guest.send(type="resize", cols=11, rows=12)
        guest.send(type="ping")
        guest.wait("pong")  # what came before it was looked at
        small.run("test ! -e /workspace/by-guest")
        assert small.post("/share", json={"identity": "u2", "level": "collaborator"}).status_code == 200

        numbers = itertools.count(1)

        def typed():
            """The number of the last command, once one of them has run."""
            number = next(numbers)
            guest.type(f"touch /workspace/by-guest; echo $(stty size) {number} >/workspace/seen.new; mv /workspace/seen.new /workspace/seen\r")
            return number if small.exec("test -e /workspace/seen")["exitCode"] == 0 else 0
        last = wait_for(typed, 60, 0.5, "keys of a collaborator")
        # None of them is left to run later.
        wait_for(lambda: small.run("cat /workspace/seen") == f"40 120 {last}\n", what="the last command of a collaborator, and the size it saw")
        assert small.post("/share", json={"identity": "u2", "level": "viewer"}).status_code == 200
        time.sleep(2.5)
        small.run("rm /workspace/by-guest")
        guest.type("touch /workspace/by-guest\r")
        guest.send(type="ping")
        guest.wait("pong")
        time.sleep(0.5)
        small.run("test ! -e /workspace/by-guest")
    assert small.delete("/share/u2").status_code == 200


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_2_12_a_session_is_shared_and_survives(keyed, box):
    assert box.post("/share", json={"identity": "u2", "level": "viewer"}).status_code == 200
    with Terminal(keyed, box.name, "u1") as owner, Terminal(keyed, box.name, "u2") as guest:
        owner.run("export KEPT=yes")
        owner.type("echo seen-$((7*6))\r")
        guest.until("seen-42")  # a viewer sees what the owner does
        owner.vanish()
    with Terminal(keyed, box.name, "u1") as again:
        assert "kept=yes" in again.run("echo kept=$KEPT")
        assert f"agenttier-{box.name}:" in again.run("tmux ls")
        again.type("tmux kill-session\r")
        again.end()
    box.delete("/share/u2")


def test_I27_no_credential_reaches_the_sandbox(keyed, small):
    key, token = keyed.keys["u1"], keyed.issuer.token("u1")
    with Terminal(keyed, small.name, "u1"), Terminal(keyed, small.name, query="?token=" + token) as terminal:
        terminal.run("true")
        everything = small.run("for p in /proc/[0-9]*; do cat $p/environ $p/cmdline 2>/dev/null | tr '\\000' '\\n'; done")
        assert "TERM=" in everything and key not in everything and token not in everything and "u1" not in everything.split()
    assert token not in keyed.tail() and key not in keyed.tail()


def test_W48_terminals_are_in_the_history(keyed, small, admin):
    refused(keyed, 403, f"/ws/terminal/{small.name}", key_of(keyed, "u2"))
    with Terminal(keyed, small.name, "u1") as terminal:
        terminal.run("true")

    def entries():
        found = admin.get(f"{API}/audit/events", params={"sandbox": small.name, "type": "terminal", "limit": 50}).json()["events"]
        return {(e["details"]["actor"], e["details"]["outcome"]) for e in found}
    wait_for(lambda: {("u1", "success"), ("u2", "denied")} <= entries(), what="entries of the history")


# ---- limits and what is left ----

@pytest.fixture(scope="module")
def limited():
    with Router("--terminals-per-user=2", "--terminals-per-sandbox=3", keys=("u1", "u2", "admin")) as router:
        yield router


def test_W71_limits_of_users_and_sandboxes(limited):
    one, two = limited.sandbox("limit-one", key="u1"), limited.sandbox("limit-two", key="u1")
    one.post("/share", json={"identity": "u2", "level": "collaborator"})
    with contextlib.ExitStack() as stack:
        terminals = [stack.enter_context(Terminal(limited, h.name, "u1")) for h in (one, two)]
        head, body = refused(limited, 429, "/ws/terminal/limit-one", key_of(limited, "u1"))
        assert int(head["Retry-After"]) > 0 and "2 terminals" in body
        terminals += [stack.enter_context(Terminal(limited, one.name, "u2")) for _ in range(2)]
        _, body = refused(limited, 429, "/ws/terminal/limit-one", key_of(limited, "admin"))
        assert "sandbox" in body
        assert metric(limited, "agenttier_terminals") == 4 and metric(limited, "agenttier_terminals_refused_total") == 2
        # A refusal comes last: it tells nothing to whom the sandbox is closed.
        refused(limited, 400, "/ws/terminal/limit-one", key_of(limited, "u1"), upgrade="")
        terminals[0].vanish()
        wait_for(lambda: metric(limited, "agenttier_terminals") == 3)
        with Terminal(limited, one.name, "u1") as terminal:
            terminal.send(type="ping")
            terminal.wait("pong")
    wait_for(lambda: metric(limited, "agenttier_terminals") == 0)


def test_W19_keys_keep_a_sandbox_running(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1", idleTimeout="16s")
    with Terminal(keyed, fresh, "u1") as terminal:
        began = time.monotonic()
        while time.monotonic() - began < 20:
            terminal.type("true\r")
            time.sleep(0.5)
        assert handle.status() == "Running"
        # An open terminal in which nobody types is not in use.
        code, messages = terminal.end(60 * SLOW)
        assert (code, messages[-1]["reason"]) == (4004, "sandbox_stopped")
    handle.remove()


def test_O2_nothing_is_left_of_a_client_that_has_gone(keyed, small):
    """The shell and its foreground job end within seconds, and so does all that the Router has of the terminal."""
    wait_for(lambda: metric(keyed, "agenttier_terminals") == 0)
    left = metric(keyed, 'agenttier_terminals_ended_total{reason="client_left"}')
    descriptors = len(os.listdir(f"/proc/{keyed.process.pid}/fd"))
    terminals = [Terminal(keyed, small.name, "u1") for _ in range(8)]
    for i, terminal in enumerate(terminals):
        terminal.type(f"sleep {7000 + i}\r")
    wait_for(lambda: small.run("ps").count("sleep 700") == 8, what="jobs in eight terminals")
    assert metric(keyed, "agenttier_terminals") == 8
    for terminal in terminals[:4]:
        terminal.vanish()
    for terminal in terminals[4:]:  # without even the end of the connection: a machine that is gone is found out by silence
        terminal.ws.close()
    wait_for(lambda: metric(keyed, "agenttier_terminals") == 0, 30 * SLOW, what="the end of the terminals")
    wait_for(lambda: "sleep 700" not in small.run("ps") and "sh -l" not in small.run("ps"), 30 * SLOW, what="the end of the shells")
    assert metric(keyed, 'agenttier_terminals_ended_total{reason="client_left"}') == left + 8
    assert metric(keyed, "agenttier_terminal_buffered_bytes") == 0
    # Each had three: the client's, its copy, the runtime's. Some clients of other tests may have come since.
    wait_for(lambda: len(os.listdir(f"/proc/{keyed.process.pid}/fd")) < descriptors + 8, what="the end of the connections")


def test_O2_a_router_that_dies_takes_its_terminals_along(fresh):
    with Router(keys=("u1", "admin")) as router:
        handle = router.sandbox(fresh, key="u1")
        with Terminal(router, fresh, "u1") as terminal:
            terminal.send(type="ping")
            terminal.wait("pong")
            # Of the runtime: itself, a process for the terminal, and one for the command that asks.
            count = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\000' '\\n' | grep -c '^--listen-fd'"
            wait_for(lambda: handle.run(count) == "3\n")
            router.kill()
            router.restart()
            handle.client = router.client("u1")
            wait_for(lambda: handle.run(count) == "2\n", what="the end of the terminal")
            assert metric(router, "agenttier_terminals") == 0
            with Terminal(router, fresh, "u1") as again:
                again.run("true")


def test_O10_a_hundred_idle_terminals(capsys):
    """Memory of each is bounded, and given back: hundreds after hundreds take what the first ones took. Under AddressSanitizer the
    figure is several times that of a release."""
    with Router(keys=("u1", "admin"), env={"ASAN_OPTIONS": "quarantine_size_mb=1"}) as router:
        handle = router.sandbox("hundred", key="u1")

        def opened(_):
            terminal = Terminal(router, handle.name, "u1")
            terminal.send(type="ping")
            terminal.wait("pong")
            return terminal

        def memory_of(count):
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                terminals = list(pool.map(opened, range(count)))
            wait_for(lambda: metric(router, "agenttier_terminal_buffered_bytes") == 0, 60, what="idle terminals")
            assert metric(router, "agenttier_terminals") == count
            memory = rss(router)
            for terminal in terminals:
                terminal.vanish()
            wait_for(lambda: metric(router, "agenttier_terminals") == 0, 60, what="the end of the terminals")
            return memory
        memory_of(8)  # what is allocated once
        before = rss(router)
        open_ = [memory_of(100) for _ in range(4)]
        each, grown, kept = ((n - before) / 100 / 1024 for n in (open_[0], open_[-1] - open_[0] + before, rss(router)))
        with capsys.disabled():
            print(f"\n[O10] an idle terminal takes {each:.1f} KiB; after 400 more of them a hundred take {grown:.1f} KiB each more; "
                  f"{kept:.1f} KiB each are still there when they have gone", flush=True)
        sanitized = b"__asan_init" in BINARY.read_bytes() or b"__tsan_init" in BINARY.read_bytes()
        assert (each < 192 and grown < 96) if sanitized else (each < 64 and grown < 8)


# ---- every 30 s ----

@pytest.fixture(scope="module", autouse=True)
def watched(dev):
    """Two terminals that nobody uses while the other tests run: the client of one answers pings, that of the other does not."""
    handle = dev.sandbox("terminal-watched")
    began, seen = time.monotonic(), []
    # Nobody reads for minutes; a client whose queue is full takes no pings either.
    answers, silent = Terminal(dev, handle.name, max_queue=None), Raw(dev, timeout=600)
    silent.send(f"GET /ws/terminal/{handle.name} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n")
    assert silent.response()[0] == 101

    def watch():
        data = silent.rest()
        seen.append((time.monotonic() - began, data))
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield answers, thread, seen, began
    answers.ws.close()
    with contextlib.suppress(OSError):  # the server may have closed it
        silent.socket.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    silent.socket.close()
    handle.remove()


@pytest.mark.timeout(300)
def test_2_12_heartbeats_and_who_does_not_answer_them(watched):
    answers, thread, seen, began = watched
    beats = []
    while len(beats) < 3:
        beats.append(answers.wait("heartbeat", 120 * SLOW))
        assert set(beats[-1]) == {"type", "ts"}
    assert all(29000 < b["ts"] - a["ts"] < 32000 + 5000 * SLOW for a, b in zip(beats, beats[1:]))
    assert abs(beats[0]["ts"] / 1000 - (time.time() - (time.monotonic() - began)) - 30) < 2 + 5 * SLOW
    thread.join(120 * SLOW)
    took, data = seen[0]
    assert 69 < took < 75 + 20 * SLOW, took  # 70 s without a pong
    assert data.count(b'{"type":"heartbeat","ts":') == data.count(b"\x89\x00") == 2
    answers.run("true")  # 90 s old, and as good as new
