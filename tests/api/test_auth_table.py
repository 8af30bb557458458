"""Every credential on every operation (lessons S10, S34; http-api.md 2.1, 3.5 and 3.8).

The table below is written by hand from the contract, not from the server: an operation of the
server's OpenAPI document that has no row here fails the test, and so does one whose own
`x-auth` or `x-action-group` says something else."""

import itertools
import json
import re
import time

import pytest

from harness import Raw, TEMPLATE, error_of, wait_for

API = "/api/v1"
BOX = API + "/sandboxes/{id}"
GROUPS = ["run-command", "files:read", "files:write", "ports", "agent:invoke", "agent:configure", "resume", "stop"]
ANY = "any"

# (method, path): (who, group that lets a scoped key in or None or ANY)
TABLE = {
    ("GET", "/healthz"): ("public", None),
    ("GET", "/readyz"): ("public", None),
    ("GET", "/metrics"): ("public", None),
    ("GET", "/health"): ("public", None),
    ("GET", API + "/health"): ("public", None),
    ("GET", API + "/openapi.json"): ("public", None),
    ("GET", API + "/sandboxes"): ("user", None),
    ("POST", API + "/sandboxes"): ("user", None),
    ("POST", API + "/sandboxes/bulk"): ("user", None),
    ("POST", API + "/sandboxes/bulk-action"): ("user", None),
    ("GET", BOX): ("read", ANY),  # W-26
    ("PATCH", BOX): ("owner", None),
    ("DELETE", BOX): ("owner", None),
    ("POST", BOX + "/stop"): ("owner", "stop"),
    ("POST", BOX + "/resume"): ("owner", "resume"),
    ("POST", BOX + "/clone"): ("owner", None),
    ("GET", BOX + "/backups"): ("owner", None),
    ("POST", BOX + "/backups"): ("owner", None),
    ("POST", BOX + "/backups/{snapshotName}/restore"): ("owner", None),
    ("DELETE", BOX + "/backups/{snapshotName}"): ("owner", None),
    ("POST", BOX + "/exec"): ("collaborator", "run-command"),
    ("GET", BOX + "/exec/{execId}"): ("collaborator", "run-command"),
    ("DELETE", BOX + "/exec/{execId}"): ("collaborator", "run-command"),
    ("GET", "/ws/terminal/{id}"): ("watch", "run-command"),  # W-27
    ("GET", BOX + "/files/"): ("viewer", "files:read"),
    ("GET", BOX + "/files/{path}"): ("viewer", "files:read"),
    ("PUT", BOX + "/files/{path}"): ("collaborator", "files:write"),
    ("DELETE", BOX + "/files/{path}"): ("collaborator", "files:write"),
    ("GET", BOX + "/stat"): ("viewer", "files:read"),
    ("POST", BOX + "/mkdir"): ("collaborator", "files:write"),
    ("GET", BOX + "/archive"): ("collaborator", "files:read"),
    ("PUT", BOX + "/archive"): ("collaborator", "files:write"),
    ("GET", BOX + "/ports"): ("collaborator", "ports"),
    ("POST", BOX + "/ports"): ("collaborator", "ports"),
    ("DELETE", BOX + "/ports/{port}"): ("collaborator", "ports"),
    ("*", BOX + "/preview/{port}"): ("collaborator", None),
    ("*", BOX + "/preview/{port}/{path}"): ("collaborator", None),
    ("GET", BOX + "/share"): ("share", None),
    ("POST", BOX + "/share"): ("share", None),
    ("DELETE", BOX + "/share/{userId}"): ("share", None),
    ("GET", BOX + "/share-links"): ("share", None),
    ("POST", BOX + "/share-links"): ("share", None),
    ("DELETE", BOX + "/share-links/{linkId}"): ("share", None),
    ("POST", API + "/share-links/redeem"): ("user", None),
    ("GET", API + "/templates"): ("user", None),
    ("POST", API + "/templates"): ("admin", None),
    ("GET", API + "/templates/{name}"): ("user", None),
    ("PUT", API + "/templates/{name}"): ("admin", None),
    ("DELETE", API + "/templates/{name}"): ("admin", None),
    ("GET", API + "/admin/sandboxes"): ("admin", None),
    ("GET", API + "/admin/sharing"): ("admin", None),
    ("GET", API + "/admin/api-keys"): ("admin", None),
    ("GET", API + "/governance/policies"): ("user", None),
    ("PUT", API + "/governance/policies"): ("admin", None),
    ("GET", API + "/governance/policies/{namespace}"): ("user", None),
    ("PUT", API + "/governance/policies/{namespace}"): ("admin", None),
    ("DELETE", API + "/governance/policies/{namespace}"): ("admin", None),
    ("GET", API + "/governance/effective"): ("user", None),
    ("GET", API + "/warmpool/status"): ("user", None),
    ("PUT", API + "/warmpool/config"): ("admin", None),
    ("GET", API + "/audit/events"): ("admin", None),
    ("GET", API + "/user/me"): ("user", None),
    ("GET", API + "/user/preferences"): ("user", None),
    ("PUT", API + "/user/preferences"): ("user", None),
    ("PATCH", API + "/user/preferences"): ("user", None),
    ("GET", API + "/user/api-keys"): ("user", None),
    ("POST", API + "/user/api-keys"): ("user", None),
    ("DELETE", API + "/user/api-keys/{keyId}"): ("user", None),
}
METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH")
PREVIEW_METHODS = METHODS


def normal(path):
    return re.sub(r"\{[^}]*\}", "{}", path.replace("...}", "}"))


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in ("get", "put", "post", "delete", "patch", "head", "options", "trace"):
                yield method.upper(), path, operation


@pytest.fixture(scope="module")
def document(keyed):
    with keyed.anonymous() as client:
        return client.get(API + "/openapi.json").json()


def row_of(method, path):
    for (m, p), row in TABLE.items():
        if normal(p) == normal(path) and m in (method, "*"):
            return row
    return None


def test_S34_every_operation_has_a_row_and_agrees_with_it(document):
    problems = []
    for method, path, operation in operations(document):
        row = row_of(method, path)
        if row is None:
            problems.append(f"{method} {path}: no row in the table")
            continue
        declared = (operation.get("x-auth"), operation.get("x-action-group"))
        if declared != (row[0], row[1]) and declared != (row[0], row[1] or "none"):
            problems.append(f"{method} {path}: declares {declared}, the table says {row}")
    assert not problems, "\n".join(problems)


def test_S34_every_row_is_served(document):
    served = {(method, normal(path)) for method, path, _ in operations(document)}
    for method, path in TABLE:
        for m in PREVIEW_METHODS if method == "*" else [method]:
            assert (m, normal(path)) in served, (m, path)


def test_W48_every_operation_that_changes_something_has_an_audit_action(document):
    missing = [f"{method} {path}" for method, path, operation in operations(document)
               if method != "GET" and not operation.get("x-audit")]
    assert not missing, missing


# The target's template does not exist: it is in Error, so nothing that is allowed does anything.
@pytest.fixture(scope="module")
def target(keyed):
    names = itertools.count()
    with keyed.client("u1") as client:
        def make(name):
            answer = client.post(API + "/sandboxes", json={"name": name, "template": "no-such-template"})
            assert answer.status_code == 201, answer.text
            wait_for(lambda: client.get(API + "/sandboxes/" + name).json()["status"] == "Error", interval=0.01)
        make("table-target")
        make("table-other")

        def share(name):
            for user, level in (("guest-v", "viewer"), ("guest-c", "collaborator")):
                assert client.post(f"{API}/sandboxes/{name}/share", json={"identity": user, "level": level}).status_code == 200
        share("table-target")

        def victim():
            name = f"table-victim-{next(names)}"
            make(name)
            return name
        yield victim
        for sandbox in client.get(API + "/sandboxes").json()["sandboxes"]:
            if sandbox["name"].startswith("table-"):
                client.delete(API + "/sandboxes/" + sandbox["name"])


@pytest.fixture(scope="module")
def credentials(keyed, target):
    """name -> headers"""
    def header(key):
        return {"X-API-Key": key}
    with keyed.client("u1") as u1:
        def mint(**body):
            answer = u1.post(API + "/user/api-keys", json=body)
            assert answer.status_code == 201, answer.text
            return answer.json()
        expired = mint(name="expired", expiresIn="1s")["key"]
        revoked = mint(name="revoked")
        assert u1.delete(f"{API}/user/api-keys/{revoked['id']}").status_code == 200
        kinds = {
            "none": {}, "empty": {"X-API-Key": ""}, "garbage": header("atk_" + "A" * 43), "text": header("hello"),
            "basic": {"Authorization": "Basic dTE6dTE="}, "token": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
            "expired": header(expired), "revoked": header(revoked["key"]),
            "owner": header(keyed.keys["u1"]), "other": header(keyed.keys["u2"]), "admin": header(keyed.keys["admin"]),
            "guest viewer": header(keyed.create_key("guest-v")), "guest collaborator": header(keyed.create_key("guest-c")),
            "scoped for another": header(mint(sandboxId="table-other")["key"]),
            "scoped all": header(mint(sandboxId="table-target")["key"]),
        }
        bearer, sign = (lambda text: {"Authorization": "Bearer " + text}), keyed.issuer.token
        kinds |= {
            "owner by bearer": bearer(keyed.keys["u1"]), "oidc owner": bearer(sign("u1")), "oidc other": bearer(sign("u9")),
            "oidc admin": bearer(sign("root", groups=["agenttier-admins"])), "oidc guest viewer": bearer(sign("guest-v")),
            "oidc guest by email": bearer(sign("g", email="guest-c")), "oidc unverified email": bearer(sign("g2", email="guest-c", email_verified=False)),
            "oidc expired": bearer(sign("u1", exp=int(time.time()) - 100)), "oidc for another": bearer(sign("u1", aud="another")),
            "oidc by a stranger": bearer(sign("u1", iss="https://stranger.example")), "oidc altered": bearer(sign("u1")[:-20] + "A" * 20),
            # Only a cluster can vouch for it: tests/faults and tests/cluster have the one that it does vouch for.
            "service account nobody vouches for": bearer(sign("system:serviceaccount:ci:runner", iss="https://kubernetes.default.svc")),
        }
        for group in GROUPS:
            kinds["scoped " + group] = header(mint(sandboxId="table-target", scopes=[group])["key"])
    with keyed.anonymous() as client:
        def answers(credential, status):
            wait_for(lambda: client.get(API + "/user/me", headers=kinds[credential]).status_code == status, what=f"{credential}: {status}")
        answers("expired", 401)
        answers("guest viewer", 200)  # made by another process: known in a moment
        answers("guest collaborator", 200)
    return kinds


UNKNOWN = ("none", "empty", "garbage", "text", "basic", "token", "expired", "revoked", "oidc expired", "oidc for another", "oidc by a stranger",
           "oidc altered", "service account nobody vouches for")
# Credentials that differ in kind only from others, and those whose holder is nobody in particular.
SAME = {"owner by bearer": "owner", "oidc owner": "owner", "oidc other": "other", "oidc admin": "admin", "oidc guest viewer": "guest viewer",
        "oidc guest by email": "guest collaborator", "oidc unverified email": "other"}


def expected(who, group, credential):
    """The status of the gate: 401, 403, 404, or None for let in."""
    credential = SAME.get(credential, credential)
    if who == "public":
        return None
    if credential in UNKNOWN:
        return 401
    if credential.startswith("scoped"):
        if group is None or credential == "scoped for another":
            return 403
        if group == ANY or credential in ("scoped all", "scoped " + group):
            return None
        return 403
    if who == "admin":
        return None if credential == "admin" else 403
    guest = credential.startswith("guest")
    if who == "watch" and credential == "other":
        return 403  # 2.12, vector 48
    if who == "share" and (guest or credential == "other"):
        return 403
    if who in ("owner", "read", "viewer", "collaborator") and credential == "other":
        return 404
    # 3.8: guests look at the sandbox, whatever their level; more is opt-in (W-47).
    if guest and who in ("owner", "viewer", "collaborator"):
        return 404
    return None


def call(client, method, path, headers, sandbox):
    path = (path.replace("{id}", sandbox).replace("{execId}", "no-such-exec").replace("{path}", "workspace/x")
            .replace("{port}", "8080").replace("{name}", "no-such-template").replace("{keyId}", "no-such-key")
            .replace("{userId}", "no-such-user").replace("{linkId}", "no-such-link").replace("{namespace}", "no-such-namespace").replace("{snapshotName}", "no-such-snapshot"))
    body = None
    if method in ("POST", "PUT", "PATCH"):
        body = b'{"name": "UPPER CASE"}' if "preview" not in path and "files" not in path else b""
        if path.startswith(f"{API}/sandboxes/{sandbox}/share"):
            body = b'{"identity": "table-guest", "level": "viewer"}'  # checked before who asks
    return client.request(method, path, headers=headers, content=body)


@pytest.mark.parametrize("method, path", [(m, p) for (method, p) in TABLE for m in (PREVIEW_METHODS if method == "*" else [method])])
def test_S34_every_credential(keyed, target, credentials, method, path):
    who, group = row_of(method, path)
    problems = []
    with keyed.anonymous() as client:
        for credential, headers in credentials.items():
            gate = expected(who, group, credential)
            destructive = method == "DELETE" and path == BOX and gate is None
            answer = call(client, method, path, headers, target() if destructive else "table-target")
            status = answer.status_code
            if gate is None:
                # Inside, anything may be wrong with the request: but nothing about who asks.
                inner = {404} if "{name}" in path or "{keyId}" in path or "{execId}" in path or "{linkId}" in path or "{snapshotName}" in path else set()
                wrong = status in {401, 403, 404, 405} - inner or status >= 500
                if wrong and not (status == 503 and path == "/readyz"):
                    problems.append(f"{credential}: {status}, should be let in: {answer.text[:120]}")
            else:
                if status != gate:
                    problems.append(f"{credential}: {status}, should be {gate}: {answer.text[:120]}")
                else:
                    if path.startswith("/ws/"):
                        assert answer.headers["Content-Type"].startswith("text/plain") and answer.text.strip()
                    else:
                        error_of(answer)
    assert not problems, "\n".join(problems)


def test_S34_dev_auth_opens_everything(dev):
    with dev.anonymous() as client:
        client.post(API + "/sandboxes", json={"name": "table-target", "template": "no-such-template"})
        for method, path in TABLE:
            if (method, path) == ("DELETE", BOX):
                continue
            for m in PREVIEW_METHODS if method == "*" else [method]:
                for headers in ({}, {"X-API-Key": "garbage"}, {"Authorization": "Basic x"}):
                    answer = call(client, m, path, headers, "table-target")
                    assert answer.status_code not in (401, 403), (m, path, answer.text)
        assert client.delete(API + "/sandboxes/table-target").status_code == 204


def test_W86_scoped_keys_keep_their_limits_in_the_development_mode(dev):
    """Whichever header they come in: what holds such a key is code in a sandbox, not the developer."""
    with dev.anonymous() as client:
        for name in ("w86", "w86-other"):
            assert client.post(API + "/sandboxes", json={"name": name, "template": "no-such-template"}).status_code == 201
        key = client.post(API + "/user/api-keys", json={"sandboxId": "w86", "scopes": ["stop"]}).json()["key"]
        whole = client.post(API + "/user/api-keys", json={}).json()["key"]
        for headers in ({"X-API-Key": key}, {"Authorization": "Bearer " + key}, {"Authorization": "bearer  " + key}):
            assert client.get(API + "/sandboxes/w86", headers=headers).status_code == 200
            for method, path in (("GET", "/sandboxes"), ("GET", "/sandboxes/w86-other"), ("DELETE", "/sandboxes/w86"), ("GET", "/user/me"),
                                 ("GET", "/sandboxes/w86/ports"), ("GET", "/admin/api-keys")):
                assert client.request(method, API + path, headers=headers).status_code == 403, (headers, path)
        for headers in ({"X-API-Key": whole}, {"Authorization": "Bearer " + whole}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}):
            assert client.get(API + "/admin/api-keys", headers=headers).status_code == 200
        for name in ("w86", "w86-other"):
            assert client.delete(f"{API}/sandboxes/{name}").status_code == 204


def test_S10_scoped_key_never_says_whether_another_sandbox_exists(keyed, credentials):
    with keyed.anonymous() as client:
        for path in ("/exec", "", "/files/workspace/x", "/ports"):
            answers = [client.get(f"{API}/sandboxes/{name}{path}", headers=credentials["scoped all"])
                       for name in ("table-other", "does-not-exist")]
            assert answers[0].status_code == answers[1].status_code == (405 if path == "/exec" else 403)


def test_W74_scoped_key_dies_with_its_sandbox(keyed, u1):
    """Bound to the sandbox, not to its name."""
    def create():
        wait_for(lambda: u1.post(API + "/sandboxes", json={"name": "table-reborn", "template": TEMPLATE}).status_code == 201)
        wait_for(lambda: u1.get(API + "/sandboxes/table-reborn").json()["status"] == "Running", 120)
    create()
    key = u1.post(API + "/user/api-keys", json={"sandboxId": "table-reborn"}).json()["key"]
    with keyed.client(key) as scoped:
        assert scoped.get(API + "/sandboxes/table-reborn").status_code == 200
        u1.delete(API + "/sandboxes/table-reborn")
        wait_for(lambda: u1.get(API + "/sandboxes/table-reborn").status_code == 404)
        error_of(scoped.get(API + "/sandboxes/table-reborn"), (401, 403))
        create()
        error_of(scoped.get(API + "/sandboxes/table-reborn"), (401, 403))
        error_of(scoped.post(API + "/sandboxes/table-reborn/exec", json={"command": "id"}), (401, 403))
    u1.delete(API + "/sandboxes/table-reborn")


def test_S10_headers_cannot_change_who_or_what(keyed, u2, box):
    for headers in ({"X-Original-URL": "/healthz"}, {"X-Rewrite-URL": "/healthz"}, {"X-Forwarded-User": "u1"}, {"X-User": "u1"},
                    {"X-Remote-User": "admin"}, {"X-Auth-Request-User": "u1"}, {"X-HTTP-Method-Override": "DELETE"},
                    {"Cookie": "X-API-Key=" + keyed.keys["admin"]}):
        error_of(u2.get(box.base, headers=headers), 404)
    for params in ({"api_key": keyed.keys["admin"]}, {"token": keyed.keys["admin"]}, {"access_token": keyed.keys["u1"]}):
        with keyed.anonymous() as client:
            error_of(client.get(API + "/user/me", params=params), 401)


def test_tutorial_2_key_as_bearer_token(keyed):
    """`Authorization: Bearer` takes an API key too, on every route, in any case of the scheme's letters."""
    with keyed.anonymous() as client:
        for scheme in ("Bearer", "bearer", "BEARER"):
            answer = client.get(API + "/user/me", headers={"Authorization": f"{scheme} {keyed.keys['u1']}"})
            assert (answer.status_code, json.loads(answer.text)["sub"]) == (200, "u1"), answer.text
        answer = client.get(API + "/user/me", headers={"Authorization": "Bearer " + keyed.keys["u2"], "X-API-Key": keyed.keys["u1"]})
        assert answer.json()["sub"] == "u1"
        assert error_of(client.get(API + "/user/me", headers={"Authorization": "Bearer a.b\"c.d"}), 401)["error"] == "invalid_token"


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key", "Origin"])
def test_S10_who_calls_is_said_once(keyed, name):
    """A proxy that looks at the last of two headers would see somebody else than the Router, which looked at the first."""
    values = {"Authorization": [f"Bearer {keyed.keys[u]}" for u in ("u1", "admin")], "X-API-Key": [keyed.keys[u] for u in ("u1", "admin")],
              "Origin": ["https://a.example", "https://b.example"]}[name]
    for first, second, other in ((*values, name), (*values, name.upper()), (values[0], values[0], name.lower()), ("", values[0], name)):
        with Raw(keyed) as raw:
            raw.send(f"GET {API}/user/me HTTP/1.1\r\nHost: x\r\n{name}: {first}\r\nAccept: */*\r\n{other}: {second}\r\n\r\n".encode())
            status, _, body = raw.response()[:3]
            assert status == 400 and b"more than one" in body, (status, body)


def test_3_3_blanks_around_a_key_are_no_part_of_it(keyed):
    key = keyed.keys["u1"]
    for line in (f"X-API-Key: {key}  ", f"x-api-key:\t {key}\t", f"X-API-Key:{key}", f"Authorization:  Bearer   {key} \t"):
        with Raw(keyed) as raw:
            raw.send(f"GET {API}/user/me HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n".encode())
            assert raw.response()[0] == 200, line
    with Raw(keyed) as raw:  # nothing but blanks is no key: the other header counts
        raw.send(f"GET {API}/user/me HTTP/1.1\r\nHost: x\r\nX-API-Key: \t \r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        assert raw.response()[0] == 200
