"""agenttier-runtime alone: starts it, and speaks docs/runtime-protocol.md to it over its UNIX socket or TCP."""

import array
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "api"))

from harness import free_port  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("AGENTTIER_BUILD", ROOT / "build-san"))
BINARY = BUILD / "agenttier-runtime"
TOKEN = "token-of-this-sandbox-0123456789"
ALARMS = re.compile(rb"ERROR: AddressSanitizer|LeakSanitizer has encountered|runtime error: |AddressSanitizer:DEADLYSIGNAL")
WINDOW = 262144
FRAME_MAX = 65536

running = []


def wait_for(condition, timeout=60, what="condition"):
    """The time is for a slow or busy machine: of what comes sooner or later, not of what has to come soon."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} not reached within {timeout} s"
        time.sleep(0.02)


def parent_of(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processes_with(marker):
    """pid: command of every process whose arguments hold the marker."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                command = pathlib.Path("/proc", entry, "cmdline").read_bytes()
                state = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[0]
                if marker.encode() in command and state != "Z":
                    found[int(entry)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


class Answer:
    def __init__(self, status, headers, body, fds=(), cut=False):
        self.status, self.headers, self.body, self.fds, self.cut = status, headers, body, list(fds), cut

    def json(self):
        return json.loads(self.body)

    def error(self, status, reason=None):
        """Checks that this is an error of that status; its object."""
        assert self.status == status, (self.status, self.body)
        body = self.json()
        assert body["code"] == status and body["error"] and body["reason"], body
        assert self.body.endswith(b"\n") and self.headers["content-type"] == "application/json"
        if reason:
            assert body["reason"] == reason, body
        return body


class Runtime:
    """One runtime. transport: "unix" or "tcp"; token: None = no variable is set."""

    def __init__(self, transport="unix", token=TOKEN, flags=(), binary=BINARY, wrap=()):
        self.transport, self.token, self.wrapped = transport, token, bool(wrap)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="at-rt-", dir="/tmp"))
        self.log = self.folder / "log"
        self.path = str(self.folder / "socket")
        env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTTIER_")}
        env["UBSAN_OPTIONS"] = "print_stacktrace=1"
        command = [*wrap, str(binary)]
        options = {}
        if transport == "unix":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.path)
            listener.listen(128)
            command.append(f"--listen-fd={listener.fileno()}")
            options["pass_fds"] = [listener.fileno()]
        else:
            self.port = free_port()
            command.append(f"--listen-addr=127.0.0.1:{self.port}")
            if token is not None:
                env["AGENTTIER_RUNTIME_TOKEN"] = token
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([*command, *flags], env=env, cwd=self.folder, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True, **options)
        if transport == "unix":
            listener.close()
        running.append(self)
        wait_for(self.alive, what="the runtime's first answer")

    def alive(self):
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            answer = self.ask("GET", "/healthz", token=False)
            return answer is not None and answer.status == 200

    def pid(self):
        pid = self.process.pid
        if self.wrapped:  # the wrapper waits for it and ignores signals
            pid = int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return pid

    def connect(self, timeout=60):
        if self.transport == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout)
            connection.connect(self.path)
            return connection
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def head(self, method, target, headers=(), token=True):
        lines = [f"{method} {target} HTTP/1.1", "Host: sandbox", *[f"{k}: {v}" for k, v in headers]]
        if token and self.transport == "tcp" and self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def ask(self, method, target, body=None, headers=(), token=True, timeout=60):
        """One request, its whole answer. bytes, an object (sent as JSON), or an iterable of chunks."""
        headers = list(headers)
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        if isinstance(body, bytes):
            headers.append(("Content-Length", len(body)))
        elif body is not None:
            headers.append(("Transfer-Encoding", "chunked"))
        with self.connect(timeout) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(self.head(method, target, headers, token))
                if isinstance(body, bytes):
                    connection.sendall(body)
                elif body is not None:
                    for piece in body:
                        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                    connection.sendall(b"0\r\n\r\n")
            return read_answer(connection)

    def raw(self, data, timeout=60, end=False):
        with self.connect(timeout) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            return read_answer(connection)

    def exec(self, command, **spec):
        answer = self.ask("POST", "/exec", {"command": command, **spec}, timeout=120)
        assert answer.status == 200, answer.body
        return answer.json()

    def sh(self, script):
        result = self.exec(["/bin/sh", "-c", script])
        assert result["exitCode"] == 0, result
        return result["stdout"]

    def stream(self, command=None, id=None, **spec):
        spec["id"] = id or f"x{time.monotonic_ns()}"
        if command is not None:
            spec["command"] = command
        return Stream(self, spec)

    def end(self, timeout=60):
        """SIGTERM; the exit status."""
        if self in running:
            running.remove(self)
        os.kill(self.pid(), signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.end()
        elif self in running:
            running.remove(self)
        alarm = self.alarm()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not alarm, alarm

    def alarm(self):
        found = ALARMS.search(self.log.read_bytes()) if self.log.exists() else None
        return self.log.read_text(errors="replace")[-6000:] if found else None


def receive(connection, fds):
    """recv with descriptors."""
    data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4 * 4))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            got = array.array("i")
            got.frombytes(content[:len(content) // 4 * 4])
            fds += list(got)
    return data


def read_head(connection, fds=None):
    """(status, headers, the bytes behind) or None when the connection ended before."""
    fds = fds if fds is not None else []
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            more = receive(connection, fds) if connection.family == socket.AF_UNIX else connection.recv(65536)
        except ConnectionResetError:
            more = b""
        if not more:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(lines[0].split(" ")[1]), headers, rest


def read_answer(connection):
    """The whole answer; None when there was none. `cut`: it ended before its end."""
    fds = []
    head = read_head(connection, fds)
    if head is None:
        return None
    status, headers, data = head
    if status == 100:
        raise AssertionError("100 Continue was not asked for")
    while True:
        try:
            more = connection.recv(65536)
        except ConnectionResetError:
            break
        if not more:
            break
        data += more
    cut = False
    if headers.get("transfer-encoding") == "chunked":
        body, cut = b"", True
        while b"\r\n" in data:
            size, _, data = data.partition(b"\r\n")
            size = int(size, 16)
            if size == 0:
                cut = False
                break
            if len(data) < size + 2:
                break
            body, data = body + data[:size], data[size + 2:]
        data = body
    elif "content-length" in headers:
        cut = len(data) != int(headers["content-length"])
    return Answer(status, headers, data, fds, cut)


class Stream:
    """An exec stream: frames both ways."""

    def __init__(self, runtime, spec, raw=None):
        self.connection = runtime.connect(120)
        self.buffer = b""
        self.connection.sendall(runtime.head("POST", "/exec/stream", [("Connection", "Upgrade"), ("Upgrade", "agenttier-exec/1")]))
        if raw is not None:
            self.connection.sendall(raw)
        elif spec is not None:
            text = json.dumps(spec).encode()
            parts = [text[i:i + FRAME_MAX] for i in range(0, len(text), FRAME_MAX)]
            for part in parts[:-1]:
                self.send(b"s", part)
            self.send(b"S", parts[-1])
        status, headers, self.buffer = read_head(self.connection)
        assert status == 101 and headers["upgrade"] == "agenttier-exec/1", status

    def send(self, kind, payload=b""):
        self.connection.sendall(kind + struct.pack(">I", len(payload)) + payload)

    def frame(self):
        """(type, payload), or None at the end."""
        while len(self.buffer) < 5 or len(self.buffer) < 5 + struct.unpack(">I", self.buffer[1:5])[0]:
            try:
                more = self.connection.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not self.buffer, f"half a frame: {self.buffer[:50]!r}"
                return None
            self.buffer += more
        size = struct.unpack(">I", self.buffer[1:5])[0]
        assert size <= FRAME_MAX
        kind, payload, self.buffer = self.buffer[:1], self.buffer[5:5 + size], self.buffer[5 + size:]
        return kind.decode(), payload

    def result(self):
        """(stdout, stderr, the object of x or !, its type)."""
        out = {"o": b"", "E": b""}
        while True:
            frame = self.frame()
            assert frame is not None, "the stream ended without an outcome"
            kind, payload = frame
            if kind in out:
                assert payload
                out[kind] += payload
            elif kind in ("x", "!"):
                assert self.frame() is None
                return out["o"], out["E"], json.loads(payload), kind
            else:
                assert kind in ("w", "h"), kind

    def until(self, kind):
        while True:
            frame = self.frame()
            assert frame is not None, "the stream ended"
            if frame[0] == kind:
                return frame[1]

    def close(self):
        self.connection.close()
