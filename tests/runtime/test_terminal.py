"""GET /pty: a shell on a terminal over WebSocket, with an independent client: controller.md 18.6, lessons I28, I30, S22, O2."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from client import TOKEN, processes_with, read_head, wait_for
from test_exec import mark


def pty(rt, query="shell=/bin/sh", **options):
    options = {"open_timeout": 30, "close_timeout": 10, "compression": None, "ping_interval": None, **options}
    if rt.transport == "unix":
        return unix_connect(rt.path, f"ws://sandbox/pty?{query}", **options)
    return connect(f"ws://127.0.0.1:{rt.port}/pty?{query}", additional_headers={"Authorization": f"Bearer {TOKEN}"}, **options)


def send(ws, **message):
    ws.send(json.dumps(message))


def until(ws, text, timeout=30):
    """The terminal's output until `text` is in it."""
    seen, deadline = "", time.monotonic() + timeout
    while text not in seen:
        message = json.loads(ws.recv(timeout=max(0.01, deadline - time.monotonic())))
        if message["type"] == "output":
            assert message["stream"] == "stdout" and len(message["data"].encode()) <= 3 * 4096
            seen += message["data"]
    return seen


def test_18_6_a_shell_on_a_terminal(rt):
    with pty(rt, "shell=/bin/sh&cols=90&rows=33&cwd=/usr") as ws:
        send(ws, type="input", data="test -t 0 && test -t 1 && stty size; pwd; echo $TERM; echo d''one\n")
        seen = until(ws, "done")
        assert "33 90" in seen and "/usr" in seen and "xterm-256color" in seen
        send(ws, type="resize", cols=100, rows=44)
        send(ws, type="input", data="stty size; echo a''gain\n")
        assert "44 100" in until(ws, "again")


def test_18_6_size_defaults_and_clamps(rt):
    for query, wanted in (("", "40 120"), ("cols=x&rows=-3", "1 120"), ("cols=0&rows=99999999", "65535 1")):
        with pty(rt, "shell=/bin/sh&" + query) as ws:
            send(ws, type="input", data="stty size; echo d''one\n")
            assert wanted in until(ws, "done"), query


def test_18_6_a_shell_that_ends_ends_with_a_close_frame(rt):
    with pty(rt) as ws:
        send(ws, type="input", data="echo $0; exit 3\n")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                ws.recv(timeout=30)
        assert closed.value.rcvd.code == 1000


def test_18_6_ping_and_what_is_ignored(rt):
    with pty(rt) as ws:
        for text in ("{", "[]", "1", '{"type":1}', '{"type":"unknown"}', '{"type":"input"}', '{"type":"resize","cols":"x"}', '{"type":"input","data":1}'):
            ws.send(text)
        ws.send(b'{"type":"ping"}')  # binary frames are taken as well
        while json.loads(ws.recv(timeout=30)) != {"type": "pong"}:
            pass
        assert ws.ping(b"x").wait(30)


def test_I30_characters_are_not_split(rt):
    with pty(rt) as ws:
        send(ws, type="input", data="stty -echo; echo r''eady\n")
        until(ws, "ready")
        send(ws, type="input", data="i=0; while [ $i -lt 3000 ]; do printf 'ü€😀'; i=$((i+1)); done; echo d''one\n")
        seen = until(ws, "done", 60)
        assert seen.count("ü€😀") == 3000 and "\ufffd" not in seen


def test_large_input_and_output_flow(rt):
    with pty(rt) as ws:
        send(ws, type="input", data="stty -echo raw; echo r''eady; head -c 300000 | tr a b; echo d''one\n")
        until(ws, "ready")
        for _ in range(100):
            send(ws, type="input", data="a" * 3000)
        assert until(ws, "done", 60).count("b") == 300000


def test_O2_a_client_that_leaves_ends_the_shell(rt):
    n = mark()
    ws = pty(rt)
    send(ws, type="input", data=f"sh -c 'sleep {n}'\n")
    wait_for(lambda: processes_with(f"sleep\0{n}"), what="the shell's job")
    ws.socket.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: not processes_with(n), 20, what="the end of the shell and its job")


@pytest.mark.parametrize("way", ["plain", "session"])
def test_I1_I2_nothing_that_came_of_it_is_left(rt, way):
    """Also what left the shell's session, was stopped, or does not listen to hangups. Only a tmux server stays, with what runs there."""
    n = mark()
    inside = way == "session" and shutil.which("tmux")
    ws = pty(rt, f"shell=/bin/sh&session=left-{n}" if inside else "shell=/bin/sh")
    jobs = {f"{n}1": "setsid -f sleep {0}", f"{n}2": "nohup sleep {0} >/dev/null 2>&1 &", f"{n}3": "sh -c 'trap \"\" HUP TERM; sleep {0}' &",
            f"{n}4": "sleep {0} & sleep 0.5; kill -STOP $!", f"{n}5": "(setsid sh -c '(sleep {0} &)' &)"}
    for number, job in jobs.items():
        send(ws, type="input", data=job.format(number) + "\n")
    wait_for(lambda: all(processes_with(f"sleep\0{number}") for number in jobs), what="the jobs")
    ws.socket.shutdown(socket.SHUT_RDWR)
    if inside:
        time.sleep(1.5)
        assert all(processes_with(f"sleep\0{number}") for number in jobs)
        with pty(rt, f"shell=/bin/sh&session=left-{n}") as again:
            for pid in processes_with(f"sleep\0{n}"):
                os.kill(pid, 9)
            send(again, type="input", data="tmux kill-session\n")
            wait_for(lambda: not processes_with(f"left-{n}"), 20, what="the end of the session")
    wait_for(lambda: not any(processes_with(f"sleep\0{number}") for number in jobs), 20, what="the end of the jobs")


def test_I2_background_jobs_outlive_a_shell_that_ends(rt):
    n = mark()
    with pty(rt) as ws:
        send(ws, type="input", data=f"setsid -f sleep {n}\n")
        wait_for(lambda: processes_with(f"sleep\0{n}"), what="the job")
        send(ws, type="input", data="exit\n")
        with pytest.raises(ConnectionClosed):
            while True:
                ws.recv(timeout=30)
    time.sleep(1)
    left = processes_with(f"sleep\0{n}")
    assert left
    for pid in left:
        os.kill(pid, 9)


def test_18_6_shell_that_cannot_start(rt):
    with pty(rt, "shell=/no/such") as ws:
        message = json.loads(ws.recv(timeout=30))
        assert message["type"] == "error" and "/no/such" in message["message"]
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=30)
    with pty(rt, "shell=/bin/sh&cwd=/no/such") as ws:
        assert json.loads(ws.recv(timeout=30))["type"] == "error"


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_18_6_a_tmux_session_survives(rt):
    session = f"s%27{mark()}"
    with pty(rt, f"shell=/bin/sh&session={session}") as ws:
        send(ws, type="input", data="export KEPT=yes; echo o''n\n")
        until(ws, "on")
    with pty(rt, f"shell=/bin/sh&session={session}") as ws:
        send(ws, type="input", data="echo kept=$KEPT; tmux kill-session\n")
        until(ws, "kept=yes")


def test_18_6_session_without_tmux_is_a_shell(rt):
    if shutil.which("tmux"):
        pytest.skip("there is tmux here")
    with pty(rt, "shell=/bin/sh&session=it%27s%20mine") as ws:
        send(ws, type="input", data="echo s''hell\n")
        until(ws, "shell")


def test_W70_a_shell_that_is_not_there_is_sh(rt):
    session = f"w70-{mark()}"
    with pty(rt, f"shell=/no/such/shell&session={session}") as ws:
        send(ws, type="input", data="echo i''n=$0; echo d''one\n")
        assert "in=/bin/sh" in until(ws, "done")
        send(ws, type="input", data="exit\n")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                ws.recv(timeout=30)
        assert closed.value.rcvd.code == 1000


def test_18_6_a_null_byte_is_a_key(rt):
    with pty(rt) as ws:
        send(ws, type="input", data="stty -echo raw; echo r''eady; head -c 3 | od -An -tx1; echo d''one\n")
        until(ws, "ready")
        send(ws, type="input", data="a\0b")
        assert "61 00 62" in until(ws, "done")


UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]


def test_18_6_refusals(rt):
    assert "must be an absolute path" in rt.ask("GET", "/pty?shell=sh", headers=UPGRADE).error(400)["error"]
    assert rt.ask("POST", "/pty", b"").error(405)["error"] == "GET required for WebSocket upgrade"
    for drop in range(4):
        answer = rt.ask("GET", "/pty?shell=/bin/sh", headers=UPGRADE[:drop] + UPGRADE[drop + 1:])
        assert answer.status == 400 and answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["sec-websocket-version"] == "13"
    rt.ask("GET", "/pty?shell=/bin/sh&cwd=%zz", headers=UPGRADE).error(400)


def frame(opcode, payload=b"", fin=True, masked=True, rsv=0, length=None):
    """A client's frame, right or wrong."""
    n = len(payload) if length is None else length
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if n < 126:
        head += bytes([mask | n])
    elif n < 65536:
        head += bytes([mask | 126]) + struct.pack(">H", n)
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", n)
    return head + (b"\0\0\0\0" if masked else b"") + payload


HOSTILE = {
    "unmasked": (frame(1, b"x", masked=False), 1002), "reserved bit": (frame(1, b"x", rsv=4), 1002), "reserved opcode": (frame(3, b"x"), 1002),
    "reserved control": (frame(11), 1002), "long ping": (frame(9, b"x" * 126), 1002), "cut ping": (frame(9, b"x", fin=False), 1002),
    "continuation of nothing": (frame(0, b"x"), 1002), "text in text": (frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    "not utf-8": (frame(1, b"\xff\xfe"), 1007), "2^63": (frame(2, b"", length=1 << 63 | 5), 1002), "2^62": (frame(2, b"", length=1 << 62), 1009),
    "above 1 MiB in pieces": (frame(2, b"x" * 600000, fin=False) + frame(0, b"x" * 600000), 1009),
    "long form of a short length": (bytes([0x81, 0x80 | 126, 0, 5]) + b"\0\0\0\0hello", 1002),
    "one byte close": (frame(8, b"x"), 1002), "close 1005": (frame(8, b"\x03\xed"), 1002), "close 999": (frame(8, b"\x03\xe7"), 1002),
    "close 4000": (frame(8, struct.pack(">H", 4000)), 4000), "close": (frame(8), 1000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_S22_hostile_frames(rt, name):
    data, code = HOSTILE[name]
    with rt.connect(30) as connection:
        connection.sendall(rt.head("GET", "/pty?shell=/bin/sh", UPGRADE) + data)
        status, headers, rest = read_head(connection)
        assert status == 101 and headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        try:
            while more := connection.recv(65536):
                rest += more
        except ConnectionResetError:
            pass
    at, close = 0, None
    while at + 2 <= len(rest):
        opcode, size = rest[at] & 15, rest[at + 1]
        at += 2
        if size == 126:
            size = struct.unpack(">H", rest[at:at + 2])[0]
            at += 2
        if opcode == 8:
            close = struct.unpack(">H", rest[at:at + 2])[0]
        at += size
    assert close == code


def test_the_end_of_the_runtime_ends_terminals(own):
    runtime = own("unix", flags=["--grace-seconds=3"])
    n = mark()
    with pty(runtime) as ws:
        send(ws, type="input", data=f"exec sleep {n}\n")
        wait_for(lambda: processes_with(f"sleep\0{n}"), what="the command")
        assert runtime.end() == 0
        with pytest.raises(ConnectionClosed):
            while True:
                ws.recv(timeout=20)
    assert not processes_with(f"sleep\0{n}")


def test_18_6_a_stop_is_the_reason_also_where_the_shell_ends_first(own):
    """The terminal's process looks up when both have happened: the close frame says that the runtime ends."""
    runtime = own("unix", flags=["--grace-seconds=60"])
    n = mark()
    with pty(runtime) as ws:
        send(ws, type="input", data=f"exec sleep {n}\n")
        (shell,) = wait_for(lambda: processes_with(f"sleep\0{n}"), what="the command")
        terminal = int(pathlib.Path(f"/proc/{shell}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(terminal, signal.SIGSTOP)
        end = threading.Thread(target=runtime.end)
        end.start()
        try:
            wait_for(lambda: not processes_with(f"sleep\0{n}"), what="the end of the shell")
        finally:
            os.kill(terminal, signal.SIGCONT)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                ws.recv(timeout=30)
        assert closed.value.rcvd.code == 1001
        end.join()
    assert runtime.process.returncode == 0


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_18_6_a_stop_is_the_reason_for_all_terminals_of_a_session(own, monkeypatch, tmp_path_factory):
    """One server has the shells of all of them, and is asked to end, too."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path_factory.mktemp("tmux")))
    runtime = own("unix")
    with contextlib.ExitStack() as stack:
        terminals = [stack.enter_context(pty(runtime, "shell=/bin/sh&session=shared")) for _ in range(3)]
        send(terminals[0], type="input", data="echo a''ll\n")
        for ws in terminals:
            until(ws, "all")
        assert runtime.end() == 0
        for ws in terminals:
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    ws.recv(timeout=30)
            assert closed.value.rcvd.code == 1001
