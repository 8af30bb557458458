"""Many sandboxes by one call (http-api.md 2.7; W-43, W-44, vectors 28 to 30)."""

import concurrent.futures

import pytest

from harness import TEMPLATE, Router, error_of, wait_for

API = "/api/v1"
BULK = API + "/sandboxes/bulk"
ACT = API + "/sandboxes/bulk-action"


def item(name, **more):
    """A sandbox that never runs: its template does not exist."""
    return {"name": name, "template": "no-such-template", **more}


def ids(answer, status="created"):
    assert answer.status_code == 200, answer.text
    return [r.get("sandboxId") for r in answer.json()["results"] if r["status"] == status]


def remove(client, names):
    answer = client.post(ACT, json={"action": "delete", "ids": names})
    assert answer.status_code == 200, answer.text


def test_vector_28_each_item_has_its_own_result(u1, u2, fresh):
    items = [item(fresh + "-a"), item(""), item(fresh + "-b", timeout="later"), 7, None, [], {}, item(fresh + "-a"),
             item("UPPER"), {"name": fresh + "-c"}, item(fresh + "-d", namespace="kube-system"),
             item(fresh + "-e", overrides={"resources": {"cpu": "999"}}), item(fresh + "-f", timeout="2h")]
    answer = u1.post(BULK, json={"items": items})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [r["index"] for r in results] == list(range(len(items)))
    assert [r["status"] for r in results] == ["created"] + ["error"] * 11 + ["created"]
    assert results[0] == {"index": 0, "status": "created", "sandboxId": fresh + "-a", "namespace": "default"}
    for r in results[1:-1]:
        assert isinstance(r["error"], str) and r["error"] and "sandboxId" not in r, r
    assert results[7]["code"] == "already_exists" and results[10]["code"] == "namespace_not_allowed"
    assert results[11]["error"].startswith("policy_violation: ") and "999" in results[11]["error"]
    assert results[11]["violations"][0]["code"] == "cpu_limit_exceeded"
    there = {s["name"] for s in u1.get(API + "/sandboxes").json()["sandboxes"]}
    assert {n for n in there if n.startswith(fresh)} == {fresh + "-a", fresh + "-f"}
    error_of(u2.get(f"{API}/sandboxes/{fresh}-a"), 404)
    remove(u1, [fresh + "-a", fresh + "-f"])


def test_2_7_an_item_is_what_a_single_create_takes(keyed, u1, fresh):
    """The same members, the same checks, a sandbox that runs."""
    answer = u1.post(BULK, json={"items": [
        {"name": f"{fresh}-{i}", "templateRef": {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"},
         "overrides": {"env": [{"name": "NUMBER", "value": str(i)}]}} for i in range(3)]})
    names = ids(answer)
    assert names == [f"{fresh}-{i}" for i in range(3)]
    for i, name in enumerate(names):
        wait_for(lambda n=name: u1.get(f"{API}/sandboxes/{n}").json()["status"] == "Running", 60)
        done = u1.post(f"{API}/sandboxes/{name}/exec", json={"command": "echo $NUMBER"}).json()
        assert done["stdout"] == f"{i}\n"
    remove(u1, names)


@pytest.mark.parametrize("body", [{}, {"items": []}, {"items": None}, {"items": {}}, {"items": "x"}, {"item": [item("a")]},
                                  {"items": [item(f"many-{i}") for i in range(101)]}])
def test_W44_bulk_body_is_bounded(u1, body):
    error_of(u1.post(BULK, json=body), 400)
    assert not [s for s in u1.get(API + "/sandboxes").json()["sandboxes"] if s["name"].startswith("many-")]


@pytest.mark.parametrize("route", [BULK, ACT])
@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b'{"items":[' + b"[" * 200, b'{"items":[1],"items":[2]}', b'{"items":"\xff"}'])
def test_S27_hostile_bulk_bodies(u1, route, text):
    error_of(u1.post(route, content=text), 400)


def test_W44_bulk_body_above_its_limit(u1):
    error_of(u1.post(BULK, content=b'{"items": ["' + b"x" * (8 << 20) + b'"]}'), 413)


def test_2_7_a_hundred(u1, fresh):
    names = [f"{fresh}-{i}" for i in range(100)]
    assert ids(u1.post(BULK, json={"items": [item(n) for n in names]})) == names
    answer = u1.post(ACT, json={"action": "delete", "ids": names})
    assert [r["status"] for r in answer.json()["results"]] == ["ok"] * 100
    wait_for(lambda: not [s for s in u1.get(API + "/sandboxes").json()["sandboxes"] if s["name"].startswith(fresh)])


# ---- again ----

def test_I31_a_retry_creates_only_what_is_missing(u1, u2, fresh):
    body = {"items": [item(fresh + "-a"), item(fresh + "-b"), item("BAD")]}
    headers = {"Idempotency-Key": fresh}
    first = u1.post(BULK, json=body, headers=headers)
    assert ids(first) == [fresh + "-a", fresh + "-b"] and "Idempotency-Replayed" not in first.headers
    again = u1.post(BULK, json=body, headers=headers)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert [r.get("replayed") for r in again.json()["results"]] == [True, True, None]
    assert ids(again) == ids(first)
    remove(u1, [fresh + "-b"])
    wait_for(lambda: u1.get(f"{API}/sandboxes/{fresh}-b").status_code == 404)
    assert [r.get("replayed") for r in u1.post(BULK, json=body, headers=headers).json()["results"]] == [True, None, None]
    # Another body under the same key, here or by the single route, is refused as a whole.
    other = {"items": [item(fresh + "-c")]}
    assert error_of(u1.post(BULK, json=other, headers=headers), 409)["code"] == "idempotency_key_reused"
    error_of(u1.post(API + "/sandboxes", json=item(fresh + "-c"), headers=headers), 409)
    error_of(u1.get(f"{API}/sandboxes/{fresh}-c"), 404)
    # Another user's key is another key.
    assert ids(u2.post(BULK, json=other, headers=headers)) == [fresh + "-c"]
    remove(u2, [fresh + "-c"])
    remove(u1, [fresh + "-a", fresh + "-b"])


def test_I31_two_items_of_one_name_are_one_sandbox(u1, fresh):
    answer = u1.post(BULK, json={"items": [item(fresh), item(fresh)]}, headers={"Idempotency-Key": fresh})
    assert [r.get("code") for r in answer.json()["results"]] == [None, "already_exists"]
    again = u1.post(BULK, json={"items": [item(fresh), item(fresh)]}, headers={"Idempotency-Key": fresh})
    assert [r.get("code") for r in again.json()["results"]] == [None, "already_exists"]
    remove(u1, [fresh])


def test_I31_the_same_bulk_eight_times_at_once(keyed, u1, fresh):
    body = {"items": [item(f"{fresh}-{i}") for i in range(5)]}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: u1.post(BULK, json=body, headers={"Idempotency-Key": fresh}), range(8)))
    created = [r for a in answers for r in a.json()["results"]]
    assert {r["status"] for r in created} == {"created"}
    assert sum(1 for r in created if "replayed" not in r) == 5
    remove(u1, [i["name"] for i in body["items"]])


# ---- actions ----

def test_2_7_stop_resume_delete(keyed, u1, u2, fresh):
    one, two = keyed.sandbox(fresh + "-1", key="u1"), keyed.sandbox(fresh + "-2", key="u1")
    one.run("echo kept > /workspace/f")
    theirs = keyed.sandbox(fresh + "-x", key="u2")
    targets = [one.name, "nope", theirs.name, two.name, one.name]

    def act(action):
        answer = u1.post(ACT, json={"action": action, "ids": targets})
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert [r["id"] for r in results] == targets
        assert results[1]["code"] == results[2]["code"] == "sandbox_not_found"
        assert results[2]["error"] == results[1]["error"].replace("nope", theirs.name)
        return [results[i]["status"] for i in (0, 3, 4)]

    assert act("stop")[:2] == ["ok", "ok"]  # the second time it is under way, or Stopped: see below
    one.wait("Stopped"), two.wait("Stopped")
    assert act("stop") == ["error", "error", "error"]
    assert act("resume")[:2] == ["ok", "ok"]
    one.wait("Running"), two.wait("Running")
    assert one.run("cat /workspace/f") == "kept\n"
    assert act("resume") == ["error", "error", "error"]
    assert theirs.status() == "Running"
    assert act("delete")[:2] == ["ok", "ok"]
    one.gone(), two.gone()
    theirs.remove()


@pytest.mark.parametrize("body", [
    {"action": "pause", "ids": ["a"]}, {"action": "Stop", "ids": ["a"]}, {"ids": ["a"]}, {"action": "stop"}, {"action": "stop", "ids": []},
    {"action": "stop", "ids": "a"}, {"action": "stop", "ids": [7]}, {"action": "stop", "ids": ["a", None]}, {"action": 1, "ids": ["a"]},
    {"action": "delete", "ids": [f"x{i}" for i in range(101)]},
])
def test_vector_30_bulk_action_is_validated(u1, body):
    error_of(u1.post(ACT, json=body), 400)


def test_2_7_hostile_ids(u1):
    ids_ = ["", "..", "a/b", "a\nb", "é", "x" * 5000, "%2e%2e", "default/x"]
    results = u1.post(ACT, json={"action": "delete", "ids": ids_}).json()["results"]
    assert [(r["id"], r["status"]) for r in results] == [(i, "error") for i in ids_]


def test_S10_bulk_guests_and_scoped_keys(keyed, u1, u2, fresh):
    u1.post(API + "/sandboxes", json=item(fresh))
    base = f"{API}/sandboxes/{fresh}"
    u1.post(base + "/share", json={"identity": "u2", "level": "collaborator"})
    assert u2.post(ACT, json={"action": "delete", "ids": [fresh]}).json()["results"][0]["status"] == "error"
    key = u1.post(API + "/user/api-keys", json={"sandboxId": fresh}).json()["key"]
    with keyed.client(key) as scoped:
        error_of(scoped.post(ACT, json={"action": "stop", "ids": [fresh]}), 403)
        error_of(scoped.post(BULK, json={"items": [item("scoped-bulk")]}), 403)
    assert u1.get(base).status_code == 200
    remove(u1, [fresh])


def test_2_7_namespace_of_an_action(keyed, admin, fresh):
    for namespace in ("team-a", "team-b"):
        assert admin.post(API + "/sandboxes", json=item(fresh, namespace=namespace)).status_code == 201
    answer = admin.post(ACT, json={"action": "delete", "ids": [fresh]}).json()["results"][0]
    assert (answer["status"], answer["code"]) == ("error", "sandbox_ambiguous")
    for namespace in ("team-a", "team-b"):
        answer = admin.post(ACT, json={"action": "delete", "ids": [fresh]}, params={"namespace": namespace})
        assert answer.json()["results"][0]["status"] == "ok"


def test_bulk_names_are_only_special_for_post(u1):
    """A sandbox may be called bulk (http-api.md 2.1)."""
    assert ids(u1.post(BULK, json={"items": [item("bulk")]})) == ["bulk"]
    assert u1.get(BULK).json()["name"] == "bulk"
    assert u1.delete(BULK).status_code == 204
    error_of(u1.get(ACT), 404)


def test_W43_bulk_pays_for_each_item():
    """A batch costs as many tokens as it has items, and the largest one can be paid."""
    with Router("--ratelimit-per-user-rate=1", keys=("u1", "u2")) as router, router.client("u1") as u1, router.client("u2") as u2:
        answer = u1.post(ACT, json={"action": "stop", "ids": ["x"] * 100})
        assert answer.status_code == 200 and len(answer.json()["results"]) == 100
        refused = u1.post(ACT, json={"action": "stop", "ids": ["x"] * 100})
        assert error_of(refused, 429)["error"] == "rate_limited"
        assert 1 <= int(refused.headers["Retry-After"]) <= 101
        error_of(u1.post(BULK, json={"items": [item("x")] * 100}), 429)
        assert u2.post(BULK, json={"items": [item("")] * 99}).status_code == 200
        error_of(u2.post(BULK, json={"items": [item("")] * 99}), 429)


# ---- quotas ----

@pytest.fixture
def capped(admin, fresh):
    """A namespace and a template of its own, and a way to give the namespace a policy."""
    name = "bulk-" + fresh
    assert admin.post(API + "/templates", json={"name": name, "spec": {"mode": "agent"}}).status_code == 201

    def put(**policy):
        assert admin.put(f"{API}/governance/policies/{name}", json=policy).status_code == 200
        return name
    yield put
    admin.delete(f"{API}/governance/policies/{name}")
    left = [s["name"] for s in admin.get(API + "/sandboxes", params={"namespace": name}).json()["sandboxes"]]
    if left:
        admin.post(ACT, json={"action": "delete", "ids": left}, params={"namespace": name})
    wait_for(lambda: admin.delete(f"{API}/templates/{name}").status_code in (204, 404))


def boxes(namespace, *names):
    return {"items": [{"name": n, "namespace": namespace, "template": namespace} for n in names]}


def there(client, namespace):
    return sorted(s["name"] for s in client.get(API + "/sandboxes", params={"namespace": namespace}).json()["sandboxes"])


@pytest.mark.parametrize("policy, code", [({"maxSandboxesTotal": 3}, "namespace_quota_exceeded"),
                                          ({"maxSandboxesPerUser": 3}, "user_quota_exceeded"),
                                          ({"maxAgentSandboxes": 3}, "agent_sandbox_quota_exceeded")])
def test_vector_29_what_does_not_fit_is_refused_whole(u1, capped, policy, code):
    ns = capped(**policy)
    assert ids(u1.post(BULK, json=boxes(ns, "a", "b"))) == ["a", "b"]
    answer = u1.post(BULK, json={"items": [item("elsewhere-29"), *boxes(ns, "c", "d")["items"]]})
    body = error_of(answer, 409)
    assert (body["error"], body["namespace"]) == ("quota_would_exceed", ns)
    assert [set(v) for v in body["violations"]] == [{"code", "message"}] and body["violations"][0]["code"] == code
    assert there(u1, ns) == ["a", "b"] and "elsewhere-29" not in there(u1, "default")
    assert ids(u1.post(BULK, json=boxes(ns, "c"))) == ["c"]  # the cap itself may be reached


def test_6_7_items_that_fail_by_themselves_count(u1, capped):
    ns = capped(maxSandboxesTotal=2)
    bad = {"items": [*boxes(ns, "a", "b")["items"], {"name": "", "namespace": ns, "template": ns}]}
    assert error_of(u1.post(BULK, json=bad), 409)["error"] == "quota_would_exceed"
    assert there(u1, ns) == []


def test_I31_a_retry_at_the_quota_is_no_new_request(u1, capped, fresh):
    ns = capped(maxSandboxesTotal=2)
    for _ in range(3):
        assert ids(u1.post(BULK, json=boxes(ns, "a", "b"), headers={"Idempotency-Key": fresh})) == ["a", "b"]
    error_of(u1.post(BULK, json=boxes(ns, "a", "b")), 409)


def test_W65_each_item_is_checked_as_a_single_create(u1, capped):
    ns = capped(maxTimeout="1h", maxSandboxesTotal=5)
    body = boxes(ns, "a", "b")
    body["items"][0]["timeout"] = "2h"
    body["items"][1]["timeout"] = "30m"
    results = u1.post(BULK, json=body).json()["results"]
    assert [r["status"] for r in results] == ["error", "created"]
    assert results[0]["error"].startswith("policy_violation: timeout") and results[0]["code"] == "policy_violation"
    assert [v["code"] for v in results[0]["violations"]] == ["timeout_exceeded"]


@pytest.mark.tsan
def test_S31_parallel_batches_never_pass_the_quota(keyed, u1, capped):
    """Batches and single creates at once: whatever is refused, by the batch rule or item by item, no more than the quota is there."""
    ns = capped(maxSandboxesTotal=10)

    def batch(i):
        with keyed.client("u1") as client:
            if i % 4 == 3:
                answer = client.post(API + "/sandboxes", json=boxes(ns, f"single-{i}")["items"][0])
                assert answer.status_code in (201, 403), answer.text
                return int(answer.status_code == 201)
            answer = client.post(BULK, json=boxes(ns, *(f"b{i}-{j}" for j in range(4))))
            return len(ids(answer)) if answer.status_code == 200 else error_of(answer, 409) and 0

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        made = sum(pool.map(batch, range(16)))
    assert made == len(there(u1, ns))
    assert 7 <= made <= 10  # a batch of four is refused only when fewer than four places are left
