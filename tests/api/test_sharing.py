"""Sharing: users, groups, links, levels (http-api.md 2.13, 3.8; S30, W-13, W-33, W-47, W-84)."""

import calendar
import concurrent.futures
import json
import sqlite3
import time
import urllib.parse

import httpx
import pytest

from harness import SLOW, Raw, Router, error_of, wait_for

API = "/api/v1"
STREAMS = r'''
import http.server, socketserver, time
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def do_GET(self):
        if self.path == "/ws":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "echo")
            self.end_headers()
            while True:
                data = self.connection.recv(100)
                if not data: return
                self.connection.sendall(data)
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(3000):
            self.wfile.write(b"tick\\n")
            time.sleep(0.1)
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
Server(("127.0.0.1", 8077), App).serve_forever()
'''
ODD = "oidc|a/b c%2F..?#é"


@pytest.fixture(scope="module")
def own(request):
    """view: guests look only (the default); enforced: levels count (--sharing-levels)."""
    keys = ("u1", "vera", "carl", "u2", "admin")
    router = Router("--sharing-levels=enforced", keys=keys)
    router.keys["gina"] = router.create_key("gina", "--groups=data-team,other")
    router.keys["odd"] = router.create_key(ODD)
    with router:
        yield router


@pytest.fixture(scope="module")
def shared(own):
    box = own.sandbox("shared", key="u1")
    box.run("echo content > /workspace/a.txt")
    for body in ({"identity": "vera", "level": "viewer"}, {"identity": "carl@example.org", "level": "collaborator"}):
        assert box.post("/share", json=body).status_code == 200
    yield box
    box.remove()


def make(client, name, **body):
    """A sandbox that never runs: its template does not exist."""
    answer = client.post(API + "/sandboxes", json={"name": name, "template": "no-such-template", **body})
    assert answer.status_code == 201, answer.text
    return f"{API}/sandboxes/{name}"


def events(router, name, reason):
    """The messages of the events of one sandbox."""
    with sqlite3.connect(f"file:{router.state_dir}/state.db?mode=ro", uri=True) as db:
        rows = [json.loads(text) for (text,) in db.execute("SELECT json FROM objects WHERE kind = 'Event'")]
    return [e for e in rows if e["involvedObject"]["name"] == name and e["reason"] == reason]


def stored(router, name):
    with sqlite3.connect(f"file:{router.state_dir}/state.db?mode=ro", uri=True) as db:
        return json.loads(db.execute("SELECT json FROM objects WHERE kind = 'Sandbox' AND name = ?", (name,)).fetchone()[0])


# ---- users and groups ----

def test_2_13_grant_change_revoke(keyed, u1, u2, fresh):
    base = make(u1, fresh)
    assert u1.get(base + "/share").json() == {"users": [], "groups": [], "shareLinks": []}
    answer = u1.post(base + "/share", json={"identity": "bo@example.org", "level": "viewer", "kind": "user"})
    assert answer.status_code == 200
    assert answer.json() == {"users": [{"identity": "bo@example.org", "level": "viewer"}], "groups": [], "shareLinks": []}
    u1.post(base + "/share", json={"identity": "data-team", "level": "viewer", "kind": "group"})
    answer = u1.post(base + "/share", json={"identity": "bo@example.org", "level": "collaborator"})  # another level
    assert answer.json()["users"] == [{"identity": "bo@example.org", "level": "collaborator"}]
    assert answer.json()["groups"] == [{"identity": "data-team", "level": "viewer"}]
    answer = u1.delete(base + "/share/" + urllib.parse.quote("bo@example.org", safe=""))
    assert (answer.status_code, answer.json()) == (200, {"status": "revoked", "identity": "bo@example.org"})
    assert u1.delete(base + "/share/nobody").json() == {"status": "revoked", "identity": "nobody"}
    assert u1.get(base + "/share").json()["users"] == []
    granted = {e["message"] for e in events(keyed, fresh, "ShareGranted")}
    assert granted == {"bo@example.org", "data-team"}
    event = events(keyed, fresh, "ShareRevoked")[0]
    assert event["source"]["component"] == "agenttier-router" and event["type"] == "Normal" and event["count"] == 1
    assert event["involvedObject"]["uid"] == stored(keyed, fresh)["metadata"]["uid"]
    u1.delete(base)


def test_2_13_no_event_without_sharing(keyed, u1, fresh):
    base = make(u1, fresh)
    assert u1.delete(base + "/share/nobody").status_code == 200
    assert events(keyed, fresh, "ShareRevoked") == []
    u1.delete(base)


@pytest.mark.parametrize("body", [
    {}, {"level": "viewer"}, {"identity": "", "level": "viewer"}, {"identity": 7, "level": "viewer"}, {"identity": "bo"},
    {"identity": "bo", "level": ""}, {"identity": "bo", "level": "owner"}, {"identity": "bo", "level": "Viewer"},
    {"identity": "bo", "level": ["viewer"]}, {"identity": "bo", "level": "viewer", "kind": "robot"},
    {"identity": "bo", "level": "viewer", "kind": "Group"}, {"identity": "bo", "level": "viewer", "kind": {}},
    {"identity": "x" * 513, "level": "viewer"}, {"identity": "a\nb", "level": "viewer"}, {"identity": " bo", "level": "viewer"},
    {"identity": "bo\x1b[31m", "level": "viewer"},
])
def test_W84_share_is_validated_before_the_lookup(u1, fresh, body):
    base = make(u1, fresh)
    before = u1.get(base + "/share").json()
    error_of(u1.post(base + "/share", json=body), 400)
    error_of(u1.post(API + "/sandboxes/does-not-exist/share", json=body), 400)
    assert u1.get(base + "/share").json() == before
    u1.delete(base)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"7", b"{", b'{"identity":"bo","identity":"cy","level":"viewer"}',
                                  b'{"identity":"b\\u0000o","level":"viewer"}', b'{"identity":"\xff","level":"viewer"}',
                                  b'{"identity":' + b"[" * 100 + b"]" * 100 + b"}"])
def test_S27_hostile_share_bodies(u1, fresh, text):
    base = make(u1, fresh)
    error_of(u1.post(base + "/share", content=text), 400)
    assert u1.get(base + "/share").json()["users"] == []
    u1.delete(base)


def test_S27_share_body_above_its_limit(u1, fresh):
    base = make(u1, fresh)
    error_of(u1.post(base + "/share", json={"identity": "bo", "level": "viewer", "x": "y" * 70000}), 413)
    u1.delete(base)


def test_W84_identity_with_slashes_and_kind(own):
    with own.client("u1") as u1, own.client("odd") as odd:
        base = make(u1, "odd-box")
        u1.post(base + "/share", json={"identity": ODD, "level": "viewer"})
        u1.post(base + "/share", json={"identity": ODD, "level": "viewer", "kind": "group"})
        assert odd.get(base).status_code == 200
        path = base + "/share/" + urllib.parse.quote(ODD, safe="")
        error_of(u1.delete(path, params={"kind": "robot"}), 400)
        assert u1.delete(path, params={"kind": "group"}).json()["identity"] == ODD
        assert u1.get(base + "/share").json()["groups"] == [] and odd.get(base).status_code == 200
        assert u1.delete(path).json()["identity"] == ODD
        assert u1.get(base + "/share").json()["users"] == []
        error_of(odd.get(base), 404)
        error_of(u1.delete(base + "/share/a/b"), 404)  # a slash that is not encoded is another path
        u1.delete(base)


def test_vector_17_share_routes_of_others_are_403(keyed, u1, u2, admin, fresh):
    base = make(u1, fresh)
    u1.post(base + "/share", json={"identity": "u2", "level": "collaborator"})  # a guest may not pass it on
    for path in (base, API + "/sandboxes/does-not-exist"):
        answers = [
            u2.get(path + "/share"), u2.post(path + "/share", json={"identity": "u2", "level": "collaborator"}),
            u2.delete(path + "/share/u2"), u2.get(path + "/share-links"), u2.post(path + "/share-links"),
            u2.post(path + "/share-links", json={"level": "viewer"}), u2.delete(path + "/share-links/0000000000000000"),
        ]
        texts = {error_of(answer, 403)["code"] for answer in answers}
        assert texts == {"not_owner"}
    assert admin.get(base + "/share").status_code == 200
    error_of(admin.get(API + "/sandboxes/does-not-exist/share"), 403)
    u1.delete(base)


def test_2_13_fifty_grants_at_once_are_all_there(keyed, u1, fresh):
    base = make(u1, fresh)

    def grant(i):
        return u1.post(base + "/share", json={"identity": f"user-{i}", "level": "viewer"}).status_code

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        codes = list(pool.map(grant, range(50)))
    assert codes == [200] * 50
    assert {entry["identity"] for entry in u1.get(base + "/share").json()["users"]} == {f"user-{i}" for i in range(50)}
    u1.delete(base)


def test_2_13_sharing_has_a_limit(keyed, u1, fresh):
    base = make(u1, fresh)
    for _ in range(100):
        assert u1.post(base + "/share-links").status_code == 201
    assert error_of(u1.post(base + "/share-links"), 409)["code"] == "share_limit_reached"
    u1.delete(base)


# ---- what guests may do ----

READS = ("/files/?path=/workspace", "/files/workspace/a.txt", "/stat?path=/workspace/a.txt")


def attempts(client, base, prefix):
    """name -> status of everything that can be done to a sandbox."""
    return {
        **{"read " + path: client.get(base + path).status_code for path in READS},
        "get": client.get(base).status_code,
        "exec": client.post(base + "/exec", json={"command": f"touch /workspace/{prefix}-exec"}).status_code,
        "put": client.put(f"{base}/files/workspace/{prefix}-put", content=b"x").status_code,
        "mkdir": client.post(base + "/mkdir", json={"path": f"/workspace/{prefix}-dir"}).status_code,
        "rm": client.delete(f"{base}/files/workspace/{prefix}-put").status_code,
        "archive": client.get(base + "/archive").status_code,
        "unpack": client.put(base + "/archive?format=zip", content=b"PK\5\6" + bytes(18)).status_code,
        "ports": client.get(base + "/ports").status_code,
        "forward": client.post(base + "/ports", json={"port": 8099}).status_code,
        "preview": client.get(base + "/preview/8099/").status_code,
        "unforward": client.delete(base + "/ports/8099").status_code,
        "patch": client.patch(base, json={"labels": {"a": "b"}}).status_code,
        "stop": client.post(base + "/stop").status_code,
        "resume": client.post(base + "/resume").status_code,
        "delete": client.delete(base).status_code,
        "key": client.post(API + "/user/api-keys", json={"sandboxId": base.rpartition("/")[2]}).status_code,
        "share": client.post(base + "/share", json={"identity": "x", "level": "viewer"}).status_code,
    }


MANAGEMENT = {"patch": 404, "stop": 404, "resume": 404, "delete": 404, "key": 404, "share": 403}


def test_S30_viewer_reads_and_nothing_else(own, shared):
    with own.client("vera") as client:
        got = attempts(client, shared.base, "vera")
    reads = {"get"} | {"read " + path for path in READS}
    assert got == {**{name: 404 for name in got}, **MANAGEMENT, **{name: 200 for name in reads}}
    assert "vera" not in shared.run("ls -a /workspace")


def test_S30_W47_collaborator_works_but_does_not_manage(own, shared):
    with own.client("carl") as client:
        got = attempts(client, shared.base, "carl")
        assert got.pop("preview") == 502  # forwarded, and nobody listens
    assert got == {**{name: 200 for name in got}, "put": 201, "mkdir": 201, "rm": 204, "forward": 201, "unforward": 204, **MANAGEMENT}
    assert "carl-exec" in shared.run("ls /workspace")


def test_S30_stranger_sees_nothing(own, shared):
    with own.client("u2") as client:
        got = attempts(client, shared.base, "u2")
        missing = error_of(client.get(API + "/sandboxes/does-not-exist"), 404)["error"].replace("does-not-exist", "shared")
        assert error_of(client.get(shared.base), 404)["error"] == missing
    assert got == {**{name: 404 for name in got}, "share": 403}


def test_S30_guest_is_told_the_level_that_is_missing(own, shared):
    with own.client("vera") as client:
        answer = error_of(client.post(shared.base + "/exec", json={"command": "id"}), 404)
        assert answer["code"] == "share_level_too_low" and "viewer" in answer["error"]


def test_S30_group_and_email(own, shared):
    with own.client("gina") as gina, own.client("u1") as u1:
        error_of(gina.get(shared.base), 404)
        u1.post(shared.base + "/share", json={"identity": "gina", "level": "viewer", "kind": "group"})  # no group of hers
        error_of(gina.get(shared.base), 404)
        u1.post(shared.base + "/share", json={"identity": "data-team", "level": "collaborator", "kind": "group"})
        assert gina.post(shared.base + "/exec", json={"command": "id"}).status_code == 200
        # The higher of two levels counts.
        u1.post(shared.base + "/share", json={"identity": "gina@example.org", "level": "viewer"})
        assert gina.post(shared.base + "/exec", json={"command": "id"}).status_code == 200
        u1.delete(shared.base + "/share/data-team", params={"kind": "group"})
        error_of(gina.post(shared.base + "/exec", json={"command": "id"}), 404)
        assert gina.get(shared.base).json()["role"] == "viewer"
        u1.delete(shared.base + "/share/gina@example.org")
        u1.delete(shared.base + "/share/gina")
        error_of(gina.get(shared.base), 404)


def test_vector_16_levels_are_opt_in(keyed, u1, u2):
    """Without --sharing-levels=enforced whoever it is shared with may look at the sandbox, as ever."""
    box = keyed.sandbox("view-only", key="u1")
    box.run("echo x > /workspace/a.txt")
    for level in ("viewer", "collaborator"):
        u1.post(box.base + "/share", json={"identity": "u2", "level": level})
        got = attempts(u2, box.base, "u2")
        assert got == {**{name: 404 for name in got}, "get": 200, "share": 403}, level
    box.remove()


def test_W47_guest_list_shows_the_role(own, shared):
    def listed(user, **params):
        with own.client(user) as client:
            return {s["name"]: s.get("role") for s in client.get(API + "/sandboxes", params=params).json()["sandboxes"]}

    with own.client("vera") as vera:
        mine = make(vera, "veras")
    # Earlier tests' may still be on their way out.
    wait_for(lambda: listed("vera") == {"veras": None})
    wait_for(lambda: listed("u1", shared="true") == {"shared": "owner"})
    assert listed("vera", shared="true") == {"shared": "viewer", "veras": "owner"}
    assert listed("vera", shared="true", status="Running") == {"shared": "viewer"}
    assert listed("carl", shared="true") == {"shared": "collaborator"}
    assert listed("u2", shared="true") == {}
    assert listed("admin", shared="true")["shared"] == "admin"
    with own.client("vera") as vera:
        assert vera.get(shared.base).json()["role"] == "viewer"
        assert "role" not in vera.get(mine).json()
        vera.delete(mine)


def test_W12_W46_nobody_puts_a_sandbox_before_mine_by_sharing_one(own):
    """Two sandboxes of one name: one's own is meant, whoever shares another one and wherever that is."""
    with own.client("u1") as u1, own.client("vera") as vera:
        trap = make(u1, "same-name")
        make(vera, "same-name", namespace="team-v")
        u1.post(trap + "/share", json={"identity": "vera", "level": "collaborator"})
        assert vera.get(trap).json()["namespace"] == "team-v"
        assert vera.get(trap, params={"namespace": "default"}).json()["namespace"] == "default"
        assert u1.get(trap).json()["namespace"] == "default"
        vera.delete(trap, params={"namespace": "team-v"})
        u1.delete(trap)


def test_S30_scoped_key_of_a_guest_opens_nothing(own, shared):
    with own.client("carl") as carl:
        error_of(carl.post(API + "/user/api-keys", json={"sandboxId": "shared"}), 404)
        own_box = make(carl, "carls")
        key = carl.post(API + "/user/api-keys", json={"sandboxId": "carls"}).json()["key"]
        with own.client(key) as scoped:
            error_of(scoped.get(shared.base), 403)
            for path in ("/share", "/share-links"):
                error_of(scoped.get(own_box + path), 403)
            error_of(scoped.post(API + "/share-links/redeem", json={"token": "x"}), 403)
        carl.delete(own_box)


@pytest.mark.tsan
def test_S30_W53_revoking_ends_running_streams(own, shared):
    """A command, a preview and an upgraded preview that a guest has open end within seconds; the owner's go on."""
    app = shared.server(STREAMS, 8077)
    with own.client("u1") as u1, concurrent.futures.ThreadPoolExecutor(8) as pool:
        u1.post(shared.base + "/share", json={"identity": "u2", "level": "collaborator"})
        opened = set()

        def command(user):
            with own.client(user) as client:
                try:
                    return client.post(shared.base + "/exec", json={"command": "echo $$ > /workspace/pid-$U; sleep 300", "timeout": 300,
                                                                    "env": {"U": user}}, timeout=300).status_code
                except httpx.HTTPError:
                    return "cut"

        def preview(user):
            with own.client(user) as client:
                try:
                    with client.stream("GET", app + "/endless", timeout=300) as answer:
                        total = 0
                        for chunk in answer.iter_raw():
                            total += len(chunk)
                            opened.add("preview")
                        return total
                except httpx.HTTPError:
                    return "cut"

        def upgraded(user):
            with Raw(own, timeout=300) as raw:
                raw.send(f"GET {app}/ws HTTP/1.1\r\nHost: x\r\nX-API-Key: {own.keys[user]}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
                assert raw.response()[0] == 101
                while True:
                    try:
                        raw.send("x")
                        if not raw.socket.recv(100):
                            return "cut"
                        opened.add("upgraded")
                    except (ConnectionError, TimeoutError):
                        return "cut"
                    time.sleep(0.2)

        guest = [pool.submit(f, "u2") for f in (command, preview, upgraded)]
        owner = pool.submit(command, "u1")
        wait_for(lambda: "pid-u2" in shared.run("ls /workspace") and "pid-u1" in shared.run("ls /workspace"))
        wait_for(lambda: opened == {"preview", "upgraded"} or any(f.done() for f in guest), what="both previews open")
        time.sleep(1.5)
        assert not any(f.done() for f in guest), [f.result() for f in guest if f.done()]
        u1.delete(shared.base + "/share/u2")
        revoked = time.monotonic()
        assert [f.result(60) for f in guest] == ["cut"] * 3
        assert time.monotonic() - revoked < 5 * SLOW
        assert not owner.done()
        wait_for(lambda: shared.exec("kill -0 $(cat /workspace/pid-u2)")["exitCode"] != 0, what="end of the guest's command")
        assert shared.exec("kill -0 $(cat /workspace/pid-u1)")["exitCode"] == 0
        shared.run("kill $(cat /workspace/pid-u1)")


# ---- links ----

def test_2_13_link_life(own):
    with own.client("u1") as u1, own.client("u2") as u2:
        base = make(u1, "linked")
        answer = u1.post(base + "/share-links", json={"level": "collaborator", "expiresIn": "24h", "maxUses": 3})
        link = answer.json()
        assert answer.status_code == 201 and len(link["token"]) == 43 and len(link["id"]) == 16
        assert set(link) == {"id", "token", "level", "expiresAt", "maxUses", "warning"}
        at = time.strptime(link["expiresAt"], "%Y-%m-%dT%H:%M:%SZ")
        assert abs(calendar.timegm(at) - time.time() - 86400) < 60
        shown = {"id": link["id"], "level": "collaborator", "expiresAt": link["expiresAt"], "maxUses": 3, "usedCount": 0}
        assert u1.get(base + "/share-links").json() == {"shareLinks": [shown]}
        assert u1.get(base + "/share").json()["shareLinks"] == [shown]
        error_of(u2.get(base), 404)
        answer = u2.post(API + "/share-links/redeem", json={"token": link["token"]})
        assert answer.json() == {"status": "redeemed", "sandboxId": "linked", "name": "linked", "namespace": "default",
                                 "level": "collaborator"}
        assert u2.get(base).json()["role"] == "collaborator"
        assert u1.get(base + "/share-links").json()["shareLinks"][0]["usedCount"] == 1
        assert u1.get(base + "/share").json()["users"] == [{"identity": "u2", "level": "collaborator"}]
        # Again: nothing changes, no use is counted.
        assert u2.post(API + "/share-links/redeem", json={"token": link["token"]}).status_code == 200
        assert u1.get(base + "/share-links").json()["shareLinks"][0]["usedCount"] == 1
        # The owner needs no link.
        assert u1.post(API + "/share-links/redeem", json={"token": link["token"]}).json()["level"] == "owner"
        assert u1.get(base + "/share-links").json()["shareLinks"][0]["usedCount"] == 1
        assert u1.delete(base + "/share-links/" + link["id"]).json() == {"status": "revoked", "id": link["id"]}
        assert u1.get(base + "/share-links").json() == {"shareLinks": []}
        assert error_of(u1.delete(base + "/share-links/" + link["id"]), 404)["code"] == "share_link_not_found"
        u1.delete(base + "/share/u2")
        error_of(u2.get(base), 404)
        assert error_of(u2.post(API + "/share-links/redeem", json={"token": link["token"]}), 404)["code"] == "share_link_not_found"
        u1.delete(base)


def test_W48_S28_sharing_is_in_the_history_and_no_token_is(own):
    with own.client("u1") as u1, own.client("u2") as u2, own.client("admin") as admin:
        base = make(u1, "recorded")

        def record(client, method, path, **options):
            rid = f"rec-{next(serial)}"
            answer = client.request(method, path, headers={"X-Request-ID": rid}, **options)
            entry = wait_for(lambda: admin.get(API + "/audit/events", params={"requestId": rid}).json()["events"])[0]
            assert entry["sandboxId"] == "recorded" and entry["namespace"] == ("default" if answer.is_success else ""), entry
            return answer, entry

        serial = iter(range(100))
        link, made = record(u1, "POST", base + "/share-links", json={"level": "collaborator"})
        _, redeemed = record(u2, "POST", API + "/share-links/redeem", json={"token": link.json()["token"]})
        _, denied = record(u2, "DELETE", base + "/share/u1")
        _, unshared = record(u1, "DELETE", base + "/share/u2")
        _, revoked = record(u1, "DELETE", base + "/share-links/" + link.json()["id"])
        assert [(e["eventType"], e["details"]["actor"], e["details"]["outcome"]) for e in (made, redeemed, denied, unshared, revoked)] == [
            ("share_link.create", "u1", "success"), ("share_link.redeem", "u2", "success"), ("share.delete", "u2", "denied"),
            ("share.delete", "u1", "success"), ("share_link.delete", "u1", "success")]
        assert made["details"]["linkId"] == revoked["details"]["linkId"] == link.json()["id"]
        assert (redeemed["details"]["level"], unshared["details"]["with"]) == ("collaborator", "u2")
        assert link.json()["token"] not in str([made, redeemed, denied, unshared, revoked])
        u1.delete(base)


def test_vector_69_only_the_hash_is_stored(own):
    with own.client("u1") as u1:
        base = make(u1, "hashed")
        token = u1.post(base + "/share-links").json()["token"]
        text = json.dumps(stored(own, "hashed"))
        assert token not in text and '"tokenHash"' in text
        assert token.encode() not in own.log.read_bytes()
        assert token not in u1.get(base).text + u1.get(base + "/share").text + u1.get(API + "/sandboxes").text
        assert "tokenHash" not in u1.get(base + "/share").text
        u1.delete(base)


def test_S30_link_expires(own):
    with own.client("u1") as u1, own.client("u2") as u2:
        base = make(u1, "expiring")
        token = u1.post(base + "/share-links", json={"expiresIn": "1s"}).json()["token"]
        time.sleep(2.1)
        assert error_of(u2.post(API + "/share-links/redeem", json={"token": token}), 410)["code"] == "share_link_expired"
        error_of(u2.get(base), 404)
        u1.delete(base)


def test_S30_link_opens_one_sandbox_only(own):
    with own.client("u1") as u1, own.client("u2") as u2:
        one, other = make(u1, "link-one"), make(u1, "link-other")
        token = u1.post(one + "/share-links").json()["token"]
        u1.post(other + "/share-links")
        assert u2.post(API + "/share-links/redeem", json={"token": token}).json()["sandboxId"] == "link-one"
        assert u2.get(one).status_code == 200
        error_of(u2.get(other), 404)
        u1.delete(one)
        wait_for(lambda: u1.get(one).status_code == 404)
        assert error_of(u2.post(API + "/share-links/redeem", json={"token": token}), 404)["code"] == "share_link_not_found"
        u1.delete(other)


def test_S30_a_viewer_link_raises_nobody_and_lowers_nobody(own):
    with own.client("u1") as u1, own.client("u2") as u2:
        base = make(u1, "levels")
        u1.post(base + "/share", json={"identity": "u2", "level": "collaborator"})
        viewer = u1.post(base + "/share-links", json={"maxUses": 1}).json()["token"]
        assert u2.post(API + "/share-links/redeem", json={"token": viewer}).json()["level"] == "collaborator"
        u1.post(base + "/share", json={"identity": "u2", "level": "viewer"})
        collaborator = u1.post(base + "/share-links", json={"level": "collaborator"}).json()["token"]
        assert u2.post(API + "/share-links/redeem", json={"token": collaborator}).json()["level"] == "collaborator"
        assert u1.get(base + "/share").json()["users"] == [{"identity": "u2", "level": "collaborator"}]
        u1.delete(base)


@pytest.mark.tsan
def test_S31_link_uses_are_exact_under_a_race(own):
    """Thirty users, one link with five uses, all at once: five get in."""
    users = [f"racer-{i}" for i in range(30)]
    keys = [own.create_key(user) for user in users]
    with own.client("u1") as u1:
        base = make(u1, "raced")
        token = u1.post(base + "/share-links", json={"maxUses": 5}).json()["token"]
        for key in keys:  # made by another process: known in a moment
            with own.client(key) as client:
                wait_for(lambda c=client: c.get(API + "/user/me").status_code == 200)

        def redeem(key):
            with own.client(key) as client:
                while True:
                    answer = client.post(API + "/share-links/redeem", json={"token": token})
                    if answer.status_code != 409:  # 409: too much of a crowd, with Retry-After
                        return answer.status_code
                    assert answer.headers["Retry-After"]
                    time.sleep(0.05)

        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            codes = list(pool.map(redeem, keys))
        assert sorted(codes) == [200] * 5 + [410] * 25
        sharing = u1.get(base + "/share").json()
        assert {u["identity"] for u in sharing["users"]} == {u for u, code in zip(users, codes) if code == 200}
        assert sharing["shareLinks"][0]["usedCount"] == 5
        u1.delete(base)


@pytest.mark.parametrize("body", [
    {"level": "owner"}, {"level": 1}, {"expiresIn": "0"}, {"expiresIn": "-1h"}, {"expiresIn": "later"}, {"expiresIn": "1d"},
    {"expiresIn": 3600}, {"maxUses": -1}, {"maxUses": 1.5}, {"maxUses": "3"}, {"maxUses": 1 << 31}, [], "x",
])
def test_2_13_share_link_is_validated(own, fresh, body):
    with own.client("u1") as u1:
        base = make(u1, fresh)
        error_of(u1.post(base + "/share-links", json=body), 400)
        error_of(u1.post(API + "/sandboxes/does-not-exist/share-links", json=body), 400)
        assert u1.get(base + "/share-links").json() == {"shareLinks": []}
        u1.delete(base)


def test_W09_chunked_share_link_body_counts(own):
    with own.client("u1") as u1:
        base = make(u1, "chunked")
        answer = u1.post(base + "/share-links", content=iter([b'{"maxUses"', b": 2}"]))
        assert answer.json()["maxUses"] == 2 and answer.json()["level"] == "viewer" and answer.json()["expiresAt"] is None
        assert u1.post(base + "/share-links").json()["maxUses"] == 0
        u1.delete(base)


@pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": None}, {"token": 7}, {"token": ["x"]}])
def test_redeem_needs_a_token(own, body):
    with own.client("u1") as u1:
        error_of(u1.post(API + "/share-links/redeem", json=body), 400)


@pytest.mark.parametrize("token", ["x", "A" * 43, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "x" * 60000, "é"])
def test_S30_redeem_of_an_unknown_token(own, token):
    with own.client("u2") as u2:
        assert error_of(u2.post(API + "/share-links/redeem", json={"token": token}), 404)["code"] == "share_link_not_found"


def test_S30_hash_is_not_a_token(own):
    with own.client("u1") as u1, own.client("u2") as u2:
        base = make(u1, "hash-as-token")
        u1.post(base + "/share-links")
        hashed = stored(own, "hash-as-token")["spec"]["sharing"]["shareLinks"][0]["tokenHash"]
        error_of(u2.post(API + "/share-links/redeem", json={"token": hashed}), 404)
        u1.delete(base)
