"""Terminals over pods/exec (http-api.md 2.12, 5.5, 5.6), against pods that run real shells on real terminals, and that
lie, stall and cut. As in a cluster nothing but the shell itself, or the terminal's guard, ends what was started."""
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from test_exec_access import LONG, FakeExec, busybox, mark, processes, start, wait_gone, wait_there, wait_until  # noqa: F401

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def no_tmux(tmp_path_factory):
    """A PATH with all that this machine has, but tmux."""
    bin_dir = tmp_path_factory.mktemp("bin")
    for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for name in os.listdir(folder):
            if name != "tmux" and not os.path.lexists(bin_dir / name):
                (bin_dir / name).symlink_to(os.path.join(folder, name))
    return str(bin_dir)


@pytest.fixture(params=["dash", "bash", "busybox"])
def fake(request, tmp_path, no_tmux, busybox):
    kind = request.param
    if kind == "busybox":
        server = FakeExec(tmp_path, shell=(busybox + "/sh",), path=busybox)
    else:
        server = FakeExec(tmp_path, shell=(shutil.which(kind),), path=no_tmux)
    server.kind = kind
    yield server
    server.close()


@pytest.fixture
def one(tmp_path, no_tmux):
    """Where the shell does not matter."""
    server = FakeExec(tmp_path, path=no_tmux)
    yield server
    server.close()


class Terminal:
    """A terminal that the driver holds."""

    def __init__(self, server, *more, **args):
        args = {"session": "agenttier-x", "shell": "/bin/sh", "cols": 120, "rows": 40, **args}
        args = {name: value for name, value in args.items() if value is not None}
        self.process = start(server, "terminal", args, *more, stdin=subprocess.PIPE)
        self.out, self.err, self.lines = b"", b"", []
        self.taken = 0
        self.changed = threading.Condition()
        self.threads = [threading.Thread(target=job, daemon=True) for job in (self._read_out, self._read_err, self._read_lines)]
        for thread in self.threads:
            thread.start()

    def _add(self, name, value):
        with self.changed:
            setattr(self, name, getattr(self, name) + value)
            self.changed.notify_all()

    def _read_out(self):
        while piece := os.read(self.process.stdout.fileno(), 65536):
            self._add("out", piece)

    def _read_err(self):
        while piece := os.read(self.process.stderr.fileno(), 65536):
            self._add("err", piece)

    def _read_lines(self):
        for line in self.process.results:
            self._add("lines", [json.loads(line)])

    def send(self, data):
        self.process.stdin.write(data if isinstance(data, bytes) else data.encode())
        self.process.stdin.flush()

    def until(self, text, seconds=LONG):
        """What was shown up to `text`, from the end of the last such."""
        text = text.encode()
        with self.changed:
            assert self.changed.wait_for(lambda: text in self.out[self.taken:], seconds), (self.out[self.taken:], self.lines, self.err[-3000:])
            end = self.out.index(text, self.taken) + len(text)
            seen, self.taken = self.out[self.taken:end], end
        return seen.decode(errors="replace")

    def told(self, name, seconds=LONG):
        with self.changed:
            assert self.changed.wait_for(lambda: any(name in line for line in self.lines), seconds), (self.out, self.lines, self.err[-3000:])
        return next(line[name] for line in self.lines if name in line)

    def ask(self, command, mark="0nce"):
        """Runs a line; what it shows. The mark is not what was typed, which the terminal shows too."""
        self.send(f"{command}\necho {mark[0]}''{mark[1:]}\n")
        return self.until(mark)

    def resize(self):
        self.process.send_signal(signal.SIGUSR1)

    def close(self):
        self.process.send_signal(signal.SIGUSR2)
        self.told("closed")

    def wait(self, seconds=LONG):
        """The end of the driver: nothing of the terminal is left then, or it was told otherwise."""
        code = self.process.wait(seconds)
        for thread in self.threads:
            thread.join(10)
        assert code in (0, 1), (code, self.err[-5000:].decode())
        return self

    def error(self):
        self.told("error")
        return self.wait().told("error")


def gone(server):
    """Every process that was started in the pod for terminals."""
    deadline = time.monotonic() + LONG
    while left := [p.pid for p in server.processes if p.poll() is None]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture
def shell(fake, busybox):
    return busybox + "/ash" if fake.kind == "busybox" else shutil.which(fake.kind)


def test_5_5_a_shell_on_a_terminal(fake, shell):
    t = Terminal(fake, shell=shell, cols=90, rows=33, workingDir="/usr")
    assert t.told("started")
    assert "33 90" in t.ask("test -t 0 && test -t 1 && test -t 2 && stty size")
    assert "/usr\r\n" in t.ask("pwd")
    assert "xterm-256color" in t.ask("echo $TERM")
    assert fake.sizes == [(90, 33)]
    t.send("exit 3\n")
    assert t.told("result") == {"exitCode": 3}
    t.wait()
    gone(fake)


def test_5_5_resize_frames(one):
    t = Terminal(one)
    assert "40 120" in t.ask("stty size")
    t.resize()
    wait_until(lambda: one.sizes[-1] == (100, 44), "the new size")
    assert "44 100" in t.ask("stty size")
    t.close()
    t.wait()


def test_W70_a_shell_that_is_not_there_is_sh(one):
    for path in ("/no/such/shell", "/etc", "/etc/passwd"):
        t = Terminal(one, shell=path)
        assert "is sh" in t.ask("echo i''s sh")
        t.close()
        t.wait()


def test_S14_parameters_are_never_shell_text(one, tmp_path):
    evil = tmp_path / "a'b\"$(touch evil)`touch evil`;\n*"
    evil.mkdir()
    t = Terminal(one, shell=f"/no/such'$(touch {tmp_path}/evil)", workingDir=str(evil))
    assert "here\r\n" in t.ask('test "$(pwd)" = "$(printf %s "$PWD")" && ls -d "$PWD" >/dev/null && echo h""ere')
    t.close()
    t.wait()
    assert not list(tmp_path.glob("**/evil"))
    assert max(len(target) for _, target, _ in one.requests) < 8000


@pytest.mark.parametrize("args", [
    {"session": "a b"}, {"session": "a'b"}, {"session": ""}, {"session": "x" * 129}, {"session": None}, {"shell": "sh"}, {"shell": None},
    {"cols": 0}, {"rows": 65536}, {"workingDir": "tmp"}, {"workingDir": "/" + "x" * 5000}])
def test_arguments_are_checked(one, args):
    t = Terminal(one, **args)
    assert t.error()["status"] == 400
    assert not one.requests


def test_a_directory_that_is_not_there(one):
    err = Terminal(one, workingDir="/no/such/directory").error()
    assert (err["status"], err["code"]) == (502, "terminal_not_started") and "/no/such/directory" in err["message"]
    gone(one)


def test_O7_nothing_of_ours_in_the_environment(one):
    names = {name: name.upper() for name in "abcdefghjklmnopqrstuvwxyz"} | {  # i is /etc/profile's
        "sig": "S", "root": "R", "LC_ALL": "C.UTF-8"}
    one.faults = {"env": names}
    t = Terminal(one)
    seen = dict(line.split("=", 1) for line in t.ask("env").splitlines() if "=" in line)
    assert {name: seen.get(name) for name in names} == names
    assert not any("AGENTTIER" in name or name.startswith("_") and name != "_" for name in seen), seen
    t.close()
    t.wait()


def test_I30_bytes_pass_as_they_are(one):
    """Also one at a time: who reads puts characters together."""
    one.faults = {"tty": {"piece": 1}}
    t = Terminal(one)
    t.ask("stty -echo -opost; PS1=")
    t.send("printf 'ü€😀\\377\\000\\001'; echo d''one\n")
    t.until("done\n")
    assert "ü€😀".encode() + b"\xff\0\1done\n" in t.out
    t.send("printf %s 'ä€' | od -An -tx1; echo d''one\n")
    assert "c3 a4 e2 82 ac" in t.until("done\n")
    t.close()
    t.wait()


def test_large_input_and_output_flow(one):
    t = Terminal(one)
    t.ask("stty -echo raw")
    t.send("echo r''eady; head -c 2000000 | tr a b | cksum; echo d''one\n")
    t.until("ready\n")
    writer = threading.Thread(target=t.send, args=(b"a" * 2000000,))
    writer.start()
    wanted = subprocess.run("head -c 2000000 /dev/zero | tr '\\0' b | cksum", shell=True, capture_output=True, text=True, check=True).stdout.strip()
    assert wanted in t.until("done\n")
    writer.join()
    t.send("head -c 3000000 /dev/zero | tr '\\0' c; echo d''one\n")
    assert t.until("done\n").count("c") == 3000000
    t.close()
    t.wait()


def test_a_slow_reader_holds_the_shell_back(one):
    t = Terminal(one, 0, 2000000)
    t.ask("stty -opost")
    began = time.monotonic()
    t.send("head -c 3000000 /dev/zero; echo d''one\n")
    t.until("done\n")
    assert time.monotonic() - began > 1
    t.close()
    t.wait()


def test_input_nobody_reads_waits(one):
    """A stopped reader, and input that is more than every buffer on the way: it is kept back, then arrives whole."""
    t = Terminal(one)
    t.ask("stty -echo raw")
    t.send("echo r''eady; read -r go; head -c 4000000 | wc -c; echo d''one\n")
    t.until("ready\n")
    stopped = [pid for pid, line in processes("head") if line.split(b"\0")[:3] == [b"head", b"-c", b"4000000"]]
    assert not stopped
    writer = threading.Thread(target=t.send, args=(b"go\n" + b"x" * 4000000,))
    writer.start()
    assert "4000000" in t.until("done\n")
    writer.join()
    t.close()
    t.wait()


@pytest.mark.parametrize("protocols", [["v5.channel.k8s.io"], ["v4.channel.k8s.io"]])
def test_O2_a_user_who_leaves_ends_the_shell(fake, shell, mark, protocols):
    """And all that came of it: what takes a hangup lightly, ignores it, has stopped or has left the session."""
    fake.protocols = protocols
    t = Terminal(fake, shell=shell)
    t.ask(f"sleep {mark} & nohup sleep {mark} >/dev/null 2>&1 & setsid sleep {mark} & (setsid sleep {mark} &)")
    t.ask(f"sh -c 'trap : HUP; while :; do sleep 1; done' {mark} &")
    t.ask(f"sh -c 'kill -STOP $$; sleep 100' {mark} &")
    t.send(f"sleep {mark}\n")
    wait_there(mark, 7)
    t.close()
    t.wait()
    assert not processes(mark)
    gone(fake)


def test_O2_a_router_that_is_killed_leaves_no_shell(fake, shell, mark):
    t = Terminal(fake, shell=shell)
    t.ask(f"sleep {mark} &")
    wait_there(mark, 1)
    t.process.kill()
    wait_gone(mark, LONG)
    gone(fake)


@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("kill", [False, True])
def test_O2_whenever_it_ends(one, after, kill):
    """From the first connection to the prompt: nothing is left of a terminal that was given up."""
    one.faults = {"guard": {"piece": 3}, "tty": {"piece": 3}}
    t = Terminal(one)
    deadline = time.monotonic() + LONG
    while not one.requests:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(after)
    if kill:
        t.process.kill()
    else:
        t.process.send_signal(signal.SIGUSR2)
        t.wait()
    gone(one)


def test_O2_a_lost_guard_ends_the_terminal(one, mark):
    """Someone in the sandbox kills it: the Router does by itself what it was there for."""
    t = Terminal(one)
    t.ask(f"sleep {mark} &")
    os.kill(one.processes[0].pid, signal.SIGKILL)
    assert t.error()["code"] == "sandbox_unreachable"
    wait_gone(mark, LONG)
    gone(one)


def test_a_background_job_outlives_exit(one, mark):
    t = Terminal(one, shell=shutil.which("bash"))
    t.ask(f"nohup sleep {mark} >/dev/null 2>&1 &")
    wait_there(mark, 1)
    t.send("exit\n")
    assert t.told("result") == {"exitCode": 0}
    t.wait()
    assert processes(mark)


@pytest.fixture
def tmux(one, tmp_path):
    """A pod whose image has tmux; its server is ended with the test."""
    if not shutil.which("tmux"):
        pytest.skip("no tmux here")
    one.path = None
    one.faults = {"env": {"TMUX_TMPDIR": str(tmp_path), "TMUX": ""}}
    yield one
    subprocess.run(["tmux", "kill-server"], env={**os.environ, "TMUX_TMPDIR": str(tmp_path)}, capture_output=True, check=False)


def tmux_sessions(tmp_path):
    return subprocess.run(["tmux", "list-sessions", "-F", "#{session_name} #{session_attached}"],
                          env={**os.environ, "TMUX_TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False).stdout.split("\n")[:-1]


def wait_sessions(tmp_path, wanted):
    deadline = time.monotonic() + LONG
    while tmux_sessions(tmp_path) != wanted:
        assert time.monotonic() < deadline, tmux_sessions(tmp_path)
        time.sleep(0.05)


@pytest.mark.parametrize("kill", [False, True])
def test_5_6_a_tmux_session_survives(tmux, tmp_path, mark, kill):
    t = Terminal(tmux, session="agenttier-box.1")
    t.ask(f"export KEPT=yes; sleep {mark} &")
    wait_there(mark, 1)
    wait_sessions(tmp_path, ["agenttier-box_1 1"])  # as tmux writes the name
    if kill:
        t.process.kill()
    else:
        t.close()
        t.wait()
    wait_sessions(tmp_path, ["agenttier-box_1 0"])
    gone(tmux)
    assert processes(mark)
    again = Terminal(tmux, session="agenttier-box.1", cols=77, rows=22)
    assert "kept=yes" in again.ask("echo kept=$KEPT", "again")
    assert "22 77" in again.ask("stty size", "and once more")
    other = Terminal(tmux, session="agenttier-box.1", cols=77, rows=22)
    other.send("echo b''oth\n")
    again.until("both")
    other.until("both")
    other.close()
    other.wait()
    again.send("exit\n")
    assert again.told("result") == {"exitCode": 0}
    again.wait()
    wait_sessions(tmp_path, [])


def test_5_6_a_tmux_that_does_not_work_is_no_obstacle(one, tmp_path):
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "tmux").write_text("#!/bin/sh\necho open terminal failed\nexit 1\n")
    (broken / "tmux").chmod(0o755)
    one.path = f"{broken}:{os.environ['PATH']}"
    t = Terminal(one, session="agenttier-x")
    assert "a shell" in t.ask("echo a' 'shell")
    t.close()
    t.wait()


NOT_STARTED = "terminal_not_started"


@pytest.mark.parametrize("stream", ["guard", "tty"])
@pytest.mark.parametrize("faults, code", [
    ({"messages": [b"\x07x"]}, NOT_STARTED),
    ({"messages": [b""]}, NOT_STARTED),
    ({"messages": [b"\xff\x09"]}, NOT_STARTED),
    ({"text_message": True}, NOT_STARTED),
    ({"messages": [b"\x01garbage garbage\n"]}, NOT_STARTED),
    ({"messages": [b"\x01+12 34 56\n"]}, NOT_STARTED),
    ({"messages": [b"\x01+0 1\n"]}, NOT_STARTED),
    ({"messages": [b"\x01+99999999999999999999 1\n"]}, NOT_STARTED),
    ({"messages": [b"\x01" + b"+" * 5000]}, NOT_STARTED),
    ({"messages": [b"\x03" + b" " * 100000]}, NOT_STARTED),
    ({"messages": [b'\x03{"status":"Failure","reason":"InternalError","message":"boom"}'], "end": True}, NOT_STARTED),
    ({"refuse": (404, '{"kind":"Status","reason":"NotFound","message":"pods not found"}')}, "sandbox_not_found"),
    ({"refuse": (403, '{"kind":"Status","reason":"Forbidden","message":"no"}')}, "kubernetes_forbidden"),
    ({"refuse": (500, '{"kind":"Status","message":"container not found"}')}, NOT_STARTED),
    ({"refuse": (429, "slow down")}, "unavailable"),
    ({"refuse": (503, "away")}, "unavailable"),
    ({"raw": b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x82\x02\x01x"}, NOT_STARTED),
    ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"}, NOT_STARTED),
    ({"raw": b""}, NOT_STARTED),
    ({"end": True}, "exec_outcome_unknown"),
])
def test_S2_S23_lies_are_typed_errors(one, stream, faults, code):
    one.faults = {stream: faults}
    t = Terminal(one)
    err = t.error()
    assert err["code"] == code, err
    assert t.out == b"" and {"started": True} not in t.lines
    gone(one)


def test_an_image_without_a_shell(one):
    said = ('error executing command in container: failed to exec in container: failed to start exec "x": OCI runtime exec '
            'failed: exec failed: unable to start container process: exec: "/bin/sh": stat /bin/sh: no such file or directory')
    status = json.dumps({"status": "Failure", "reason": "InternalError", "message": said}).encode()
    one.faults = {"messages": [b"\x03" + status], "end": True}
    err = Terminal(one).error()
    assert err["code"] == NOT_STARTED and "has no /bin/sh" in err["message"]


def test_v4_where_v5_is_refused(one):
    one.protocols = ["v4.channel.k8s.io"]
    one.faults = {"refuse_v5": True}
    t = Terminal(one, cols=81)
    assert "40 81" in t.ask("stty size")
    t.close()
    t.wait()
    gone(one)


@pytest.mark.parametrize("stream", ["guard", "tty"])
def test_a_cut_stream_is_a_lost_connection(one, mark, stream):
    """Half of it only: the other half must not go on by itself."""
    t = Terminal(one)
    t.ask(f"sleep {mark} &")
    one.sockets[1 if stream == "tty" else 0].conn.shutdown(socket.SHUT_RDWR)
    assert t.error()["code"] == "exec_outcome_unknown"
    wait_gone(mark, LONG)
    gone(one)


def test_I6_an_end_without_a_status_is_no_exit_code(one):
    one.faults = {"tty": {"no_status": True}}
    t = Terminal(one)
    t.ask("true")
    t.send("exit 0\n")
    assert t.error()["code"] == "exec_outcome_unknown"
    gone(one)


def test_output_after_its_status_is_shown(one):
    t = Terminal(one)
    t.ask("PS1=")
    t.send("head -c 200000 /dev/zero | tr '\\0' e; exit 7\n")
    assert t.told("result") == {"exitCode": 7}
    t.wait()
    assert t.out.count(b"e") >= 200000


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["guard", "tty"])
def test_I16_pings_that_nobody_answers(one, mark, stream):
    one.faults = {stream: {"no_pong": True}}
    t = Terminal(one)
    t.ask(f"sleep {mark} &")
    err = (t.told("error", 90), t.wait())[0]
    assert err["code"] == "sandbox_timeout"
    assert one.sockets[1 if stream == "tty" else 0].pings > 8
    wait_gone(mark, LONG)
    gone(one)
