"""Preferences of users (http-api-extended.md 11.2; weakness 103)."""

import concurrent.futures
import hashlib
import json
import sqlite3

import pytest

from harness import Router, error_of, wait_for

URL = "/api/v1/user/preferences"


@pytest.fixture(scope="module")
def own():
    with Router(keys=("p1", "p2", "p3", "p4", "p5", "racer", "admin")) as router:
        yield router


def config_map(router, sub):
    name = "agenttier-prefs-" + hashlib.sha256(sub.encode()).hexdigest()[:16]
    with sqlite3.connect(f"file:{router.state_dir}/state.db?mode=ro", uri=True) as db:
        row = db.execute("SELECT json FROM objects WHERE kind = 'ConfigMap' AND name = ?", (name,)).fetchone()
    return json.loads(row[0]) if row else None


def test_11_2_put_replaces_and_get_returns(own):
    with own.client("p1") as client, own.client("p2") as other:
        assert (client.get(URL).status_code, client.get(URL).json()) == (200, {})
        first = {"theme": "dark", "notifications": {"email": False}, "n": 12345678901234567, "x": 0.1, "u": "é\u2028<&>"}
        answer = client.put(URL, json=first)
        assert (answer.status_code, answer.json(), answer.headers["Content-Type"]) == (200, first, "application/json")
        assert client.get(URL).json() == first and "0.1," in client.get(URL).text
        assert other.get(URL).json() == {}
        assert client.put(URL, json={"only": 1}).json() == {"only": 1}
        assert client.get(URL).json() == {"only": 1}
        stored = config_map(own, "p1")
        assert stored["metadata"]["labels"] == {"agenttier.io/component": "user-preferences"}
        assert stored["metadata"]["namespace"] == "agenttier"
        assert json.loads(stored["data"]["preferences"]) == {"only": 1}


def test_11_2_name_of_the_dev_user(dev):
    assert hashlib.sha256(b"dev-user").hexdigest()[:16] == "2aed2fcc28e7c307"
    with dev.anonymous() as client:
        assert client.put(URL, json={"a": 1}).json() == {"a": 1}
        assert config_map(dev, "dev-user")["metadata"]["name"] == "agenttier-prefs-2aed2fcc28e7c307"


def test_11_2_null_is_kept(own):
    with own.client("p5") as client:
        assert client.put(URL, content=b"null").text == "null\n"
        assert client.get(URL).text == "null\n"
        assert client.patch(URL, json={"a": 1}).json() == {"a": 1}


@pytest.mark.parametrize("text", [b"", b"[]", b'"x"', b"7", b"true", b"{", b'{"a":1,"a":2}', b'{"a":"\xff"}', b'{"a":1e999}', b'{"a":"\\u0000"}',
                                  b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"])
def test_S27_hostile_preferences(own, text):
    with own.client("p3") as client:
        client.put(URL, json={"kept": True})
        error_of(client.put(URL, content=text), 400)
        error_of(client.patch(URL, content=text), 400)
        assert client.get(URL).json() == {"kept": True}


def test_W103_preferences_have_a_size(own):
    with own.client("p3") as client:
        client.put(URL, json={"kept": True})
        assert client.put(URL, json={"big": "x" * (255 << 10)}).status_code == 200
        error_of(client.put(URL, json={"big": "x" * (257 << 10)}), 413)
        error_of(client.put(URL, json={"big": "x" * (2 << 20)}), 413)
        error_of(client.patch(URL, json={"more": "x" * (2 << 10)}), 413)
        assert len(client.get(URL).json()["big"]) == 255 << 10


def test_W103_merge(own):
    with own.client("p3") as client:
        client.put(URL, json={"a": 1, "b": {"c": 2, "d": [1, 2]}})
        assert client.patch(URL, json={"a": None, "b": {"d": [3]}, "e": 4}).json() == {"b": {"c": 2, "d": [3]}, "e": 4}
        error_of(client.patch(URL, content=b"null"), 400)


def test_W103_if_match(own):
    with own.client("p4") as client:
        none = client.get(URL).headers["ETag"]
        one = client.put(URL, json={"v": 1}, headers={"If-Match": none}).headers["ETag"]
        assert one == client.get(URL).headers["ETag"] != none
        assert error_of(client.put(URL, json={"v": 2}, headers={"If-Match": none}), 412)["code"] == "precondition_failed"
        error_of(client.patch(URL, json={"v": 2}, headers={"If-Match": '"other"'}), 412)
        assert client.patch(URL, json={"w": 2}, headers={"If-Match": f'"other", {one}'}).json() == {"v": 1, "w": 2}
        assert client.put(URL, json={}, headers={"If-Match": "*"}).json() == {}


@pytest.mark.tsan
def test_W103_first_writers_and_mergers_at_once(own):
    """Nobody is refused, and no merge covers another one."""
    with own.client("racer") as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: client.patch(URL, json={f"k{i}": i}), range(8)))
        assert [a.status_code for a in answers] == [200] * 8
        assert client.get(URL).json() == {f"k{i}": i for i in range(8)}


def test_11_1_user_me_is_complete(own):
    key = own.create_key("grouped", "--groups=data-team,ops", "--name=laptop")
    with own.client(key) as client:
        wait_for(lambda: client.get("/api/v1/user/me").status_code == 200)
        assert client.get("/api/v1/user/me").json() == {"sub": "grouped", "email": "grouped@example.org", "name": "laptop",
                                                        "groups": ["data-team", "ops"], "isAdmin": False}
    with own.client("p1") as client:
        assert client.get("/api/v1/user/me").json()["groups"] == []  # W-38
