"""Logging in to an apiserver: TLS, kubeconfigs, service accounts, tokens that end (lessons I33)."""

import contextlib
import json
import os
import ssl
import subprocess
import time

import pytest
from cluster_router import ClusterRouter, sandbox, template
from fake_apiserver import FakeApiserver, Gone
from harness import BINARY, clean_environment, wait_for


def openssl(*arguments, cwd):
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """ca, other (another CA), server (for 127.0.0.1 and inner.example), client (signed by ca)."""
    folder = tmp_path_factory.mktemp("pki")
    for ca in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.crt", cwd=folder)
    for name, names in (("server", "IP:127.0.0.1,DNS:inner.example"), ("wrong", "DNS:elsewhere.example"),
                        ("client", "DNS:client")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=folder)
        (folder / "ext").write_text(f"subjectAltName={names}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", "ext", "-out", f"{name}.crt", cwd=folder)
    return folder


def server_context(pki, name="server", clients=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    if clients:
        context.load_verify_locations(pki / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def serve(context, **options):
    fake = FakeApiserver(tls=context, **options)
    fake.put("clustersandboxtemplates", template())
    fake.put("sandboxes", sandbox("a"))
    return fake


def unready(router, says, seconds=2):
    """It waits, says why, and lets nobody believe that nothing is there."""
    wait_for(lambda: says in router.tail(), what=f"'{says}' in the log")
    time.sleep(seconds)
    assert router.readyz().status_code == 503 and router.process.poll() is None
    assert router.client().get("/api/v1/sandboxes").status_code == 503


def test_a_ca_of_the_cluster_and_a_token(pki, tmp_path):
    with serve(server_context(pki), tokens={"t1"}) as api:
        config = api.kubeconfig(str(tmp_path / "k"), {"token": "t1"}, {"certificate-authority": str(pki / "ca.crt")})
        with ClusterRouter(api, kubeconfig=config) as router:
            assert router.names() == ["a"]
            assert router.create("b").status_code == 201


def test_relative_names_are_relative_to_the_kubeconfig(pki, tmp_path):
    with serve(server_context(pki, clients=True)) as api:
        for name in ("ca.crt", "client.crt", "client.key"):
            (tmp_path / name).write_bytes((pki / name).read_bytes())
        config = api.kubeconfig(str(tmp_path / "k"), {"client-certificate": "client.crt", "client-key": "./client.key"},
                                {"certificate-authority": "ca.crt"})
        with ClusterRouter(api, kubeconfig=config) as router:
            assert router.names() == ["a"]
            assert router.create("b").status_code == 201


@pytest.mark.parametrize("cluster, certificate, says", [
    ({"certificate-authority": "other.crt"}, "server", "certificate"),
    ({}, "server", "certificate"),
    ({"certificate-authority": "ca.crt"}, "wrong", "127.0.0.1"),
    ({"certificate-authority": "ca.crt", "tls-server-name": "not.example"}, "server", "not.example"),
], ids=["another-ca", "system-cas", "another-name", "another-server-name"])
def test_a_certificate_that_is_not_the_apiservers_is_refused(pki, tmp_path, cluster, certificate, says):
    cluster = {k: str(pki / v) if v.endswith(".crt") else v for k, v in cluster.items()}
    with serve(server_context(pki, certificate)) as api:
        config = api.kubeconfig(str(tmp_path / "k"), cluster=cluster)
        with ClusterRouter(api, kubeconfig=config, ready=False) as router:
            unready(router, says, 0.5)
            assert not api.requests, "nothing was said to a stranger"


@pytest.mark.parametrize("cluster", [{"certificate-authority": "ca.crt", "tls-server-name": "inner.example"},
                                     {"insecure-skip-tls-verify": True}], ids=["server-name", "insecure"])
def test_other_ways_to_trust(pki, tmp_path, cluster):
    cluster = {k: str(pki / v) if k == "certificate-authority" else v for k, v in cluster.items()}
    with serve(server_context(pki)) as api:
        with ClusterRouter(api, kubeconfig=api.kubeconfig(str(tmp_path / "k"), cluster=cluster)) as router:
            assert router.names() == ["a"]
            assert all(r.headers["host"] == f"127.0.0.1:{api.address[1]}" for r in api.requests)


def test_I33_a_token_that_was_rotated_is_read_again_after_a_401(pki, tmp_path):
    token = tmp_path / "token"
    token.write_text("one\n")
    with serve(server_context(pki), tokens={"one"}) as api:
        config = api.kubeconfig(str(tmp_path / "k"), {"tokenFile": "token"}, {"certificate-authority": str(pki / "ca.crt")})
        with ClusterRouter(api, kubeconfig=config) as router:
            router.settle()  # whatever is refused first renews the credentials
            assert router.create("b").status_code == 201
            token.write_text("two\n")
            api.tokens = {"two"}
            before = len(api.asked("POST", "/sandboxes$"))
            assert router.create("c").status_code == 201, "one retry with the new token"
            first, second = api.asked("POST", "/sandboxes$")[before:]
            assert second.at - first.at < 3
            seen = len(api.asked("GET", "/sandboxes[?].*watch=true"))
            api.cut_watches()
            wait_for(lambda: len(api.asked("GET", "/sandboxes[?].*watch=true")) > seen and api.watchers("sandboxes") == 1,
                     what="a watch with the new token")


def test_I33_a_token_that_is_refused_is_503_and_watches_recover_when_it_changes(pki, tmp_path):
    token = tmp_path / "token"
    token.write_text("old")
    with serve(server_context(pki), tokens={"old"}) as api:
        config = api.kubeconfig(str(tmp_path / "k"), {"tokenFile": "token"}, {"certificate-authority": str(pki / "ca.crt")})
        with ClusterRouter(api, kubeconfig=config) as router:
            api.tokens = {"new"}
            api.cut_watches()
            answer = router.create("b")
            assert answer.status_code == 503 and "credentials" in answer.json()["error"], answer.text
            assert router.names() == ["a"]
            token.write_text("new")
            wait_for(lambda: api.watchers("sandboxes") == 1, what="a watch with the new token")
            assert router.create("b").status_code == 201


def test_an_exec_plugin_is_run_again_after_a_401(pki, tmp_path):
    plugin = tmp_path / "plugin"
    plugin.write_text("#!/bin/sh\necho x >>\"$LOG\"\necho '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":"
                      "\"ExecCredential\",\"status\":{\"token\":\"t'$(wc -l <\"$LOG\")'\"}}'\n")
    plugin.chmod(0o755)
    with serve(server_context(pki), tokens={"t1"}) as api:
        user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "interactiveMode": "Never",
                         "env": [{"name": "LOG", "value": str(tmp_path / "log")}]}}
        config = api.kubeconfig(str(tmp_path / "k"), user, {"certificate-authority": str(pki / "ca.crt")})
        with ClusterRouter(api, kubeconfig=config) as router:
            router.settle()  # two that are refused at once have it run twice
            assert (tmp_path / "log").read_text() == "x\n"
            for _ in range(3):
                assert router.create(f"b{_}").status_code == 201
            assert (tmp_path / "log").read_text() == "x\n", "its answer is kept"
            api.tokens = {"t2"}
            assert router.create("c").status_code == 201
            assert (tmp_path / "log").read_text() == "x\nx\n"


def test_in_a_pod_the_service_account_is_used(pki, tmp_path):
    (tmp_path / "token").write_text("pod-token")
    (tmp_path / "ca.crt").write_bytes((pki / "ca.crt").read_bytes())
    (tmp_path / "namespace").write_text("tools")
    with serve(server_context(pki), tokens={"pod-token"}) as api:
        env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.address[1]),
               "AGENTTIER_SERVICE_ACCOUNT_DIR": str(tmp_path), "POD_NAMESPACE": "tools",
               "KUBECONFIG": "/nowhere", "AGENTTIER_BACKEND": "kubernetes"}
        with ClusterRouter(api, kubeconfig="", env=env, dev_auth=False, keys=("admin",)) as router:
            assert router.names() == ["a"]
            assert [s["metadata"]["namespace"] for s in api.all("secrets")] == ["tools"]
            (tmp_path / "token").write_text("next-token")
            api.tokens = {"next-token"}
            assert router.create("b", router.client("admin")).status_code == 201


@pytest.mark.parametrize("content, says", [
    (None, "cannot be read"), ("", "not a configuration"), ("{", "YAML line"), ("a: [", "YAML line"),
    ("current-context: x\n", 'no "x" among its contexts'),
    (json.dumps({"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c"}}], "clusters": [
        {"name": "c", "cluster": {"server": "ftp://x"}}]}), "not an https or http URL"),
    (json.dumps({"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c"}}], "clusters": [
        {"name": "c", "cluster": {"server": "https://x", "proxy-url": "http://p"}}]}), "proxy-url is not supported"),
    (json.dumps({"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c"}}], "clusters": [
        {"name": "c", "cluster": {"server": "https://x", "certificate-authority-data": "bm8="}}]}), "PEM"),
])
def test_a_kubeconfig_that_cannot_be_used_ends_the_start_and_says_why(tmp_path, content, says):
    path = tmp_path / "k"
    if content is not None:
        path.write_text(content)
    done = subprocess.run([BINARY, "--backend=kubernetes", f"--kubeconfig={path}", "--dev-auth",
                           "--listen-addr=127.0.0.1:0"], capture_output=True, text=True, timeout=30, check=False,
                          env=clean_environment(HOME=str(tmp_path)))
    assert done.returncode == 1 and says in done.stderr, done.stderr


def test_without_any_way_to_a_cluster_the_start_says_what_to_give(tmp_path):
    for command in (["--dev-auth", "--listen-addr=127.0.0.1:0"], None):
        arguments = [BINARY, "create-key", "--backend=kubernetes", "--sub=a"] if command is None else [
            BINARY, "--backend=kubernetes", *command]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False,
                              env=clean_environment(HOME=str(tmp_path)))
        assert done.returncode == 1 and "--kubeconfig" in done.stderr, done.stderr


def test_KUBECONFIG_and_the_home_folder_are_found(tmp_path):
    with serve(None) as api:
        os.makedirs(tmp_path / ".kube")
        api.kubeconfig(str(tmp_path / ".kube" / "config"))
        for env in ({"HOME": str(tmp_path)}, {"HOME": "/", "KUBECONFIG": str(tmp_path / ".kube" / "config")}):
            with ClusterRouter(api, kubeconfig="", env=env) as router:
                assert router.names() == ["a"]


def test_a_kept_connection_that_the_apiserver_has_ended_is_not_used(pki, tmp_path):
    """A write on it would have no answer, and may not be repeated: it may have been done."""
    ended = []

    def end(api, request, connection):
        """Answers, then ends the TLS session and the connection, as an apiserver does that ends."""
        connection.answer(*api.work(request))
        connection.sock.settimeout(0.01)
        with contextlib.suppress(OSError):  # says its close_notify, and waits for the other side's
            connection.sock.unwrap()
        connection.close()
        ended.append(connection)
        raise Gone

    with serve(server_context(pki)) as api:
        config = api.kubeconfig(str(tmp_path / "k"), cluster={"certificate-authority": str(pki / "ca.crt")})
        with ClusterRouter(api, kubeconfig=config) as router, router.client() as client:
            for n in range(5):
                api.on("POST", "/sandboxes$", end, times=1)
                assert router.create(f"b{n}", client).status_code == 201
                wait_for(lambda: len(ended) == n + 1, 10, 0.01, "the connection's end")
                answer = client.delete(f"/api/v1/sandboxes/b{n}")
                assert answer.status_code == 204, answer.text
