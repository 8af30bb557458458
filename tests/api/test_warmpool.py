"""The warm pool's routes where there is none, on one machine (http-api-extended.md 9; weakness 80)."""

import pytest
from harness import error_of, wait_for

STATUS, CONFIG = "/api/v1/warmpool/status", "/api/v1/warmpool/config"


def test_9_2_an_unconfigured_pool_says_nothing(u1, admin):
    for client in (u1, admin):
        answer = client.get(STATUS)
        assert (answer.status_code, answer.json()) == (200, {})


def test_9_3_a_pool_that_nobody_fills_is_refused_with_the_reason(u1, admin):
    body = {"pools": [{"template": "general-coding", "desiredCount": 2}]}
    assert error_of(u1.put(CONFIG, json=body), 403)
    refused = admin.put(CONFIG, json=body)
    assert "no warm pool" in error_of(refused, 501)["error"]
    assert error_of(admin.put(CONFIG, json={"template": "general-coding", "desiredCount": 2}), 501)
    # None at all is what there is.
    for none in ({}, {"pools": []}, {"pools": None}, {"template": "x", "desiredCount": 0}, {"desiredCount": 3}):
        answer = admin.put(CONFIG, json=none)
        assert (answer.status_code, answer.json()) == (200, {"status": "updated", "pools": None})
    assert admin.get(STATUS).json() == {}


@pytest.mark.parametrize("pools, message", [
    ([{"desiredCount": 1}], "pools[0].template is required"),
    ([{"template": "a", "desiredCount": 1}, {"template": "", "desiredCount": 1}], "pools[1].template is required"),
    ([{"template": "a", "desiredCount": 11}], "pools[0].desiredCount must be 0-10"),
    ([{"template": "a", "desiredCount": -1}], "pools[0].desiredCount must be 0-10"),
    ([{"template": "a", "desiredCount": 1}, {"template": "a", "desiredCount": 2}], "pools[1].template is that of pools[0], too"),
])
def test_9_3_what_is_wrong_is_named(admin, pools, message):
    assert error_of(admin.put(CONFIG, json={"pools": pools}), 400)["error"] == message


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b'{"pools": 7}', b'{"pools": {}}', b'{"template": 7}', b'{"desiredCount": "1"}'])
def test_9_3_a_body_that_is_none(admin, body):
    answer = admin.put(CONFIG, content=body, headers={"Content-Type": "application/json"})
    assert error_of(answer, 400)["error"]


def test_W48_it_is_in_the_history(admin):
    assert admin.put(CONFIG, json={"pools": []}, headers={"X-Request-ID": "warm-audit-1"}).status_code == 200

    def found():
        return admin.get("/api/v1/audit/events", params={"requestId": "warm-audit-1"}).json()["events"]
    wait_for(found, 10, 0.05, "the record")
    assert [event["eventType"] for event in found()] == ["warmpool.configure"]
