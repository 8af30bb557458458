"""Resources through an apiserver that behaves, and one that does not (observed.md O3, O4; lessons I33, S23)."""

import base64
import collections
import json
import select
import socket
import threading
import time

import pytest
from cluster_router import CR, ClusterRouter, sandbox, template
from fake_apiserver import FakeApiserver, Gone, Refused, body, cut, hang, raw, reset, status
from harness import error_of, wait_for

LISTS = rf"{CR}/sandboxes\?limit"
WATCHES = rf"{CR}/sandboxes\?.*watch=true"


# ---- resources ----


def test_4_2_a_created_sandbox_is_the_resource_of_the_contract_and_is_read_without_a_call(api, router):
    with router.client() as client:
        answer = router.create("demo-1", client, timeout="8h", idleTimeout="45m", storage={"size": "20Gi"})
        assert answer.status_code == 201, answer.text
        stored = api.get("sandboxes", "demo-1", "default")
        assert stored["spec"]["templateRef"] == {"name": "t", "kind": "ClusterSandboxTemplate"}
        assert (stored["spec"]["timeout"], stored["spec"]["idleTimeout"]) == ("8h0m0s", "45m0s")
        assert stored["spec"]["storage"]["size"] == "20Gi" and stored["spec"]["createdBy"]["sub"] == "dev-user"
        router.settle()
        before = len(api.requests)
        for _ in range(200):
            assert client.get("/api/v1/sandboxes/demo-1").status_code == 200
        assert router.names(client) == ["demo-1"]
        assert len([r for r in api.requests[before:] if "watch" not in r.target]) == 0, "a read cost a call (O4)"


@pytest.mark.tsan
def test_a_write_is_seen_by_the_next_read_although_watches_are_silent(api, router):
    api.silent = True
    with router.client() as client:
        for i in range(20):
            assert router.create(f"s{i}", client).status_code == 201
            assert client.get(f"/api/v1/sandboxes/s{i}").status_code == 200
            answer = client.patch(f"/api/v1/sandboxes/s{i}", json={"idleTimeout": "20m"})
            assert answer.status_code == 200, answer.text
            assert client.delete(f"/api/v1/sandboxes/s{i}").status_code == 204
            assert client.get(f"/api/v1/sandboxes/s{i}").status_code == 404
        api.silent = False
        # All that was kept back arrives now, this as the last, and nothing comes back to life.
        api.put("sandboxes", sandbox("last"))
        wait_for(lambda: "last" in router.names(client), 30, 0.02, "what was kept back")
        assert router.names(client) == ["last"]
        assert client.delete("/api/v1/sandboxes/last").status_code == 204
        assert router.create("s1", client).status_code == 201, "the name is free again"
        assert router.names(client) == ["s1"]


@pytest.mark.tsan
def test_changes_by_others_arrive_in_order(api, router):
    api.put("sandboxes", sandbox("other"))
    router.wait_names("other")
    for i in range(100):
        api.set_status("sandboxes", "other", "default", phase="Running" if i % 2 else "Creating", message=str(i))
    with router.client() as client:
        wait_for(lambda: client.get("/api/v1/sandboxes/other").json()["message"] == "99", 30, 0.01, "the last message")
        assert client.get("/api/v1/sandboxes/other").json()["status"] == "Running"
        api.remove("sandboxes", "other", "default")
        wait_for(lambda: client.get("/api/v1/sandboxes/other").status_code == 404, 30, 0.01, "the deletion")


def test_a_deletion_that_waits_for_a_finalizer_shows_and_then_ends(api, router):
    api.put("sandboxes", {**sandbox("slow"), "metadata": {"name": "slow", "namespace": "default",
                                                         "finalizers": ["agenttier.io/sandbox-cleanup"]}})
    router.wait_names("slow")
    with router.client() as client:
        assert client.delete("/api/v1/sandboxes/slow").status_code == 204
        there = api.get("sandboxes", "slow", "default")
        assert there["metadata"]["deletionTimestamp"]
        there["metadata"]["finalizers"] = []
        api.remove("sandboxes", "slow", "default")
        wait_for(lambda: client.get("/api/v1/sandboxes/slow").status_code == 404, 30, 0.01, "the end")


@pytest.mark.tsan
def test_3_3_keys_are_secrets_and_are_accepted_and_revoked_by_every_replica(api):
    with ClusterRouter(api, dev_auth=False, keys=("admin",)) as one, ClusterRouter(api, dev_auth=False) as two:
        secrets = api.all("secrets")
        assert len(secrets) == 1 and secrets[0]["metadata"]["namespace"] == "agenttier"
        assert secrets[0]["metadata"]["labels"]["agenttier.io/secret-purpose"] == "api-key"
        record = json.loads(base64.b64decode(secrets[0]["data"]["record"]))
        assert record["userId"] == "admin"
        key = one.keys["admin"]
        wait_for(lambda: two.client(key).get("/api/v1/user/me").status_code == 200, 30, what="the key at the other")
        made = one.client(key).post("/api/v1/user/api-keys", json={"name": "ci"})
        assert made.status_code == 201, made.text
        other = made.json()["key"]
        assert one.client(other).get("/api/v1/user/me").status_code == 200, "its own write, at once"
        wait_for(lambda: two.client(other).get("/api/v1/user/me").status_code == 200, 30, what="the key at the other")
        api.remove("secrets", secrets[0]["metadata"]["name"], "agenttier")
        api.wait_told("secrets")
        for router in (one, two):
            # By the watch: whoever kept keys for a while, as the contract lets a Router do for 5 minutes, is too late.
            wait_for(lambda r=router: r.client(key).get("/api/v1/user/me").status_code == 401, 2, what="revocation")


def test_ports_are_services_owned_by_the_sandbox(api, router):
    with router.client() as client:
        router.create("p", client)
        answer = client.post("/api/v1/sandboxes/p/ports", json={"port": 8000})
        assert answer.status_code == 201, answer.text
        service = api.get("services", "pf-p-8000", "default")
        assert service["metadata"]["ownerReferences"][0]["uid"] == api.get("sandboxes", "p", "default")["metadata"]["uid"]
        assert api.get("sandboxes", "p", "default")["status"]["forwardedPorts"][0]["port"] == 8000
        assert [p["port"] for p in client.get("/api/v1/sandboxes/p/ports").json()["ports"]] == [8000]
        assert client.delete("/api/v1/sandboxes/p/ports/8000").status_code == 204
        assert api.get("services", "pf-p-8000", "default") is None
        assert client.get("/api/v1/sandboxes/p/ports").json()["ports"] == []


def test_W29_a_forward_that_the_sandboxs_policy_does_not_hear_of_is_no_success(api, router):
    """The controller opens and closes ports by status.forwardedPorts: what is not written there is said, and can be repeated."""
    with router.client() as client:
        router.create("p", client)
        ports = lambda: [p["port"] for p in (api.get("sandboxes", "p", "default").get("status") or {}).get("forwardedPorts", [])]  # noqa: E731
        api.on("PATCH", "/sandboxes/p/status", status(503, headers={"Retry-After": "1"}), times=1)
        answer = client.post("/api/v1/sandboxes/p/ports", json={"port": 8000})
        assert error_of(answer, 503)["code"] == "unavailable" and answer.headers["Retry-After"] == "1"
        assert client.post("/api/v1/sandboxes/p/ports", json={"port": 8000}).status_code == 201 and ports() == [8000]
        api.forbidden.add(("patch", "sandboxes/status"))
        error = error_of(client.delete("/api/v1/sandboxes/p/ports/8000"), 403)
        assert error["code"] == "kubernetes_forbidden" and "try again" in error["error"] and ports() == [8000]
        api.forbidden.clear()
        assert client.delete("/api/v1/sandboxes/p/ports/8000").status_code == 204 and ports() == []
        assert client.delete("/api/v1/sandboxes/p/ports/8000").status_code == 204


def test_4_5_with_a_preview_domain_a_forward_has_an_ingress(api):
    flags = ("--preview-domain=.p.example.org", "--ingress-class-name=nginx", "--preview-tls-secret=wild")
    with ClusterRouter(api, *flags) as router, router.client() as client:
        router.create("p", client)
        answer = client.post("/api/v1/sandboxes/p/ports", json={"port": 8000})
        assert answer.status_code == 201 and answer.json()["ingressUrl"] == "https://sandbox-p-8000.p.example.org/"
        made = api.get("ingresses", "pf-p-8000", "default")
        host = "sandbox-p-8000.p.example.org"
        assert made["spec"] == {"ingressClassName": "nginx", "tls": [{"hosts": [host], "secretName": "wild"}], "rules": [
            {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {
                "service": {"name": "pf-p-8000", "port": {"number": 8000}}}}]}}]}
        owner = made["metadata"]["ownerReferences"][0]
        assert owner["controller"] and owner["uid"] == api.get("sandboxes", "p", "default")["metadata"]["uid"]
        assert made["metadata"]["labels"] == {"agenttier.io/port-forward": "true", "agenttier.io/sandbox": "p",
                                              "agenttier.io/port": "8000"}
        # Somebody broke it; forwarding again repairs it.
        made["spec"]["rules"][0]["host"] = "wrong.example.org"
        api.put("ingresses", made)
        wait_for(lambda: router.metric('agenttier_kubernetes_cached_objects{kind="Ingress"}') == 1, 30, what="the change")
        assert client.post("/api/v1/sandboxes/p/ports", json={"port": 8000}).status_code == 201
        wait_for(lambda: client.post("/api/v1/sandboxes/p/ports", json={"port": 8000}) and
                 api.get("ingresses", "pf-p-8000", "default")["spec"]["rules"][0]["host"] == host, 30, what="the repair")
        assert client.delete("/api/v1/sandboxes/p/ports/8000").status_code == 204
        assert api.get("ingresses", "pf-p-8000", "default") is None
        api.forbidden.add(("create", "ingresses"))
        error = error_of(client.post("/api/v1/sandboxes/p/ports", json={"port": 9000}), 403)
        assert error["code"] == "kubernetes_forbidden" and "preview address" in error["error"]
        error = error_of(client.post("/api/v1/sandboxes/" + "n" * 60 + "/ports", json={"port": 9000}), 404)


def test_the_second_look_does_not_tell_a_foreign_sandbox_from_none(api):
    """Neither by what it asks the apiserver, which takes time, nor by what comes of it when that fails."""
    with ClusterRouter(api, dev_auth=False, keys=("u1", "u2")) as router, router.client("u1") as u1, router.client("u2") as u2:
        assert router.create("foreign", u1).status_code == 201
        for path, wanted in (("", 404), ("/ports", 404), ("/share", 403)):
            counts = []
            for name in ("foreign", "missing"):
                before = len(api.asked("GET", f"/sandboxes/{name}$"))
                error_of(u2.get(f"/api/v1/sandboxes/{name}{path}"), wanted)
                counts.append(len(api.asked("GET", f"/sandboxes/{name}$")) - before)
            assert counts[0] == counts[1] == 1, (path, counts)
        api.on("GET", r"/sandboxes/(foreign|missing)$", status(503))
        answers = [error_of(u2.get(f"/api/v1/sandboxes/{name}"), (404, 503)) for name in ("foreign", "missing")]
        assert answers[0]["code"] == answers[1]["code"], answers


def test_O3_who_cannot_look_does_not_say_not_found(api):
    """Far more unknown names at once than are looked for: 503 with Retry-After, never a guess."""
    answering = threading.Event()

    def wait(*_):
        answering.wait(60)
        return False

    def ask(router, name):
        sock = socket.create_connection(("127.0.0.1", router.port), timeout=60)
        sock.sendall(f"DELETE /api/v1/sandboxes/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return sock

    with ClusterRouter(api, "--threads=1") as router:
        api.on("GET", r"/sandboxes/m", wait)
        asked = [ask(router, f"m{i}") for i in range(300)]  # more than may wait for an answer
        answered = select.poll()  # not select(): there may be more than 1,024 descriptors
        for sock in asked:
            answered.register(sock, select.POLLIN)
        assert answered.poll(60000), "all wait"
        answering.set()
        answers = []
        for sock in asked:
            with sock:
                answers.append(b"".join(iter(lambda s=sock: s.recv(65536), b"")))
        counts = collections.Counter(answer.split(b" ")[1] for answer in answers)
        assert set(counts) == {b"404", b"503"}, counts
        for answer in answers:
            if b" 503 " in answer[:20]:
                assert b"\r\nretry-after: 1\r\n" in answer.lower() and b'"busy"' in answer
        wait_for(lambda: router.client().delete("/api/v1/sandboxes/m0").status_code == 404, 30, 0.2, "a look")


@pytest.mark.tsan
def test_what_one_replica_wrote_the_other_finds_at_once(api):
    """A client behind a load balancer meets another replica before that one's watch has told."""
    with ClusterRouter(api, dev_auth=False, keys=("admin",)) as one, ClusterRouter(api, dev_auth=False) as two:
        two.keys = one.keys
        wait_for(lambda: two.client("admin").get("/api/v1/user/me").status_code == 200, 30, what="the key")
        api.silent = True
        with one.client() as first, two.client() as second:
            for i in range(5):
                assert one.create(f"s{i}", first).status_code == 201
                answer = second.get(f"/api/v1/sandboxes/s{i}")
                assert answer.status_code == 200 and answer.json()["name"] == f"s{i}", answer.text
            one.create("p", first)
            answer = second.post("/api/v1/sandboxes/p/ports", json={"port": 8000})
            assert answer.status_code == 201, answer.text
            # A port that the other forwarded, of a sandbox that runs by now.
            assert first.post("/api/v1/sandboxes/p/ports", json={"port": 8001}).status_code == 201
            error_of(second.get("/api/v1/sandboxes/p/preview/8001/"), 409)
            api.set_status("sandboxes", "p", "default", phase="Running", podName="p-pod")
            answer = second.get("/api/v1/sandboxes/p/preview/8001/")
            assert "its pod is not there" in answer.json()["error"], answer.text  # running, and forwarded
            error_of(second.get("/api/v1/sandboxes/p/preview/8002/"), 404)
            # Its pod, of which the watch has not told either.
            api.put("pods", {"metadata": {"name": "p-pod", "namespace": "default",
                                          "labels": {"agenttier.io/managed": "true", "agenttier.io/sandbox": "p"}},
                             "spec": {"hostNetwork": True}, "status": {"phase": "Running", "podIP": "192.0.2.1"}})
            answer = second.get("/api/v1/sandboxes/p/preview/8001/")
            assert answer.status_code == 502 and "on their node's network" in answer.json()["error"], answer.text
            # A stop of what the other says runs, and a start of what it says is stopped.
            one.create("r", first)
            api.set_status("sandboxes", "r", "default", phase="Running", podName="r-pod")
            assert second.post("/api/v1/sandboxes/r/stop").status_code == 200
            api.set_status("sandboxes", "r", "default", phase="Stopped")
            assert first.post("/api/v1/sandboxes/r/resume").status_code == 200
            first.delete("/api/v1/sandboxes/r")
            # And takes back what the other forwarded, by number and by name.
            assert second.delete("/api/v1/sandboxes/p/ports/8001").status_code == 204
            assert first.post("/api/v1/sandboxes/p/ports", json={"port": 8003, "name": "web"}).status_code == 201
            assert second.delete("/api/v1/sandboxes/p/ports/web").status_code == 204
            error_of(second.delete("/api/v1/sandboxes/p/ports/web"), 404)
            assert [s["metadata"]["name"] for s in api.all("services")] == ["pf-p-8000"]
            time.sleep(1.1)
            key = first.post("/api/v1/user/api-keys", json={"name": "k"}).json()["key"]
            assert two.client(key).get("/api/v1/user/me").status_code == 200
            one.create("gone", first)
            first.delete("/api/v1/sandboxes/gone")
            error_of(second.get("/api/v1/sandboxes/gone"), 404)
            # What nobody has is asked for; how often: tests/unit/router/test_second_look.c.
            error_of(second.get("/api/v1/sandboxes/nobody"), 404)
            assert len(api.asked("GET", "/sandboxes/nobody")) == 1
            api.on("GET", "/sandboxes/nobody", status(500))
            assert error_of(second.get("/api/v1/sandboxes/nobody"), 503)["code"] == "unavailable"
            api.silent = False


# ---- lists ----


def test_a_long_list_comes_in_pages(api):
    for i in range(1203):
        api.put("sandboxes", sandbox(f"s{i:04}"))
    with ClusterRouter(api) as router:
        assert len(router.names()) == 1203
        pages = api.asked("GET", LISTS)
        assert len(pages) == 3 and all(r.query["limit"] == "500" for r in pages)
        assert [("continue" in r.query) for r in pages] == [False, True, True]


def test_a_page_that_expired_starts_the_list_again(api):
    for i in range(700):
        api.put("sandboxes", sandbox(f"s{i:04}"))
    api.on("GET", LISTS + ".*continue", status(410, "Expired"), times=2)
    with ClusterRouter(api) as router:
        assert len(router.names()) == 700


@pytest.mark.tsan
def test_410_lists_again_and_finds_what_was_deleted_meanwhile(api, router):
    for name in ("a", "b", "c"):
        api.put("sandboxes", sandbox(name))
    router.wait_names("a", "b", "c")
    api.silent = True
    api.remove("sandboxes", "b", "default")
    api.put("sandboxes", sandbox("d"))
    api.compact()
    api.cut_watches("sandboxes")
    api.silent = False
    router.wait_names("a", "c", "d")


def test_a_watch_goes_on_from_the_bookmark(api, router):
    api.put("sandboxes", sandbox("a"))
    router.wait_names("a")
    for i in range(5):
        api.put("configmaps", {"metadata": {"name": f"x{i}", "namespace": "default"}})
    router.settle()
    version = api.version
    wait_for(lambda: api.bookmarked.get("sandboxes", 0) >= version, 30, what="a bookmark")
    lists, watches = len(api.asked("GET", LISTS)), len(api.asked("GET", WATCHES))
    api.cut_watches("sandboxes")
    wait_for(lambda: len(api.asked("GET", WATCHES)) > watches, 30, what="a new watch")
    last = api.asked("GET", WATCHES)[-1]
    assert int(last.query["resourceVersion"]) >= version, "it went on from the last change, not the bookmark"
    assert len(api.asked("GET", LISTS)) == lists, "no new list was needed"
    api.put("sandboxes", sandbox("b"))
    router.wait_names("a", "b")


@pytest.mark.parametrize("line", [
    b'{"type":"MODIFIED","object":{"meta\n', b"nonsense\n", b"[]\n", b'{"type":"STRANGE","object":{}}\n',
    {"type": "MODIFIED", "object": {"metadata": {"name": 5}}}, {"type": "MODIFIED", "object": "text"},
    {"type": "ERROR", "object": {"code": 500, "message": "internal"}}, {"type": "ERROR", "object": {"code": "x"}},
    {"type": "MODIFIED", "object": {"metadata": {"name": "ghost", "namespace": "default", "resourceVersion": "9"}}},
    b'{"type":"ADDED","object":{"metadata":{"annotations":{"x":"' + b"y" * 10_000_000 + b'"}}}}\n',
], ids=["cut", "nonsense", "array", "type", "name-number", "object-text", "error-500", "error-odd", "no-uid", "10MB"])
def test_S23_a_watch_that_lies_is_left_and_the_truth_is_listed(api, router, line):
    api.put("sandboxes", sandbox("a"))
    router.wait_names("a")
    lists = len(api.asked("GET", LISTS))
    api.say("sandboxes", line)
    wait_for(lambda: len(api.asked("GET", LISTS)) > lists, 30, what="a new list")
    api.put("sandboxes", sandbox("b"))
    router.wait_names("a", "b")


@pytest.mark.parametrize("answer", [
    raw(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"metadata":{"resourceVersion":"1"},"items":[{"meta'),
    body(b'{"metadata":{"resourceVersion":"1"},"items":[{"metadata"'), body(b"not json"), body([]), body({"items": {}}),
    body({"metadata": {}, "items": []}), body({"metadata": {"resourceVersion": 5}, "items": ["x"]}),
    body(b'{"metadata":{"resourceVersion":"1"},"items":[{"x":"' + b"y" * 10_000_000 + b'"}]}'),
    raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"), raw(b"\x15\x03\x01\x00"), cut(), cut(60),
    status(500), status(503, headers={"Retry-After": "1"}), status(429, headers={"Retry-After": "1"}), reset(),
], ids=["cut", "cut-json", "text", "array", "items-object", "no-version", "wrong-types", "10MB", "length", "tls", "head",
        "some", "500", "503", "429", "reset"])
def test_S23_a_list_that_cannot_be_read_is_never_taken_for_an_empty_one(api, answer):
    api.put("sandboxes", sandbox("a"))
    api.on("GET", LISTS, answer, times=2)
    with ClusterRouter(api, ready=False) as router:
        first = router.client().get("/api/v1/sandboxes/a")
        assert first.status_code in (200, 503), first.text  # O3: never 404 from ignorance
        wait_for(lambda: router.readyz().status_code == 200, 30, what="readiness")
        assert router.names() == ["a"]


def test_O3_before_the_first_list_every_answer_is_503_and_none_is_404_or_401(api):
    answering = threading.Event()

    def wait(*_):
        answering.wait(60)
        return False

    api.on("GET", LISTS, wait, times=1)
    with ClusterRouter(api, ready=False) as router, router.client() as client:
        assert router.readyz().status_code == 503
        for method, path in (("GET", "/sandboxes/x"), ("GET", "/sandboxes"), ("DELETE", "/sandboxes/x"),
                             ("GET", "/templates")):
            answer = client.request(method, "/api/v1" + path)
            assert error_of(answer, 503)["code"] == "unavailable" and answer.headers["Retry-After"], path
        assert client.get("/api/v1/health").status_code == 200 and client.get("/healthz").status_code == 200
        answering.set()
        wait_for(lambda: router.readyz().status_code == 200, 30, what="readiness")
        assert client.get("/api/v1/sandboxes/x").status_code == 404, "now it is knowledge"


# ---- away and back ----


@pytest.mark.tsan
def test_O3_an_apiserver_that_is_away_reads_go_on_marked_and_writes_are_503(api, router):
    with router.client() as client:
        assert router.create("a", client).status_code == 201
        fresh = client.get("/api/v1/sandboxes/a")
        assert "Age" not in fresh.headers and "Warning" not in fresh.headers
        api.go_away()
        answer = router.create("b", client)
        assert error_of(answer, 503)["code"] == "unavailable" and int(answer.headers["Retry-After"]) > 0
        for call in (lambda: client.delete("/api/v1/sandboxes/a"),
                     lambda: client.patch("/api/v1/sandboxes/a", json={"timeout": "1h"}),
                     lambda: client.post("/api/v1/sandboxes/a/ports", json={"port": 80})):
            assert error_of(call(), 503)["code"] == "unavailable"
        wait_for(lambda: "Age" in client.get("/api/v1/sandboxes/a").headers, 30, what="a mark")
        old = client.get("/api/v1/sandboxes/a")
        assert old.status_code == 200 and old.headers["Warning"].startswith("110 ") and int(old.headers["Age"]) >= 5
        assert router.names(client) == ["a"]
        assert error_of(client.get("/api/v1/sandboxes/unknown"), 503)["code"] == "unavailable"
        ready = router.readyz()
        assert ready.status_code == 200 and "does not answer" in ready.text
        assert router.metric("agenttier_store_age_seconds") >= 5
        api.come_back()
        wait_for(lambda: router.readyz().text == "ok", 30, what="recovery")
        assert "Age" not in client.get("/api/v1/sandboxes/a").headers
        answer = router.create("b", client)
        assert answer.status_code == 201, answer.text + router.tail()
        assert router.names(client) == ["a", "b"]


def test_an_apiserver_that_is_away_at_the_start_is_waited_for(api):
    api.go_away()
    with ClusterRouter(api, ready=False) as router:
        time.sleep(0.5)
        assert router.readyz().status_code == 503 and router.process.poll() is None
        api.put("sandboxes", sandbox("a"))
        api.come_back()
        wait_for(lambda: router.readyz().status_code == 200, 30, what="readiness")
        assert router.names() == ["a"]


def test_a_watch_that_fell_silent_is_opened_anew(api):
    api.bookmarks_every = 0.3  # a loaded machine may delay some
    with ClusterRouter(api, "--watch-silence=3s") as router:
        wait_for(lambda: api.watchers("sandboxes") == 1, 30, what="the first watch")
        watches = len(api.asked("GET", WATCHES))
        time.sleep(4)
        assert len(api.asked("GET", WATCHES)) == watches, "bookmarks are a sign of life"
        api.silent = True
        wait_for(lambda: len(api.asked("GET", WATCHES)) > watches, 30, what="a new watch")
        api.put("sandboxes", sandbox("late"))
        api.silent = False
        router.wait_names("late")


def make_past(api, router, client):
    """A backup of a past in which `kept` was young, `lost` not there yet, `deleted` and `replaced` still there; then the present."""
    for name in ("deleted", "kept", "replaced"):
        api.put("sandboxes", sandbox(name))
        api.set_status("sandboxes", name, "default", message="then")
    backup = api.backup()
    router.wait_names("deleted", "kept", "replaced")
    assert client.delete("/api/v1/sandboxes/deleted").status_code == 204
    api.remove("sandboxes", "replaced", "default")
    api.put("sandboxes", sandbox("replaced"))
    for i in range(20):
        api.set_status("sandboxes", "kept", "default", message=f"now {i}")
    api.put("sandboxes", sandbox("lost"))
    router.wait_names("kept", "lost", "replaced")
    return backup


def is_the_past(api, router, client):
    router.wait_names("deleted", "kept", "replaced")
    wait_for(lambda: client.get("/api/v1/sandboxes/kept").json()["message"] == "then", 30, 0.02, "the old state")
    # The versions that come now were given before, to other states.
    for i in range(30):
        api.set_status("sandboxes", "kept", "default", message=f"again {i}")
    wait_for(lambda: client.get("/api/v1/sandboxes/kept").json()["message"] == "again 29", 30, 0.02, "news")
    assert client.patch("/api/v1/sandboxes/replaced", json={"idleTimeout": "20m"}).status_code == 200
    assert api.get("sandboxes", "replaced", "default")["spec"]["idleTimeout"] == "20m0s"
    assert client.delete("/api/v1/sandboxes/deleted").status_code == 204
    assert router.create("lost", client).status_code == 201
    assert router.names(client) == ["kept", "lost", "replaced"]
    assert "resourceVersions of the cluster went back" in router.log.read_text()


@pytest.mark.tsan
def test_I33_a_cluster_that_was_restored_from_a_backup_is_read_anew(api, router):
    """It is seen when the apiserver is back: nobody waits for a watch to fall silent, nobody restarts anything."""
    with router.client() as client:
        backup = make_past(api, router, client)
        api.restore(backup)
        error_of(router.create("x", client), 503)
        api.come_back()
        is_the_past(api, router, client)


def test_I33_versions_that_went_back_unseen_are_found_by_silence(api):
    with ClusterRouter(api, "--watch-silence=3s") as router, router.client() as client:
        backup = make_past(api, router, client)
        with api.changed:  # no connection ends
            api.version, api.objects = backup
            api.log.clear()
        is_the_past(api, router, client)


def test_a_version_that_is_too_large_is_not_insisted_on(api, router):
    """What another apiserver says that knows nothing of the version yet, or a restored one: with 504."""
    api.put("sandboxes", sandbox("a"))
    router.wait_names("a")
    refusal = status(504, "Timeout", "Too large resource version: 999, current: 5",
                     {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]})
    api.on("GET", WATCHES, refusal, times=1)
    lists = len(api.asked("GET", LISTS))
    api.cut_watches("sandboxes")
    wait_for(lambda: len(api.asked("GET", LISTS)) > lists, 30, what="a list")
    api.put("sandboxes", sandbox("b"))
    router.wait_names("a", "b")


# ---- an apiserver that has just started ----


def knows_nobody(api, request, connection):
    raise Refused(403, "Forbidden", 'x is forbidden: User "u" cannot do resource "x" in API group "" at the cluster scope')


def test_I37_who_is_refused_by_an_apiserver_that_has_just_started_may_try_again(api, router):
    """It says 403 to everybody until it has read the roles: that is no lack of rights, neither to clients nor in the log."""
    with router.client() as client:
        assert router.create("a", client).status_code == 201
        lists = len(api.asked("GET", LISTS))
        api.go_away()
        wait_for(lambda: "the Kubernetes API does not answer" in router.log.read_text(), 30, what="it to be missed")
        api.on("*", ".", knows_nobody)
        api.come_back()
        answer = router.create("b", client)
        assert error_of(answer, 503)["code"] == "unavailable" and answer.headers["Retry-After"] == "1"
        wait_for(lambda: "is not followed" in router.log.read_text(), 30, what="a watch that is refused")
        api.clear()
        wait_for(lambda: router.readyz().text == "ok", 30, what="recovery")
        assert router.create("b", client).status_code == 201
        assert len(api.asked("GET", LISTS)) == lists, "watches go on from where they were"
        for line in router.log.read_text().splitlines():
            assert not ("is not followed" in line and '"WARN"' in line.upper()), line


def test_a_write_that_was_cut_by_an_apiserver_that_went_does_not_spoil_the_next_one(api, router):
    """It is tried on a new connection, which is refused; the next one, when the apiserver is back, is sent and done."""
    def leave(api, request, connection):
        api.go_away()
        raise Gone

    router.settle()
    with router.client() as client:
        for i in range(3):
            assert router.create(f"a{i}", client).status_code == 201, "over a connection that stays"
            api.on("POST", f"{CR}/namespaces/default/sandboxes", leave, times=1)
            error_of(router.create(f"b{i}", client), 503)
            api.come_back()
            answer = router.create(f"c{i}", client)
            assert answer.status_code == 201, answer.text


def test_I37_a_right_that_is_taken_away_meanwhile_is_missed_soon(api, router):
    with router.client() as client:
        api.go_away()
        error_of(router.create("b", client), 503)
        api.forbidden.add(("create", "sandboxes"))
        api.come_back()
        wait_for(lambda: router.create("b", client).status_code == 403, 60, 0.5, "the refusal by name")


def test_a_watch_is_not_opened_in_a_tight_loop(api, router):
    router.settle()
    wait_for(lambda: api.watchers("sandboxes") == 1, 30, what="a watch")
    api.on("GET", "watch=true", status(500))
    api.cut_watches()
    wait_for(lambda: api.watchers("sandboxes") == 0, 30, what="no watches")
    before, began = len(api.requests), time.monotonic()
    time.sleep(3)
    rows, asked = 9, [r for r in api.requests[before:] if r.at < began + 3]
    assert len(asked) <= rows * 8, f"{len(asked)} requests in 3 s"
    api.clear()
    wait_for(lambda: api.watchers("sandboxes") == 1, 30, what="recovery")


# ---- writes ----


@pytest.mark.parametrize("action, http, code", [
    (status(429, "TooManyRequests", headers={"Retry-After": "20"}), 503, "unavailable"),
    (status(500, "InternalError", "etcdserver: leader changed"), 503, "unavailable"),
    (status(504, "Timeout"), 503, "unavailable"),
    (reset(), 503, "unavailable"),
    (raw(b"HTTP/1.1 201 Created\r\nContent-Length: 900\r\n\r\n{\"metadata\":"), 503, "unavailable"),
    (raw(b"HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\n{\"metadata\":"), 503, "unavailable"),
    (body(b"[1, 2]", 201), 503, "unavailable"),
    (body({"kind": "Sandbox"}, 201), 502, "bad_answer"),
    (body({"metadata": {"name": 1, "uid": [], "resourceVersion": {}}}, 201), 502, "bad_answer"),
    (body(b'{"x":"' + b"y" * 17_000_000 + b'"}', 201), 503, "unavailable"),
    (status(422, "Invalid", 'Sandbox "x" is invalid: spec.timeout: Invalid value'), 400, "admission_rejected"),
    (status(400, "BadRequest", 'admission webhook "v.example" denied the request: no'), 400, "admission_rejected"),
    (status(403, "Forbidden", 'pods "x" is forbidden: violates PodSecurity "restricted"'), 403, "admission_rejected"),
    (status(403, "Forbidden", 'sandboxes "x" is forbidden: exceeded quota: q, requested: count=1'), 403, "quota_exceeded"),
    (status(403, "Forbidden", "sandboxes is forbidden: User \"u\" cannot create resource \"sandboxes\""), 403,
     "kubernetes_forbidden"),
    (status(409, "AlreadyExists", 'sandboxes "x" already exists', {"name": "x"}), 409, "already_exists"),
    (status(404, "NotFound", 'namespaces "default" not found', {"name": "default"}), 404, "not_found"),
    (status(404, "NotFound", "the server could not find the requested resource"), 503, "unavailable"),
    (status(413, "RequestEntityTooLarge"), 413, "too_large"),
], ids=["429", "500", "504", "reset", "cut", "cut-json", "array", "no-metadata", "wrong-types", "17MB", "invalid", "webhook",
        "pod-security", "quota", "rbac", "exists", "no-namespace", "no-crd", "too-large"])
def test_W37_a_refused_write_is_a_typed_error_with_its_reason(api, router, action, http, code):
    api.on("POST", f"{CR}/namespaces/default/sandboxes", action)
    answer = router.create("x")
    assert error_of(answer, http)["code"] == code
    if http == 503:
        assert int(answer.headers["Retry-After"]) > 0
    api.clear()
    assert router.create("y").status_code == 201, "one failure does not spoil the next call"


def test_a_refusal_passes_the_apiservers_own_words_on(api, router):
    api.quota = "compute, requested: count/sandboxes=1, used: 3, limited: 3"
    assert "used: 3, limited: 3" in error_of(router.create("x"), 403)["error"]


@pytest.mark.parametrize("method, call", [
    ("POST", lambda c: c.post("/api/v1/sandboxes", json={"name": "b", "templateRef": {"name": "t"}})),
    ("PATCH", lambda c: c.post("/api/v1/sandboxes/a/ports", json={"port": 8000})),
    ("DELETE", lambda c: c.delete("/api/v1/sandboxes/a")),
])
def test_I31_a_write_without_an_answer_is_not_sent_again(api, router, method, call):
    """Over a connection that was used before: HTTP clients repeat a request there by themselves."""
    def unheard(api, request, connection):
        api.work(request)
        raise Gone

    with router.client() as client:
        router.create("a", client)
        before = len(api.asked(method, "/sandboxes"))
        api.on(method, "/sandboxes", unheard)
        answer = call(client)
        sent = api.asked(method, "/sandboxes")[before:]
        assert len({(r.target, r.body) for r in sent}) == len(sent), [r.target for r in sent]
        assert answer.status_code in (201, 204, 503), answer.text


def test_429_with_a_short_retry_after_is_waited_for(api, router):
    api.on("POST", f"{CR}/namespaces/default/sandboxes", status(429, headers={"Retry-After": "1"}), times=1)
    assert router.create("x").status_code == 201
    first, again = api.asked("POST", f"{CR}/namespaces/default/sandboxes")
    assert 0.9 < again.at - first.at < 5


@pytest.mark.parametrize("verb, call", [
    ("create", lambda c: c.post("/api/v1/sandboxes", json={"name": "n", "template": "t"})),
    ("delete", lambda c: c.delete("/api/v1/sandboxes/a")),
    ("update", lambda c: c.patch("/api/v1/sandboxes/a", json={"idleTimeout": "1h"})),
])
def test_a_missing_permission_is_named(api, router, verb, call):
    with router.client() as client:
        router.create("a", client)
        api.forbidden.add((verb, "sandboxes"))
        found = error_of(call(client), 403)
        assert found["code"] == "kubernetes_forbidden" and f"cannot {verb} resource" in found["error"]


# What a call needs: verb, resource, and the call on sandboxes `run` and `stopped`, port 9 of `run` and template `mine`.
NEEDED = [
    ("create", "sandboxes", lambda c: c.post("/api/v1/sandboxes", json={"name": "new", "template": "t"})),
    ("update", "sandboxes", lambda c: c.patch("/api/v1/sandboxes/run", json={"idleTimeout": "1h"})),
    ("update", "sandboxes", lambda c: c.post("/api/v1/sandboxes/run/share", json={"identity": "b@e.org", "level": "viewer", "kind": "user"})),
    ("update", "sandboxes", lambda c: c.post("/api/v1/sandboxes/run/share-links", json={"level": "viewer"})),
    ("patch", "sandboxes", lambda c: c.post("/api/v1/sandboxes/run/stop")),
    ("delete", "sandboxes", lambda c: c.delete("/api/v1/sandboxes/run")),
    ("patch", "sandboxes/status", lambda c: c.post("/api/v1/sandboxes/stopped/resume")),
    ("patch", "sandboxes/status", lambda c: c.post("/api/v1/sandboxes/run/ports", json={"port": 10})),
    ("create", "services", lambda c: c.post("/api/v1/sandboxes/run/ports", json={"port": 11})),
    ("patch", "services", lambda c: c.post("/api/v1/sandboxes/run/ports", json={"port": 9, "name": "nine"})),
    ("delete", "services", lambda c: c.delete("/api/v1/sandboxes/run/ports/9")),
    ("create", "clustersandboxtemplates", lambda c: c.post("/api/v1/templates", json={"name": "new", "image": {"repository": "x:1"}})),
    ("delete", "clustersandboxtemplates", lambda c: c.delete("/api/v1/templates/mine")),
    ("create", "secrets", lambda c: c.post("/api/v1/user/api-keys", json={"name": "new"})),
    ("create", "configmaps", lambda c: c.put("/api/v1/user/preferences", json={"theme": "dark"})),
    ("create", "pods/exec", lambda c: c.post("/api/v1/sandboxes/run/exec", json={"command": "true"})),
]


def test_I37_each_right_that_is_missing_is_named_to_who_needs_it(api, router):
    def may_not_exec(request, connection):
        allowed = api._allowed("create", "pods/exec", "default")
        connection.answer(*((500, b"no") if allowed else (403, Refused(
            403, "Forbidden", 'pods "run-pod" is forbidden: User "r" cannot create resource "pods/exec" in API group ""').body)))

    api.route(r"/pods/[^/]+/exec$", may_not_exec)
    with router.client() as client:
        for name, phase in (("run", "Running"), ("stopped", "Stopped")):
            assert router.create(name, client).status_code == 201
            api.set_status("sandboxes", name, "default", phase=phase, podName=name + "-pod")
        api.put("pods", {"metadata": {"name": "run-pod", "namespace": "default", "labels": {
            "agenttier.io/managed": "true", "agenttier.io/sandbox": "run"}}, "spec": {"containers": [{"name": "sandbox"}]}})
        api.set_status("pods", "run-pod", "default", phase="Running", podIP="192.0.2.1", containerStatuses=[
            {"name": "sandbox", "containerID": "containerd://1", "state": {"running": {}}}])
        wait_for(lambda: client.get("/api/v1/sandboxes/run").json()["status"] == "Running"
                 and client.get("/api/v1/sandboxes/stopped").json()["status"] == "Stopped"
                 and router.metric('agenttier_kubernetes_cached_objects{kind="Pod"}') == 1, 30, 0.05, "the phases")
        assert client.post("/api/v1/sandboxes/run/ports", json={"port": 9}).status_code == 201
        assert client.post("/api/v1/templates", json={"name": "mine", "image": {"repository": "x:1"}}).status_code == 201
        for verb, resource, call in NEEDED:
            api.forbidden = {(verb, resource)}
            error = error_of(call(client), 403)
            assert error["code"] == "kubernetes_forbidden" and f'cannot {verb} resource "{resource}"' in error["error"], (verb, resource, error)


def test_I15_I37_the_start_names_permissions_that_the_account_lacks(api):
    api.forbidden |= {("create", "pods/exec"), ("delete", "secrets", "agenttier"), ("create", "tokenreviews")}
    with ClusterRouter(api) as router:
        wait_for(lambda: len(router.records("lacks a permission")) == 3, 30, what="three warnings")
        lines = router.records("lacks a permission")
        assert [(x["resource"], x["verbs"]) for x in lines] == [
            ("pods/exec", "create"), ("secrets", "delete"), ("tokenreviews.authentication.k8s.io", "create")]


def test_I37_an_apiserver_that_starts_with_the_router_makes_no_permission_missing(api):
    """It allows nobody anything until it has read the roles: it is asked again."""
    refused = body({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": {"allowed": False}}, 201)
    api.go_away()
    with ClusterRouter(api, ready=False) as router:
        wait_for(lambda: "does not answer" in router.log.read_text(), 30, what="it to be missed")
        api.on("POST", "selfsubjectaccessreviews", refused, times=3)
        api.come_back()
        wait_for(lambda: "has all permissions that it needs" in router.log.read_text(), 60, what="the check")
        assert "lacks a permission" not in router.log.read_text()


def test_a_check_of_permissions_that_hangs_does_not_keep_the_router_from_ending(api):
    api.on("POST", "selfsubjectaccessreviews", hang())
    with ClusterRouter(api) as router:
        wait_for(lambda: api.asked("POST", "selfsubjectaccessreviews"), 30, what="the question")
        asked = time.monotonic()
        assert router.terminate() == 0
        assert time.monotonic() - asked < 20  # a call has 30 s


def test_a_kind_that_may_not_be_listed_keeps_the_router_unready_and_is_named(api):
    api.forbidden.add(("list", "sandboxes"))
    with ClusterRouter(api, ready=False) as router:
        wait_for(lambda: 'cannot list resource \\"sandboxes\\"' in router.log.read_text(), 30, what="the reason in the log")
        assert router.readyz().status_code == 503
        api.forbidden.clear()
        wait_for(lambda: router.readyz().status_code == 200, 30, what="readiness")


def test_events_are_a_convenience(api):
    api.forbidden |= {("list", "events"), ("watch", "events")}
    with ClusterRouter(api) as router:
        assert router.readyz().status_code == 200


def test_a_conflict_with_another_writer_is_repeated(api, router):
    with router.client() as client:
        router.create("a", client)
        conflict = status(409, "Conflict", "Operation cannot be fulfilled: the object has been modified")
        api.on("PATCH", "/sandboxes/a/status", conflict, times=2)
        answer = client.post("/api/v1/sandboxes/a/ports", json={"port": 8000})
        assert answer.status_code == 201, answer.text
        assert api.get("sandboxes", "a", "default")["status"]["forwardedPorts"][0]["port"] == 8000


@pytest.mark.parametrize("path, body", [("share", {"identity": "b@example.org", "level": "viewer", "kind": "user"}), ("ports", {"port": 8000, "name": "web"})])
def test_a_conflict_is_caught_up_with_although_watches_are_silent(api, router, path, body):
    with router.client() as client:
        router.create("a", client)
        api.silent = True  # what others write is not heard of
        changed = api.get("sandboxes", "a", "default")
        changed["metadata"].setdefault("annotations", {})["other"] = "1"
        api.put("sandboxes", changed)
        answer = client.post(f"/api/v1/sandboxes/a/{path}", json=body)
        assert answer.status_code in (200, 201), answer.text
        assert api.get("sandboxes", "a", "default")["metadata"]["annotations"]["other"] == "1"


@pytest.mark.parametrize("call", [
    lambda c: c.patch("/api/v1/sandboxes/a", json={"idleTimeout": "1h"}),
    lambda c: c.delete("/api/v1/sandboxes/a"),
    lambda c: c.post("/api/v1/sandboxes/a/stop"),
    lambda c: c.post("/api/v1/sandboxes/a/ports", json={"port": 80}),
], ids=["patch", "delete", "stop", "ports"])
def test_W1_a_write_never_hits_another_sandbox_of_the_same_name(api, router, call):
    with router.client() as client:
        router.create("a", client)
        api.silent = True  # the Router does not learn that it was replaced
        api.remove("sandboxes", "a", "default")
        replaced = api.put("sandboxes", sandbox("a", owner="somebody"))
        answer = call(client)
        assert answer.status_code in (201, 204, 404, 409), answer.text
        assert api.get("sandboxes", "a", "default") == replaced
        for service in api.all("services"):
            assert service["metadata"]["ownerReferences"][0]["uid"] != replaced["metadata"]["uid"]


def test_a_deletion_by_somebody_faster_is_no_error_and_is_seen(api, router):
    with router.client() as client:
        router.create("a", client)
        api.silent = True
        api.remove("sandboxes", "a", "default")
        assert client.delete("/api/v1/sandboxes/a").status_code in (204, 404)
        assert client.get("/api/v1/sandboxes/a").status_code == 404


@pytest.mark.tsan
def test_many_writers_at_once_leave_what_they_wrote(api, router):
    failures = []

    def work(i):
        with router.client() as client:
            for n in range(10):
                name = f"w{i}-{n}"
                if router.create(name, client).status_code != 201:
                    failures.append(name)
                if client.get(f"/api/v1/sandboxes/{name}").status_code != 200:
                    failures.append("unseen " + name)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert len(router.names()) == 80 == len(api.all("sandboxes"))


def test_a_slow_apiserver_does_not_hold_reads_up(api, router):
    with router.client() as client:
        router.create("a", client)
        api.on("POST", "/sandboxes", hang())
        before, answered = len(api.asked("POST", "/sandboxes$")), []
        threads = [threading.Thread(target=lambda i=i: answered.append(router.create(f"h{i}"))) for i in range(12)]
        for t in threads:
            t.start()
        # With one core there are ten threads that wait for answers.
        wait_for(lambda: len(api.asked("POST", "/sandboxes$")) - before >= 10, what="writes that hang")
        started = time.monotonic()
        for _ in range(50):
            assert client.get("/api/v1/sandboxes/a").status_code == 200
        # None of them waited for a write, which takes 30 s; a loaded machine needs a while for 50 reads, too.
        assert time.monotonic() - started < 2 and not answered
        api.stopping.set()
        api.go_away()
        for t in threads:
            t.join()


def test_governance_is_read_from_the_install_namespace(api):
    with ClusterRouter(api, "--namespace=tools") as router:
        assert api.asked("GET", "/api/v1/namespaces/tools/configmaps.*agenttier-governance")
        assert api.asked("GET", "/api/v1/namespaces/agenttier/configmaps.*agenttier-governance"), "W-30"
        assert router.readyz().status_code == 200


def test_template_changes_are_followed(api, router):
    api.put("clustersandboxtemplates", template("second"))
    with router.client() as client:
        wait_for(lambda: len(client.get("/api/v1/templates").json()["templates"]) == 2, 30, 0.02, "the second template")


def test_the_fake_itself_keeps_to_the_rules():
    """What the tests above rely on."""
    with FakeApiserver() as fake:
        made = fake.put("sandboxes", sandbox("a"))
        assert made["metadata"]["uid"] and int(made["metadata"]["resourceVersion"]) > 100
        again = fake.put("sandboxes", sandbox("a"))
        assert int(again["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
        assert again["metadata"]["uid"] == made["metadata"]["uid"]
