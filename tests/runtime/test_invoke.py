"""POST /invoke and /invoke/cancel/{id}: controller.md 18.5, repaired."""

import json
import time

import pytest

from client import processes_with, read_head, wait_for
from test_exec import mark


def events_of(body):
    """[(event, data)] of an event stream."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def invoke(rt, command, **spec):
    answer = rt.ask("POST", "/invoke", {"command": command, **spec})
    assert answer.status == 200 and not answer.cut
    return answer, events_of(answer.body)


def test_18_5_events(rt):
    answer, events = invoke(rt, ["/bin/sh", "-c", "echo out; sleep 0.2; echo err >&2; exit 3"], invokeId="inv-1")
    assert answer.headers["content-type"] == "text/event-stream" and answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    kinds = [kind for kind, _ in events]
    assert kinds[0] == "start" and kinds[-1] == "exit" and kinds.count("start") == kinds.count("exit") == 1
    start, end = events[0][1], events[-1][1]
    assert start["invokeId"] == end["invokeId"] == "inv-1"
    assert abs(start["startedAt"] - time.time() * 1000) < 60000
    assert end["exitCode"] == 3 and end["reason"] == "completed" and isinstance(end["durationMs"], int)
    logs = [data for kind, data in events if kind == "log"]
    assert {"data": "out\n", "stream": "stdout"} in logs and {"data": "err\n", "stream": "stderr"} in logs


def test_18_5_generated_id(rt):
    _, events = invoke(rt, ["/bin/true"])
    assert len(events[0][1]["invokeId"]) == 32 and int(events[0][1]["invokeId"], 16) >= 0


def test_I30_log_events_are_small_and_never_split_a_character(rt):
    _, events = invoke(rt, ["/bin/sh", "-c", "for i in $(seq 4000); do printf 'ü€'; done"])
    logs = [data["data"] for kind, data in events if kind == "log"]
    assert "".join(logs) == "ü€" * 4000
    assert max(len(text.encode()) for text in logs) <= 4096


def test_first_event_comes_at_once(rt):
    gate = rt.folder / "invoke-gate"
    with rt.connect() as connection:
        body = json.dumps({"command": ["/bin/sh", "-c", f"echo first; until test -e {gate}; do sleep 0.05; done; echo second"]}).encode()
        connection.sendall(rt.head("POST", "/invoke", [("Content-Length", len(body))]) + body)
        data = read_head(connection)[2]
        while b"first" not in data:
            data += connection.recv(65536)
        assert b"second" not in data
        gate.touch()  # the command waits for this: nothing but the first output can have brought the event
        while more := connection.recv(65536):
            data += more
    assert b"second" in data and data.endswith(b"0\r\n\r\n")


def test_18_5_reasons(rt):
    assert invoke(rt, ["/bin/sleep", "60"], timeoutSeconds=1)[1][-1][1]["reason"] == "timeout"
    _, events = invoke(rt, ["/no/such"])
    assert events[-1][1] == {**events[-1][1], "reason": "error", "exitCode": -1}


def test_18_5_cancel_ends_the_whole_tree(rt):
    n = mark()
    with rt.connect() as connection:
        body = json.dumps({"command": ["/bin/sh", "-c", f"(setsid sleep {n} &); echo on; sleep {n}"], "invokeId": "to cancel/ü"}).encode()
        connection.sendall(rt.head("POST", "/invoke", [("Content-Length", len(body))]) + body)
        data = read_head(connection)[2]
        while b'"on' not in data:
            data += connection.recv(65536)
        assert rt.ask("POST", "/invoke/cancel/to%20cancel%2F%C3%BC", b"").status == 204
        while more := connection.recv(65536):
            data += more
    assert b'"reason":"canceled"' in data and data.endswith(b"0\r\n\r\n")
    assert not processes_with(n)
    assert rt.ask("POST", "/invoke/cancel/to%20cancel%2F%C3%BC", b"").error(404)["error"] == "no in-flight invoke with that id"


def test_18_3_cancel_errors(rt):
    rt.ask("POST", "/invoke/cancel/", b"").error(400)
    rt.ask("POST", "/invoke/cancel/%zz", b"").error(400)
    rt.ask("POST", "/invoke/cancel/none", b"").error(404)
    rt.ask("GET", "/invoke/cancel/none").error(405)


def test_a_client_that_leaves_cancels(rt):
    n = mark()
    connection = rt.connect()
    body = json.dumps({"command": ["/bin/sh", "-c", f"setsid sleep {n} & sleep {n}"]}).encode()
    connection.sendall(rt.head("POST", "/invoke", [("Content-Length", len(body))]) + body)
    wait_for(lambda: processes_with(f"sleep\0{n}"), what="the command")
    connection.close()
    wait_for(lambda: not processes_with(n), what="the end of the command")


@pytest.mark.parametrize("spec", [{"command": []}, {"command": ["true"], "invokeId": "x" * 200}, {"command": ["true"], "shell": 1}, {}])
def test_18_5_bad_requests(rt, spec):
    rt.ask("POST", "/invoke", spec).error(400)
