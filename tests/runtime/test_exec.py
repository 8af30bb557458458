"""POST /exec, /exec/stream, /exec/{id}: docs/runtime-protocol.md, controller.md 18.4, lessons I1 to I8, I11, I13, I30, S14."""

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import struct
import time

import pytest

from client import FRAME_MAX, WINDOW, Stream, parent_of, processes_with, wait_for

MARK = 0


def mark():
    """A number of seconds that no other test sleeps: finds a command's processes."""
    global MARK
    MARK += 1
    return f"9{os.getpid():07d}{MARK:03d}"


# ---- the reference's call ----

def test_18_4_reference(rt):
    result = rt.exec(["/bin/sh", "-c", "printf out; printf err >&2; exit 7"])
    assert {k: result[k] for k in ("exitCode", "stdout", "stderr", "timedOut")} == {
        "exitCode": 7, "stdout": "out", "stderr": "err", "timedOut": False}
    assert isinstance(result["durationMs"], int) and "truncated" not in result


def test_18_4_environment_directory_stdin(rt):
    result = rt.exec(["/bin/sh", "-c", "pwd; echo \"$A\"; cat"], workingDir="/usr", env={"A": "x y"}, stdin="in\n")
    assert result["stdout"] == "/usr\nx y\nin\n"
    assert rt.exec(["/bin/cat"])["stdout"] == ""


def test_S14_arguments_are_not_interpreted(rt):
    nasty = "'\"$(id)`id`;|&\n\\ *"
    assert rt.exec(["/usr/bin/printf", "%s", nasty])["stdout"] == nasty


def test_18_4_signals_are_minus_one(rt):
    assert rt.exec(["/bin/sh", "-c", "kill -SEGV $$"])["exitCode"] == -1


def test_18_4_could_not_start(rt):
    for command, options in ((["/no/such"], {}), (["/etc/hostname"], {}), (["/bin/true"], {"workingDir": "/no/such"})):
        result = rt.exec(command, **options)
        assert result["exitCode"] == -1 and "[runtime]" in result["stderr"], result


def test_I4_timeout_ends_the_whole_tree(rt):
    n = mark()
    started = time.monotonic()
    result = rt.exec(["/bin/sh", "-c", f"trap '' TERM; (setsid sleep {n} &) ; setsid sh -c 'sleep {n} & sleep {n}' & echo on; sleep {n}"],
                     timeoutSeconds=3)
    assert result["timedOut"] and result["exitCode"] == -1 and result["stdout"] == "on\n"
    assert 2.9 < time.monotonic() - started < 30
    assert not processes_with(n)


def test_I1_a_client_that_leaves_ends_the_whole_tree(rt):
    n = mark()
    connection = rt.connect()
    body = json.dumps({"command": ["/bin/sh", "-c", f"setsid sleep {n} & (sleep {n} &); sleep {n}"]}).encode()
    connection.sendall(rt.head("POST", "/exec", [("Content-Length", len(body))]) + body)
    wait_for(lambda: len(processes_with(f"sleep\0{n}")) >= 3, what="the command's processes")
    connection.close()
    wait_for(lambda: not processes_with(n), what="the end of the command's processes")


def test_background_children_live_on_and_delay_nothing(rt):
    n = mark()
    started = time.monotonic()
    result = rt.exec(["/bin/sh", "-c", f"sleep {n} & echo done"])
    assert result["exitCode"] == 0 and result["stdout"] == "done\n"
    assert time.monotonic() - started < 10
    (pid,) = wait_for(lambda: processes_with(f"sleep\0{n}"), what="the child's own program")
    os.kill(pid, signal.SIGKILL)


def test_I30_text_is_repaired_never_split(rt):
    result = rt.exec(["/bin/sh", "-c", "for i in $(seq 5000); do printf 'ü€😀'; done; printf '\\377\\376'"])
    assert result["stdout"] == "ü€😀" * 5000 + "\ufffd\ufffd"


def test_18_4_truncation_at_8_mib(rt):
    result = rt.exec(["/bin/sh", "-c", "head -c 9000000 /dev/zero | tr '\\0' a"])
    assert result["truncated"] is True and result["exitCode"] == 0
    assert result["stdout"] == "a" * (8 << 20) + "\n[truncated]"


BAD_BODIES = [b"", b"{", b"[]", b"null", b'{"command":"ls"}', b'{"command":[]}', b'{"command":[1]}', b'{"command":["a\\u0000b"]}',
              b'{"command":["true"],"unknown":1}', b'{"command":["true"],"timeoutSeconds":"1"}', b'{"command":["true"],"env":{"A":1}}',
              b'{"command":["true"],"env":{"A=B":"1"}}', b'{"command":["true"],"command":["false"]}', b'{"command":["\xff"]}',
              b'{"command":["true"],"invokeId":"x"}', b"[" * 100000]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_S27_bad_bodies(rt, body):
    assert rt.ask("POST", "/exec", body).error(400)["error"]


def test_18_3_body_limit(rt):
    limit = (8 << 20) + 1024
    fits = b'{"command":["/bin/true"],"stdin":"' + b"x" * (limit - 36) + b'"}'
    assert len(fits) == limit
    assert rt.ask("POST", "/exec", fits).json()["exitCode"] == 0
    rt.ask("POST", "/exec", fits + b" ").error(400)
    rt.ask("POST", "/exec", (b" " * 65536 for _ in range(130))).error(400)


# ---- the stream ----

def test_stream_outcome(rt):
    out, err, outcome, kind = rt.stream(["/bin/sh", "-c", "printf '\\377out'; printf err >&2; exit 3"], id="outcome-1").result()
    assert (out, err, kind) == (b"\xffout", b"err", "x")
    assert outcome["id"] == "outcome-1" and outcome["exitCode"] == 3 and outcome["signal"] == 0
    assert outcome["timedOut"] is outcome["killed"] is False
    assert outcome["truncated"] == {"stdout": False, "stderr": False} and "startError" not in outcome


def test_stream_begins_with_h(rt):
    stream = rt.stream(["/bin/sleep", "0.2"])
    assert stream.frame() == ("h", b"")
    assert stream.result()[2]["exitCode"] == 0


def test_stream_start_error_is_an_outcome(rt):
    _, _, outcome, kind = rt.stream(["/no/such"]).result()
    assert kind == "x" and outcome["exitCode"] == -1 and "/no/such" in outcome["startError"]


def test_stream_signals(rt):
    assert rt.stream(["/bin/sh", "-c", "kill -KILL $$"]).result()[2]["signal"] == signal.SIGKILL
    stream = rt.stream(["/bin/sh", "-c", "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done"])
    assert stream.until("o") == b"ready\n"
    stream.send(b"k", bytes([signal.SIGUSR1]))
    out, _, outcome, _ = stream.result()
    assert out == b"got\n" and outcome["exitCode"] == 5 and not outcome["killed"]


def test_stream_timeout(rt):
    n = mark()
    _, _, outcome, _ = rt.stream(["/bin/sh", "-c", f"setsid sleep {n} & sleep {n}"], timeoutMs=300).result()
    assert outcome["timedOut"] and outcome["exitCode"] == -1
    assert not processes_with(n)


@pytest.mark.parametrize("size", [0, 1, 65536, 3 << 20])
def test_I13_stdin_arrives_whole(rt, size):
    """Within the window that the runtime grants; the other way the bytes come back."""
    data = os.urandom(size)
    stream = rt.stream(["/usr/bin/sha256sum"], stdin=True)
    granted, sent = WINDOW, 0
    while sent < size:
        n = min(FRAME_MAX, granted - sent, size - sent)
        if n:
            stream.send(b"i", data[sent:sent + n])
            sent += n
        else:
            granted += struct.unpack(">I", stream.until("w"))[0]
    stream.send(b"e")
    out, _, outcome, _ = stream.result()
    assert out.split()[0].decode() == hashlib.sha256(data).hexdigest() and outcome["exitCode"] == 0


def test_I13_repeated(rt):
    for _ in range(150):
        stream = rt.stream(["/bin/cat"], stdin=True)
        stream.send(b"i", b"x" * 1000)
        stream.send(b"e")
        out, _, outcome, _ = stream.result()
        assert out == b"x" * 1000 and outcome["exitCode"] == 0


def test_I11_output_is_whole_when_the_command_ends_at_once(rt):
    out, err, outcome, _ = rt.stream(["/bin/sh", "-c", "head -c 5000000 /dev/zero; head -c 70000 /dev/zero >&2"]).result()
    assert (len(out), len(err)) == (5000000, 70000) and outcome["truncated"] == {"stdout": False, "stderr": False}


def test_output_limit_is_of_each_stream(rt):
    out, err, outcome, _ = rt.stream(["/bin/sh", "-c", "head -c 3000 /dev/zero; head -c 3000 /dev/zero >&2"], outputLimit=1000).result()
    assert (len(out), len(err)) == (1000, 1000) and outcome["truncated"] == {"stdout": True, "stderr": True}
    assert outcome["exitCode"] == 0


def test_back_pressure_stops_the_output_not_the_timeout(rt):
    n = mark()
    stream = rt.stream(["/bin/sh", "-c", f"yes {n} | head -c 300000000"], timeoutMs=3000, outputLimit=1 << 28)
    stream.until("o")  # it writes
    wait_for(lambda: not processes_with(n), what="its end though nobody reads")
    out, _, outcome, _ = stream.result()
    assert outcome["timedOut"] and len(out) < 50000000


def test_I5_silence_is_filled(rt):
    stream = rt.stream(["/bin/sleep", "15"])
    assert [stream.frame()[0], stream.frame()[0]] == ["h", "h"]
    assert stream.result()[2]["exitCode"] == 0


def test_I3_a_stream_that_is_left_ends_its_tree(rt):
    n = mark()
    stream = rt.stream(["/bin/sh", "-c", f"(setsid sh -c 'trap \"\" TERM; sleep {n}' &); echo on; sleep {n}"])
    stream.until("o")
    stream.close()
    wait_for(lambda: not processes_with(n), 20, what="the end of the tree")


def test_long_commands_come_in_parts(rt):
    text = "x" * 100000
    out, _, outcome, _ = rt.stream(["/usr/bin/printf", "%s", text, ""], env={f"V{i}": "y" * 1000 for i in range(400)}).result()
    assert out == text.encode() and outcome["exitCode"] == 0


BAD_STARTS = {
    "no json": b"S" + struct.pack(">I", 3) + b"abc",
    "empty": b"S" + struct.pack(">I", 0),
    "other frame": b"i" + struct.pack(">I", 1) + b"x",
    "unknown type": b"?" + struct.pack(">I", 0),
    "too long": b"S" + struct.pack(">I", FRAME_MAX + 1),
    "huge": b"S\xff\xff\xff\xff",
    "too many parts": (b"s" + struct.pack(">I", FRAME_MAX) + b" " * FRAME_MAX) * 26,
    "no command": b"S" + struct.pack(">I", 10) + b'{"id":"a"}',
    "bad id": b"S" + struct.pack(">I", 34) + b'{"id":"a/b","command":["/bin/ls"]}',
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_hostile_starts(rt, name):
    try:
        _, _, error, kind = Stream(rt, None, raw=BAD_STARTS[name]).result()
    except (BrokenPipeError, ConnectionResetError):
        assert name == "too many parts"
        return
    assert kind == "!" and error["code"] in (400, 413) and error["reason"]


def test_hostile_frames_later(rt):
    """More stdin than was granted, unknown and oversized frames: the command does not outlive them."""
    for frame in (b"?" + struct.pack(">I", 0), b"k" + struct.pack(">I", 1) + b"\0", b"k" + struct.pack(">I", 2) + b"aa",
                  b"i\xff\xff\xff\xff", (b"i" + struct.pack(">I", FRAME_MAX) + bytes(FRAME_MAX)) * 6):
        n = mark()
        stream = rt.stream(["/bin/sh", "-c", f"echo on; sleep {n}"], stdin=True)
        stream.until("o")
        try:
            stream.connection.sendall(frame)
            assert json.loads(stream.until("!"))["code"] == 400
        except (BrokenPipeError, ConnectionResetError):
            pass
        stream.close()
        wait_for(lambda: not processes_with(n), what="the end of the command")


def test_without_upgrade_426(rt):
    rt.ask("POST", "/exec/stream", b"").error(426)
    rt.ask("POST", "/exec/stream", b"", headers=[("Connection", "Upgrade"), ("Upgrade", "websocket")]).error(426)


# ---- kept commands ----

def test_I8_kept_exec_is_attached_again_from_its_first_byte(rt):
    gate = rt.folder / "kept-gate"
    command = ["/bin/sh", "-c", f"echo one; until test -e {gate}; do sleep 0.05; done; echo two; exit 4"]
    first = rt.stream(command, id="kept-1", keep=True, digest="d1")
    assert first.until("o") == b"one\n"
    first.close()
    second = rt.stream(command, id="kept-1", keep=True, digest="d1")
    assert second.until("o") == b"one\n"
    gate.touch()
    out, _, outcome, _ = second.result()
    assert out == b"two\n" and outcome["exitCode"] == 4
    out, _, outcome, _ = rt.stream(command, id="kept-1", keep=True, digest="d1").result()
    assert out == b"one\ntwo\n" and outcome["exitCode"] == 4
    out, _, outcome, _ = rt.stream(id="kept-1", attach=True).result()
    assert out == b"one\ntwo\n" and outcome["exitCode"] == 4
    assert rt.ask("GET", "/exec/kept-1").json()["exitCode"] == 4
    rt.ask("DELETE", "/exec/kept-1")


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/dev/shm"])
def test_I31_what_pods_exec_has_begun_is_not_begun_again(rt, tmp_path, place):
    """k8s/scripts/kept.sh keeps commands there that were begun before the runtime was in the pod."""
    id_ = f"elsewhere-{os.getpid()}"
    kept = pathlib.Path(place, ".agenttier-exec", id_)
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    kept.mkdir()
    command = ["/bin/sh", "-c", f"echo ran >> {tmp_path}/ran"]
    try:
        _, _, error, kind = rt.stream(command, id=id_, keep=True, digest="d").result()
        assert (kind, error["code"], error["reason"]) == ("!", 409, "exec_elsewhere")
        _, _, error, kind = rt.stream(attach=True, id=id_, keep=True).result()  # that is no place to attach to here
        assert (kind, error["reason"]) == ("!", "exec_not_found")
        assert not (tmp_path / "ran").exists()
        _, _, outcome, _ = rt.stream(command, id=id_).result()  # one that is not kept has no record
        assert outcome["exitCode"] == 0 and (tmp_path / "ran").exists()
    finally:
        kept.rmdir()


def test_I8_other_digest_is_409(rt):
    rt.stream(["/bin/true"], id="kept-2", keep=True, digest="a").result()
    _, _, error, kind = rt.stream(["/bin/true"], id="kept-2", keep=True, digest="b").result()
    assert kind == "!" and (error["code"], error["reason"]) == (409, "exec_id_reused")


def test_attach_starts_nothing(rt):
    _, _, error, kind = rt.stream(id="never-there", attach=True).result()
    assert kind == "!" and (error["code"], error["reason"]) == (404, "exec_not_found")


def test_exec_by_id(rt):
    stream = rt.stream(["/bin/sh", "-c", "sleep 600"], id="by-id", keep=True)
    stream.until("h")
    assert rt.ask("GET", "/exec/by-id").json() == {"id": "by-id", "running": True}
    started = time.monotonic()
    assert rt.ask("GET", "/exec/by-id?waitMs=400").json()["running"] is True
    assert 0.35 < time.monotonic() - started < 15
    assert rt.ask("DELETE", "/exec/by-id").status == 204
    _, _, outcome, _ = stream.result()
    assert outcome["killed"] and outcome["signal"] == signal.SIGTERM
    assert rt.ask("GET", "/exec/by-id?waitMs=10000").json()["killed"]
    for method, target in (("GET", "/exec/none"), ("DELETE", "/exec/none"), ("GET", "/exec/..%2f")):
        rt.ask(method, target).error(404, "exec_not_found")
    rt.ask("GET", "/exec/by-id?waitMs=x").error(400)
    rt.ask("GET", "/exec/by-id?waitMs=-1").error(400)


def test_64_at_once_and_no_more(own):
    runtime = own("unix")
    streams = [runtime.stream(["/bin/sleep", "600"], id=f"many-{i}") for i in range(64)]
    for stream in streams:
        stream.until("h")
    _, _, error, kind = runtime.stream(["/bin/true"]).result()
    assert kind == "!" and (error["code"], error["reason"]) == (429, "too_many_execs")
    runtime.ask("POST", "/exec", {"command": ["/bin/true"]}).error(429, "too_many_execs")
    streams.pop().close()
    wait_for(lambda: runtime.ask("POST", "/exec", {"command": ["/bin/true"]}).status == 200, what="room for another")
    for stream in streams:
        stream.close()


def test_I6_a_supervisor_that_is_killed_invents_no_outcome(own):
    """kill -9 of the process behind a stream: the stream ends without x, the id is free, the command is not left."""
    runtime = own("unix")
    n = mark()
    stream = runtime.stream(["/bin/sh", "-c", f"echo on; sleep {n}"], id="killed", keep=True)
    stream.until("o")
    (command,) = wait_for(lambda: (found := processes_with(f"-c\0echo on; sleep {n}")) and len(found) == 1 and found, what="the command")
    supervisor = parent_of(command)
    assert supervisor != runtime.process.pid
    os.kill(supervisor, signal.SIGKILL)
    frames = []
    while frame := stream.frame():
        frames.append(frame[0])
    assert "x" not in frames
    wait_for(lambda: runtime.ask("GET", "/exec/killed").status == 404, what="that the id is forgotten")
    assert runtime.exec(["/bin/true"])["exitCode"] == 0
    for pid in processes_with(n):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
