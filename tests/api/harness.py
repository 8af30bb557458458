"""Starts the real Router on a fresh state folder and speaks to it.

Every Router made here is watched: what a sanitizer prints fails the test during which it
was printed, and at the end nothing may be left of its sandboxes."""

import contextlib
import functools
import http.client
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("AGENTTIER_BUILD", ROOT / "build-san"))
BINARY = BUILD / "agenttier-router"
WRAP = os.environ.get("AGENTTIER_WRAP", "").split()
TEMPLATE = "general-coding"
MiB = 1 << 20
FILE_LIMIT = 32 * MiB
# Sanitized builds on a loaded machine are several times slower than the limits that users see.
SLOW = float(os.environ.get("AGENTTIER_TEST_SLOW", "1"))

ALARMS = re.compile(
    rb"ERROR: AddressSanitizer|ERROR: LeakSanitizer|LeakSanitizer has encountered|WARNING: ThreadSanitizer"
    rb"|runtime error: |AddressSanitizer:DEADLYSIGNAL"
)

running = []  # every Router that was started and not stopped

# Nothing here speaks TLS, and every client that makes a context of its own reads the CAs of the world: 20 ms of CPU.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def clean_environment(**extra):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTTIER_", "KUBE", "SANDBOX_", "POD_"))}
    keep.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    keep.update({k: v for k, v in extra.items() if v is not None})
    return keep


PORTS = range(11000, 30000)
PORTS_OF_ONE = 250


@functools.cache
def _own_ports():
    """Ports that no other run of the tests takes: Routers share a port without complaint (SO_REUSEPORT), so that one of
    another run's would answer half of the requests. Who has which is said by the name of a socket, which ends with us."""
    low, high = map(int, pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    blocks = [range(at, at + PORTS_OF_ONE) for at in range(PORTS.start, PORTS.stop, PORTS_OF_ONE)]
    # None of those that the kernel gives to connections, where it leaves any.
    blocks = [b for b in blocks if b[-1] < low or b[0] > high] or blocks
    for block in random.sample(blocks, len(blocks)):
        claim = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            claim.bind(f"\0agenttier-test-ports-{block[0]}")
            return claim, itertools.cycle(block)
        claim.close()
    raise AssertionError("too many runs of the tests at once: there are no ports left")


def free_port():
    """A port for a server to listen on in a moment: nobody else takes it meanwhile."""
    for port in itertools.islice(_own_ports()[1], PORTS_OF_ONE):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ports of this run are taken")


def get(url, timeout=5):
    """GET on a connection of its own."""
    return httpx.get(url, timeout=timeout, trust_env=False, verify=NO_TLS)


def wait_for(condition, timeout=60, interval=0.05, what="condition"):
    """Polls until condition() is truthy and returns what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline  # before the look: whoever was held up looks once more
        value = condition()
        if value:
            return value
        if late:
            raise AssertionError(f"{what} not reached within {timeout} s")
        time.sleep(interval)


def processes_of(marker):
    """Processes that name `marker` in their arguments or have it mounted: a Router's sandboxes."""
    found = {}
    marker = marker.encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            arguments = pathlib.Path("/proc", entry, "cmdline").read_bytes()
            if marker in arguments or marker in pathlib.Path("/proc", entry, "mountinfo").read_bytes():
                found[int(entry)] = arguments.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


class Router:
    """One Router process on a port of its own. `flags` win over the defaults."""

    def __init__(self, *flags, dev_auth=False, env=None, state_dir=None, keys=(), listen_host="127.0.0.1"):
        self.state_dir = pathlib.Path(state_dir or tempfile.mkdtemp(prefix="at-test-", dir="/tmp"))
        self.owns_state = state_dir is None
        self.dev_auth = dev_auth
        self.flags = list(flags)
        self.env = env or {}
        self.listen_host = listen_host
        self.log = pathlib.Path(tempfile.mkstemp(prefix="at-log-", dir="/tmp")[1])
        self.seen = 0
        self.process = None
        self.keys = {}
        for user in keys:
            self.keys[user] = self.create_key(user, admin=user == "admin")

    # ---- life ----

    def start(self):
        self.port = free_port()
        command = [*WRAP, str(BINARY), "--backend=local", f"--state-dir={self.state_dir}",
                   f"--listen-addr={self.listen_host}:{self.port}", "--ratelimit-auth-failures-rate=0"]
        if os.environ.get("AGENTTIER_RUNTIME"):
            command.append("--runtime=" + os.environ["AGENTTIER_RUNTIME"])
        if self.dev_auth:
            command.append("--dev-auth")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command + self.flags, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=clean_environment(**self.env), start_new_session=True)
        self.url = f"http://127.0.0.1:{self.port}"
        running.append(self)
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, f"the Router ended with {self.process.returncode}:\n{self.tail()}"
            if self._ready():
                return self
            assert time.monotonic() < deadline, f"/readyz did not become 200:\n{self.tail()}"
            time.sleep(0.03)

    def _ready(self):
        """Asked without httpx: making one of its clients takes longer than the answer."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def tail(self, size=6000):
        return self.log.read_bytes()[-size:].decode(errors="replace")

    def alarms(self):
        """What a sanitizer printed since the last call, or None."""
        data = self.log.read_bytes()
        new = data[self.seen:]
        found = ALARMS.search(new)
        if not found:
            # A report may arrive in two writes: look at the last line again next time.
            self.seen = max(self.seen, len(data) - 256)
            return None
        self.seen = len(data)
        return new[max(0, found.start() - 200):found.start() + 5000].decode(errors="replace")

    def delete_all(self, timeout=120):
        with self.client() as client:
            answer = client.get("/api/v1/sandboxes")
            if answer.status_code != 200:
                return
            for sandbox in answer.json()["sandboxes"]:
                client.delete(f"/api/v1/sandboxes/{sandbox['name']}", params={"namespace": sandbox["namespace"]})

            def gone():
                answer = client.get("/api/v1/sandboxes")
                return answer.status_code == 200 and not answer.json()["sandboxes"]  # 429 where rates are limited
            wait_for(gone, timeout, what="deletion of all sandboxes")

    def terminate(self, timeout=90):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the Router did not end within {timeout} s of SIGTERM:\n{self.tail()}") from None
        finally:
            if self in running:
                running.remove(self)
        return status

    def kill(self):
        self.process.kill()
        self.process.wait()
        running.remove(self)

    def restart(self):
        """Starts again on the same state after kill() or terminate()."""
        return self.start()

    def stop(self):
        """Ends everything and checks that nothing is left."""
        problems = []
        if self.process and self.process.poll() is None:
            try:
                self.delete_all()
            except (AssertionError, httpx.HTTPError) as error:
                problems.append(f"deleting all sandboxes: {error!r}")
            try:
                status = self.terminate()
                if status != 0:
                    problems.append(f"exit status {status} after SIGTERM")
            except AssertionError as error:
                problems.append(str(error))
        elif self in running:
            running.remove(self)
            problems.append(f"ended by itself with {self.process.returncode}")
        alarm = self.alarms()
        if alarm:
            problems.append(alarm)
        marker = self.state_dir.name
        deadline = time.monotonic() + 30
        while (left := processes_of(marker)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            problems.append(f"processes left behind: {left}")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        log = self.tail() if problems else ""
        if self.owns_state:
            shutil.rmtree(self.state_dir, ignore_errors=True)
        self.log.unlink(missing_ok=True)
        assert not problems, "\n".join(problems) + "\n--- log\n" + log

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            with contextlib.suppress(AssertionError):
                self.stop()

    # ---- keys and clients ----

    def create_key(self, user, *flags, admin=False):
        """A key by the command line, as an administrator of the machine makes one."""
        command = [*WRAP, str(BINARY), "create-key", f"--state-dir={self.state_dir}", f"--sub={user}",
                   f"--email={user}@example.org", *flags]
        if admin:
            command.append("--admin")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        found = re.search(r"atk_[A-Za-z0-9_-]{43}", done.stdout)
        assert found, f"no key printed by {command}:\n{done.stdout}{done.stderr}"
        return found[0]

    def client(self, key=None, timeout=60.0, **options):
        """An httpx client: `key` a user with a key here, a key's text, or None: whoever may do everything."""
        if key is None and not self.dev_auth and "admin" in self.keys:
            key = "admin"
        key = self.keys.get(key, key)
        headers = {"X-API-Key": key} if key else {}
        return httpx.Client(base_url=self.url, headers={**headers, **options.pop("headers", {})}, timeout=timeout,
                            limits=httpx.Limits(keepalive_expiry=60), trust_env=False, verify=NO_TLS, **options)

    def anonymous(self, **options):
        return httpx.Client(base_url=self.url, timeout=60.0, trust_env=False, verify=NO_TLS, **options)

    def sandbox(self, name, key=None, **body):
        """Creates a sandbox, waits until it is Running and returns its handle."""
        client = self.client(key)
        body = {"name": name, "templateRef": {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}, **body}
        answer = client.post("/api/v1/sandboxes", json=body)
        assert answer.status_code == 201, answer.text
        handle = Sandbox(self, client, name, body.get("namespace"))
        handle.wait("Running")
        return handle


class Sandbox:
    """A handle of a sandbox: its routes with one caller's client."""

    def __init__(self, router, client, name, namespace=None):
        self.router, self.client, self.name = router, client, name
        self.namespace = namespace
        self.base = f"/api/v1/sandboxes/{name}"

    def request(self, method, path="", **options):
        if self.namespace:
            options["params"] = {**(options.get("params") or {}), "namespace": self.namespace}
        return self.client.request(method, self.base + path, **options)

    def get(self, path="", **options):
        return self.request("GET", path, **options)

    def post(self, path="", **options):
        return self.request("POST", path, **options)

    def put(self, path="", **options):
        return self.request("PUT", path, **options)

    def delete(self, path="", **options):
        return self.request("DELETE", path, **options)

    def status(self):
        answer = self.get()
        assert answer.status_code == 200, answer.text
        return answer.json()["status"]

    def wait(self, phase, timeout=120):
        def reached():
            answer = self.get()
            assert answer.status_code == 200, answer.text
            state = answer.json()
            if state["status"] == "Error" and phase != "Error":
                raise AssertionError(f"{self.name} is in Error: {state.get('message')}\n{self.router.tail()}")
            return state if state["status"] == phase else None

        return wait_for(reached, timeout, 0.02, f"{self.name} {phase}")

    def gone(self, timeout=60):
        wait_for(lambda: self.get().status_code == 404, timeout, what=f"{self.name} gone")

    def exec(self, command, **body):
        """Runs a command and returns the answer's object; the request must succeed."""
        answer = self.post("/exec", json={"command": command, **body}, timeout=body.get("timeout", 30) + 30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def run(self, command, **body):
        """Runs a command that must succeed and returns its output."""
        result = self.exec(command, **body)
        assert result["exitCode"] == 0, result
        return result["stdout"]

    def write(self, path, data, **options):
        answer = self.put("/files/" + path.lstrip("/"), content=data, **options)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def read(self, path):
        answer = self.get("/files/" + path.lstrip("/"))
        assert answer.status_code == 200, answer.text
        return answer.content

    def server(self, source, port, timeout=90):
        """Starts a Python program in the background and forwards `port` once it listens there."""
        self.write(f"/tmp/server-{port}.py", source.encode())
        self.run(f"nohup python3 /tmp/server-{port}.py > /tmp/server-{port}.log 2>&1 & echo $! > /tmp/server-{port}.pid")
        probe = f"""
import socket, sys, time
for _ in range({timeout} * 10 - 50):
    try:
        sys.exit(socket.create_connection(("127.0.0.1", {port}), 1).close())
    except OSError:
        time.sleep(0.1)
sys.exit(open("/tmp/server-{port}.log").read())
"""
        self.run(["python3", "-c", probe], timeout=timeout)
        answer = self.post("/ports", json={"port": port})
        assert answer.status_code == 201, answer.text
        return f"{self.base}/preview/{port}"

    def end_server(self, port):
        """Ends what server() has started: nobody listens there afterwards."""
        self.run(f"pid=$(cat /tmp/server-{port}.pid); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done", timeout=60)

    def remove(self):
        self.delete()
        self.gone()


# ---- bytes on a socket ----

class Raw:
    """A connection on which anything can be sent and what comes back is taken apart."""

    def __init__(self, router, timeout=60):
        self.socket = socket.create_connection(("127.0.0.1", router.port), timeout)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        if isinstance(data, str):
            data = data.encode("latin-1")
        self.socket.sendall(data)

    def response(self, method="GET"):
        """The next answer as (status, headers, body); None when the connection was closed before its head."""
        while b"\r\n\r\n" not in self.buffer:
            data = self._receive()
            if not data:
                assert not self.buffer, f"half an answer: {self.buffer[:200]!r}"
                return None
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = http.client.HTTPMessage()
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name] = value.strip()
        if status // 100 == 1:
            return status, headers, b""
        body = b""
        if method != "HEAD" and status not in (204, 304):
            if headers.get("Transfer-Encoding", "").lower() == "chunked":
                body = self._chunks()
            elif headers.get("Content-Length") is not None:
                body = self._exactly(int(headers["Content-Length"]))
            else:
                body = self.rest()
        return status, headers, body

    def rest(self):
        """Everything until the other side closes."""
        data = self.buffer
        self.buffer = b""
        while True:
            more = self._receive()
            if not more:
                return data
            data += more

    def closed(self, timeout=30):
        """Whether the other side closes within the time, without another byte. An idle connection lives for 120 s."""
        self.socket.settimeout(timeout)
        try:
            return not self.buffer and not self._receive()
        except TimeoutError:
            return False

    def _receive(self):
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""

    def _exactly(self, size):
        while len(self.buffer) < size:
            data = self._receive()
            assert data, f"the body ended after {len(self.buffer)} of {size} bytes"
            self.buffer += data
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return body

    def _line(self):
        while b"\r\n" not in self.buffer:
            data = self._receive()
            assert data, "the chunked body was cut"
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def _chunks(self):
        body = b""
        while True:
            size = int(self._line().split(b";")[0], 16)
            if not size:
                while self._line():
                    pass
                return body
            body += self._exactly(size)
            assert self._line() == b""


def raw_exchange(router, data, method="GET", timeout=60):
    """Sends bytes on a connection of their own and returns the first answer."""
    with Raw(router, timeout) as raw:
        raw.send(data)
        return raw.response(method)


def error_of(answer, status=None):
    """The body of an error answer: always JSON with a text `error` (contract/tutorial.md 3)."""
    if status is not None:
        wanted = status if isinstance(status, tuple) else (status,)
        assert answer.status_code in wanted, f"{answer.status_code}, expected {wanted}: {answer.text[:500]}"
    assert answer.headers.get("Content-Type", "").startswith("application/json"), dict(answer.headers)
    body = answer.json()
    assert isinstance(body, dict) and isinstance(body.get("error"), str) and body["error"], body
    return body


def dump(value):
    return json.dumps(value, indent=1, sort_keys=True)
