"""Pods without a runtime, with an image of Debian and with one of busybox and nothing else, by pods/exec of a real
kubelet: the transport alone (tests/faults/access_driver), without a Router."""

import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import tarfile
import threading
import time

import pytest

import testbed
from harness import MiB, wait_for
from testbed import PATIENCE, SANDBOX_IMAGE, apply, in_pod, kubectl, wait_gone

NAMESPACE = "pods-exec"
BUSYBOX_IMAGE = "agenttier.local/busybox:1"
DRIVER = testbed.BUILD / "tests/faults/access_driver"
BUSYBOX = pathlib.Path("/usr/bin/busybox")


def layer():
    """A file system of busybox alone."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("workspace", 0o1777)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = BUSYBOX.stat().st_size, 0o755
        tar.addfile(entry, io.BytesIO(BUSYBOX.read_bytes()))
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo("bin/" + applet)
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return out.getvalue()


def busybox_image(folder):
    root = layer()
    config = {"architecture": "amd64", "os": "linux", "config": {"User": "1000", "Env": ["PATH=/bin"], "WorkingDir": "/workspace"},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(root).hexdigest()]}}
    manifest = [{"Config": "config.json", "RepoTags": [BUSYBOX_IMAGE], "Layers": ["layer.tar"]}]
    file = folder / "busybox.tar"
    with tarfile.open(file, "w") as tar:
        for name, data in (("config.json", json.dumps(config).encode()), ("layer.tar", root), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    testbed.import_image(file)


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    if not BUSYBOX.exists():
        pytest.skip("no busybox here")
    busybox_image(tmp_path_factory.mktemp("image"))
    testbed.new_namespace(NAMESPACE)
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module", params=["debian", "busybox"])
def pod(request, namespace):
    name = request.param
    image = SANDBOX_IMAGE if name == "debian" else BUSYBOX_IMAGE
    start(name, image, ["sleep", "100000"])
    yield name
    kubectl("delete", "pod", name, "-n", NAMESPACE, "--now")


def start(name, image, command, **resources):
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
           "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Never", "automountServiceAccountToken": False,
                    "containers": [{"name": "sandbox", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
                                    "resources": resources}]}})
    kubectl("wait", "--for=condition=Ready", "pod/" + name, "-n", NAMESPACE, f"--timeout={PATIENCE}s")


class Answer:
    def __init__(self, lines, out, err, took):
        self.out, self.err, self.took = out, err, took
        self.members = {key: value for line in lines for key, value in line.items()}

    @property
    def result(self):
        assert "result" in self.members, (self.members, self.err[-2000:])
        return self.members["result"]


def access(pod, op, data=None, close_when=None, **args):
    """One operation to its end, or to where `close_when` holds: then the user leaves."""
    read_fd, write_fd = os.pipe()
    began = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", f'exec 3>&{write_fd}; exec "$@"', "sh", DRIVER, testbed.SETTINGS["KUBECONFIG_OUT"], NAMESPACE, pod, op,
         json.dumps(args)],
        stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        pass_fds=[write_fd])
    os.close(write_fd)
    if close_when:
        if data is not None:
            process.stdin.write(data)
            process.stdin.close()
            process.stdin = None
        try:
            wait_for(close_when, PATIENCE, 0.1, "the time to leave")
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGUSR2)
        data = None
    out, err = process.communicate(data, timeout=PATIENCE)
    with open(read_fd, "rb") as told:
        lines = [json.loads(line) for line in told.read().splitlines()]
    assert process.returncode in (0, 1), (process.returncode, err[-3000:])
    return Answer(lines, out, err, time.monotonic() - began)


def execute(pod, command, data=None, **args):
    if data is not None:
        args["stdin"] = True
    return access(pod, "exec", data=data, id=args.pop("id", "x"), command=["/bin/sh", "-c", command], **args)


def left(pod, mark):
    return [line for line in in_pod(pod, "ps", *([] if pod == "busybox" else ["-ef"]), namespace=NAMESPACE).stdout.splitlines()
            if mark in line and "ps" not in line.split()]


def test_commands(pod):
    r = execute(pod, "printf 'a\\0b\\377'; echo err >&2; exit 3")
    assert (r.out, r.err, r.result["exitCode"]) == (b"a\0b\xff", b"err\n", 3)
    data = os.urandom(3 * MiB)
    assert execute(pod, "sha256sum", data=data).out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    evil = "a'b\"$(id)`id`\n\\;\u20ac"
    assert access(pod, "exec", id="x", command=["printf", "%s", evil]).out == evil.encode()


@pytest.mark.parametrize("size", [0, 1, 64 << 10, 100 << 10, MiB, 32 * MiB, 32 * MiB + 1])
def test_files_both_ways(pod, size):
    data = os.urandom(size)
    assert access(pod, "write", data=data, path=f"/tmp/d/{size}", size=size).result["bytes"] == size
    assert access(pod, "read", path=f"/tmp/d/{size}").out == data
    assert in_pod(pod, "ls", "-A", "/tmp/d", namespace=NAMESPACE).stdout == f"{size}\n"
    access(pod, "remove", path="/tmp/d", recursive=True).result


def test_I1_I2_timeouts_end_the_whole_tree(pod):
    r = execute(pod, "trap '' TERM; sleep 8881 & setsid sleep 8881 & (setsid sh -c '(sleep 8881 &)' &); sleep 8881", timeoutMs=3000)
    assert r.result["timedOut"] and r.result["killed"] and r.took < 17
    assert not left(pod, "8881")


def test_I3_a_user_who_leaves_ends_the_whole_tree(pod):
    def all_run():
        return sum(line.endswith(" sleep 8882") and "&" not in line for line in left(pod, "8882")) == 3
    r = execute(pod, "sleep 8882 & (setsid sleep 8882 &); sleep 8882", close_when=all_run)
    assert r.members["closed"]
    wait_for(lambda: not left(pod, "8882"), PATIENCE, 0.3, "no process")


def test_a_background_child_delays_nothing(pod):
    r = execute(pod, "sleep 8883 & exit 4")
    assert r.result["exitCode"] == 4 and r.took < 5
    assert left(pod, "8883")
    in_pod(pod, "pkill", "-f", "8883", namespace=NAMESPACE, check=False)


def test_kept_commands(pod):
    command = "cat; : > /tmp/k1-waits; until [ -e /tmp/k1-goes-on ]; do sleep 0.1; done; exit 9"
    r = execute(pod, command, data=b"in", id="k1", keep=True, digest="d", timeoutMs=300000,
                close_when=lambda: in_pod(pod, "test", "-e", "/tmp/k1-waits", namespace=NAMESPACE, check=False).returncode == 0)
    assert r.members.get("closed")
    in_pod(pod, "touch", "/tmp/k1-goes-on", namespace=NAMESPACE)
    assert access(pod, "attach", id="k1", wait=60000).result["exitCode"] == 9
    again = access(pod, "exec", id="k1", attach=True)
    assert again.out == b"in" and again.result["exitCode"] == 9
    execute(pod, "sleep 8884", id="k2", keep=True, digest="d", timeoutMs=300000, close_when=lambda: left(pod, "8884"))
    assert access(pod, "kill", id="k2").result == {}
    assert not left(pod, "8884") and access(pod, "attach", id="k2", wait=60000).result["killed"]


def test_archives(pod):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("a/one", b"1" * 100000), ("a/two\n", b"2")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        entry = tarfile.TarInfo("a/hard")
        entry.type, entry.linkname = tarfile.LNKTYPE, "a/one"
        tar.addfile(entry)
    assert access(pod, "archive_write", data=out.getvalue(), path="/tmp/up").result["entries"] == 3
    r = access(pod, "archive_read", path="/tmp/up")
    assert r.result == {}
    with tarfile.open(fileobj=io.BytesIO(r.out)) as tar:
        found = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}
    assert found == {"a/one": b"1" * 100000, "a/two\n": b"2", "a/hard": b"1" * 100000}


def test_a_pod_that_is_deleted_under_a_command(namespace):
    start("gone", SANDBOX_IMAGE, ["sleep", "100000"])
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(execute("gone", "sleep 8885")))
    waiting.start()
    wait_for(lambda: any(line.endswith("sleep 8885") and "sh -c" not in line for line in left("gone", "8885")), PATIENCE, 0.3, "the command running")
    kubectl("delete", "pod", "gone", "-n", NAMESPACE, "--now")
    began = time.monotonic()
    waiting.join(PATIENCE)
    assert not waiting.is_alive() and time.monotonic() - began < 20
    (r,) = answers
    # The transport alone sees a kill or an end without an outcome; why is known to who watches pods.
    assert r.members.get("result", {}).get("exitCode") == 137 or r.members["error"]["code"] == "exec_outcome_unknown"
    wait_gone("pod", "gone", "-n", NAMESPACE)
    assert execute("gone", "true").members["error"]["code"] == "sandbox_not_found"

