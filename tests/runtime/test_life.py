"""Dial, orphans, the end, memory: docs/runtime-protocol.md, controller.md 18.1, lesson I2."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from client import BINARY, ROOT, Runtime, parent_of, processes_with, read_head, wait_for
from test_exec import mark


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def echo_once(server):
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.sendall(b" bye")
        connection.shutdown(socket.SHUT_WR)


def test_dial_by_descriptor(unix, listener):
    thread = threading.Thread(target=echo_once, args=(listener,))
    thread.start()
    answer = unix.ask("POST", f"/dial?port={listener.getsockname()[1]}&pass=fd", b"")
    assert answer.status == 200 and len(answer.fds) == 1
    with socket.socket(fileno=answer.fds[0]) as connection:
        connection.settimeout(30)
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while more := connection.recv(1000):
            data += more
    assert data == b"hello bye"
    thread.join()


def test_dial_by_upgrade(rt, listener):
    thread = threading.Thread(target=echo_once, args=(listener,))
    thread.start()
    with rt.connect() as connection:
        connection.sendall(rt.head("POST", f"/dial?port={listener.getsockname()[1]}", [("Connection", "Upgrade"), ("Upgrade", "agenttier-dial")]))
        status, headers, data = read_head(connection)
        assert status == 101 and headers["upgrade"] == "agenttier-dial"
        payload = os.urandom(300000)
        sender = threading.Thread(target=lambda: (connection.sendall(payload), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        while more := connection.recv(65536):
            data += more
        sender.join()
    assert data == payload + b" bye"
    thread.join()


def test_dial_errors(rt):
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "agenttier-dial")]
    with socket.socket() as silent:  # bound, so that it is nobody else's, and not listening
        silent.bind(("127.0.0.1", 0))
        rt.ask("POST", f"/dial?port={silent.getsockname()[1]}", b"", headers=upgrade).error(502, "port_closed")
    for port in ("0", "65536", "-1", "x", ""):
        rt.ask("POST", f"/dial?port={port}", b"", headers=upgrade).error(400)
    rt.ask("POST", "/dial", b"", headers=upgrade).error(400)


def in_new_pid_namespace():
    """The prefix of a command that makes it process 1 of a namespace of its own, or None."""
    for prefix in (["unshare", "--pid", "--fork", "--mount-proc"], ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]):
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return [*prefix, "--kill-child"]
    return None


def below(pid):
    """Processes in the whole tree below a process, also those that have ended and are not reaped."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            children.setdefault(parent_of(stat.parent.name), []).append(int(stat.parent.name))
    found = children.get(pid, [])
    for child in found:  # grows
        found += children.get(child, [])
    return found


def leave_orphans(runtime):
    for _ in range(20):
        runtime.sh("for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.1 & exit' &); done")


def test_I2_orphans_are_reaped(own):
    """As process 1: what a command leaves behind, and what that leaves behind, ends without a trace."""
    prefix = in_new_pid_namespace()
    if not prefix:
        pytest.skip("no pid namespaces here")
    runtime = own("unix", wrap=prefix)
    # Process 1 alone: what has answered that it serves takes a moment to end.
    first = wait_for(lambda: len(found := below(runtime.process.pid)) == 1 and found, what="process 1")
    leave_orphans(runtime)
    wait_for(lambda: below(runtime.process.pid) == first, what="that nothing is left")


def test_I2_orphans_are_reaped_also_without_being_process_1(own):
    runtime = own("unix")
    leave_orphans(runtime)
    wait_for(lambda: not below(runtime.process.pid), what="that nothing is left")
    assert runtime.alive()


def test_18_1_the_end(own):
    """SIGTERM: what runs gets TERM and, after the grace, KILL; the exit status is 0 and nothing is left."""
    runtime = own("unix", flags=["--grace-seconds=5"])
    n = mark()
    polite = runtime.stream(["/bin/sh", "-c", "trap 'echo asked; exit 0' TERM; echo on; while :; do sleep 0.05; done"])
    rude = runtime.stream(["/bin/sh", "-c", f"trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep {n}' & echo on; sleep {n}"])
    for stream in (polite, rude):
        assert stream.until("o") == b"on\n"
    started = time.monotonic()
    assert runtime.end() == 0
    assert time.monotonic() - started < 20
    assert polite.result()[0] == b"asked\n"
    wait_for(lambda: not processes_with(n), what="that nothing is left")


@pytest.mark.parametrize("as_process_1", [False, True])
def test_18_1_each_is_asked_once(own, as_process_1):
    """A second TERM a moment after the first would be taken for impatience: by a command, by what it has left behind, by what an
    earlier one has left behind."""
    prefix = in_new_pid_namespace() if as_process_1 else []
    if prefix is None:
        pytest.skip("no pid namespaces here")
    runtime = own("unix", flags=["--grace-seconds=30"], wrap=prefix)
    slowly = runtime.folder / "slowly"
    slowly.write_text("trap 'echo asked >>$1' TERM\necho on >>$1\nuntil [ -s $1.end ]; do sleep 0.05; done\n")
    logs = [runtime.folder / name for name in ("orphan", "child", "command")]
    runtime.sh(f"setsid sh {slowly} {logs[0]} >/dev/null 2>&1 &")
    stream = runtime.stream(["/bin/sh", "-c", f"setsid sh {slowly} {logs[1]} & exec sh {slowly} {logs[2]}"])
    for log in logs:
        wait_for(lambda: log.exists() and log.read_text() == "on\n", what="three that run")
    # The first command's process has ended when what it left behind is the runtime's own.
    wait_for(lambda: [parent_of(pid) for pid in processes_with(f"{slowly}\0{logs[0]}")] == [runtime.pid()], what="an orphan")
    ends = threading.Thread(target=runtime.end)
    ends.start()
    for log in logs:
        wait_for(lambda: "asked" in log.read_text(), what="that each is asked")
    time.sleep(0.3)  # for what must not come
    assert [log.read_text() for log in logs] == ["on\nasked\n"] * 3
    for log in logs:
        log.with_name(log.name + ".end").write_text("now")
    ends.join()
    assert runtime.process.returncode == 0
    stream.close()


def test_process_1_cannot_be_stopped_from_inside(own):
    prefix = in_new_pid_namespace()
    if not prefix:
        pytest.skip("no pid namespaces here")
    runtime = own("unix", wrap=prefix)
    for sig in ("TERM", "INT", "KILL", "STOP", "SEGV"):
        runtime.exec(["/bin/sh", "-c", f"kill -{sig} 1"])
        assert runtime.exec(["/bin/echo", "alive"])["stdout"] == "alive\n"


def test_kill_of_everything_invents_no_outcome(own):
    """kill -9 -1 by a command ends other commands' supervisors: no made-up exit code, and the runtime goes on."""
    prefix = in_new_pid_namespace()
    if not prefix:
        pytest.skip("no pid namespaces here")
    runtime = own("unix", wrap=prefix)
    victim = runtime.stream(["/bin/sh", "-c", "echo on; sleep 600"])
    victim.until("o")
    killer = runtime.connect()
    body = b'{"command":["/bin/sh","-c","kill -9 -1"]}'
    killer.sendall(runtime.head("POST", "/exec", [("Content-Length", len(body))]) + body)
    frames = []
    while frame := victim.frame():
        frames.append(frame[0])
    assert "x" not in frames
    killer.close()
    assert runtime.exec(["/bin/echo", "alive"])["stdout"] == "alive\n"


def rss(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def running(pid, program):
    """Those in the tree below a process, and itself, that run the program."""
    pids, todo = [], [pid]
    while todo:
        parent = todo.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
            if os.readlink(f"/proc/{parent}/exe") == str(program.resolve()):
                pids.append(parent)
            todo += [int(p) for p in pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return pids


def test_resident_memory_is_below_2_mib(own):
    """Of the release build: process 1 at rest, after work, and each process behind a stream."""
    release = ROOT / "build" / "agenttier-runtime"
    if not release.exists():
        pytest.skip("there is no release build: ./dev build")
    runtime = own("unix", binary=release)
    assert rss(runtime.process.pid) < 2 << 20
    for _ in range(50):
        runtime.sh("head -c 100000 /dev/zero")
    runtime.ask("PUT", f"/files?path={runtime.folder}/big", os.urandom(20 << 20))
    assert len(runtime.ask("GET", f"/files?path={runtime.folder}/big").body) == 20 << 20
    assert rss(runtime.process.pid) < 2 << 20
    stream = runtime.stream(["/bin/sleep", "60"])
    stream.until("h")
    # Those of earlier requests may take a moment to end.
    own_processes = wait_for(lambda: len(found := running(runtime.process.pid, release)) == 2 and found, what="two processes of the runtime")
    assert all(rss(p) < 2 << 20 for p in own_processes)
    stream.close()


def test_release_build_is_static(own):
    release = ROOT / "build" / "agenttier-runtime"
    if not release.exists() or not shutil.which("file"):
        pytest.skip("there is no release build, or no file(1)")
    assert "statically linked" in subprocess.run(["file", release], capture_output=True, text=True, check=True).stdout
