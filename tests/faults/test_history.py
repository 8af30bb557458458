"""The history of several replicas: each keeps its own, a question is answered from all (http-api.md 6.3, http-api-extended.md 8, 16;
W-48)."""

import json

import pytest
from cluster_router import ClusterRouter
from harness import error_of, wait_for

API = "/api/v1"
AUDIT = API + "/audit/events"


@pytest.fixture
def pair(api):
    """Two replicas that know each other, and name themselves among the peers, as a headless Service does."""
    keys = ("admin", "u1")
    with ClusterRouter(api, dev_auth=False, keys=keys) as one:
        two = ClusterRouter(api, dev_auth=False)
        two.keys = one.keys
        with two:
            for router in (one, two):
                router.flags += [f"--history-db={router.folder}/history.db", f"--history-peers=127.0.0.1:{one.port},127.0.0.1:{two.port}"]
            ports = one.port, two.port
            for router, port in zip((one, two), ports):
                router.terminate()
                restart_at(router, port)
            yield one, two


def restart_at(router, port):
    import cluster_router
    before = cluster_router.harness.free_port
    cluster_router.harness.free_port = lambda: port
    try:
        router.restart()
    finally:
        cluster_router.harness.free_port = before


def act(router, rid):
    with router.client("admin") as client:
        assert client.delete(f"{API}/governance/policies/none", headers={"X-Request-ID": rid}).status_code == 204


def ask(router, **params):
    with router.client("admin") as client:
        answer = client.get(AUDIT, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()


def test_16_each_replica_answers_from_all_histories(pair):
    for i in range(10):
        act(pair[i % 2], f"act-{i}")
    for router in pair:  # what a disk has not taken after two seconds is not in an answer
        wait_for(lambda to=router: len(ask(to, type="policy.delete", scope="local")["events"]) == 5, what="its own history")
    for router in pair:
        body = ask(router, type="policy.delete")
        assert [e["details"]["requestId"] for e in body["events"]] == [f"act-{i}" for i in range(9, -1, -1)]
        assert "missing" not in body and "continue" not in body
        assert len(ask(router, type="policy.delete", scope="local")["events"]) == 5
    assert len(ask(pair[0], requestId="act-1")["events"]) == len(ask(pair[1], requestId="act-1")["events"]) == 1


def test_16_pages_may_come_from_another_replica_each(api, pair):
    for i in range(23):
        act(pair[i % 3 % 2], f"page-{i}")
    for i in range(7):
        api.put("events", {"metadata": {"name": f"box.{i}", "namespace": "default"}, "reason": "Running", "message": f"m{i}", "type": "Normal",
                           "involvedObject": {"kind": "Sandbox", "name": "box", "namespace": "default"}, "count": 1,
                           "lastTimestamp": "2026-11-01T00:00:00Z"})
    for router in pair:
        wait_for(lambda: len(ask(router, kind="event", sandbox="box")["events"]) == 7)
    seen, cursor, turn = [], None, 0
    while True:
        body = ask(pair[turn % 2], limit=4, since="2026-01-01T00:00:00Z", **({"continue": cursor} if cursor else {}))
        seen += body["events"]
        cursor, turn = body.get("continue"), turn + 1
        if not cursor:
            break
    ids = [e["details"].get("requestId") or e["details"]["reason"] for e in seen]
    assert sorted(i for i in ids if i.startswith("page-")) == sorted(f"page-{i}" for i in range(23))
    assert sorted(i for i in ids if i.startswith("m")) == [f"m{i}" for i in range(7)]
    assert [e["timestamp"] for e in seen] == sorted((e["timestamp"] for e in seen), reverse=True)


def test_16_a_replica_that_is_away_is_named(pair):
    one, two = pair
    act(one, "mine")
    act(two, "theirs")
    port = two.port
    wait_for(lambda: len(ask(one, type="policy.delete")["events"]) == 2)
    two.terminate()
    body = ask(one, type="policy.delete")
    assert [e["details"]["requestId"] for e in body["events"]] == ["mine"]
    assert body["missing"] == [f"127.0.0.1:{port}"]
    restart_at(two, port)
    wait_for(lambda: len(ask(one, type="policy.delete")["events"]) == 2)


def test_16_peers_hold_the_callers_own_credential_against_the_question(pair):
    one, two = pair
    act(two, "secret")
    with one.client("u1") as client:
        error_of(client.get(AUDIT), 403)
        error_of(client.get(AUDIT, params={"scope": "local"}), 403)
    with one.anonymous() as client:
        error_of(client.get(AUDIT), 401)


@pytest.mark.parametrize("answer", ["not JSON", "[]", '{"events":5}', '{"events":[5,{"cursor":7},{"details":{"kind":"action"}}]}', ""])
def test_16_what_a_peer_answers_is_not_trusted(api, answer):
    import http.server
    import threading

    class Liar(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            pass
    liar = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    threading.Thread(target=liar.serve_forever, daemon=True).start()
    try:
        peer = f"127.0.0.1:{liar.server_port}"
        router = ClusterRouter(api, f"--history-peers={peer}")
        router.flags.append(f"--history-db={router.folder}/history.db")
        with router, router.client() as client:
            client.delete(f"{API}/governance/policies/none", headers={"X-Request-ID": "own"})
            body = client.get(AUDIT, params={"kind": "action"}).json()
            assert [e["details"]["requestId"] for e in body["events"]] == ["own"]
            assert ("missing" in body) == ("cursor" not in answer), body
            json.dumps(body)
    finally:
        liar.shutdown()
        liar.server_close()
