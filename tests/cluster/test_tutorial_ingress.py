"""The tutorial as it is for production: through an Ingress, two replicas, no devAuth; once for each
kind of credential. Calls that no published SDK has are sent as plain requests."""

import asyncio
import json
import pathlib
import re
import time

import httpx
import pytest
from test_tutorial import load

import testbed
from harness import TEMPLATE, wait_for
from testbed import PATIENCE, PREVIEWS, kubectl

API = "/api/v1"
ACCOUNT = "tutor"


@pytest.fixture(scope="module")
def sdk():
    return load("0.8.1")


@pytest.fixture(scope="module")
def token(api):
    """Of a service account in a namespace that is let in."""
    kubectl("delete", "serviceaccount", ACCOUNT, "-n", "default", "--ignore-not-found")
    kubectl("create", "serviceaccount", ACCOUNT, "-n", "default")
    return kubectl("create", "token", ACCOUNT, "-n", "default", "--duration=1h").strip()


@pytest.fixture(scope="module")
def kubeconfig(token, tmp_path_factory):
    """A kubeconfig whose user logs in with that account's token, as clouds and CI systems hand them out."""
    file = tmp_path_factory.mktemp("kube") / "config"
    source = json.loads(kubectl("config", "view", "--raw", "-o", "json"))
    source["users"] = [{"name": "tutor", "user": {"token": token}}]
    source["contexts"] = [{"name": "c", "context": {"cluster": source["clusters"][0]["name"], "user": "tutor"}}]
    source["current-context"] = "c"
    file.write_text(json.dumps(source))
    return file


@pytest.fixture(params=["api key", "service account token", "kubeconfig"])
def auth(request, api, sdk):
    """How the SDK logs in, and the headers with which a plain request does."""
    if request.param == "api key":
        return sdk.APIKeyAuth(api.keys["u1"]), {"X-API-Key": api.keys["u1"]}
    if request.param == "service account token":
        found = request.getfixturevalue("token")
    else:
        file = request.getfixturevalue("kubeconfig")
        found = testbed.run("kubectl", "--kubeconfig", file, "config", "view", "--raw", "--minify", "-o", "jsonpath={.users[0].user.token}").stdout
    return sdk.BearerTokenAuth(found), {"Authorization": f"Bearer {found}"}


def test_steps_2_to_11(api, auth, sdk, nginx, secured, tmp_path):
    login, headers = auth

    def known(path, holds, what):
        """Each replica learns by a watch of its own: one that does not know would still say what was before."""
        secured.on_every_replica(headers, lambda to: holds(to.get(API + "/sandboxes" + path).json()), what)
    with sdk.AgentTierClient(api_url=api.url, auth=login, timeout=90) as client, \
            httpx.Client(base_url=api.url, headers=headers, timeout=90, trust_env=False) as plain:
        assert plain.get(API + "/health").json()["status"] == "ok"
        # 3
        sandbox = client.create_sandbox(name="sdk-tutorial", template=TEMPLATE, namespace="default")
        try:
            steps(client, plain, sandbox, sdk, nginx, api, known, tmp_path)
        finally:
            sandbox.delete()
        wait_for(lambda: plain.get(f"{API}/sandboxes/sdk-tutorial").status_code == 404, PATIENCE)


def steps(client, plain, sandbox, sdk, nginx, api, known, tmp_path):
    sandbox.wait_until_running(timeout=PATIENCE, poll_interval=0.1)
    # 4
    result = sandbox.exec("python3 -c 'print(2+2)'")
    assert (result.stdout, result.exit_code) == ("4\n", 0)
    assert sandbox.exec(["bash", "-lc", "echo $USER"]).exit_code == 0
    started = time.monotonic()
    assert sandbox.exec("sleep 60", timeout=1).exit_code != 0 and time.monotonic() - started < 11
    # 5
    script = tmp_path / "script.py"
    script.write_text("print('from the laptop')\n")
    sandbox.files.upload("/workspace/script.py", str(script))
    assert sandbox.exec("python3 /workspace/script.py").stdout == "from the laptop\n"
    sandbox.files.write("/workspace/data.txt", b"hello from python")
    assert sandbox.files.read("/workspace/data.txt") == b"hello from python"
    assert ("data.txt", 17, False) in [(e.name, e.size, e.is_dir) for e in sandbox.files.list("/workspace")]
    sandbox.files.download("/workspace/data.txt", str(tmp_path / "data-from-sandbox.txt"))
    assert (tmp_path / "data-from-sandbox.txt").read_bytes() == b"hello from python"
    # 6
    sandbox.stop()
    known("/sdk-tutorial", lambda now: now["status"] == "Stopped", "Stopped")
    sandbox.resume()
    sandbox.wait_until_running(timeout=PATIENCE, poll_interval=0.1)
    assert sandbox.files.read("/workspace/data.txt") == b"hello from python"
    # 7
    sandbox.exec(["bash", "-c", "cd /workspace; nohup python3 -m http.server 8000 > /tmp/srv.log 2>&1 &"])
    forward = plain.post(f"{API}/sandboxes/sdk-tutorial/ports", json={"name": "web", "port": 8000}).json()
    assert forward["previewUrl"] == f"{api.url}/api/v1/sandboxes/sdk-tutorial/preview/8000/"
    wait_for(lambda: plain.get(forward["previewUrl"]).status_code == 200, PATIENCE, what="the preview")
    assert plain.get(forward["previewUrl"] + "data.txt").text == "hello from python"
    assert httpx.get(forward["previewUrl"], trust_env=False, timeout=90).status_code == 401
    host = f"sandbox-sdk-tutorial-8000.{PREVIEWS}"
    assert forward["ingressUrl"] == f"https://{host}/"
    nginx.wait_for(host)
    wait_for(lambda: httpx.get(nginx.url + "/data.txt", headers={"Host": host}, trust_env=False, timeout=90).text == "hello from python", PATIENCE,
             what="the preview under a name of its own")
    known("/sdk-tutorial/ports", lambda now: len(now["ports"]) == 1, "the forward")
    assert [(p["name"], p["port"], p["previewUrl"]) for p in plain.get(f"{API}/sandboxes/sdk-tutorial/ports").json()["ports"]] == [
        ("web", 8000, forward["previewUrl"])]
    assert plain.delete(f"{API}/sandboxes/sdk-tutorial/ports/web").status_code == 204
    assert not testbed.get("ingress", "-n", "default", "-l", "agenttier.io/sandbox=sdk-tutorial")
    # 8
    known("", lambda now: ("sdk-tutorial", "Running") in [(s["name"], s["status"]) for s in now["sandboxes"]], "the list")
    assert ("sdk-tutorial", "Running", TEMPLATE) in [(s.name, s.status, s.template_ref) for s in client.list_sandboxes()]
    assert client.get_sandbox("sdk-tutorial").exec("ls /workspace").exit_code == 0
    # 9
    asyncio.run(asyncio.wait_for(asynchronous(client, sdk, api), PATIENCE))
    wait_for(lambda: plain.get(f"{API}/sandboxes/async-demo").status_code == 404, PATIENCE)
    # 10
    with pytest.raises(sdk.NotFoundError):
        client.get_sandbox("does-not-exist")
    refused = plain.post(API + "/sandboxes", json={"name": "too-much", "template": TEMPLATE, "overrides": {"resources": {"cpu": "999"}}})
    assert refused.status_code == 403 and [v["code"] for v in refused.json()["violations"]] == ["cpu_limit_exceeded"]
    assert not testbed.get("sandboxes.agenttier.io", "too-much", "-n", "default")


async def asynchronous(client, sdk, api):
    async with sdk.AsyncAgentTierClient(api_url=api.url, auth=client._auth) as connected:
        sandbox = await connected.create_sandbox(name="async-demo", template=TEMPLATE)
        try:
            await sandbox.wait_until_running(poll_interval=0.1)
            assert (await sandbox.exec("uname -a")).stdout.startswith("Linux")
            # At once: none ends before all have begun.
            waits = "until [ $(ls /tmp/side | wc -l) = 6 ]; do sleep 0.1; done"
            results = await asyncio.gather(*(sandbox.exec(f"mkdir -p /tmp/side; : > /tmp/side/{i}; {waits}; echo {i}") for i in range(6)))
            assert [r.stdout for r in results] == [f"{i}\n" for i in range(6)]
        finally:
            await sandbox.delete()


def test_the_sdk_in_a_pod_logs_in_without_anything(api, sdk):
    """In-cluster service account: the SDK finds its token by itself. Its packages are this machine's, mounted."""
    packages = str(pathlib.Path(sdk.__file__).resolve().parents[1])
    program = f"""
from agenttier import AgentTierClient
with AgentTierClient(api_url="http://agenttier-router.{testbed.NAMESPACE}.svc.cluster.local") as client:
    print(client.current_user().sub)
    sandbox = client.create_sandbox(name="from-a-pod", template="{TEMPLATE}", namespace="default")
    try:
        sandbox.wait_until_running(timeout={PATIENCE}, poll_interval=0.1)
        print(sandbox.exec("echo it works").stdout)
    finally:
        sandbox.delete()
"""
    kubectl("delete", "pod", "sdk", "-n", "default", "--ignore-not-found", "--grace-period=1")
    testbed.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sdk", "namespace": "default"},
                   "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{
                       "name": "c", "image": testbed.SANDBOX_IMAGE, "imagePullPolicy": "IfNotPresent",
                       "command": ["python3", "-c", program], "env": [{"name": "PYTHONPATH", "value": "/opt/sdk"}],
                       "volumeMounts": [{"name": "sdk", "mountPath": "/opt/sdk", "readOnly": True}]}],
                       "volumes": [{"name": "sdk", "hostPath": {"path": packages, "type": "Directory"}}]}})
    try:
        done = testbed.run("kubectl", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/sdk", f"--timeout={PATIENCE}s", check=False)
        out = kubectl("logs", "sdk", "-n", "default")
        assert done.returncode == 0, out
        assert out.split("\n")[:2] == ["system:serviceaccount:default:default", "it works"]
    finally:
        kubectl("delete", "pod", "sdk", "-n", "default", "--wait=false")


def test_helm_test(api):
    assert "Phase:          Succeeded" in testbed.helm("test", testbed.RELEASE, "-n", testbed.NAMESPACE, "--timeout", f"{PATIENCE}s")


REFUSAL = re.compile(r'(?:"(?P<name>[^"]+)" is forbidden: )?User "(?P<user>[^"]+)" cannot (?P<verb>\S+) resource "(?P<resource>[^"/]+)'
                     r'(?:/(?P<subresource>[^"]+))?" in API group "(?P<group>[^"]*)"(?: in the namespace "(?P<namespace>[^"]+)")?')


ENDING = re.compile(r'is forbidden: unable to create new content in namespace \S+ because it is being terminated')


def is_allowed(user, **attributes):
    """What the API server's authorizer says of it now."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user, "groups": [
        "system:serviceaccounts", f"system:serviceaccounts:{testbed.NAMESPACE}", "system:authenticated"],
        "resourceAttributes": attributes}}
    answer = kubectl("create", "-f", "-", "-o", "jsonpath={.status.allowed}", data=json.dumps(review))
    assert answer in ("true", "false"), answer
    return answer == "true"


def test_I37_S24_the_rights_of_the_chart_are_enough(api, secured):
    """The start-up check of each replica, and nothing that was refused while all of the above happened is a right
    that the account lacks. (An API server that has just started refuses what it allows a moment later, when it has
    read the roles; other tests restart it. And it lets nobody make anything in a namespace that is being deleted.)"""
    for pod in secured.routers() + testbed.get("pods", "-n", testbed.NAMESPACE, "-l", "app.kubernetes.io/component=controller"):
        wait_for(lambda name=pod["metadata"]["name"]: "the account has all permissions that it needs" in
                 kubectl("logs", "-n", testbed.NAMESPACE, name), PATIENCE, 0.5, "the check at the start")
    account = f"system:serviceaccount:{testbed.NAMESPACE}:agenttier"
    assert is_allowed(account + "-router", verb="get", resource="secrets", namespace="default")
    assert not is_allowed(account + "-router", verb="list", resource="secrets", namespace="default")
    for component in ("router", "controller"):
        for line in secured.logs(component, lines=-1).splitlines():
            if "forbidden" in line.lower() and not ENDING.search(line):
                right = REFUSAL.search(line.replace('\\"', '"'))
                assert right, line
                assert is_allowed(**{k: v for k, v in right.groupdict().items() if v}), line
