"""backend/access.h over pods/exec, against pods that run real commands in real shells, and that lie, stall and cut.
Each test runs with every shell of `shells`: what a Debian image has, and busybox alone."""
import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time

import pytest
from fake_exec import FakeExec

BUILD = pathlib.Path(os.environ.get("AGENTTIER_BUILD", "build-san"))
DRIVER = BUILD / "tests/faults/access_driver"
ID = f"t{os.getpid()}-"  # kept commands of other runs on this machine are not ours
SIZES = [0, 1, 65536, 100 * 1024, 1 << 20, 32 << 20, (32 << 20) + 1]
LONG = 60  # for what comes without fail, however busy the machine
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def busybox(tmp_path_factory):
    """A PATH that has nothing but busybox."""
    program = shutil.which("busybox")
    if not program:
        pytest.skip("no busybox here")
    bin_dir = tmp_path_factory.mktemp("busybox")
    for applet in subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split():
        (bin_dir / applet).symlink_to(program)
    return str(bin_dir)


@pytest.fixture(params=["dash", "bash", "busybox"])
def fake(request, tmp_path, busybox):
    kind = request.param
    if kind == "busybox":
        server = FakeExec(tmp_path, shell=(busybox + "/sh",), path=busybox)
    else:
        server = FakeExec(tmp_path, shell=(shutil.which(kind),))
    server.kind = kind
    yield server
    server.close()


@pytest.fixture
def one(tmp_path):
    """Where the shell does not matter."""
    server = FakeExec(tmp_path)
    yield server
    server.close()


class Run:
    def __init__(self, process, lines, out, err, took):
        self.code, self.lines, self.out, self.err, self.took = process.returncode, lines, out, err, took

    def _of(self, name):
        return next((line[name] for line in self.lines if name in line), None)

    @property
    def result(self):
        assert self._of("result") is not None, (self.lines, self.err[-3000:])
        return self._of("result")

    @property
    def head(self):
        return self._of("head")

    @property
    def error(self):
        assert self._of("error") is not None, (self.lines, self.err[-3000:])
        return self._of("error")


def start(fake, op, args, *more, stdin=subprocess.DEVNULL):
    read_fd, write_fd = os.pipe()
    env = dict(os.environ, UBSAN_OPTIONS="halt_on_error=1", ASAN_OPTIONS="detect_leaks=1")
    process = subprocess.Popen(
        ["bash", "-c", f'exec 3>&{write_fd}; exec "$@"', "sh", str(DRIVER), fake.kubeconfig(), "default", "pod1", op,
         json.dumps(args, ensure_ascii=False), *map(str, more)],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[write_fd], env=env)
    os.close(write_fd)
    process.results = open(read_fd, "rb")
    return process


def finish(process, data=None, began=0.0, told=None):
    """`told`: called with each line as it comes."""
    lines = []

    def collect():
        for line in process.results:
            lines.append(json.loads(line))
            if told:
                told(lines[-1])

    reader = threading.Thread(target=collect)
    reader.start()
    out, err = process.communicate(data, timeout=170)
    reader.join()
    assert process.returncode in (0, 1), err[-5000:].decode()
    return Run(process, lines, out, err, time.monotonic() - began)


def run(fake, op, args, *more, data=None):
    began = time.monotonic()
    stdin = subprocess.PIPE if data is not None else subprocess.DEVNULL
    return finish(start(fake, op, args, *more, stdin=stdin), data, began)


def command_args(command, **args):
    return {"id": ID + "x", "command": command if isinstance(command, list) else ["/bin/sh", "-c", command], **args}


def execute(fake, command, *more, data=None, **args):
    args = command_args(command, **args)
    if data is not None:
        args["stdin"] = True
    return run(fake, "exec", args, *more, data=data)


def processes(mark):
    """Processes whose command line has `mark`, as ps would show them."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rsplit(") ", 1)[1][0]
            except (OSError, IndexError):
                continue
            if mark.encode() in line and state not in "ZX" and b"access_driver" not in line:
                found.append((int(entry.name), line))
    return found


def execute_until_started(fake, command, **args):
    """The stream is closed as soon as the command is known to have begun."""
    process = start(fake, "exec", command_args(command, **args))
    return finish(process, told=lambda line: "started" in line and process.send_signal(signal.SIGUSR2))


def wait_until(condition, what="", seconds=LONG):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_there(mark, count=1):
    wait_until(lambda: len(processes(mark)) >= count, f"{count} processes with {mark}")


def wait_gone(mark, seconds=10):
    deadline = time.monotonic() + seconds
    while processes(mark):
        assert time.monotonic() < deadline, processes(mark)
        time.sleep(0.1)


@pytest.fixture
def mark():
    name = f"{time.time_ns() % 10**9 + 10**9}"
    yield name
    for pid, _ in processes(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# ---- Commands ----


def test_exec_output_is_byte_exact(fake):
    r = execute(fake, r"printf 'a\000b\377\n'; printf 'e\001' >&2; exit 3")
    assert (r.out, r.err) == (b"a\0b\xff\n", b"e\1")
    assert r.result["exitCode"] == 3 and not r.result["timedOut"]
    assert r.result["truncated"] == {"stdout": False, "stderr": False}


def test_exec_stderr_ahead_of_stdout(one):
    one.faults = {"late_stdout": 0.3}
    r = execute(one, "echo err >&2; echo out")
    assert (r.out, r.err) == (b"out\n", b"err\n")


def test_exec_I6_codes(fake):
    for code in (0, 1, 126, 127, 200, 255):
        assert execute(fake, f"exit {code}").result["exitCode"] == code
    assert execute(fake, "kill -9 $$").result["exitCode"] == 137
    assert execute(fake, ["nosuchprogram"]).result["exitCode"] == 127


def test_exec_S14_parameters_are_never_shell_text(fake, tmp_path):
    evil = "a'b\"c$(touch /tmp/S14)`touch /tmp/S14`;\n\\\\0101 \\c\t\x01\x7f\u00e9\u20ac *?[ -n \\"
    r = execute(fake, ["printf", "%s|%s|", evil, "-n"], env={"EVIL": evil, "EMPTY": ""}, workingDir="/")
    assert r.out == f"{evil}|-n|".encode()
    directory = tmp_path / evil.replace("/", "_")
    directory.mkdir()
    r = execute(fake, 'printf %s "$EVIL"; printf "|%s|" "${EMPTY-unset}"; pwd', env={"EVIL": evil, "EMPTY": ""},
                workingDir=str(directory))
    assert r.out == evil.encode() + b"||" + str(directory).encode() + b"\n"
    assert not os.path.exists("/tmp/S14")
    for _, target, _ in fake.requests:
        assert "EVIL" not in target and "S14" not in target and "touch" not in target


def test_exec_environment_is_the_sandboxs_own(fake):
    names = {name: name.upper() for name in "abcdefghiklmnopqrstuvwxyz"} | {"dir": "D", "start": "S", "input": "I", "nonce": "N"}
    fake.faults = {"env": {"LC_ALL": "C.UTF-8", "MINE": "1", **names}}
    for more in {}, {"keep": True, "digest": "d", "id": ID + "env"}:
        r = execute(fake, 'echo "$LC_ALL $MINE"; env', **more)
        assert r.out.startswith(b"C.UTF-8 1\n")
        seen = dict(line.split("=", 1) for line in r.out.decode().splitlines()[1:] if "=" in line)
        assert {name: seen.get(name) for name in names} == names
        assert not any("AGENTTIER" in name.upper() or name.startswith("_") and name != "_" for name in seen)  # O7
    fake.faults = {}


def test_exec_large_arguments(fake):
    big = "x" * 120000
    assert execute(fake, ["/bin/sh", "-c", 'printf %s "$1"', "sh", big]).out == big.encode()


def test_exec_missing_directory_is_a_start_error(fake):
    r = execute(fake, "true", workingDir="/nonexistent")
    assert r.result["exitCode"] == -1 and "/nonexistent" in r.result["startError"] and r.out == b""


def test_exec_I13_stdin(fake):
    for size in (0, 1, 65536, 1 << 20):
        data = os.urandom(size)
        r = execute(fake, ["cat"], data=data)
        assert r.result["exitCode"] == 0 and r.out == data
    assert execute(fake, "cat | wc -c").out.strip() == b"0"  # no stdin: /dev/null


def test_exec_I13_stdin_32_mib(one):
    data = os.urandom(32 << 20)
    assert execute(one, ["sha256sum"], data=data).out.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_exec_I13_many_times(one):
    for i in range(40):
        assert execute(one, ["cat"], data=b"x" * i).out == b"x" * i


def test_exec_I12_stdin_over_v4(fake):
    fake.protocols = ["v4.channel.k8s.io"]
    for size in (0, 1, 70000):
        data = os.urandom(size)
        r = execute(fake, ["cat"], data=data)
        assert r.result["exitCode"] == 0 and r.out == data
    assert execute(fake, "exit 4").result["exitCode"] == 4


def test_exec_I14_a_server_that_refuses_v5(one):
    one.protocols = ["v4.channel.k8s.io"]
    one.faults = {"refuse_v5": True}
    assert execute(one, "echo ok").out == b"ok\n"
    offers = [headers["sec-websocket-protocol"] for _, _, headers in one.requests]
    assert offers == ["v5.channel.k8s.io, v4.channel.k8s.io", "v4.channel.k8s.io"]


def test_exec_I11_all_output_comes(one):
    r = execute(one, "head -c 50000000 /dev/zero; echo end >&2", outputLimit=60000000)
    assert len(r.out) == 50000000 and r.err == b"end\n"


def test_exec_I11_a_status_that_overtakes_the_output_ends_nothing(one):
    """With a reader so slow that nothing moves for seconds on end."""
    one.faults = {"status_first": True}
    r = execute(one, "head -c 12000 /dev/zero; echo end >&2", 0, 1300)
    assert len(r.out) == 12000 and r.err == b"end\n" and r.result["exitCode"] == 0 and r.took > 6


@pytest.mark.parametrize("keep", [False, True])
def test_exec_I11_output_that_is_lost_on_the_way_is_no_success(one, keep):
    one.faults = {"lose": 30}
    assert execute(one, "echo 12345", keep=keep).error["code"] == "exec_outcome_unknown"


def test_exec_paused_by_the_last_of_its_output(one):
    r = execute(one, "printf 'x\\000'; kill -9 $PPID", 0, 1000)
    assert r.out == b"x\0" and r.result["exitCode"] == 137


def test_exec_input_while_its_tree_is_ended(one):
    """The command has ended by its timeout, a child that ignores TERM has not."""
    child = "(trap '' TERM; exec sleep 9 >/dev/null 2>&1 </dev/null) & "
    process = start(one, "exec", {"id": "x-1", "stdin": True, "timeoutMs": 500,
                                  "command": ["/bin/sh", "-c", child + "exec sleep 9"]}, stdin=subprocess.PIPE)
    for _ in range(30):
        time.sleep(0.1)
        try:
            process.stdin.write(b"x" * 1000)
            process.stdin.flush()
        except BrokenPipeError:
            break
    r = finish(process)
    assert r.result["timedOut"] and r.result["killed"]


def test_exec_output_limit(fake):
    r = execute(fake, "head -c 300000 /dev/zero; echo e >&2", outputLimit=100000)
    assert len(r.out) == 100000 and r.result["truncated"] == {"stdout": True, "stderr": False}


def test_exec_slow_reader_holds_the_command_back(one):
    r = execute(one, "head -c 3000000 /dev/zero", 0, 2000000, outputLimit=4000000)
    assert len(r.out) == 3000000 and r.took > 1


def test_exec_background_children_delay_nothing(fake, mark):
    r = execute(fake, f"sleep {mark} & echo done; exit 5")
    assert r.out == b"done\n" and r.result["exitCode"] == 5 and r.result["durationMs"] < 4000
    wait_there(mark)  # they live on (http-api.md 2.8 point 4)


def test_exec_I1_timeout_ends_the_tree(fake, mark):
    r = execute(fake, f"echo before; trap '' TERM; sleep {mark} & sleep {mark}", timeoutMs=3000)
    assert r.result["timedOut"] and r.result["killed"] and r.result["exitCode"] == -1
    assert r.out == b"before\n" and 4.8 < r.took < 20
    assert not processes(mark)


def test_exec_I2_timeout_ends_what_left_the_group(fake, mark):
    r = execute(fake, f"setsid sleep {mark} & (setsid sh -c '(sleep {mark} &)' &) ; sleep {mark}", timeoutMs=700)
    assert r.result["timedOut"] and r.result["killed"] and r.took < 20
    assert not processes(mark)


def test_exec_I3_disconnect_ends_the_tree(fake, mark):
    r = execute(fake, f"sleep {mark} & (setsid sleep {mark} &); sleep {mark}", 1500)
    assert r.lines[-1] == {"closed": True}
    wait_gone(mark)


def test_exec_I3_disconnect_before_it_began(one, mark):
    one.faults = {"piece": 1, "pause": 0.02}
    execute(one, f"sleep {mark}", 350)
    wait_gone(mark)


def test_exec_I3_a_cut_stream_ends_the_tree(one, mark):
    one.faults = {"cut_after": 2000}
    r = execute(one, f"head -c 5000 /dev/zero; sleep {mark}")
    assert r.error["code"] == "exec_outcome_unknown"
    one.faults = {}
    wait_gone(mark)


def test_exec_I3_a_stream_that_is_cut_before_the_first_line_began_nothing(one, mark, tmp_path):
    """Whose process is not known cannot be ended: the command waits for the word that it is."""
    one.faults = {"cut_after": 10}
    r = execute(one, f"touch {tmp_path}/began; sleep {mark}")
    assert r.error["code"] == "sandbox_unreachable" and "before the command began" in r.error["message"]
    one.faults = {}
    wait_gone(mark)
    assert not (tmp_path / "began").exists()


@pytest.mark.parametrize("faults, code", [
    ({"no_status": True}, "exec_outcome_unknown"),
    ({"status": b"{"}, "exec_outcome_unknown"),
    ({"status": b'{"status":"Failure","reason":"InternalError","message":"boom"}'}, "sandbox_unreachable"),
    ({"status": b" " * 100000}, "sandbox_unreachable"),
    ({"messages": [b"\x07x"]}, "sandbox_unreachable"),
    ({"messages": [b""]}, "sandbox_unreachable"),
    ({"messages": [b"\xff\x09"]}, "sandbox_unreachable"),
    ({"text_message": True}, "sandbox_unreachable"),
    ({"messages": [b"\x01garbage garbage\n"]}, "sandbox_bad_answer"),
    ({"messages": [b"\x01" + b"g" * 5000]}, "sandbox_bad_answer"),
    ({"refuse": (404, '{"kind":"Status","reason":"NotFound","message":"pods not found"}')}, "sandbox_not_found"),
    ({"refuse": (403, '{"kind":"Status","reason":"Forbidden","message":"no"}')}, "kubernetes_forbidden"),
    ({"refuse": (500, '{"kind":"Status","message":"container not found"}')}, "sandbox_unreachable"),
    ({"refuse": (429, "slow down")}, "unavailable"),
    ({"raw": b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x82\x02\x01x"}, "sandbox_unreachable"),
    ({"raw": b"SSH-2.0-x\r\n\r\n"}, "sandbox_unreachable"),
    ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"}, "sandbox_unreachable"),
    ({"raw": b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"}, "unavailable"),
    ({"raw": b""}, "sandbox_unreachable"),
])
def test_exec_S2_S23_lies_are_typed_errors(one, faults, code):
    one.faults = faults
    r = execute(one, "exit 7")
    assert r.error["code"] == code and r.out == b""


def test_exec_an_image_without_a_shell(one):
    said = ('error executing command in container: failed to exec in container: failed to start exec "x": OCI runtime exec '
            'failed: exec failed: unable to start container process: exec: "/bin/sh": stat /bin/sh: no such file or directory')
    one.faults = {"status": json.dumps({"status": "Failure", "reason": "InternalError", "message": said}).encode(),
                  "drop": True}
    one.shell = ["/bin/false"]
    assert execute(one, "true").error["code"] == "image_without_shell"


def test_urls_are_short(fake):
    """Servers in front of an apiserver may take 8 KiB of request line only."""
    execute(fake, "true", keep=True, digest="d", id=ID + "url").result
    assert max(len(target) for _, target, _ in fake.requests) < 8000


def test_exec_wrong_credentials(one):
    one.kubeconfig()
    one.token = "another"
    path = one.kubeconfig
    one.kubeconfig = lambda: pathlib.Path(one.directory, "kubeconfig")
    assert path and execute(one, "true").error["code"] == "kubernetes_unauthorized"


def test_exec_an_untrusted_certificate(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = FakeExec(tmp_path / "a"), FakeExec(tmp_path / "b")
    a.cert = b.cert
    r = execute(a, "true")
    a.close()
    b.close()
    assert r.error["code"] == "unavailable" and "not trusted" in r.error["message"]
    assert not a.requests


def test_exec_nobody_listens(one):
    with socket.socket() as nobody:  # has the port, and takes no connections
        nobody.bind(("127.0.0.1", 0))
        one.port = nobody.getsockname()[1]
        assert execute(one, "true").error["code"] == "unavailable"


@pytest.mark.slow
def test_exec_I16_a_silent_stream_is_found(one):
    one.faults = {"stall": True}
    r = execute(one, "true")
    assert r.error["code"] == "sandbox_timeout" and r.took < 70


@pytest.mark.slow
def test_exec_I16_pings_that_nobody_answers(one, mark):
    one.faults = {"no_pong": True}
    r = execute(one, f"sleep {mark}")
    assert r.error["code"] == "sandbox_timeout" and 55 < r.took < 75
    assert one.sockets[0].pings > 8
    one.faults = {}
    wait_gone(mark)


# ---- Kept commands ----


def test_keep_outlives_its_stream(fake, mark, tmp_path):
    gate = tmp_path / "gate"
    command = f"echo one; until test -e {gate}; do sleep 0.1; done; echo two; echo err >&2; exit 9 # {mark}"
    args = {"keep": True, "digest": "d1", "timeoutMs": 60000}
    began = time.monotonic()
    assert execute_until_started(fake, command, **args).lines == [{"started": True}, {"closed": True}]
    known = time.monotonic()
    assert run(fake, "attach", {"id": ID + "x", "wait": 0}).result == {"id": ID + "x", "running": True}
    time.sleep(max(0, known + 1 - time.monotonic()))  # so that its duration can be told from that of nothing
    held = time.monotonic() - known
    gate.touch()
    done = run(fake, "attach", {"id": ID + "x", "wait": 8000}).result
    taken = time.monotonic() - began
    assert done["exitCode"] == 9 and not done["timedOut"] and held * 1000 - 100 < done["durationMs"] < taken * 1000
    again = execute(fake, command, **args)
    assert again.out == b"one\ntwo\n" and again.err == b"err\n" and again.result["exitCode"] == 9
    attached = run(fake, "exec", {"id": ID + "x", "attach": True})
    assert attached.out == b"one\ntwo\n" and attached.result["exitCode"] == 9
    assert execute(fake, "other", keep=True, digest="d2").error["code"] == "exec_id_reused"


@pytest.fixture(autouse=True)
def no_kept():
    yield
    for kept in pathlib.Path("/tmp/.agenttier-exec").glob(ID + "*"):
        shutil.rmtree(kept, ignore_errors=True)


def test_keep_unknown_ids(fake):
    assert run(fake, "attach", {"id": "nope", "wait": 0}).error["code"] == "exec_not_found"
    assert run(fake, "exec", {"id": "nope", "attach": True}).error["code"] == "exec_not_found"
    assert run(fake, "kill", {"id": "nope"}).error["code"] == "exec_not_found"


def test_keep_kill_by_id(fake, mark):
    execute_until_started(fake, f"sleep {mark} & sleep {mark}", keep=True, digest="d", id=ID + "k-1")
    wait_there(mark)
    assert run(fake, "kill", {"id": ID + "k-1"}).result == {}
    assert not processes(mark)
    done = run(fake, "attach", {"id": ID + "k-1", "wait": 5000}).result
    assert done["killed"] and not done["timedOut"]


def test_keep_timeout(fake, mark):
    r = execute(fake, f"echo x; sleep {mark}", keep=True, digest="d", id=ID + "k-2", timeoutMs=3000)
    assert r.result["timedOut"] and r.result["exitCode"] == -1 and r.out == b"x\n" and r.took < 15
    assert not processes(mark)


def test_keep_output_limit_and_stdin(fake):
    r = execute(fake, "cat; head -c 300000 /dev/zero >&2", keep=True, digest="d", id=ID + "k-3", data=b"in" * 40000,
                outputLimit=100000)
    assert r.out == b"in" * 40000 and r.result["truncated"] == {"stdout": False, "stderr": True}


# ---- Files ----


@pytest.mark.parametrize("size", SIZES)
def test_files_I9_sizes_both_ways(fake, tmp_path, size):
    data = os.urandom(size)
    target = tmp_path / "new" / "deep" / "file"
    r = run(fake, "write", {"path": str(target), "size": size}, data=data)
    assert r.result["bytes"] == size and r.result["created"] and r.result["path"] == str(target)
    assert target.read_bytes() == data
    r = run(fake, "read", {"path": str(target)})
    assert r.out == data and r.head["size"] == size and r.head["modifiedAt"] == int(target.stat().st_mtime)
    assert list(target.parent.iterdir()) == [target]


def test_files_write_of_unknown_size_over_v4_too(fake, tmp_path):
    for protocols in (["v5.channel.k8s.io"], ["v4.channel.k8s.io"]):
        fake.protocols = protocols
        data = os.urandom(200001)
        r = run(fake, "write", {"path": str(tmp_path / "f")}, data=data)
        assert r.result["bytes"] == len(data) and (tmp_path / "f").read_bytes() == data


def test_files_write_keeps_mode_follows_links(fake, tmp_path):
    target = tmp_path / "real"
    target.write_bytes(b"old")
    target.chmod(0o751)
    (tmp_path / "link").symlink_to("real")
    r = run(fake, "write", {"path": str(tmp_path / "link")}, data=b"new")
    assert r.result["created"] is False and target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o751 and (tmp_path / "link").is_symlink()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert run(fake, "write", {"path": str(tmp_path / "dangling")}, data=b"x").error["code"] == "not_a_file"
    assert run(fake, "write", {"path": str(tmp_path)}, data=b"x").error["code"] == "not_a_file"
    assert run(fake, "write", {"path": str(tmp_path / "real/x")}, data=b"x").error["code"] == "not_a_directory"


def test_files_W67_a_cut_write_leaves_nothing(fake, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"old")
    process = start(fake, "write", {"path": str(tmp_path / "d/f")}, stdin=subprocess.PIPE)
    process.stdin.write(b"x" * 300000)
    process.stdin.flush()
    wait_until(lambda: any(f.name != "f" and f.stat().st_size for f in (tmp_path / "d").iterdir()), "the file under way")
    process.kill()
    process.wait()
    wait_until(lambda: len(list((tmp_path / "d").iterdir())) == 1, "only the file that was there")
    assert list((tmp_path / "d").iterdir()) == [tmp_path / "d/f"] and (tmp_path / "d/f").read_bytes() == b"old"


def test_files_write_shorter_or_longer_than_declared(one, tmp_path):
    assert run(one, "write", {"path": str(tmp_path / "f"), "size": 10}, data=b"short").error["status"] == 400
    assert run(one, "write", {"path": str(tmp_path / "f"), "size": 2}, data=b"long").error["status"] == 400
    assert not (tmp_path / "f").exists()


def test_files_disk_full(one):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    mount = pathlib.Path(one.directory) / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(mount)], capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        r = run(one, "write", {"path": str(mount / "f")}, data=b"x" * 500000)
        assert (r.error["status"], r.error["code"]) == (507, "disk_full")
        assert list(mount.iterdir()) == []
    finally:
        wait_until(lambda: all(p.poll() is not None for p in one.processes), "nobody holds a file there")
        subprocess.run(["umount", str(mount)], check=True)


def test_files_ranges_and_etags(fake, tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(256)) * 10)
    full = run(fake, "read", {"path": str(tmp_path / "f")})
    r = run(fake, "read", {"path": str(tmp_path / "f"), "offset": 100, "length": 300})
    assert r.out == full.out[100:400] and (r.head["offset"], r.head["length"]) == (100, 300)
    assert r.head["etag"] == full.head["etag"]
    assert run(fake, "read", {"path": str(tmp_path / "f"), "offset": 2550}).out == full.out[2550:]
    assert run(fake, "read", {"path": str(tmp_path / "f"), "length": 5}).out == full.out[:5]
    assert run(fake, "read", {"path": str(tmp_path / "f"), "offset": 2560}).error["code"] == "range_not_satisfiable"
    (tmp_path / "f").write_bytes(b"other")
    assert run(fake, "read", {"path": str(tmp_path / "f")}).head["etag"] != full.head["etag"]


def test_files_W51_only_regular_files(fake, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "d").mkdir()
    (tmp_path / "null").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to("nowhere")
    for name, code in (("fifo", "not_a_file"), ("d", "not_a_file"), ("null", "not_a_file"),
                       ("gone", "file_not_found"), ("absent", "file_not_found")):
        assert run(fake, "read", {"path": str(tmp_path / name)}).error["code"] == code, name
    assert run(fake, "read", {"path": "/proc/version"}).error["code"] == "permission_denied"
    (tmp_path / "p").symlink_to("/proc/self")
    assert run(fake, "read", {"path": str(tmp_path / "p/environ")}).error["code"] == "permission_denied"


def test_files_a_file_that_shrinks_is_an_error(one, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 20_000_000)
    one.faults = {"pause": 0.01}
    process = start(one, "read", {"path": str(tmp_path / "f")})
    shrunk = finish(process, told=lambda line: "head" in line and os.truncate(tmp_path / "f", 1000))
    assert shrunk.error["code"] == "file_changed"


STRANGE = ["a b", "a  b", "-rf", "'", '"', "$(x)", "new\nline", "\n", "\\", "*", ".hidden", "..x", "é€", "a\tb",
           "x -> y", " lead", "trail ", "|", "nul\x01", ".-"]


def test_files_W50_exact_names(fake, tmp_path):
    for name in STRANGE:
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"12345")
    os.close(os.open(os.fsencode(tmp_path / "d") + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))
    (tmp_path / "d/sub").mkdir()
    (tmp_path / "d/link").symlink_to("tar get\n")
    r = run(fake, "list", {"path": str(tmp_path / "d")}).result
    entries = {e["name"]: e for e in r["entries"]}
    assert set(entries) == set(STRANGE) | {"sub", "link", "\ufffd\ufffd"} and r["path"] == str(tmp_path / "d")
    assert all(entries[n]["size"] == 5 and entries[n]["mode"] == "-rw-r--r--" for n in STRANGE)
    assert entries["sub"]["isDir"] and not entries["link"]["isDir"]
    assert entries["link"]["linkTarget"] == "tar get\n" and entries["link"]["mode"].startswith("l")
    assert entries["a b"]["modifiedAt"] == int((tmp_path / "d/a b").stat().st_mtime)
    for name in STRANGE:
        path = str(tmp_path / "d") + "/" + name
        assert run(fake, "stat", {"path": path}).result["name"] == name
        assert run(fake, "read", {"path": path}).out == b"12345", name
        run(fake, "write", {"path": path}, data=b"1234567").result
        assert (tmp_path / "d" / name).read_bytes() == b"1234567"
        run(fake, "remove", {"path": path}).result
        assert not os.path.lexists(path)


def test_files_of_every_kind_are_listed(fake, tmp_path):
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d/fifo", 0o644)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "d/socket"))
        entries = {e["name"]: e["mode"][0] for e in run(fake, "list", {"path": str(tmp_path / "d")}).result["entries"]}
        assert entries == {"fifo": "p", "socket": "s"}
        assert run(fake, "stat", {"path": str(tmp_path / "d/socket")}).result["type"] == "other"


def test_files_a_directory_that_grows_while_it_is_listed(fake, tmp_path):
    """Between its names and their attributes another file appears, in the middle of them."""
    (tmp_path / "d").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("a", "z"):
        (tmp_path / "d" / name).touch()
    tool = tmp_path / "bin/stat"
    real = shutil.which("stat", path=fake.path)
    tool.write_text(f"#!{fake.shell[0]}\n: >{tmp_path}/d/m\nexec {real} \"$@\"\n")
    tool.chmod(0o755)
    fake.path = f"{tmp_path}/bin:{fake.path or os.environ['PATH']}"
    names = [e["name"] for e in run(fake, "list", {"path": str(tmp_path / "d")}).result["entries"]]
    assert names in (["a", "z"], ["a", "m", "z"])


def test_files_empty_and_missing_directories(fake, tmp_path):
    (tmp_path / "e").mkdir()
    (tmp_path / "f").touch()
    assert run(fake, "list", {"path": str(tmp_path / "e")}).result["entries"] == []
    assert run(fake, "list", {"path": str(tmp_path / "x")}).error["code"] == "file_not_found"
    assert run(fake, "list", {"path": str(tmp_path / "f")}).error["code"] == "not_a_directory"


def test_files_large_directory(fake, tmp_path):
    (tmp_path / "big").mkdir()
    for i in range(3000):
        (tmp_path / "big" / f"file-{i:05}").touch()
    entries = run(fake, "list", {"path": str(tmp_path / "big")}).result["entries"]
    assert [e["name"] for e in entries] == [f"file-{i:05}" for i in range(3000)]


def test_files_without_stat_and_xargs(one, tmp_path, busybox):
    poor = tmp_path / "poor"
    poor.mkdir()
    for name in ("ls", "cat", "wc", "mkdir", "mv", "rm", "tail", "dd", "env", "head", "date", "chmod"):
        (poor / name).symlink_to(os.path.realpath(busybox + "/" + name))
    one.shell, one.path = [busybox + "/sh"], str(poor)
    (tmp_path / "d").mkdir()
    # The applets that busybox's shell would run by itself are not asked for here: dash it is.
    one.shell = [shutil.which("dash")]
    (tmp_path / "d/a b").write_bytes(b"123")
    (tmp_path / "d/c").mkdir()
    entries = run(one, "list", {"path": str(tmp_path / "d")}).result["entries"]
    assert [(e["name"], e["isDir"]) for e in entries] == [("a b", False), ("c", True)]
    assert entries[0]["size"] == 3 and entries[0]["mode"] == "-rw-r--r--"
    assert entries[0]["modifiedAt"] == int((tmp_path / "d/a b").stat().st_mtime)
    assert run(one, "read", {"path": str(tmp_path / "d/a b")}).out == b"123"
    assert run(one, "write", {"path": str(tmp_path / "d/n")}, data=b"12").result["bytes"] == 2
    assert run(one, "archive_read", {"path": str(tmp_path / "d")}).error["code"] == "archive_unsupported"


def test_files_stat(fake, tmp_path):
    (tmp_path / "l").symlink_to("/nowhere")
    r = run(fake, "stat", {"path": str(tmp_path / "l")}).result
    assert r["type"] == "symlink" and r["linkTarget"] == "/nowhere" and r["path"] == str(tmp_path / "l")
    assert run(fake, "stat", {"path": "/"}).result["type"] == "dir"
    assert run(fake, "stat", {"path": "/dev/null"}).result["type"] == "other"
    assert run(fake, "stat", {"path": str(tmp_path / "no")}).error["code"] == "file_not_found"


def test_files_mkdir_and_remove(fake, tmp_path):
    assert run(fake, "mkdir", {"path": str(tmp_path / "a/b c")}).result["created"] is True
    assert run(fake, "mkdir", {"path": str(tmp_path / "a/b c")}).result["created"] is False
    (tmp_path / "f").touch()
    e = run(fake, "mkdir", {"path": str(tmp_path / "f")}).error
    assert (e["status"], e["code"]) == (409, "not_a_directory")
    assert run(fake, "remove", {"path": str(tmp_path / "a")}).error["code"] == "directory_not_empty"
    (tmp_path / "a/out").symlink_to(tmp_path / "f")
    run(fake, "remove", {"path": str(tmp_path / "a"), "recursive": True}).result
    assert not (tmp_path / "a").exists() and (tmp_path / "f").exists()
    assert run(fake, "remove", {"path": str(tmp_path / "a")}).error["code"] == "file_not_found"
    assert run(fake, "remove", {"path": "/", "recursive": True}).error["code"] == "permission_denied"
    assert run(fake, "remove", {"path": "/proc", "recursive": True}).error["code"] == "permission_denied"


# ---- Archives ----


def test_archive_read(fake, tmp_path):
    top = tmp_path / "top"
    (top / "sub/empty").mkdir(parents=True)
    (top / "a b\n").write_bytes(os.urandom(100000))
    (top / "run").write_bytes(b"#!")
    (top / "run").chmod(0o755)
    (top / "sub/link").symlink_to("../run")
    os.link(top / "run", top / "sub/hard")
    os.mkfifo(top / "fifo")
    (top / ("long" * 60)).write_bytes(b"l")
    r = run(fake, "archive_read", {"path": str(top), "within": str(tmp_path)})
    r.result
    with tarfile.open(fileobj=io.BytesIO(r.out)) as tar:
        members = {m.name: m for m in tar.getmembers()}
        assert set(members) == {"sub", "sub/empty", "a b\n", "run", "sub/link", "sub/hard", "long" * 60}
        assert tar.extractfile("a b\n").read() == (top / "a b\n").read_bytes()
        assert members["run"].mode & 0o777 == 0o755 and members["sub/link"].linkname == "../run"
        assert members["sub/hard"].isreg() and tar.extractfile("sub/hard").read() == b"#!"  # W52
        assert tar.extractfile("run").read() == b"#!"


def test_archive_stays_within(fake, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "w/l").symlink_to(tmp_path / "out")
    for op in ("archive_read", "archive_write"):
        r = run(fake, op, {"path": str(tmp_path / "w/l"), "within": str(tmp_path / "w")}, data=b"\0" * 1024)
        assert r.error["code"] == "bad_path", op


def make_tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o6755
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content or ""
            tar.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return out.getvalue()


def test_archive_write(fake, tmp_path):
    data = make_tar([("./d", tarfile.DIRTYPE, ""), ("d/f", tarfile.REGTYPE, b"x" * 70000),
                     ("d/l", tarfile.SYMTYPE, "f"), ("d/h", tarfile.LNKTYPE, "./d/f"), ("é\n", tarfile.REGTYPE, b"")])
    for protocols in (["v5.channel.k8s.io"], ["v4.channel.k8s.io"]):
        fake.protocols = protocols
        top = tmp_path / protocols[0] / "new"
        r = run(fake, "archive_write", {"path": str(top), "within": str(tmp_path)}, data=data)
        assert r.result == {"path": str(top), "entries": 5, "bytes": 70000}
        assert (top / "d/f").read_bytes() == b"x" * 70000 and os.readlink(top / "d/l") == "f"
        assert (top / "d/f").stat().st_mode & 0o7777 == 0o755 and (top / "é\n").exists()
        assert (top / "d/h").stat().st_ino == (top / "d/f").stat().st_ino


@pytest.mark.parametrize("entries", [
    [("../x-S13", tarfile.REGTYPE, b"1")], [("/etc/x-S13", tarfile.REGTYPE, b"1")], [("a/../../x-S13", tarfile.REGTYPE, b"1")],
    [("l", tarfile.SYMTYPE, "/tmp"), ("l/x-S13", tarfile.REGTYPE, b"1")],
    [("h", tarfile.LNKTYPE, "../../etc/passwd")], [("n", tarfile.CHRTYPE, "")], [("n", tarfile.FIFOTYPE, "")],
    [("l", tarfile.SYMTYPE, "/etc/passwd"), ("h", tarfile.LNKTYPE, "l")],
])
def test_archive_S13_hostile_entries(one, tmp_path, entries):
    (tmp_path / "d").mkdir()
    r = run(one, "archive_write", {"path": str(tmp_path / "d")}, data=make_tar(entries))
    assert r.error["code"] == "bad_archive" and not (tmp_path / "x-S13").exists()
    assert not os.path.exists("/tmp/x-S13")


def test_archive_cut(one, tmp_path):
    data = make_tar([("f", tarfile.REGTYPE, b"x" * 70000)])
    assert run(one, "archive_write", {"path": str(tmp_path / "d")}, data=data[:30000]).error["code"] == "bad_archive"
