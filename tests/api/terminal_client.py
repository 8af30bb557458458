"""A client of terminals for tests: http-api.md 2.12."""

import itertools
import json
import os
import socket
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

serial = itertools.count(1)


class Terminal:
    """An open terminal. What comes is read only when something is waited for."""

    def __init__(self, router, sandbox, key=None, query="", headers=None, **options):
        key = router.keys.get(key, key)
        headers = dict(headers or {})
        if key:
            headers["X-API-Key"] = key
        options = {"open_timeout": 60, "close_timeout": 20, "compression": None, "ping_interval": None, "max_size": None, **options}
        url = router.url.replace("http://", "ws://") + f"/ws/terminal/{sandbox}{query}"
        self.ws = connect(url, additional_headers=headers, **options)
        self.text = ""  # of the terminal, all that came
        self.messages = []  # other ones
        self.close_code = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.close()

    def send(self, **message):
        self.ws.send(json.dumps(message))

    def type(self, text):
        self.send(type="input", data=text)

    def take(self, timeout=60):
        """One message, or None at the end of the connection."""
        try:
            message = json.loads(self.ws.recv(timeout=timeout))
        except ConnectionClosed as closed:
            self.close_code = closed.rcvd.code if closed.rcvd else 1006
            return None
        if message["type"] == "output":
            assert set(message) == {"type", "data", "stream"} and message["stream"] == "stdout" and message["data"], message
            self.text += message["data"]
        else:
            self.messages.append(message)
        return message

    def until(self, text, timeout=60):
        """Reads until `text` has been shown; returns what was shown up to its end, and forgets that."""
        deadline = time.monotonic() + timeout
        while text not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown within {timeout} s: ...{self.text[-2000:]!r}"
            assert self.take(left) is not None, f"closed with {self.close_code} before {text!r}: ...{self.text[-2000:]!r}"
        end = self.text.index(text) + len(text)
        shown, self.text = self.text[:end], self.text[end:]
        return shown

    def run(self, command, timeout=60):
        """Runs a line of shell and returns what it showed."""
        mark = f"one-{os.getpid()}-{next(serial)}-"  # a session shows again what it showed to others
        self.type(f" {command}; echo d''{mark}\r")
        return self.until("d" + mark, timeout)

    def wait(self, kind, timeout=60):
        """The next message of that type."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.take(max(0.01, deadline - time.monotonic()))
            assert message is not None, f"closed with {self.close_code} before a {kind}"
            if message["type"] == kind:
                return message

    def end(self, timeout=60):
        """Reads to the end; returns the close code and what was said besides output, pongs and heartbeats."""
        deadline = time.monotonic() + timeout
        while self.take(max(0.01, deadline - time.monotonic())) is not None:
            pass
        return self.close_code, [m for m in self.messages if m["type"] not in ("pong", "heartbeat")]

    def vanish(self):
        """Goes away without a word."""
        self.ws.socket.shutdown(socket.SHUT_RDWR)
