"""Use of a sandbox is recorded at most once an interval, and never in the way of anything (http-api.md 4.3, W-19)."""

import time

import pytest
from fake_apiserver import delay
from harness import wait_for
from test_access import pods, put  # noqa: F401, the fixture

PATCHES = "/sandboxes/box/status"


@pytest.mark.timeout(120)
def test_W19_many_requests_are_one_write_also_while_the_apiserver_is_slow(api, router, pods):  # noqa: F811
    put(api)
    router.wait_names("box")
    wait_for(lambda: router.metric('agenttier_kubernetes_cached_objects{kind="Pod"}') == 1, 5, what="the pod")
    api.on("PATCH", PATCHES, delay(3))
    with router.client() as client:
        started = time.monotonic()
        for _ in range(8):
            answer = client.post("/api/v1/sandboxes/box/exec", json={"command": "true"})
            assert answer.status_code == 200 and answer.json()["exitCode"] == 0, answer.text
        took = time.monotonic() - started
        assert len(api.asked("PATCH", PATCHES)) == 1 and took < 8 * 3, "executions did not wait for the record"
        wait_for(lambda: api.get("sandboxes", "box", "default")["status"].get("lastActivityTimestamp"), 10, what="the record")
        for _ in range(5):
            client.post("/api/v1/sandboxes/box/exec", json={"command": "true"})
        assert len(api.asked("PATCH", PATCHES)) == 1, "it is recorded for this minute"
