"""What all routes have in common: http-api.md 1 and 6.1, lessons S27 and S32."""

import json
import re
import signal
import subprocess
import threading
import time

import httpx
import openapi_spec_validator
import pytest

import harness
from harness import BINARY, TEMPLATE, MiB, Raw, Router, clean_environment, error_of, raw_exchange, wait_for

API = "/api/v1"
REF = {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}
CODE = re.compile(r"^[a-z][a-z0-9_]*$")


def head(keyed, method, target, *headers, user="u1"):
    lines = [f"{method} {target} HTTP/1.1", "Host: router.test", f"X-API-Key: {keyed.keys[user]}", *headers]
    return "\r\n".join(lines) + "\r\n\r\n"


# ---- 1.2 paths and methods ----

@pytest.mark.parametrize("path", ["/", "/foo", "/api", "/api/v1", "/api/v1/", "/api/v2/sandboxes", "/api/v1/sandboxes/",
                                  "/api/v1/sandboxes/x/files", "/api/v1/sandboxes/x/y/z", "/healthz/", "/ws/x"])
def test_1_2_W58_unknown_paths_are_404_json(u1, path):
    body = error_of(u1.get(path), 404)
    assert CODE.match(body["error"] if CODE.match(body["error"]) else body.get("code", "")), body


@pytest.mark.parametrize("method, path, allowed", [
    ("POST", "/healthz", {"GET"}),
    ("DELETE", "/api/v1/templates", {"GET", "POST"}),
    ("POST", "/api/v1/templates/x", {"GET", "PUT", "DELETE"}),
    ("POST", "/api/v1/sandboxes/x", {"GET", "PATCH", "DELETE"}),
    ("GET", "/api/v1/sandboxes/x/stop", {"POST"}),
    ("PUT", "/api/v1/user/me", {"GET"}),
    ("BREW", "/api/v1/sandboxes", {"GET", "POST"}),
])
def test_1_2_W58_wrong_method_is_405_with_allow(u1, method, path, allowed):
    answer = u1.request(method, path)
    error_of(answer, 405)
    assert {m.strip() for m in answer.headers["Allow"].split(",")} >= allowed


def test_1_2_head_answers_as_get_without_a_body(keyed, u1):
    for path in ("/healthz", API + "/health", API + "/sandboxes", API + "/templates", API + "/user/me"):
        def same(path=path):
            full = u1.get(path)
            assert full.status_code == 200
            answer = u1.head(path)
            assert answer.status_code == 200, path
            assert answer.content == b""
            assert answer.headers["Content-Type"] == full.headers["Content-Type"]
            return answer.headers["Content-Length"] == full.headers["Content-Length"]
        wait_for(same, what=f"the same length of {path}")  # earlier tests' sandboxes may be on their way out of a list
    assert u1.head(API + "/nope").status_code == 404
    # nothing of a body reaches the wire, on the same connection
    with Raw(keyed) as raw:
        raw.send(head(keyed, "HEAD", API + "/sandboxes") + head(keyed, "GET", "/healthz"))
        assert raw.response("HEAD")[0] == 200
        status, _, body = raw.response()
        assert status == 200 and b"ok" in body


def test_1_2_W31_repeated_slashes_and_dots_are_not_redirected(keyed, box):
    for target in (box.base.replace("/sandboxes", "//sandboxes"), box.base.replace("/sandboxes", "/./sandboxes"),
                   "/api/v1/templates/../sandboxes/" + box.name):
        status, _, body = raw_exchange(keyed, head(keyed, "GET", target))
        assert status == 200, (target, status)
        assert json.loads(body)["name"] == box.name


def test_1_2_encoded_slash_never_matches_a_variable(keyed, box):
    status, _, _ = raw_exchange(keyed, head(keyed, "GET", "/api/v1/sandboxes%2F" + box.name))
    assert status in (400, 404)
    status, _, _ = raw_exchange(keyed, head(keyed, "GET", box.base + "%2Fports"))
    assert status in (400, 404)


def test_1_2_percent_encoded_name_is_decoded(keyed, box):
    name = "".join(f"%{ord(c):02x}" for c in box.name)
    status, _, body = raw_exchange(keyed, head(keyed, "GET", "/api/v1/sandboxes/" + name))
    assert (status, json.loads(body)["name"]) == (200, box.name)


# ---- 1.9 request ids ----

def test_1_9_request_id_is_made(u1):
    answers = [u1.get(API + "/sandboxes") for _ in range(3)]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{16}", i) for i in ids)
    assert len(set(ids)) == 3


@pytest.mark.parametrize("sent", ["a", "Trace-1.2_3", "x" * 128])
def test_1_9_W59_good_request_id_is_kept(u1, sent):
    assert u1.get(API + "/user/me", headers={"X-Request-ID": sent}).headers["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["a b", "x" * 129, 'a"b', "a/b", "\x7f", "é".encode("utf-8").decode("latin-1"), "a;b"])
def test_1_9_W59_S32_bad_request_id_is_replaced(keyed, sent):
    answer = raw_exchange(keyed, head(keyed, "GET", API + "/user/me", "X-Request-ID: " + sent))
    if answer[0] == 400:
        return  # refused as a header, which is as good
    assert re.fullmatch("[0-9a-f]{16}", answer[1]["X-Request-ID"])


def test_1_9_request_id_on_errors(keyed, u1):
    for answer in (u1.get(API + "/nope"), u1.get(API + "/sandboxes/none"), u1.delete(API + "/sandboxes"),
                   u1.post(API + "/sandboxes", content=b"{"), keyed.anonymous().get(API + "/sandboxes"), u1.get("/healthz")):
        assert answer.headers.get("X-Request-ID"), (answer.request.url, answer.status_code)


# ---- 1.10 CORS ----

ORIGIN = "https://console.example.org"


@pytest.fixture(scope="module")
def cors():
    with Router(f"--cors-allowed-origins={ORIGIN}, https://b.example:8443", keys=("admin",)) as router:
        yield router


def test_1_10_W41_preflight_of_a_known_origin(cors):
    with cors.anonymous() as client:
        answer = client.options(API + "/sandboxes/x", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"})
    assert (answer.status_code, answer.content) == (204, b"")
    headers = answer.headers
    assert headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Origin" in headers["Vary"]
    assert {m.strip() for m in headers["Access-Control-Allow-Methods"].split(",")} >= {
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    assert {h.strip().lower() for h in headers["Access-Control-Allow-Headers"].split(",")} >= {
        "authorization", "content-type", "x-api-key", "x-request-id"}
    assert headers["Access-Control-Max-Age"] == "86400"
    assert "Access-Control-Allow-Credentials" not in headers


def test_1_10_W41_headers_on_every_answer_of_a_known_origin(cors):
    with cors.client("admin") as client, cors.anonymous() as nobody:
        for answer in (client.get(API + "/sandboxes", headers={"Origin": ORIGIN}),
                       client.get(API + "/sandboxes/none", headers={"Origin": ORIGIN}),
                       client.get(API + "/nope", headers={"Origin": ORIGIN}),
                       nobody.get(API + "/sandboxes", headers={"Origin": ORIGIN})):
            assert answer.headers.get("Access-Control-Allow-Origin") == ORIGIN, answer.status_code
            exposed = {h.strip().lower() for h in answer.headers["Access-Control-Expose-Headers"].split(",")}
            assert exposed >= {"x-request-id", "retry-after", "content-disposition", "deprecation", "sunset", "link"}
        assert client.get(API + "/sandboxes", headers={"Origin": "https://b.example:8443"}).headers[
            "Access-Control-Allow-Origin"] == "https://b.example:8443"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ORIGIN.upper(), ORIGIN + ".evil.example", "*",
                                    ORIGIN + "/", "https://b.example"])
def test_1_10_S33_other_origins_get_nothing(cors, origin):
    with cors.client("admin") as client:
        answer = client.get(API + "/sandboxes", headers={"Origin": origin})
        assert answer.status_code == 200
        assert not [h for h in answer.headers if h.lower().startswith("access-control")]
        assert client.options(API + "/sandboxes", headers={"Origin": origin}).status_code == 403


def test_1_10_S33_star_is_never_emitted():
    with Router("--cors-allowed-origins=*", keys=("admin",)) as router, router.client("admin") as client:
        answer = client.get(API + "/sandboxes", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_1_2_options_on_any_path(keyed, box):
    with keyed.anonymous() as client:
        for path in ("/", "/nope", "/healthz", box.base + "/exec"):
            answer = client.options(path)
            assert (answer.status_code, answer.content) == (204, b""), path


# ---- 1.11 rate limits ----

def until_refused(client, most=2000):
    """Calls until one is refused; that answer, the number of those before, and when the refused one was sent."""
    for passed in range(most):
        sent = time.monotonic()
        answer = client.get(API + "/user/me")
        if answer.status_code == 429:
            return answer, passed, sent
        assert answer.status_code == 200
    raise AssertionError(f"{most} calls passed")


def test_1_11_vector_70_per_ip_rate():
    """A burst of 30, then one a second, however fast this machine is."""
    with Router("--ratelimit-per-ip-rate=1", keys=("admin",)) as router, router.client("admin") as client:
        started = time.monotonic()
        refused, passed, sent = until_refused(client)
        assert 30 <= passed <= 31 + time.monotonic() - started
        body = error_of(refused, 429)
        assert body["error"] == "rate_limited" and isinstance(body["message"], str)
        assert body["retryAfter"] == int(refused.headers["Retry-After"]) >= 1
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200  # exempt
        time.sleep(1.5)  # one token comes back
        _, passed, _ = until_refused(client)
        assert 1 <= passed <= 1 + time.monotonic() - sent  # less than one was left
        with router.anonymous() as nobody:  # before authentication
            wait_for(lambda: nobody.get(API + "/user/me").status_code == 429, what="429 without a key")


def head_of(router, path, key=None):
    key = f"X-API-Key: {router.keys[key]}\r\n" if key else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{key}\r\n"


def test_1_11_per_user_rate():
    with Router("--ratelimit-per-user-rate=1", keys=("u1", "u2", "admin")) as router:
        with router.client("u1") as client, router.client("u2") as other:
            started = time.monotonic()
            _, passed, _ = until_refused(client)
            assert 100 <= passed <= 101 + time.monotonic() - started
            assert other.get(API + "/user/me").status_code == 200  # not of another user


def test_errors_keep_the_connection(keyed):
    """A client that polls for a sandbox pays no connection for each 404."""
    with Raw(keyed) as raw:
        for target, wanted in ((API + "/sandboxes/none", 404), (API + "/nope", 404), (API + "/user/api-keys/none", 405)):
            for _ in range(2):
                raw.send(head(keyed, "GET", target))
                status, headers, _ = raw.response()
                assert status == wanted and headers.get("Connection", "").lower() != "close", (target, status)


@pytest.mark.parametrize("value", ["garbage", "", "999.1.1.1", "::::", ","])
def test_1_11_S20_S21_forwarded_for_of_a_stranger_is_ignored(keyed, u1, value):
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"):
        assert u1.get(API + "/user/me", headers={header: value}).status_code == 200


# ---- 1.4, 1.6 and 1.12: bodies and errors; S27 ----

BODIES = {
    "empty": b"",
    "text": b"hello",
    "open": b'{"name": "a"',
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "null": b"null",
    "duplicate": b'{"name": "s27-a", "name": "s27-b", "template": "general-coding"}',
    "bad utf-8": b'{"name": "s27-\xff", "template": "general-coding"}',
    "overlong utf-8": b'{"name": "s27-\xc0\xaf", "template": "general-coding"}',
    "surrogate": b'{"name": "s27-\\ud800", "template": "general-coding"}',
    "nul escape": b'{"name": "s27-\\u0000", "template": "general-coding"}',
    "nul byte": b'{"name": "s27-\x00", "template": "general-coding"}',
    "deep": b'{"name": "s27-deep", "template": "general-coding", "x": ' + b"[" * 65 + b"]" * 65 + b"}",
    "very deep": b"[" * 100000,
    "infinite": b'{"name": "s27-inf", "template": "general-coding", "x": 1e999}',
    "huge integer": b'{"name": "s27-int", "template": "general-coding", "x": 99999999999999999999}',
    "nan": b'{"name": "s27-nan", "template": "general-coding", "x": NaN}',
    "comment": b'{"name": "s27-com", /* */ "template": "general-coding"}',
    "bom": b'\xef\xbb\xbf{"name": "s27-bom", "template": "general-coding"}',
    "single quotes": b"{'name': 's27-q', 'template': 'general-coding'}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_1_4_S27_bad_json_is_400_and_creates_nothing(u1, body):
    error_of(u1.post(API + "/sandboxes", content=body), 400)
    assert not [s for s in u1.get(API + "/sandboxes").json()["sandboxes"] if s["name"].startswith("s27")]


def test_1_12_W44_S27_json_above_1_MiB_is_413(u1):
    for content in (b'{"name": "' + b"a" * (MiB + 100) + b'"}', iter([b'{"name": "'] + [b"a" * 65536] * 20)):
        error_of(u1.post(API + "/sandboxes", content=content), 413)
    # the connection (or a new one) still works
    assert u1.get(API + "/user/me").status_code == 200


def test_1_12_json_of_almost_1_MiB_is_read(u1):
    padding = "x" * (MiB - 200)
    error_of(u1.post(API + "/sandboxes", json={"name": "UPPER", "template": TEMPLATE, "padding": padding}), 400)


def test_1_4_unknown_members_and_content_type_are_ignored(keyed, u1):
    body = json.dumps({"name": "core-ignored", "template": TEMPLATE, "whatever": {"a": [1, None]}})
    answer = u1.post(API + "/sandboxes", content=body, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 201, answer.text
    assert u1.delete(API + "/sandboxes/core-ignored").status_code == 204


def test_1_4_null_means_not_given(u1):
    answer = u1.post(API + "/sandboxes", json={"name": "core-null", "template": TEMPLATE, "timeout": None,
                                               "idleTimeout": None, "storage": None, "namespace": None, "overrides": None})
    assert answer.status_code == 201, answer.text
    assert u1.delete(API + "/sandboxes/core-null").status_code == 204


@pytest.mark.parametrize("member, value", [
    ("name", 5), ("name", ["a"]), ("namespace", 5), ("templateRef", ["x"]), ("templateRef", {"name": 5}),
    ("templateRef", {}), ("templateRef", {"name": "x", "kind": 5}), ("templateRef", {"name": "x", "kind": "Pod"}),
    ("timeout", 5), ("timeout", ["1h"]), ("idleTimeout", True), ("storage", 5), ("storage", {"size": []}),
    ("storage", {"size": "ten"}), ("template", 5), ("overrides", []), ("overrides", {"env": 5}),
    ("overrides", {"resources": "much"}),
])
def test_1_4_wrong_types_are_400(u1, member, value):
    body = {"name": "core-types", "templateRef": REF, member: value}
    if member == "template":
        del body["templateRef"]
    answer = u1.post(API + "/sandboxes", json=body)
    if answer.status_code == 201:
        u1.delete(API + "/sandboxes/core-types")
        wait_for(lambda: u1.get(API + "/sandboxes/core-types").status_code == 404)
    error_of(answer, 400)
    error_of(u1.get(API + "/sandboxes/core-types"), 404)


def test_W09_chunked_body_is_read_on_optional_routes(keyed, box, u1):
    answer = u1.post(API + "/user/api-keys", content=iter([b'{"sandboxId": "', box.name.encode(), b'", "scopes": ["stop"]}']))
    assert answer.status_code == 201, answer.text
    assert answer.json()["actionGroups"] == ["stop"]
    error_of(u1.post(API + "/user/api-keys", content=iter([b'{"sandboxId": "', b"none", b'"}'])), 404)


def test_1_5_success_bodies(u1):
    answer = u1.get(API + "/sandboxes")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.text.endswith("\n")


def test_1_6_every_error_is_json_with_error(keyed, box, u1, u2):
    with keyed.anonymous() as nobody:
        answers = [
            nobody.get(API + "/sandboxes"),
            nobody.get(API + "/sandboxes", headers={"X-API-Key": "x"}),
            nobody.get(API + "/sandboxes", headers={"Authorization": "Bearer x.y.z"}),
            u1.get("/nope"), u1.get(API + "/nope"), u1.put(API + "/sandboxes"),
            u1.post(API + "/sandboxes", content=b"{"), u2.get(box.base), u1.post(API + "/templates", json={"name": "x"}),
            box.get("/preview/1/"), box.get("/files/none"), box.post("/resume"), box.get("/archive", params={"path": "/"}),
        ]
    for answer in answers:
        assert answer.status_code >= 400
        error_of(answer)


# ---- 2.2 health, 1.16 metrics and log ----

def test_2_2_health_without_credentials(keyed):
    with keyed.anonymous() as client:
        for path in ("/health", API + "/health"):
            answer = client.get(path)
            assert answer.status_code == 200
            body = answer.json()
            assert body["status"] == "ok"
            assert re.match(r"\d+\.\d+\.\d+", body["version"])
        for path in ("/healthz", "/readyz"):
            answer = client.get(path)
            assert answer.status_code == 200 and "ok" in answer.text


def test_6_1_probe_addr_serves_health_and_metrics_and_nothing_else():
    port = harness.free_port()
    with Router(f"--probe-addr=127.0.0.1:{port}", dev_auth=True) as router, \
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as probe:
        for path in ("/healthz", "/readyz", "/health", "/metrics"):
            assert probe.get(path).status_code == 200, path
        for method, path in (("GET", API + "/sandboxes"), ("POST", API + "/sandboxes"),
                             ("GET", API + "/sandboxes/x/preview/8000/"), ("GET", "/api/v1/openapi.json"), ("GET", "/nowhere")):
            assert error_of(probe.request(method, path), 404)["code"] == "no_such_route", path
        with router.anonymous() as client:
            assert client.get(API + "/sandboxes").status_code == 200
            assert client.get("/readyz").status_code == 200


def test_1_16_W60_metrics(keyed, u1):
    u1.get(API + "/user/me")
    with keyed.anonymous() as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    names = set()
    for line in answer.text.splitlines():
        assert re.match(r"#|[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^}]*\})? [-+0-9.eEINFinfa]+$", line), line
        if not line.startswith("#"):
            names.add(re.match(r"[a-zA-Z_:][a-zA-Z0-9_:]*", line)[0])
    assert any("http_request" in n for n in names), names
    for name in names:
        assert f"# TYPE {re.sub('_(bucket|sum|count)$', '', name)} " in answer.text or f"# TYPE {name} " in answer.text, name
    assert "u1" not in re.findall(r'="([^"]*)"', answer.text)  # no labels per user


def test_1_16_W59_access_log(keyed, u1):
    u1.get(API + "/user/me", params={"token": "secret-in-query"}, headers={"X-Request-ID": "log-me-1", "User-Agent": 'a"b'})

    def lines():
        """Those that have ended: the last one may be half written."""
        return keyed.log.read_text(errors="replace").rpartition("\n")[0].splitlines()
    line = wait_for(lambda: next((l for l in lines() if "log-me-1" in l), None), what="log line")
    record = json.loads(line)
    assert record["method"] == "GET" and record["path"] == API + "/user/me" and record["status"] == 200
    assert record["msg"] == "request" and isinstance(record["duration_ms"], (int, float))
    assert record["user_agent"] == 'a"b'
    text = keyed.log.read_text(errors="replace")
    assert "secret-in-query" not in text
    assert not any(key in text for key in keyed.keys.values())


def test_S28_credentials_in_the_wrong_place_are_not_logged(keyed, u1, admin, fresh):
    """Given for an id, within a word, behind escapes, as the name of the client or of the request."""
    made = u1.post(API + "/user/api-keys", json={"name": "mistaken"}).json()
    assert u1.post(API + "/sandboxes", json={"name": fresh, "template": "no-such-template"}).status_code == 201
    link = u1.post(f"{API}/sandboxes/{fresh}/share-links", json={}).json()["token"]
    key, escaped = made["key"], "%61tk%5F" + made["key"][4:]
    paths = [f"/user/api-keys/{key}", f"/sandboxes/{key}", f"/nowhere/{key}/x", f"/sandboxes/x{key}", f"/user/api-keys/{escaped}",
             f"/sandboxes/{fresh}/share-links/{link}", f"/share-links/{link}", f"/sandboxes/{fresh}/share/{link}"]
    for number, path in enumerate(paths):
        u1.delete(API + path, headers={"X-Request-ID": f"{fresh}-{number}"})
    assert key not in u1.get(API + "/user/me", headers={"X-Request-ID": key, "User-Agent": f"tool/{key}"}).headers["X-Request-ID"]
    u1.get(API + "/user/me", headers={"X-Request-ID": f"{fresh}-last"})
    wait_for(lambda: f"{fresh}-last" in keyed.log.read_text(errors="replace"), what="log line")
    text = keyed.log.read_text(errors="replace") + admin.get(API + "/audit/events", params={"limit": 100}).text
    assert key[4:] not in text and link not in text
    assert "/user/api-keys/[redacted]" in text and f"/sandboxes/{fresh}/share-links/[redacted]" in text
    assert u1.delete(f"{API}/user/api-keys/{made['id']}").status_code == 200
    assert u1.delete(f"{API}/sandboxes/{fresh}").status_code == 204


# ---- the OpenAPI document ----

def test_openapi_document_is_valid_3_1(keyed):
    with keyed.anonymous() as client:
        answer = client.get(API + "/openapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(document)
    operations = [op for item in document["paths"].values() for name, op in item.items()
                  if name in ("get", "put", "post", "delete", "patch", "options", "head")]
    ids = [op["operationId"] for op in operations]
    assert len(ids) == len(set(ids)) and len(ids) >= 35
    assert all(op.get("summary") and op.get("responses") for op in operations)


# ---- 6.1 flags, 1.13 shutdown ----

def run(*arguments, timeout=120, env=None):
    return subprocess.run([*harness.WRAP, str(BINARY), *arguments], capture_output=True, text=True, timeout=timeout,
                          env=clean_environment(**(env or {})), check=False)


FLAGS = ("listen-addr probe-addr oidc-issuer oidc-client-id admin-group group-claim preview-domain ingress-class-name "
         "namespace sandbox-namespace ratelimit-per-ip-rate ratelimit-per-user-rate ratelimit-trust-forwarded-headers "
         "cors-allowed-origins dev-auth kubeconfig version backend state-dir").split()


def test_6_1_unknown_flag_is_status_2():
    twice = [f"--oidc-issuer=http://127.0.0.1:{port}" for port in (1, 2)]
    for arguments in (["--no-such-flag"], ["--no-such-flag=1"], ["stray"], [*twice, "--no-such-flag"], [*twice, "--backend=none"]):
        # What is left in registers and on the stack of a main that has returned does not count as held.
        done = run(*arguments, env={"LSAN_OPTIONS": "use_stacks=0:use_registers=0"})
        assert done.returncode == 2, (arguments, done.stderr)
        assert done.stderr


def test_6_1_help_mentions_every_flag():
    done = run("--help")
    assert done.returncode == 0
    for flag in FLAGS:
        assert "--" + flag in done.stdout, flag


def test_6_1_version():
    done = run("--version")
    assert done.returncode == 0
    assert re.search(r"\d+\.\d+\.\d+", done.stdout)


def test_6_1_empty_values_and_spellings():
    with Router("-oidc-issuer=", "--oidc-client-id", "", "--admin-group=", "--group-claim=", "--preview-domain=",
                "--ingress-class-name=", "--namespace=", "--sandbox-namespace=", "--cors-allowed-origins=",
                "--kubeconfig=", "--ratelimit-trust-forwarded-headers=false", keys=("admin",)) as router:
        with router.client("admin") as client:
            assert client.get(API + "/sandboxes").json() == {"sandboxes": []}


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:8081"])
def test_6_1_I35_dev_auth_only_on_loopback(tmp_path, address):
    done = run("--backend=local", f"--state-dir={tmp_path}", "--dev-auth", f"--listen-addr={address}")
    assert done.returncode not in (0, -signal.SIGKILL)
    assert "loopback" in (done.stdout + done.stderr)


def test_6_1_bad_values_are_refused(tmp_path):
    for flags in (["--listen-addr=nonsense"], ["--ratelimit-per-ip-rate=fast"], ["--backend=magic"], ["--dev-auth=maybe"],
                  ["--listen-addr=127.0.0.1:99999"], ["--probe-addr=nonsense"], ["--max-cpu=many"]):
        done = run("--backend=local", f"--state-dir={tmp_path}", "--listen-addr=127.0.0.1:0", "--dev-auth", *flags)
        assert done.returncode != 0, flags
        assert done.stderr or done.stdout


def test_6_1_dev_auth_warns(dev):
    wait_for(lambda: "no authentication" in dev.log.read_text(errors="replace"), what="the warning")
    with dev.anonymous() as client:
        me = client.get(API + "/user/me").json()
    assert me == {"sub": "dev-user", "email": "dev@agenttier.local", "name": "Dev User", "groups": ["agenttier-admins"],
                  "isAdmin": True}


def test_second_router_on_one_state_is_refused(dev):
    done = run("--backend=local", f"--state-dir={dev.state_dir}", "--dev-auth", "--listen-addr=127.0.0.1:0")
    assert done.returncode != 0
    assert str(dev.process.pid) in done.stdout + done.stderr


def test_1_13_W61_sigterm_drains(fresh):
    router = Router(keys=("admin",))
    router.start()
    box = router.sandbox(fresh, key="admin")
    results = {}

    def long_exec():
        with router.client("admin") as client:
            results["exec"] = client.post(box.base + "/exec", json={"command": "touch /workspace/began; until test -e /workspace/go; do sleep 0.05; done; echo done"})

    thread = threading.Thread(target=long_exec)
    thread.start()
    idle = Raw(router)
    idle.send(head_of(router, "/healthz"))
    assert idle.response()[0] == 200
    wait_for(lambda: box.get("/files/workspace/began").status_code == 200, interval=0.01, what="the command")
    started = time.monotonic()
    router.process.send_signal(signal.SIGTERM)

    def turned_away():
        """At the door, or told to go away on a connection that is still accepted."""
        try:
            return httpx.get(router.url + "/readyz", timeout=30, trust_env=False).status_code != 200
        except httpx.HTTPError:
            return True
    wait_for(turned_away, what="the end of new requests")
    assert "exec" not in results, "while a command runs"
    (workspace,) = router.state_dir.glob("sandboxes/*/workspace")
    (workspace / "go").touch()
    thread.join(60)
    assert results["exec"].status_code == 200
    assert results["exec"].json()["stdout"] == "done\n"
    status = router.process.wait(60)
    assert status == 0
    assert time.monotonic() - started < 20, "idle connections must not hold the end up: a drain may take 30 s"
    idle.socket.close()
    harness.running.remove(router)
    router.start()  # the sandbox lived on; now everything is cleaned up
    router.stop()


def test_1_13_idle_router_ends_at_once(fresh):
    router = Router(dev_auth=True).start()
    started = time.monotonic()
    assert router.terminate() == 0
    assert time.monotonic() - started < 15  # a drain may take 30 s
    router.stop()
