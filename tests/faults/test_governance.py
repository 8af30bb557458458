"""Governance with several replicas, and when what is stored is broken or not to be had (http-api-extended.md 6; W-30, W-65,
W-87; lesson S31)."""

import concurrent.futures
import json
import time

import pytest
from cluster_router import ClusterRouter, sandbox
from fake_apiserver import hang, status
from harness import error_of, wait_for

API = "/api/v1"
POLICIES = API + "/governance/policies"


def create(client, name, namespace="team"):
    return client.post(API + "/sandboxes", json={"name": name, "namespace": namespace, "template": "t"})


def limit(client, namespace="team", **policy):
    answer = client.put(f"{POLICIES}/{namespace}", json=policy)
    assert answer.status_code == 200, answer.text


def sees(router, namespace="team", **policy):
    def there():
        with router.client() as client:
            return client.get(f"{POLICIES}/{namespace}").json()["policy"] == policy
    wait_for(there, what="the policy on another replica")


@pytest.fixture
def three(api):
    with ClusterRouter(api) as a, ClusterRouter(api) as b, ClusterRouter(api) as c:
        yield a, b, c


def race(routers, count=50):
    """`count` creates at once, spread over the routers; their statuses, and the codes of refusals."""
    def one(i):
        with routers[i % len(routers)].client() as client:
            answer = create(client, f"race-{i}")
            while answer.status_code == 503 and "Retry-After" in answer.headers:  # a crowd: as clients do
                time.sleep(0.05)
                answer = create(client, f"race-{i}")
            return answer
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(one, range(count)))
    refusals = {v["code"] for a in answers if a.status_code == 403 for v in a.json()["violations"]}
    return sorted(a.status_code for a in answers), refusals


def test_S31_fifty_parallel_creates_on_three_replicas_make_exactly_one(api, three):
    with three[0].client() as client:
        limit(client, maxSandboxesTotal=3)
        for name in ("before-1", "before-2"):
            assert create(client, name).status_code == 201
    for router in three:
        sees(router, maxSandboxesTotal=3)
    codes, refusals = race(three)
    assert codes == [201] + [403] * 49 and refusals == {"namespace_quota_exceeded"}
    assert len(api.all("sandboxes")) == 3


def test_S31_one_place_for_all_that_are_resumed_and_created_at_once(api, three):
    """Sandboxes in Error are resumed on three replicas while others are created: exactly one of all is let in."""
    with three[0].client() as client:
        limit(client, maxSandboxesTotal=8)
        for i in range(6):
            assert create(client, f"failed-{i}").status_code == 201
            api.set_status("sandboxes", f"failed-{i}", "team", phase="Error")
        for name in ("before-1", "before-2"):
            assert create(client, name).status_code == 201
        limit(client, maxSandboxesTotal=3)
    for router in three:
        sees(router, maxSandboxesTotal=3)
        with router.client() as client:
            wait_for(lambda client=client: [s["status"] for s in client.get(API + "/sandboxes", params={"namespace": "team"}).json()["sandboxes"]
                                            ].count("Error") == 6, what="what failed, on another replica")

    def one(i):
        with three[i % 3].client() as client:
            def ask():
                return create(client, f"race-{i}") if i % 2 else client.post(f"{API}/sandboxes/failed-{i // 2}/resume", params={"namespace": "team"})
            answer = ask()
            while answer.status_code == 503 and "Retry-After" in answer.headers:
                time.sleep(0.05)
                answer = ask()
            return answer
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        codes = sorted(a.status_code for a in pool.map(one, range(12)))
    assert codes in ([200] + [403] * 11, [201] + [403] * 11), codes
    phases = [s.get("status", {}).get("phase", "") for s in api.all("sandboxes")]
    assert len(phases) - phases.count("Error") == 3, phases


def stand_still(api, request, connection):
    """A watch that is accepted and on which nothing comes."""
    connection.start_chunks()
    return hang()(api, request, connection)


def test_S31_replicas_that_hear_nothing_of_each_others_sandboxes_keep_the_quota(api, three):
    """The watch on sandboxes stands still: only the ledger tells what the others made."""
    with three[0].client() as client:
        limit(client, maxSandboxesPerUser=7)
    # With one of another namespace the sandboxes are not what a Router lists to see whether it is still heard.
    api.put("sandboxes", sandbox("elsewhere", owner="another"))
    for router in three:
        sees(router, maxSandboxesPerUser=7)
        router.wait_names("elsewhere")
    wait_for(lambda: api.watchers("sandboxes") == 3, what="a watch of each")
    api.on("GET", r"/sandboxes\?.*watch", stand_still)
    api.on("GET", r"/sandboxes\?(?!.*watch)", hang())
    api.cut_watches("sandboxes")
    codes, refusals = race(three, 40)
    assert codes == [201] * 7 + [403] * 33 and refusals == {"user_quota_exceeded"}
    assert len([s for s in api.all("sandboxes") if s["metadata"]["namespace"] == "team"]) == 7
    assert sum(len(set(router.names()) - {"elsewhere"}) for router in three) == 7  # each knows its own only
    api.clear()


def test_W65_a_failed_creation_gives_its_place_back_and_an_unclear_one_does_not(api, router):
    with router.client() as client:
        limit(client, maxSandboxesTotal=1)
        api.on("POST", r"/sandboxes", status(422, "Invalid", "no"), times=3)
        for i in range(3):
            assert create(client, f"bad-{i}").status_code == 400
        api.on("POST", r"/sandboxes", status(500, "InternalError", "etcd said nothing"), times=1)
        assert create(client, "unclear").status_code >= 500
        # It may have been made: its place stays taken for some seconds.
        assert error_of(create(client, "next"), 403)["violations"][0]["code"] == "namespace_quota_exceeded"


def test_W65_a_place_of_a_router_that_died_is_free_after_a_while(api, router):
    with router.client() as client:
        limit(client, maxSandboxesTotal=1)
        stale = [{"claim": "dead-router", "user": "x", "at": int(time.time()) - 58}]
        api.put("configmaps", {"metadata": {"name": "agenttier-quota-team", "namespace": "agenttier",
                                            "labels": {"agenttier.io/component": "quota"}}, "data": {"promises": json.dumps(stale)}})
        wait_for(lambda: create(client, "early").status_code in (403, 201))
        wait_for(lambda: create(client, "late").status_code == 201 or "early" in [s["metadata"]["name"] for s in api.all("sandboxes")], 60, 0.2)
        assert len(api.all("sandboxes")) == 1


def test_W65_conflicts_of_the_ledger_are_retried(api, router):
    with router.client() as client:
        limit(client, maxSandboxesTotal=2)
        assert create(client, "one").status_code == 201
        api.on("PUT", r"/configmaps/agenttier-quota-team", status(409, "Conflict", "modified"), times=3)
        assert create(client, "two").status_code == 201
        api.on("PUT", r"/configmaps/agenttier-quota-other", status(409, "Conflict", "modified"))
        api.on("POST", r"/configmaps$", status(409, "AlreadyExists", "exists"))
        limit(client, "other", maxSandboxesTotal=2)
        answer = create(client, "three", "other")
        assert error_of(answer, 503)["code"] == "unavailable" and int(answer.headers["Retry-After"]) >= 1
        assert len(api.all("sandboxes")) == 2


def stored_policies(api, text, namespace="agenttier"):
    api.put("configmaps", {"metadata": {"name": "agenttier-governance", "namespace": namespace}, "data": {"policies": text}})


def test_W87_what_was_last_good_holds_on(api, router):
    with router.client() as client:
        limit(client, maxSandboxesTotal=1, maxCpu="2")
        assert create(client, "one").status_code == 201
        for text in ("not JSON", "[]", '{"team":7}', '{"team":{"maxSandboxesTotal":"many","maxCpu":"lots"}}'):
            complaints = len(router.records("cannot be read"))
            stored_policies(api, text)
            wait_for(lambda before=complaints: len(router.records("cannot be read")) > before, what="a complaint")
            assert error_of(create(client, "two"), 403)["violations"][0]["code"] == "namespace_quota_exceeded", text
            assert client.get(f"{POLICIES}/team").json()["policy"] == {"maxSandboxesTotal": 1, "maxCpu": "2"}
        stored_policies(api, '{"team":{"maxSandboxesTotal":2}}')
        wait_for(lambda: create(client, "two").status_code == 201)
        # whoever takes the ConfigMap away lifts its limits
        api.remove("configmaps", "agenttier-governance", "agenttier")
        wait_for(lambda: create(client, "three").status_code == 201)


def test_W87_with_fail_closed_only_what_was_never_good_refuses(api):
    stored_policies(api, '{"team":{"maxCpu":"lots"}}')
    with ClusterRouter(api, "--policy-fail-closed") as router, router.client() as client:
        assert error_of(create(client, "one"), 503)["code"] == "policy_unavailable"
        stored_policies(api, '{"team":{"maxCpu":"4"}}')
        wait_for(lambda: create(client, "one").status_code == 201)
        stored_policies(api, '{"team":{"maxCpu":"lots"}}')
        wait_for(lambda: "what was last good holds on" in router.tail())
        assert create(client, "two").status_code == 201


def test_W30_the_legacy_namespace_is_in_force_until_the_install_namespace_has_its_own(api):
    stored_policies(api, '{"__cluster__":{"maxCpu":"4"},"team":{"maxSandboxesTotal":9}}')
    with ClusterRouter(api, "--namespace=platform") as router, router.client() as client:
        assert client.get(f"{POLICIES}/team").json()["policy"] == {"maxSandboxesTotal": 9}
        limit(client, "other", maxCpu="1")
        assert json.loads(api.get("configmaps", "agenttier-governance", "agenttier")["data"]["policies"])["other"] == {"maxCpu": "1"}
        stored_policies(api, '{"team":{"maxSandboxesTotal":3}}', "platform")
        sees(router, maxSandboxesTotal=3)
        assert client.get(POLICIES).json()["cluster"] is None


def test_W87_policies_unknown_to_the_router_stay_when_others_are_written(api, router):
    """A newer program's member, and a policy that this one cannot read, are not lost by a write of another scope."""
    stored_policies(api, '{"future":{"maxGpus":2,"maxCpu":"1"},"broken":{"maxCpu":[]}}')
    with router.client() as client:
        wait_for(lambda: client.get(f"{POLICIES}/future").json()["policy"] == {"maxCpu": "1"})
        limit(client, maxCpu="2")
        assert json.loads(api.get("configmaps", "agenttier-governance", "agenttier")["data"]["policies"]) == {
            "future": {"maxGpus": 2, "maxCpu": "1"}, "broken": {"maxCpu": []}, "team": {"maxCpu": "2"}}


def test_W37_a_policy_that_others_keep_changing_is_409(api, router):
    with router.client() as client:
        limit(client, maxCpu="2")
        api.on("PATCH", r"/configmaps/agenttier-governance", status(409, "Conflict", "modified"), times=3)
        limit(client, maxCpu="3")
        api.on("PATCH", r"/configmaps/agenttier-governance", status(409, "Conflict", "modified"))
        assert error_of(client.put(f"{POLICIES}/team", json={"maxCpu": "4"}), 409)["code"] == "conflict"
        assert client.get(f"{POLICIES}/team").json()["policy"] == {"maxCpu": "3"}
