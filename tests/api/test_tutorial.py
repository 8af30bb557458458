"""The tutorial of the Python SDK, step by step, with the published packages unchanged.

Where a package has the tutorial's call it is used; where it has none (no published version has
`health`, `port_forwards`, `overrides` or `refresh`) the plain request is sent."""

import asyncio
import importlib
import os
import pathlib
import subprocess
import sys
import time

import httpx
import pytest

from harness import ROOT, TEMPLATE, clean_environment, error_of, wait_for

API = "/api/v1"


def load(version):
    """The package of one version, beside the others in the same process."""
    saved = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "agenttier"}
    folder = None if version == "0.8.1" else str(ROOT / ".cache" / f"sdk-{version}")
    if folder:
        if not pathlib.Path(folder, "agenttier").is_dir():
            pytest.skip(f"agenttier {version} is not in .cache: ./dev test")
        sys.path.insert(0, folder)
    try:
        package = importlib.import_module("agenttier")
        importlib.import_module("agenttier.async_client")
    finally:
        if folder:
            sys.path.remove(folder)
        for name in [name for name in sys.modules if name.split(".")[0] == "agenttier"]:
            del sys.modules[name]
        sys.modules.update(saved)
    assert package.__version__ == version
    return package


@pytest.fixture(params=["0.8.1", "0.3.0"])
def sdk(request):
    return load(request.param)


@pytest.fixture
def client(dev, sdk):
    """Step 2: connected to a Router in dev mode, without credentials."""
    with sdk.AgentTierClient(api_url=dev.url) as connected:
        yield connected


@pytest.fixture
def sandbox(client):
    made = client.create_sandbox(name="sdk-tutorial", template=TEMPLATE, namespace="default")
    made.wait_until_running(timeout=120, poll_interval=0.05)
    yield made
    made.delete()
    wait_for(lambda: gone(client, "sdk-tutorial"))


def gone(client, name):
    try:
        client.get_sandbox(name)
    except Exception as error:  # the class is of the version under test
        assert type(error).__name__ == "NotFoundError", error
        return True
    return False


def test_step_02_health(dev):
    with dev.anonymous() as plain:
        for path in ("/health", API + "/health"):
            body = plain.get(path).json()
            assert body["status"] == "ok" and isinstance(body["version"], str)


def test_step_02_api_key_and_bearer_and_environment(keyed, sdk, monkeypatch, fresh):
    for auth in (sdk.APIKeyAuth(keyed.keys["u1"]), sdk.BearerTokenAuth(keyed.keys["u1"])):
        with sdk.AgentTierClient(api_url=keyed.url, auth=auth, timeout=30) as connected:
            me = connected.current_user()
            assert (me.sub, me.groups, me.is_admin) == ("u1", [], False)
    key = keyed.create_key(fresh)  # of somebody who has no sandboxes
    with keyed.client(key) as client:
        wait_for(lambda: client.get(API + "/user/me").status_code == 200, what="the new key")
    monkeypatch.setenv("AGENTTIER_API_KEY", key)
    with sdk.AgentTierClient(api_url=keyed.url) as connected:
        assert connected.current_user().sub == fresh
        assert connected.list_sandboxes() == []


def test_step_02_wrong_key_is_an_authentication_error(keyed, sdk):
    with sdk.AgentTierClient(api_url=keyed.url, auth=sdk.APIKeyAuth("ak_wrong")) as connected:
        with pytest.raises(sdk.AuthenticationError):
            connected.list_sandboxes()


def test_step_03_create(client, dev, sdk):
    with dev.anonymous() as plain:
        answer = plain.post(API + "/sandboxes", json={"name": "sdk-plain", "namespace": "default",
                                                      "templateRef": {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}})
        assert (answer.status_code, answer.json()["status"]) == (201, "Creating")
    sandbox = client.get_sandbox("sdk-plain")
    assert sandbox.wait_until_running(timeout=120, poll_interval=0.05).status == "Running"
    assert sandbox.phase is sdk.SandboxPhase.RUNNING
    with pytest.raises(sdk.ConflictError):
        client.create_sandbox(name="sdk-plain", template=TEMPLATE)
    sandbox.delete()
    wait_for(lambda: gone(client, "sdk-plain"))


def test_step_03_create_with_everything(client):
    made = client.create_sandbox(template=TEMPLATE, name="sdk-all", namespace="default", timeout="8h", idle_timeout="45m",
                                 storage_size="1Gi")
    assert (made.id, made.name, made.namespace) == ("sdk-all", "sdk-all", "default")
    made.wait_until_running(poll_interval=0.05)
    made.terminate()
    wait_for(lambda: gone(client, "sdk-all"))


def test_step_04_run_commands(sandbox, dev):
    result = sandbox.exec("python3 -c 'print(2+2)'")
    assert (result.stdout, result.stderr, result.exit_code) == ("4\n", "", 0)
    result = sandbox.exec(["bash", "-lc", "echo $USER"])
    assert result.exit_code == 0 and result.stdout.strip()
    with dev.anonymous() as plain:
        body = plain.post(f"{API}/sandboxes/{sandbox.id}/exec", json={"command": "true"}).json()
        assert isinstance(body["durationMs"], int)


def test_step_04_timeout(sandbox):
    started = time.monotonic()
    result = sandbox.exec("sleep 60", timeout=1)  # the client gives up after timeout + 10 s
    assert result.exit_code != 0
    assert time.monotonic() - started < 11


def test_step_05_files(sandbox, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print('from the laptop')\n")
    assert sandbox.files.upload("/workspace/script.py", str(script)) == script.stat().st_size
    assert sandbox.exec("python3 /workspace/script.py").stdout == "from the laptop\n"
    sandbox.files.write("/workspace/data.txt", b"hello from python")
    assert sandbox.files.read("/workspace/data.txt") == b"hello from python"
    listed = {e.name: (e.size, e.is_dir) for e in sandbox.files.list("/workspace")}
    assert listed == {"data.txt": (17, False), "script.py": (script.stat().st_size, False)}
    assert sandbox.files.download("/workspace/data.txt", str(tmp_path / "copy.txt")) == 17
    assert (tmp_path / "copy.txt").read_bytes() == b"hello from python"


def test_step_05_limits(sandbox, sdk, tmp_path):
    data = os.urandom(1 << 20) * 32
    sandbox.files.write("/workspace/full", data)
    assert sandbox.files.read("/workspace/full") == data
    with pytest.raises(sdk.APIError) as caught:
        sandbox.files.write("/workspace/over", data + b"x")
    assert caught.value.status_code == 413 and isinstance(caught.value.body, dict)
    assert [e.name for e in sandbox.files.list("/workspace")] == ["full"]
    if hasattr(sandbox.files, "archive"):
        assert sandbox.files.archive(str(tmp_path / "all.zip")) > 0


def test_step_06_lifecycle(sandbox, client, sdk):
    sandbox.files.write("/workspace/kept", b"kept")
    sandbox.stop()
    wait_for(lambda: sandbox.status().status == "Stopped")
    with pytest.raises(sdk.ConflictError):
        sandbox.exec("true")
    with pytest.raises(sdk.ConflictError):
        sandbox.stop()
    sandbox.resume()
    sandbox.wait_until_running(poll_interval=0.05)
    assert sandbox.files.read("/workspace/kept") == b"kept"


def test_step_07_port_forwarding(sandbox, dev, client):
    sandbox.exec(["bash", "-c", "cd /workspace; echo it works > index.html; nohup python3 -m http.server 8000 > /tmp/srv.log 2>&1 &"])
    with dev.anonymous() as plain:
        forward = plain.post(f"{API}/sandboxes/{sandbox.id}/ports", json={"name": "web", "port": 8000})
        assert forward.status_code == 201, forward.text
        assert forward.json()["previewUrl"] == f"{dev.url}/api/v1/sandboxes/sdk-tutorial/preview/8000/"
        wait_for(lambda: plain.get(forward.json()["previewUrl"]).status_code == 200, what="the server")
        assert plain.get(forward.json()["previewUrl"]).text == "it works\n"
        listed = plain.get(f"{API}/sandboxes/{sandbox.id}/ports").json()["ports"]
        assert [(p["name"], p["port"], p["previewUrl"]) for p in listed] == [("web", 8000, forward.json()["previewUrl"])]
        assert plain.delete(f"{API}/sandboxes/{sandbox.id}/ports/web").status_code == 204
    forwarded = sandbox.forward_port(8000)
    assert (forwarded.port, forwarded.protocol) == (8000, "http")
    with dev.anonymous() as plain:
        assert plain.get(forwarded.preview_url).text == "it works\n"
        assert [p.port for p in sandbox.list_ports()] == [8000]
        sandbox.remove_port(8000)
        assert sandbox.list_ports() == []
        assert plain.get(forwarded.preview_url).status_code == 404


def test_step_08_find(sandbox, client, dev):
    found = [s for s in client.list_sandboxes() if s.name == "sdk-tutorial"]
    assert [(s.name, s.status, s.template_ref) for s in found] == [("sdk-tutorial", "Running", TEMPLATE)]
    assert client.get_sandbox("sdk-tutorial").exec("ls /workspace").exit_code == 0
    assert [s.name for s in client.list_sandboxes(namespace="default", status="Running") if s.name == "sdk-tutorial"]
    assert client.list_sandboxes(namespace="elsewhere") == []
    assert "sdk-tutorial" not in [s.name for s in client.list_sandboxes(status="Stopped")]
    with dev.anonymous() as plain:
        for template, count in ((TEMPLATE, 1), ("other", 0)):
            listed = plain.get(API + "/sandboxes", params={"template": template}).json()["sandboxes"]
            assert len([s for s in listed if s["name"] == "sdk-tutorial"]) == count
        assert plain.get(f"{API}/sandboxes/sdk-tutorial").json()["template"] == TEMPLATE
    assert TEMPLATE in [t.name for t in client.list_templates()]
    assert client.get_template(TEMPLATE).name == TEMPLATE


def test_step_09_async(dev, sdk, tmp_path):
    async def main():
        async with sdk.AsyncAgentTierClient(api_url=dev.url) as client:
            sandbox = await client.create_sandbox(name="async-demo", template=TEMPLATE)
            try:
                await sandbox.wait_until_running(poll_interval=0.05)
                result = await sandbox.exec("uname -a")
                assert result.stdout.startswith("Linux")
                await sandbox.files.write("/workspace/a", b"1")
                assert await sandbox.files.read("/workspace/a") == b"1"
                assert [e.name for e in await sandbox.files.list()] == ["a"]
                assert await sandbox.files.download("/workspace/a", str(tmp_path / "a")) == 1
                waits = "until [ $(ls /tmp/side | wc -l) = 8 ]; do sleep 0.1; done"  # none ends before all have begun
                results = await asyncio.gather(*(sandbox.exec(f"mkdir -p /tmp/side; : > /tmp/side/{i}; {waits}; echo {i}") for i in range(8)))
                assert [r.stdout for r in results] == [f"{i}\n" for i in range(8)]
                forwarded = await sandbox.forward_port(9000)
                assert [p.port for p in await sandbox.list_ports()] == [forwarded.port]
                await sandbox.remove_port(9000)
                await sandbox.stop()
                while (await sandbox.status()).status != "Stopped":
                    await asyncio.sleep(0.05)
                await sandbox.resume()
                await sandbox.wait_until_running(poll_interval=0.05)
            finally:
                await sandbox.delete()
            while True:
                try:
                    await client.get_sandbox("async-demo")
                except sdk.NotFoundError:
                    break
                await asyncio.sleep(0.05)
    asyncio.run(asyncio.wait_for(main(), 300))


def test_step_10_errors(client, dev, sdk):
    with pytest.raises(sdk.NotFoundError):
        client.get_sandbox("does-not-exist")
    with dev.anonymous() as plain:
        answer = plain.post(API + "/sandboxes", json={"name": "too-much", "template": TEMPLATE,
                                                      "overrides": {"resources": {"cpu": "999"}}})
        error_of(answer, 403)
    with pytest.raises(sdk.NotFoundError):
        client.get_sandbox("too-much")


def test_step_10_policy_violation_in_the_sdk_itself(client, sdk):
    """No version can send overrides: the plain request, the answer through the package's own reading of it."""
    answer = client._http.post("/sandboxes", json={"name": "too-much", "template": TEMPLATE, "overrides": {"resources": {"cpu": "999"}}})
    with pytest.raises(sdk.PolicyViolationError) as caught:
        sdk.client.raise_for_status(answer)
    assert [v["code"] for v in caught.value.violations] == ["cpu_limit_exceeded"]
    assert isinstance(caught.value, sdk.AgentTierError)


def test_step_11_delete_is_for_good(client):
    made = client.create_sandbox(name="sdk-end", template=TEMPLATE)
    made.wait_until_running(poll_interval=0.05)
    made.delete()
    wait_for(lambda: gone(client, "sdk-end"))


# ---- the command line of 0.3.5 (the later ones do not start) ----

@pytest.fixture
def cli(keyed, tmp_path):
    package = ROOT / ".cache" / "sdk-0.3.5"
    if not package.is_dir():
        pytest.skip("agenttier 0.3.5 is not in .cache: ./dev test")
    environment = clean_environment(PYTHONPATH=str(package), AGENTTIER_CONFIG=str(tmp_path / "config.json"), HOME=str(tmp_path))

    def run(*arguments, code=0, data=None):
        done = subprocess.run([sys.executable, "-m", "agenttier.cli", *arguments], capture_output=True, env=environment, timeout=120,
                              input=data, check=False)
        assert done.returncode == code, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout
    return run


def test_cli_from_login_to_delete(cli, keyed, tmp_path):
    assert b"Authenticated as: u1@example.org" in cli("login", "--api-url", keyed.url, "--api-key", keyed.keys["u1"])
    assert b"u1@example.org" in cli("whoami")
    assert TEMPLATE.encode() in cli("template", "list")
    cli("template", "get", TEMPLATE)
    assert b"created cli-box (status: Running)" in cli("sandbox", "create", "cli-box", "--template", TEMPLATE, "--wait", "--idle-timeout", "1h")
    try:
        assert b"cli-box" in cli("sandbox", "list")
        assert b"cli-box" in cli("sandbox", "list", "--status", "Running", "--namespace", "default", "--output", "json")
        assert b"status:    Running" in cli("sandbox", "get", "cli-box")
        cli("sandbox", "wait", "cli-box")
        assert cli("sandbox", "exec", "cli-box", "echo", "a b", "$HOME") == b"a b $HOME\n"
        cli("sandbox", "exec", "cli-box", "sh", "-c", "exit 7", code=7)
        local = tmp_path / "local.bin"
        local.write_bytes(os.urandom(300000))
        assert b"uploaded 300000 bytes" in cli("sandbox", "files", "upload", "cli-box", str(local), "/workspace/up.bin")
        assert cli("sandbox", "files", "cat", "cli-box", "/workspace/up.bin") == local.read_bytes()
        assert b"downloaded 300000 bytes" in cli("sandbox", "files", "download", "cli-box", "/workspace/up.bin", str(tmp_path / "down.bin"))
        assert (tmp_path / "down.bin").read_bytes() == local.read_bytes()
        cli("sandbox", "files", "write", "cli-box", "/workspace/note", "--data", "hello")
        cli("sandbox", "files", "write", "cli-box", "/workspace/stdin", "--file", "-", data=b"piped")
        assert cli("sandbox", "files", "cat", "cli-box", "/workspace/stdin") == b"piped"
        assert b"note" in cli("sandbox", "files", "ls", "cli-box")
        assert b"/preview/8000/" in cli("sandbox", "ports", "forward", "cli-box", "--port", "8000")
        assert b"8000" in cli("sandbox", "ports", "list", "cli-box")
        cli("sandbox", "ports", "remove", "cli-box", "--port", "8000")
        cli("sandbox", "stop", "cli-box")
        with keyed.client("u1") as client:
            wait_for(lambda: client.get(API + "/sandboxes/cli-box").json()["status"] == "Stopped")
        cli("sandbox", "stop", "cli-box", code=1)
        cli("sandbox", "resume", "cli-box")
        cli("sandbox", "wait", "cli-box")
        assert cli("sandbox", "files", "cat", "cli-box", "/workspace/note") == b"hello"
    finally:
        cli("sandbox", "delete", "cli-box")
    cli("sandbox", "get", "cli-box-never", code=1)


def test_tutorial_9_go_cli_and_file_paths_with_double_slash(keyed, box):
    """What the compiled command line sends: an empty first segment for absolute paths."""
    with keyed.client("u1") as client:
        request = client.build_request("PUT", keyed.url + box.base + "/files//workspace/from-go", content=b"go")
        answer = client.send(request)
        assert (answer.status_code, answer.json()["path"]) == (201, "/workspace/from-go")
