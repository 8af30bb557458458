"""The conformance vectors of http-api.md, Appendix B, by their number.

Rows without a test, as their routes come with later releases:

  15-17      sharing
  26, 27     governance policies
  28-30      bulk
  47-50, 60  terminal
  64-66      JWT
  69         share links
"""

import os
import time

import pytest

from harness import FILE_LIMIT, TEMPLATE, Raw, error_of

API = "/api/v1"
REF = {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}


@pytest.fixture(scope="module")
def stopped(keyed):
    handle = keyed.sandbox("vector-stopped", key="u1")
    assert handle.post("/stop").status_code == 200
    handle.wait("Stopped")
    yield handle
    handle.remove()


def test_vector_01_healthz(keyed):
    with keyed.anonymous() as client:
        answer = client.get("/healthz")
    assert answer.status_code == 200
    assert "ok" in answer.text


def test_vector_02_no_credentials(keyed):
    with keyed.anonymous() as client:
        answer = client.get(API + "/sandboxes")
    assert error_of(answer, 401)["error"] == "missing_authorization"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_vector_03_wrong_authorization_scheme(keyed):
    with keyed.anonymous() as client:
        answer = client.get(API + "/sandboxes", headers={"Authorization": "Token x"})
    assert error_of(answer, 401)["error"] == "invalid_authorization_format"


def test_vector_04_bad_key_wins_over_bearer(keyed):
    with keyed.anonymous() as client:
        answer = client.get(API + "/sandboxes",
                            headers={"X-API-Key": "bad", "Authorization": "Bearer " + keyed.keys["u1"]})
    assert error_of(answer, 401)["error"] == "invalid_api_key"


def test_vector_05_unknown_api_path(u1):
    error_of(u1.get(API + "/nope"), 404)


def test_vector_06_method_not_allowed(u1):
    answer = u1.delete(API + "/sandboxes")
    error_of(answer, 405)
    assert {method.strip() for method in answer.headers["Allow"].split(",")} >= {"GET", "POST"}


def test_vector_07_options_without_origin(keyed):
    with keyed.anonymous() as client:
        answer = client.options(API + "/sandboxes")
    assert (answer.status_code, answer.content) == (204, b"")


def test_vector_08_options_with_unknown_origin(keyed):
    with keyed.anonymous() as client:
        answer = client.options(API + "/sandboxes", headers={"Origin": "https://x.example"})
    assert answer.status_code == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_vector_09_create_without_name(u1):
    error_of(u1.post(API + "/sandboxes", json={}), 400)


def test_vector_10_create_without_template(u1):
    error_of(u1.post(API + "/sandboxes", json={"name": "a"}), 400)
    error_of(u1.get(API + "/sandboxes/a"), 404)


@pytest.mark.parametrize("row, timeout", [(11, "later"), (12, "0"), (12, "-5m"), (11, 30), (11, "1d"), (11, "1h 5m")])
def test_vector_11_12_create_with_bad_timeout(u1, row, timeout):
    answer = u1.post(API + "/sandboxes", json={"name": "vector-11", "templateRef": REF, "timeout": timeout})
    error_of(answer, 400)
    error_of(u1.get(API + "/sandboxes/vector-11"), 404)


def test_vector_13_create_with_unknown_template(keyed, u1):
    answer = u1.post(API + "/sandboxes", json={"name": "vector-13", "templateRef": {"name": "no-such-template"}})
    assert answer.status_code == 201, answer.text
    deadline = time.monotonic() + 20
    while True:
        state = u1.get(API + "/sandboxes/vector-13").json()
        assert state["mode"] == "code"
        if state["status"] == "Error":
            break
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
    assert "emplate" in state["message"]
    # 21: resume from Error
    answer = u1.post(API + "/sandboxes/vector-13/resume")
    assert (answer.status_code, answer.json()) == (200, {"status": "resuming"})
    assert u1.delete(API + "/sandboxes/vector-13").status_code == 204


def test_vector_14_foreign_sandbox_is_masked(box, u2):
    foreign = error_of(u2.get(box.base), 404)
    missing = error_of(u2.get(API + "/sandboxes/test-vectorz"), 404)
    assert foreign["error"].replace("test-vectors", "X") == missing["error"].replace("test-vectorz", "X")


def test_vector_18_stop_when_stopped(stopped):
    error_of(stopped.post("/stop"), 409)


def test_vector_19_stop_when_running(keyed):
    handle = keyed.sandbox("vector-19", key="u1")
    answer = handle.post("/stop")
    assert (answer.status_code, answer.json()) == (200, {"status": "stopping"})
    handle.wait("Stopped")
    handle.remove()


def test_vector_20_resume_when_running(box):
    error_of(box.post("/resume"), 409)


def test_vector_22_delete(keyed):
    handle = keyed.sandbox("vector-22", key="u1")
    answer = handle.delete()
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer.headers
    handle.gone()


def test_vector_23_empty_patch(box):
    error_of(box.request("PATCH", json={}), 400)


def test_vector_24_patch_resources(box):
    answer = box.request("PATCH", json={"resources": {"limits": {"cpu": "2"}}})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["sandboxId"] == box.name
    assert body["restartRequired"] is True
    assert body["applied"] == {"resources": "on-restart"}
    assert isinstance(body["message"], str) and body["message"]


def test_vector_25_patch_merges_labels(box):
    assert box.request("PATCH", json={"labels": {"c": "1"}}).status_code == 200
    answer = box.request("PATCH", json={"labels": {"a": "b"}})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["applied"] == {"labels": "immediately"}
    assert body["restartRequired"] is False
    assert "message" not in body
    labels = box.get().json().get("labels")
    if labels is not None:  # additive: the reference's object has no labels
        assert labels["a"] == "b" and labels["c"] == "1"


def test_vector_31_exec_in_wrong_phase(stopped):
    error_of(stopped.post("/exec", json={"command": "id"}), 409)


def test_vector_32_exec_with_a_list_runs_it_directly(box):
    """contract/tutorial.md 1.4 wins over the vector's 400."""
    assert box.exec(["echo", "$HOME", "a b"])["stdout"] == "$HOME a b\n"


def test_vector_33_exit_code(box):
    result = box.exec("exit 7")
    assert result["exitCode"] == 7
    assert result["stdout"] == "" and result["stderr"] == ""


def test_vector_34_exec_timeout(box):
    started = time.monotonic()
    result = box.exec("sleep 60", timeout=2)
    assert 1.9 < time.monotonic() - started < 6
    assert result["exitCode"] == -1
    assert result["timedOut"] is True


def test_vector_35_longer_than_the_reference_could(box):
    assert box.exec("sleep 8")["exitCode"] == 0


def test_vector_36_file_of_5_MiB(box):
    data = os.urandom(5 << 20)
    written = box.write("/workspace/v36.bin", data)
    assert (written["path"], written["bytes"]) == ("/workspace/v36.bin", len(data))
    assert box.read("/workspace/v36.bin") == data


def test_vector_37_file_too_large(box):
    answer = box.put("/files/workspace/v37.bin", content=bytes(FILE_LIMIT + 1))
    error_of(answer, 413)
    error_of(box.get("/files/workspace/v37.bin"), 404)


def test_vector_38_missing_file(box):
    error_of(box.get("/files/etc/does-not-exist"), 404)


@pytest.mark.parametrize("row, path", [(39, "/etc"), (40, "/workspace/../etc"), (40, "/workspacex")])
def test_vector_39_40_archive_outside_the_workspace(box, row, path):
    error_of(box.get("/archive", params={"path": path}), 400)


@pytest.mark.parametrize("port", [0, -1, 65536, 1 << 40, "80", 80.5, None])
def test_vector_41_bad_port(box, port):
    error_of(box.post("/ports", json={"port": port}), 400)


def test_vector_42_forwarding_twice(box):
    first = box.post("/ports", json={"port": 8080})
    second = box.post("/ports", json={"port": 8080})
    assert (first.status_code, second.status_code) == (201, 201), second.text
    assert first.json() == second.json()
    assert [p["port"] for p in box.get("/ports").json()["ports"]].count(8080) == 1


def test_vector_43_port_that_is_not_forwarded(box):
    error_of(box.get("/preview/9999/"), 404)


def test_vector_44_preview_in_wrong_phase(stopped):
    assert stopped.post("/ports", json={"port": 8080}).status_code == 201  # any phase
    error_of(stopped.get("/preview/8080/"), 409)


@pytest.mark.parametrize("port", ["abc", "0", "-1", "65536", "8080x", "99999999999999999999"])
def test_vector_45_preview_of_a_bad_port(box, port):
    error_of(box.get(f"/preview/{port}/"), 400)


def test_vector_46_preview_hides_the_key(keyed, box):
    base = box.server("""
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({k.lower(): v for k, v in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8046), Echo).serve_forever()
""", 8046)
    answer = box.client.get(base + "/")
    assert answer.status_code == 200, answer.text
    assert "x-api-key" not in answer.json()
    assert keyed.keys["u1"] not in answer.text


GROUPS = {"run-command", "files:read", "files:write", "ports", "agent:invoke", "agent:configure", "resume", "stop"}


def mint(client, **body):
    return client.post(API + "/user/api-keys", json=body)


def test_vector_51_scoped_key_gets_all_groups_but_delete(box, u1):
    answer = mint(u1, sandboxId=box.name)
    assert answer.status_code == 201, answer.text
    assert set(answer.json()["actionGroups"]) == GROUPS
    assert answer.json()["sandboxId"] == box.name


def test_vector_52_no_key_may_delete(box, u1):
    error_of(mint(u1, sandboxId=box.name, scopes=["delete"]), 400)


def test_vector_53_scopes_need_a_sandbox(u1):
    error_of(mint(u1, scopes=["stop"]), 400)


def test_vector_54_action_groups_are_scopes(box, u1):
    answer = mint(u1, sandboxId=box.name, actionGroups=["stop"])
    assert answer.status_code == 201, answer.text
    assert answer.json()["actionGroups"] == ["stop"]


def test_vector_55_unknown_member(u1):
    error_of(mint(u1, naem="x"), 400)


def test_vector_56_key_for_a_foreign_sandbox(box, u2):
    error_of(mint(u2, sandboxId=box.name), 404)
    error_of(mint(u2, sandboxId="no-such-sandbox"), 404)


@pytest.fixture(scope="module")
def stop_key(keyed, box):
    with keyed.client("u1") as client:
        return mint(client, sandboxId=box.name, scopes=["stop"]).json()["key"]


def test_vector_57_scoped_key_without_the_group(keyed, box, stop_key):
    with keyed.client(stop_key) as client:
        error_of(client.post(box.base + "/exec", json={"command": "id"}), 403)


def test_vector_58_routes_closed_to_scoped_keys(keyed, box, stop_key):
    with keyed.client(stop_key) as client:
        error_of(client.delete(box.base), 403)
        error_of(client.get(API + "/user/me"), 403)
        error_of(client.get(API + "/sandboxes"), 403)
    assert box.status() == "Running"


def test_vector_59_scoped_key_on_another_sandbox(keyed, stop_key, stopped):
    with keyed.client(stop_key) as client:
        error_of(client.post(stopped.base + "/stop"), 403)
        error_of(client.post(API + "/sandboxes/does-not-exist/stop"), 403)


def test_vector_61_revoked_key(keyed, u1):
    made = mint(u1, name="soon gone").json()
    with keyed.client(made["key"]) as client:
        assert client.get(API + "/user/me").status_code == 200
        answer = u1.delete(f"{API}/user/api-keys/{made['id']}")
        assert (answer.status_code, answer.json()) == (200, {"status": "revoked", "id": made["id"]})
        assert error_of(client.get(API + "/user/me"), 401)["error"] == "invalid_api_key"


def test_vector_62_template_write_needs_an_admin(u1):
    assert error_of(u1.put(API + "/templates/t", json={"spec": {}}), 403)["error"] == "admin_required"


def test_vector_63_template_in_use(keyed, admin):
    assert admin.post(API + "/templates", json={"name": "vector-63", "spec": {"mode": "code"}}).status_code == 201
    handle = keyed.sandbox("vector-63", key="u1", templateRef={"name": "vector-63"})
    error_of(admin.delete(API + "/templates/vector-63"), 409)
    handle.remove()
    assert admin.delete(API + "/templates/vector-63").status_code == 204


def test_vector_67_same_name_in_two_namespaces(keyed, admin, u1, u2):
    for client, namespace in ((u1, "team-a"), (u2, "team-b")):
        answer = client.post(API + "/sandboxes", json={"name": "dup", "namespace": namespace, "templateRef": REF})
        assert answer.status_code == 201, answer.text
    error_of(admin.get(API + "/sandboxes/dup"), 404)
    for namespace in ("team-a", "team-b"):
        answer = admin.get(API + "/sandboxes/dup", params={"namespace": namespace})
        assert (answer.status_code, answer.json()["namespace"]) == (200, namespace)
    # W-46: of two, the one that the caller owns
    assert u1.get(API + "/sandboxes/dup").json()["namespace"] == "team-a"
    assert u2.get(API + "/sandboxes/dup").json()["namespace"] == "team-b"
    error_of(u1.get(API + "/sandboxes/dup", params={"namespace": "team-b"}), 404)
    for namespace in ("team-a", "team-b"):
        assert admin.delete(API + "/sandboxes/dup", params={"namespace": namespace}).status_code == 204


def test_vector_68_double_slash_after_files(keyed, box):
    """With a raw socket: clients like httpx might tidy the path up."""
    with Raw(keyed) as raw:
        raw.send(f"PUT {box.base}/files//workspace/a.txt HTTP/1.1\r\nHost: x\r\nX-API-Key: {keyed.keys['u1']}\r\n"
                 "Content-Length: 5\r\n\r\nhello")
        status, _, body = raw.response()
        assert status == 201, body
        assert b'"/workspace/a.txt"' in body
        raw.send(f"GET {box.base}/files///workspace/a.txt HTTP/1.1\r\nHost: x\r\nX-API-Key: {keyed.keys['u1']}\r\n\r\n")
        status, _, body = raw.response()
        assert (status, body) == (200, b"hello")
