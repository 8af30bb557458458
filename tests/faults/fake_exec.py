"""pods/exec of an apiserver, enough of it to be believed: TLS, the upgrade, v5 and v4 channels. Commands really
run, with a shell of the test's choice, and as in a cluster nothing but the command itself ends it: a stream that
is closed leaves it running, and one on a terminal never hears of it. `faults` makes it delay, cut, lie and stay silent;
those in faults["tty"] are of terminals only, those in faults["guard"] of everything else.

FakeExec.handle() takes over a connection whose request head was read, so another fake can lend it its port."""
import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import termios
import threading
import time
import urllib.parse
import uuid

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SUCCESS = b'{"kind":"Status","status":"Success"}'
LINGER = 60  # at most: for the other side's close


def status_of(code):
    if code == 0:
        return SUCCESS
    if code < 0:
        code = 128 - code
    return json.dumps({"kind": "Status", "status": "Failure", "reason": "NonZeroExitCode",
                       "message": f"command terminated with exit code {code}",
                       "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}).encode()


def read_head(conn):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = conn.recv(65536)
        if not piece:
            return None, {}, ""
        head += piece
    text = head.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = {}
    for line in text[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    method, target, _ = text[0].split(" ")
    return method, headers, target


def part(conn):
    """Closes when the other side has: a socket that is closed with something unread takes back what was sent last."""
    with contextlib.suppress(OSError, ValueError):
        conn.shutdown(socket.SHUT_WR)
        conn.settimeout(LINGER)
        while conn.recv(65536):
            pass
    conn.close()


class Socket:
    """Server side of one WebSocket."""

    def __init__(self, conn, fault):
        self.conn, self.fault = conn, fault
        self.lock = threading.Lock()
        self.buffer = b""
        self.pings = 0

    def send(self, payload, opcode=2, fin=True):
        n = len(payload)
        head = bytes([(0x80 if fin else 0) | opcode])
        head += bytes([n]) if n < 126 else b"\x7e" + struct.pack(">H", n) if n < 65536 else b"\x7f" + struct.pack(">Q", n)
        with self.lock:
            self.conn.sendall(head + payload)

    def _take(self, n):
        while len(self.buffer) < n:
            piece = self.conn.recv(65536)
            if not piece:
                raise EOFError
            self.buffer += piece
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def message(self):
        """The next data message; answers pings; EOFError at the end."""
        while True:
            first, second = self._take(2)
            n = second & 0x7F
            assert second & 0x80, "a client's frame must be masked"
            if n == 126:
                n = struct.unpack(">H", self._take(2))[0]
            elif n == 127:
                n = struct.unpack(">Q", self._take(8))[0]
            mask = self._take(4)
            data = self._take(n)
            size = len(data)
            key = (mask * (size // 4 + 1))[:size]
            data = (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
            opcode = first & 15
            if opcode == 8:
                raise EOFError
            if opcode == 9:
                self.pings += 1
                if not self.fault.get("no_pong"):
                    self.send(data, 10)
                continue
            if opcode == 10:
                continue
            return data


class FakeExec:
    def __init__(self, directory, shell=("/bin/sh",), path=None, token="fake-token", tls=True, listen=True):
        self.directory, self.shell, self.path, self.token = str(directory), list(shell), path, token
        self.faults = {}
        self.protocols = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
        self.requests = []
        self.sizes = []  # of terminals, as they came
        self.masters = []
        self.processes = []
        self.sockets = []
        self.threads = []
        self.closing = threading.Event()
        self.hostname = f"pod-{uuid.uuid4()}"  # everything that runs in the pod has it in its environment
        self.tls = None
        if not listen:  # connections come from another fake
            return
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        if tls:
            self.cert, self.key = make_certificate(self.directory)
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(self.cert, self.key)
        self.acceptor = threading.Thread(target=self._accept, daemon=True)
        self.acceptor.start()

    def close(self):
        if hasattr(self, "listener"):
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts: its descriptor may soon be another's
            self.acceptor.join(10)
            self.listener.close()
        self.closing.set()
        self._kill_all()
        for web in list(self.sockets):
            with contextlib.suppress(OSError):
                web.conn.shutdown(socket.SHUT_RDWR)
        for thread in list(self.threads):
            thread.join(10)
        self._kill_all()  # what began meanwhile
        if not any(thread.is_alive() for thread in self.threads):  # or its descriptor would soon be another's
            for master in self.masters:
                os.close(master)

    def _kill_all(self):
        """By their environment: the number of a process that has ended may be that of another one by now."""
        mark = f"HOSTNAME={self.hostname}".encode()
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                if mark in pathlib.Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry), signal.SIGKILL)

    def kubeconfig(self):
        """Path of a kubeconfig for this server."""
        scheme = "https" if self.tls else "http"
        path = os.path.join(self.directory, "kubeconfig")
        ca = f"\n    certificate-authority: {self.cert}" if self.tls else ""
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"""apiVersion: v1
kind: Config
clusters:
- name: fake
  cluster:
    server: {scheme}://127.0.0.1:{self.port}{ca}
users:
- name: fake
  user:
    token: {self.token}
contexts:
- name: fake
  context: {{cluster: fake, user: fake, namespace: default}}
current-context: fake
""")
        return path

    # ---- connections ----

    def _accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(conn,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, conn):
        try:
            if self.faults.get("silent_tls"):
                self.closing.wait(60)
                return
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                conn = self.tls.wrap_socket(conn, server_side=True)
            method, headers, target = read_head(conn)
            if method:
                self.handle(conn, method, headers, target)
        except (OSError, EOFError, ValueError):
            pass
        finally:
            part(conn)

    def handle(self, conn, method, headers, target):
        self.requests.append((method, target, headers))
        self.threads.append(threading.current_thread())
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(target).query, keep_blank_values=True)
        fault = dict(self.faults)
        fault.update(fault.get("tty" if query.get("tty") == ["true"] else "guard", {}))
        if self.token and headers.get("authorization") != "Bearer " + self.token:
            return self._refuse(conn, 401, '{"kind":"Status","message":"Unauthorized"}')
        if "refuse" in fault:
            return self._refuse(conn, *fault["refuse"])
        if "raw" in fault:
            conn.sendall(fault["raw"])
            self.closing.wait(fault.get("hold", 0))
            return None
        if fault.get("silent_upgrade"):
            return self.closing.wait(60)
        offered = [p.strip() for p in headers.get("sec-websocket-protocol", "").split(",")]
        if fault.get("refuse_v5") and "v5.channel.k8s.io" in offered:
            return self._refuse(conn, 400, "unable to upgrade: websocket protocol")
        chosen = next((p for p in offered if p in self.protocols), None)
        if method != "GET" or chosen is None:
            return self._refuse(conn, 400, '{"kind":"Status","message":"Upgrade request required"}')
        accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest()).decode()
        conn.sendall((f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n").encode())
        web = Socket(conn, fault)
        self.sockets.append(web)
        return self._run(web, query, chosen.startswith("v5"), fault)

    @staticmethod
    def _refuse(conn, status, body):
        body = body.encode() if isinstance(body, str) else body
        conn.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    @staticmethod
    def _send_held(web, held, lose):
        for channel, data in sorted(held.items()):
            for at in range(0, len(data) - lose, 32768):
                web.send(bytes([channel]) + data[at:min(at + 32768, len(data) - lose)])

    # ---- commands ----

    def _run(self, web, query, v5, fault):
        web.send(b"\x01")
        for message in fault.get("messages", []):
            web.send(message)
        if fault.get("text_message"):
            web.send(b"\x01hello", 1)
        if fault.get("end"):
            web.send(struct.pack(">H", 1000), 8)
            return None
        if fault.get("stall"):
            return self.closing.wait()  # reads and answers nothing
        argv = query["command"]
        if argv[0] == "/bin/sh":
            argv = self.shell + argv[1:]
        own = {k: v for k, v in os.environ.items() if not k.startswith("AGENTTIER_")}
        env = dict(own, HOME="/", HOSTNAME=self.hostname, **({"PATH": self.path} if self.path else {}))
        env.update(fault.get("env", {}))
        if query.get("tty") == ["true"]:
            return self._run_on_terminal(web, argv, {**env, "TERM": "xterm"}, fault)
        stdin = query.get("stdin") == ["true"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                   cwd="/", env=env)
        self.processes.append(process)
        gone = threading.Event()

        def feed():
            try:
                while True:
                    message = web.message()
                    if message[:1] == b"\x00" and stdin:
                        try:
                            process.stdin.write(message[1:])
                            process.stdin.flush()
                        except OSError:
                            pass
                    elif v5 and message == b"\xff\x00" and stdin:
                        try:
                            process.stdin.close()
                        except OSError:
                            pass
            except (EOFError, OSError, ValueError):
                pass
            gone.set()
            if stdin and not process.stdin.closed:
                with contextlib.suppress(OSError):
                    process.stdin.close()

        sent = [0]
        held = {}  # of "status_first" and "lose": the output travels last, and not all of it

        def pump(pipe, channel):
            if "status_first" in fault or "lose" in fault:
                if channel == 1:  # what a command waits for
                    web.send(bytes([1]) + pipe.readline())
                held[channel] = pipe.read()
                return
            while True:
                piece = os.read(pipe.fileno(), fault.get("piece", 32768))
                time.sleep(fault.get("late_stdout", 0) if channel == 1 else 0)
                if not piece:
                    break
                try:
                    if "cut_after" in fault and sent[0] + len(piece) > fault["cut_after"]:
                        web.conn.shutdown(socket.SHUT_RDWR)
                        return
                    sent[0] += len(piece)
                    web.send(bytes([channel]) + piece)
                    time.sleep(fault.get("pause", 0))
                except OSError:
                    break
            if gone.is_set():
                pipe.close()

        feeder = threading.Thread(target=feed, daemon=True)
        pumps = [threading.Thread(target=pump, args=(process.stdout, 1), daemon=True),
                 threading.Thread(target=pump, args=(process.stderr, 2), daemon=True)]
        for thread in [feeder, *pumps]:
            thread.start()
        for thread in pumps:  # as containerd does: until nobody holds the pipes any more
            thread.join()
        code = process.wait()
        with contextlib.suppress(OSError):
            if "lose" in fault:
                self._send_held(web, held, fault["lose"])
            self._send_end(web, code, fault, (lambda: self._send_held(web, held, 0)) if "status_first" in fault else None)
        feeder.join(LINGER)  # until the other side has closed
        return None

    def _send_end(self, web, code, fault, after_status=None):
        if fault.get("no_status"):
            web.conn.shutdown(socket.SHUT_RDWR)
            return
        web.send(b"\x03" + fault.get("status", status_of(code)))
        for then in (after_status, fault.get("told")):
            if then:
                then()
        if fault.get("never_close"):
            self.closing.wait(30)
        web.send(struct.pack(">H", 1000), 8)

    def _run_on_terminal(self, web, argv, env, fault):
        master, slave = os.openpty()
        self.masters.append(master)  # held open as by a container runtime: no hangup comes
        prefix = [shutil.which("env"), "--default-signal=HUP", shutil.which("setsid"), "--ctty"]
        process = subprocess.Popen([*prefix, *argv], stdin=slave, stdout=slave, stderr=slave, cwd="/", env=env)
        os.close(slave)
        self.processes.append(process)

        def feed():
            try:
                while True:
                    message = web.message()
                    if message[:1] == b"\x00":
                        data = message[1:]
                        while data:
                            data = data[os.write(master, data):]
                    elif message[:1] == b"\x04":
                        size = json.loads(message[1:])
                        self.sizes.append((size["Width"], size["Height"]))
                        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size["Height"], size["Width"], 0, 0))
            except (EOFError, OSError, ValueError):
                pass

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        sent = 0
        try:
            while True:
                piece = os.read(master, fault.get("piece", 32768))
                if "cut_after" in fault and sent + len(piece) > fault["cut_after"]:
                    web.conn.shutdown(socket.SHUT_RDWR)
                    break
                web.send(b"\x01" + piece)
                sent += len(piece)
        except OSError:
            pass  # the last process has closed it, or nobody listens
        code = process.wait()
        with contextlib.suppress(OSError):
            self._send_end(web, code, fault)
        feeder.join(LINGER)  # until the other side has closed


def make_certificate(directory):
    cert, key = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    if not os.path.exists(cert):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=fake",
                        "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


if __name__ == "__main__":
    import sys
    import tempfile
    server = FakeExec(tempfile.mkdtemp(), shell=sys.argv[1:] or ["/bin/sh"])
    print(server.kubeconfig(), flush=True)
    while True:
        time.sleep(1)
