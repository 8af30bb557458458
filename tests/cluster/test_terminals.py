"""Terminals in pods, over the runtime and over pods/exec: http-api.md 2.12; observed O2, O10."""

import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import time

import httpx
import pytest

import testbed
from harness import TEMPLATE, wait_for
from terminal_client import Terminal
from testbed import SANDBOX_IMAGE, SETTINGS, apply, in_pod, kubectl, matching, processes

PLAIN = "no-runtime-terminals"
TMUX_IMAGE = "agenttier.local/sandbox-tmux:1"


def template(name, image, runtime):
    apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "ClusterSandboxTemplate", "metadata": {"name": name},
           "spec": {"image": {"repository": image}, "storage": {"size": "1Gi"}, "harness": {"useHTTPExec": runtime},
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}})
    return {"templateRef": {"name": name, "kind": "ClusterSandboxTemplate"}}


@pytest.fixture(scope="module")
def without_runtime():
    """What to ask for, for a sandbox whose pod gets no runtime."""
    yield template(PLAIN, SANDBOX_IMAGE, False)
    kubectl("delete", "clustersandboxtemplates.agenttier.io", PLAIN, "--ignore-not-found")


@pytest.fixture(scope="module", params=["runtime", "pods-exec"])
def transport(request, without_runtime):
    return {"templateRef": {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}} if request.param == "runtime" else without_runtime


@pytest.fixture
def box(api, transport, fresh):
    handle = api.sandbox(fresh, key="u1", **transport)
    if transport["templateRef"]["name"] == TEMPLATE:
        handle.wait_runtime()
    else:
        assert not any("agenttier-runtime" in line for line in handle.ps())
    yield handle
    handle.remove()
    handle.client.close()


class Direct:
    """One of the Routers, past the Ingress."""

    def __init__(self, api, pod):
        self.pod = pod
        self.keys = api.keys
        self.address = pod["status"]["podIP"]
        self.url = f"http://{self.address}:8080"

    def metric(self, name):
        text = httpx.get(f"http://{self.address}:8081/metrics", trust_env=False, timeout=90).text
        return float(re.search(rf"^{re.escape(name)} ([0-9.e+-]+)$", text, re.M)[1])

    def process(self):
        (pid,) = processes(self.pod, "agenttier-router")
        return pid

    def memory(self):
        """In KiB, without what other processes have too."""
        text = pathlib.Path(f"/proc/{self.process()}/smaps_rollup").read_text()
        return sum(int(n) for n in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.M))


@pytest.fixture
def router(secured, api):
    return Direct(api, secured.routers()[0])


def running(box):
    """All commands in the pod, seen from outside: with many of them it is slow to enter."""
    uid = box.__dict__.setdefault("pod_uid", None) or box.pod()["metadata"]["uid"]
    box.pod_uid = uid
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if uid in (folder / "cgroup").read_text().replace("_", "-") and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            pass
    return sorted(found)


def at_rest(box):
    """What runs in the pod before anybody came: not what brought the runtime there or looked into the pod."""
    lasting = re.compile(r"/pause|sleep infinity|/\S*/agenttier-runtime .*")

    def rests(now):  # the runtime is two processes, or not there
        return now and all(map(lasting.fullmatch, now)) and sum("/agenttier-runtime " in line for line in now) in (0, 2)
    return matching(lambda: running(box), rests, testbed.PATIENCE, "rest in the pod")


def wait_running(box, wanted):
    # A hundred terminals that end at once took two minutes on a machine with ten busy processes for each core.
    def look():
        now = running(box)  # and as the pod sees it, when nothing more is left
        return now if now != wanted else now + [line for line in box.ps() if ("bash" in line or "sh -c" in line) and "<defunct>" not in line]
    matching(look, lambda now: now == wanted, 600, f"nothing to run but {wanted}")


@pytest.mark.parametrize("polite", [True, False])
def test_O2_a_client_that_leaves_ends_its_shell(api, box, polite):
    before = at_rest(box)
    terminal = Terminal(api, box.name, "u1")
    terminal.run("sleep 7781 & sh -c 'kill -STOP $$' & true")
    terminal.type("sleep 7782\r")
    wait_for(lambda: any("sleep 7782" in line for line in running(box)), testbed.PATIENCE, 0.2, "the shell's job")
    if polite:
        terminal.ws.close()
    else:
        terminal.vanish()
    wait_running(box, before)


def test_O2_a_router_that_is_killed_leaves_no_shell(box, router, secured):
    before = at_rest(box)
    terminals = [Terminal(router, box.name, "u1") for _ in range(3)]
    for terminal in terminals:
        terminal.run("sleep 7783 & true")
    # the shells answer when they have forked, a moment before the children are called sleep
    wait_for(lambda: sum("sleep 7783" in line for line in running(box)) == 3, testbed.PATIENCE, 0.2, "the shells' jobs")
    restarts = secured.restarts()
    os.kill(router.process(), signal.SIGKILL)
    wait_running(box, before)
    for terminal in terminals:
        assert terminal.end()[0] == 1006
    secured.restarted(restarts + 1)


def test_O2_all_ends_with_the_shell(api, box):
    before = at_rest(box)
    with Terminal(api, box.name, "u1") as terminal:
        terminal.run("true")
        terminal.type("exit\r")
        assert terminal.end() == (1000, [])
    wait_running(box, before)


def test_2_12_keys_sizes_and_characters(api, box):
    with Terminal(api, box.name, "u1") as terminal:
        assert "40 120" in terminal.run("stty size")
        terminal.send(type="resize", cols=132, rows=43)
        terminal.send(type="ping")
        terminal.wait("pong")
        wait_for(lambda: "43 132" in terminal.run("stty size"), testbed.PATIENCE, 0.2, "the new size")
        assert terminal.run("printf 'ü€😀%.0s' $(seq 3000)").count("ü€😀") >= 3000
        assert "xterm-256color" in terminal.run("echo $TERM")
        terminal.run("stty -echo -icanon")
        terminal.type("head -c 200000 | tr a b | cksum\r")
        # before that the shell's line editor would take the rest
        wait_for(lambda: "head -c 200000" in running(box), testbed.PATIENCE, 0.1, "head reading")
        terminal.type("a" * 200000)
        wanted = subprocess.run(["cksum"], input=b"b" * 200000, capture_output=True, check=True).stdout.decode().split()[0]
        terminal.until(wanted)


def test_W33_viewers_look_on(api, box):
    api.client("u1").post(f"{box.base}/share", json={"identity": "u2", "level": "viewer"}).raise_for_status()
    with Terminal(api, box.name, "u2") as terminal:
        terminal.type("touch /workspace/typed\r")
        terminal.send(type="ping")
        terminal.wait("pong")
        assert box.run("sleep 2; ls /workspace") == ""


@pytest.mark.parametrize("how", ["stopped", "deleted"])
def test_2_12_the_end_of_the_sandbox(api, box, how):
    with Terminal(api, box.name, "u1") as terminal:
        terminal.run("true")
        if how == "stopped":
            assert box.post("/stop").status_code in (200, 202)
        else:
            assert box.delete().status_code == 204
        assert terminal.end() == (4004, [{"type": "close", "reason": "sandbox_" + how, "code": 4001}])


def test_2_12_the_end_of_the_pod(api, box):
    with Terminal(api, box.name, "u1") as terminal:
        terminal.run("true")
        kubectl("delete", "pod", box.pod()["metadata"]["name"], "--now")
        code, said = terminal.end()
        assert code in (1011, 4004), (code, said)


def test_O10_a_hundred_idle_terminals(box, router):
    """Bounded, given back, and nothing of them is left in the pod."""
    before = at_rest(box)

    def round_of(count):
        terminals = []
        while len(terminals) < count:  # a start may take 30 s: not all of them at once
            some = [Terminal(router, box.name, "u1") for _ in range(min(10, count - len(terminals)))]
            for terminal in some:
                terminal.run("true")
            terminals += some
        assert router.metric("agenttier_terminals") == count
        used = router.memory()
        for terminal in terminals:
            terminal.vanish()
        wait_running(box, before)
        wait_for(lambda: router.metric("agenttier_terminals") == 0 and router.metric("agenttier_pod_exec_streams") == 0, testbed.PATIENCE, 0.3, "no terminal in the Router")
        return used

    def zombies():
        return sum("<defunct>" in line for line in box.ps())
    round_of(5)
    dead = zombies()
    empty = router.memory()
    full = round_of(100)
    # Given back with the connections by which the processes in the pod were ended, a moment after those.
    after = matching(router.memory, lambda now: now - empty < (full - empty) / 2, testbed.PATIENCE, f"half of {full - empty} KiB given back")
    again = round_of(100)
    print(f"KiB: {empty} without, {full} with a hundred, {after} after them, {again} with a hundred again, {router.memory()} at last")
    wait_for(lambda: zombies() - dead < 20, testbed.PATIENCE, 0.3, "the dead reaped")  # the first process of a pod may reap nothing
    assert full - empty < 100 * 300
    assert again - full < 4096


@pytest.fixture(scope="module")
def tmux_image(tmp_path_factory):
    """The image of sandboxes with tmux in it."""
    program = shutil.which("tmux")
    if not program:
        pytest.skip("no tmux here")
    root = tmp_path_factory.mktemp("tmux")
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for file in [program, *re.findall(r"(/\S+)", linked)]:
        name = pathlib.Path(file).name
        if name.startswith(("libc.so", "ld-linux", "libm.so", "libpthread")):
            continue
        target = root / ("usr/bin" if file == program else "usr/local/lib") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(file), target)
        target.chmod(0o755)
    (root / "usr/bin/tmux").rename(root / "usr/bin/tmux.bin")
    (root / "usr/bin/tmux").write_text('#!/bin/sh\nLD_LIBRARY_PATH=/usr/local/lib exec -a tmux /usr/bin/tmux.bin "$@"\n'.replace("exec -a tmux", "exec"))
    (root / "usr/bin/tmux").chmod(0o755)
    for name in ("t/tmux-256color", "x/xterm-256color"):
        found = next((pathlib.Path(base, name) for base in ("/usr/share/terminfo", "/lib/terminfo", "/etc/terminfo") if pathlib.Path(base, name).exists()), None)
        if found:
            target = root / "usr/share/terminfo" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, target)
    subprocess.run([testbed.KUBE / "image", TMUX_IMAGE, root, "sleep", "infinity"], check=True, timeout=testbed.PATIENCE)
    return TMUX_IMAGE


def test_5_6_one_session_over_both_ways(api, fresh, tmux_image):
    """What was opened over the runtime goes on over pods/exec, and is kept without a client."""
    name = "with-tmux"
    handle = api.sandbox(fresh, key="u1", **template(name, tmux_image, True))
    try:
        handle.wait_runtime()
        with Terminal(api, handle.name, "u1") as terminal:
            terminal.run("export KEPT=over-the-runtime")
        pod = handle.pod()["metadata"]["name"]
        session = f"agenttier-{handle.name}"

        def sessions():
            return in_pod(pod, "tmux", "list-sessions", "-F", "#{session_name} #{session_attached}", container="sandbox").stdout.splitlines()
        wait_for(lambda: sessions() == [session + " 0"], testbed.PATIENCE, 0.3, "a session without a client")
        seen = over_pods_exec(pod, session, " echo it was $KEPT\r")
        assert "it was over-the-runtime" in seen
        wait_for(lambda: sessions() == [session + " 0"], testbed.PATIENCE, 0.3, "a session without a client again")
        with Terminal(api, handle.name, "u1") as terminal:
            terminal.run("true")
            terminal.type("exit\r")
            assert terminal.end() == (1000, [])
    finally:
        handle.remove()
        handle.client.close()
        kubectl("delete", "clustersandboxtemplates.agenttier.io", name, "--ignore-not-found")


def over_pods_exec(pod, session, keys):
    """What a terminal shows that is opened by the transport alone, until what was typed has its effect."""
    read_fd, write_fd = os.pipe()
    driver = subprocess.Popen(
        ["bash", "-c", f'exec 3>&{write_fd}; exec "$@"', "sh", testbed.BUILD / "tests/faults/access_driver", SETTINGS["KUBECONFIG_OUT"],
         "default", pod, "terminal", f'{{"session":"{session}","shell":"/bin/bash","cols":120,"rows":40}}'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[write_fd])
    os.close(write_fd)
    try:
        driver.stdin.write(keys.encode())
        driver.stdin.flush()
        seen, deadline = b"", time.monotonic() + testbed.PATIENCE
        while b"it was over-the-runtime" not in seen and time.monotonic() < deadline:
            if select.select([driver.stdout], [], [], 1)[0]:
                more = os.read(driver.stdout.fileno(), 65536)
                if not more:
                    break
                seen += more
        driver.send_signal(signal.SIGUSR2)
        driver.wait(testbed.PATIENCE)
        return seen.decode(errors="replace")
    finally:
        driver.kill()
        driver.wait()
        os.close(read_fd)
