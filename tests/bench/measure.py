"""How the rows of ./dev bench are measured and printed: the table, load by wrk, requests on a kept connection, and
what a process costs."""

import json
import os
import pathlib
import re
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "api"))
os.environ.setdefault("AGENTTIER_BUILD", str(ROOT / "build"))

import harness  # noqa: E402
from harness import MiB  # noqa: E402

CORES = os.cpu_count() or 1
SIZE = 32 * MiB
BLOCK = 256 * 1024
MET = {True: "yes", False: "NO", None: "-"}
rows = []


def row(name, value, goal, met, detail):
    """One line of the table. `value` and `goal` are texts, `met` whether the goal was reached; None: there is no goal."""
    met = None if met is None else bool(met)
    rows.append({"name": name, "value": value, "goal": goal, "met": met, "detail": detail})
    print(f"{name:<44} {value:>12} {goal:>12}  {MET[met]:<4} {detail}", flush=True)


def begin(rounds):
    print(f"{CORES} cores, load {os.getloadavg()[0]:.1f}, {rounds} rounds\n")
    print(f"{'':<44} {'measured':>12} {'goal':>12}  met")


def finish(json_file=None):
    """The last line, and all rows in a file when one is named."""
    if json_file:
        pathlib.Path(json_file).write_text(json.dumps({"cores": CORES, "rows": rows}, indent=1) + "\n")
    with_goal = [r for r in rows if r["met"] is not None]
    missed = [r["name"] for r in with_goal if not r["met"]]
    print(f"\n{len(with_goal) - len(missed)} of {len(with_goal)} goals met" + (f"; missed: {', '.join(missed)}" if missed else ""))


def cpu_of(pid):
    """Processor seconds of a process so far, with its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid, key):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) * 1024


def wrk(url, headers=(), seconds=1, connections=32):
    """Requests a second; fails when an answer was not 2xx."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    for header in headers:
        command += ["-H", header]
    text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text:
        raise SystemExit(f"{url}: {text}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])


def compare_rates(ours, peer, rounds):
    """Both called in turns; each gives requests a second. (median ratio, median ours, median peer)"""
    pairs = []
    for i in range(rounds):
        pairs.append((ours(), peer()) if i % 2 else tuple(reversed((peer(), ours()))))
    return statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def cpu_per_request(pid, load):
    """Microseconds of the server's processor time for one request under `load()` (requests a second for a second)."""
    before, started = cpu_of(pid), time.monotonic()
    rate = load()
    return (cpu_of(pid) - before) / (rate * (time.monotonic() - started)) * 1e6


def receive(connection, left, buffer=bytearray(BLOCK)):
    view = memoryview(buffer)
    while left:
        n = connection.recv_into(view, min(left, BLOCK))
        if not n:
            raise SystemExit("a download was cut")
        left -= n


def ask(connection, data):
    """One request on a kept connection, its answer's body."""
    connection.sendall(data)
    got = b""
    while b"\r\n\r\n" not in got:
        more = connection.recv(65536)
        if not more:
            raise SystemExit("the connection was closed")
        got += more
    head, _, body = got.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    if status == 204:
        return status, b""
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(body) < length:
        body += connection.recv(65536)
    return status, body


def request(router, method, path, body=None):
    text = json.dumps(body).encode() if body is not None else b""
    key = f"X-API-Key: {router.keys['admin']}\r\n" if "admin" in router.keys else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: {len(text)}\r\n\r\n".encode() + text


def many_sandboxes(router, count, namespace="full", owner=None):
    """Puts `count` stopped sandboxes of other users, or of `owner`, into the state of a Router that does not run."""
    with sqlite3.connect(router.state_dir / "state.db") as db:
        version = db.execute("SELECT value FROM facts WHERE name = 'version'").fetchone()[0]
        for i in range(count):
            version += 1
            uid = str(uuid.UUID(int=i + 1))
            text = {"apiVersion": "agenttier.io/v1alpha1", "kind": "Sandbox",
                    "metadata": {"name": f"full-{i}", "namespace": namespace, "uid": uid, "resourceVersion": str(version),
                                 "creationTimestamp": "2026-01-01T00:00:00Z"},
                    "spec": {"mode": "code", "createdBy": {"sub": owner or f"user-{i % 100}"}, "templateRef": {"name": "t", "kind": "ClusterSandboxTemplate"}},
                    "status": {"phase": "Stopped"}}
            db.execute("INSERT INTO objects (kind, namespace, name, uid, version, json) VALUES ('Sandbox', ?, ?, ?, ?, ?)",
                       (namespace, f"full-{i}", uid, version, json.dumps(text)))
        db.execute("UPDATE facts SET value = ? WHERE name = 'version'", (version,))
