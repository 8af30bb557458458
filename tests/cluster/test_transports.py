"""Commands and files over both ways into a pod: the runtime in it, and pods/exec where it has none."""

import base64
import hashlib
import itertools
import json
import os
import threading
import time

import pytest

import testbed
from harness import MiB, Raw, error_of, wait_for
from testbed import PATIENCE, SANDBOX_IMAGE, apply, get, in_pod, kubectl

SIZES = [0, 1, 64 << 10, 100 << 10, MiB, 32 * MiB]
TEMPLATE = "no-runtime"


@pytest.fixture(scope="module")
def without_runtime():
    """A template whose pods get no runtime."""
    apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "ClusterSandboxTemplate", "metadata": {"name": TEMPLATE},
           "spec": {"image": {"repository": SANDBOX_IMAGE}, "storage": {"size": "1Gi"}, "harness": {"useHTTPExec": False},
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}})
    yield TEMPLATE
    kubectl("delete", "clustersandboxtemplates.agenttier.io", TEMPLATE, "--ignore-not-found")


@pytest.fixture(scope="module", params=["runtime", "pods-exec"])
def box(request, api, without_runtime):
    body = {"templateRef": {"name": without_runtime, "kind": "ClusterSandboxTemplate"}} if request.param == "pods-exec" else {}
    handle = api.sandbox("by-" + request.param, key="u1", **body)
    if request.param == "runtime":
        handle.wait_runtime()
    else:
        assert not any("agenttier-runtime" in line for line in handle.ps())
    yield handle
    handle.remove()
    handle.client.close()


def sum_in_pod(box, path):
    return in_pod(box.pod()["metadata"]["name"], "sha256sum", path, container="sandbox").stdout.split()[0]


@pytest.mark.parametrize("size", SIZES)
def test_2_9_files_both_ways(box, size):
    data = os.urandom(min(size, MiB)) * (size // MiB or 1)
    path = f"/workspace/size-{size}"
    assert box.write(path, data)["bytes"] == size
    assert sum_in_pod(box, path) == hashlib.sha256(data).hexdigest()
    assert box.read(path) == data
    box.run(f"rm {path}")


def test_2_9_one_byte_more_than_32_mib(box):
    data = os.urandom(MiB) * 32 + b"x"
    before = box.run("ls -A /workspace")
    error_of(box.put("/files/workspace/over", content=data), 413)
    assert box.get("/files/workspace/over").status_code == 404
    assert box.run("ls -A /workspace") == before
    box.run(f"head -c {32 * MiB + 1} /dev/zero > /tmp/over")
    error_of(box.get("/files/tmp/over"), 413)
    box.run("rm /tmp/over")


def test_2_9_bytes_are_bytes(box):
    data = bytes(range(256)) * 100 + b"\r\n\0\xff\xfe" * 10
    box.write("/workspace/all bytes ü", data)
    assert box.read("/workspace/all bytes ü") == data
    listed = {e["name"]: e for e in box.get("/files/", params={"path": "/workspace"}).json()["entries"]}
    assert listed["all bytes ü"]["size"] == len(data)
    assert box.delete("/files/workspace/all bytes ü").status_code == 204


def test_2_9_overwriting_never_shows_half_a_file(box):
    old, new = b"o" * 3 * MiB, b"n" * 3 * MiB
    box.write("/workspace/swap", old)
    ended = threading.Event()
    seen = []

    def look():
        with box.router.client("u1") as client:
            while not ended.is_set():
                answer = client.get(f"{box.base}/files/workspace/swap")
                seen.append(answer.content if answer.status_code == 200 else answer.status_code)
    reader = threading.Thread(target=look)
    reader.start()
    deadline, turns = time.monotonic() + PATIENCE, itertools.cycle((new, old))
    try:
        while len(seen) < 6 or not {old, new}.issubset(seen):  # the writes go on until reads have met them
            assert reader.is_alive() and time.monotonic() < deadline, [s if isinstance(s, int) else (len(s), s[:1]) for s in seen]
            box.write("/workspace/swap", next(turns))
    finally:
        ended.set()
        reader.join()
    assert all(s in (old, new) for s in seen), [s if isinstance(s, int) else (len(s), s[:1]) for s in seen]


def test_I6_exit_codes_and_streams(box):
    for code in (0, 1, 7, 126, 127, 255):
        assert box.exec(f"exit {code}")["exitCode"] == code
    result = box.exec("printf out; printf err >&2; exit 3")
    assert (result["stdout"], result["stderr"], result["exitCode"]) == ("out", "err", 3)
    assert box.exec(["printf", "%s|", "a b", "$HOME", "'"])["stdout"] == "a b|$HOME|'|"
    assert box.exec("kill -9 $$")["exitCode"] in (-1, 137)  # http-api.md 2.8: by the runtime, by pods/exec


def test_2_7_a_megabyte_of_output(box):
    result = box.exec("head -c 1000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero | tr '\\0' y >&2")
    assert (len(result["stdout"]), len(result["stderr"])) == (1000000, 1000000)
    assert set(result["stdout"]) == {"x"} and set(result["stderr"]) == {"y"}


def gone(box, marker):
    wait_for(lambda: not any(marker in line for line in box.ps()), PATIENCE, 0.3, f"no process with {marker}")


def test_I1_a_timeout_ends_every_process(box):
    began = time.monotonic()
    result = box.exec("sleep 7771 & sh -c 'trap \"\" TERM; sleep 7771'; wait", timeout=1)
    assert result["exitCode"] != 0 and time.monotonic() - began < 11
    gone(box, "7771")


def test_I2_a_client_that_goes_away_ends_every_process(box):
    body = json.dumps({"command": "sleep 7772 & setsid sleep 7772 & wait; sleep 7772", "timeout": 600})
    with Raw(box.router) as raw:
        raw.send(f"POST {box.base}/exec HTTP/1.1\r\nHost: {testbed.HOST}\r\nX-API-Key: {box.router.keys['u1']}\r\n"
                 f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        wait_for(lambda: box.ps().count("sleep 7772") == 2, PATIENCE, 0.3, "the command running")
    gone(box, "7772")


def test_2_7_a_server_in_the_background_lives_on(box):
    began = time.monotonic()
    assert box.exec("nohup sleep 7773 >/dev/null 2>&1 &", timeout=120)["exitCode"] == 0
    assert time.monotonic() - began < 5
    assert any("sleep 7773" in line for line in box.ps())
    box.exec("pkill -f 'sleep 777[3]'")
    gone(box, "7773")


def test_I9_commands_run_side_by_side(box):
    """None ends before all have begun."""
    results = []
    box.run("mkdir /tmp/side")

    def one(i):
        with box.router.client("u1") as client:
            command = f": > /tmp/side/{i}; until [ $(ls /tmp/side | wc -l) = 6 ]; do sleep 0.1; done; echo {i}"
            results.append(client.post(f"{box.base}/exec", json={"command": command, "timeout": 60}).json()["stdout"])
    threads = [threading.Thread(target=one, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{i}\n" for i in range(6)]
    box.run("rm -r /tmp/side")


def test_4_preview_of_a_server_in_the_pod(box, secured):
    base = box.server("import http.server; http.server.ThreadingHTTPServer(('0.0.0.0', 8123), http.server.SimpleHTTPRequestHandler).serve_forever()", 8123)
    assert box.client.get(base + "/").status_code == 200
    assert box.delete("/ports/8123").status_code == 204
    secured.on_every_replica(box.router.headers, lambda to: to.get(base + "/").status_code == 404, "the preview closed", 30)
    assert box.client.get(base + "/").status_code == 404


def test_O1_archive_answers(box, tmp_path):
    box.run("mkdir -p /workspace/d/e && echo one > /workspace/d/1 && head -c 100000 /dev/urandom > /workspace/d/e/2")
    answer = box.get("/archive", params={"path": "/workspace/d"})
    assert answer.status_code == 200 and len(answer.content) > 100000
    import io
    import zipfile
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert any(name.endswith("e/2") for name in archive.namelist())
    box.run("rm -r /workspace/d")


def test_O7_nothing_of_ours_in_the_environment(box):
    """No token of a service account, no token of the runtime, no key where every command can read it."""
    environment = box.run("env")
    secrets = get("secrets", "-n", "default", "-l", f"agenttier.io/sandbox={box.name}")
    held = [base64.b64decode(value).decode() for secret in secrets for value in secret["data"].values()]
    assert not [value for value in held if value in environment] and "atk_" not in environment, environment
    assert held or not any("agenttier-runtime" in line for line in box.ps())
    assert box.exec("ls /var/run/secrets/kubernetes.io")["exitCode"] != 0
    assert json.dumps(box.pod()["spec"].get("automountServiceAccountToken")) == "false"
