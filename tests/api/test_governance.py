"""Governance: http-api-extended.md 6, http-api.md 1.6 E and 7.4; lessons S27 and S31, I31; weaknesses W-30, W-32,
W-65, W-77, W-78, W-87, W-88."""

import concurrent.futures
import json
import sqlite3

import pytest

from harness import TEMPLATE, Router, error_of, wait_for

API = "/api/v1"
POLICIES = API + "/governance/policies"
GONE = {"name": "no-such-template", "kind": "ClusterSandboxTemplate"}


def create(client, name, namespace, template=None, **body):
    ref = {"name": template or GONE["name"], "kind": "ClusterSandboxTemplate"}
    return client.post(API + "/sandboxes", json={"name": name, "namespace": namespace, "templateRef": ref, **body})


def codes(answer):
    body = error_of(answer, 403)
    assert body["error"] == "policy_violation"
    assert all(set(v) == {"code", "message"} and v["message"] for v in body["violations"])
    return [v["code"] for v in body["violations"]]


@pytest.fixture
def namespace(admin, fresh, templates):
    """A namespace of its own, whose policy and sandboxes go with the test, before its templates."""
    name = "gov-" + fresh
    yield name
    admin.delete(f"{POLICIES}/{name}")
    for sandbox in admin.get(API + "/sandboxes", params={"namespace": name}).json()["sandboxes"]:
        admin.delete(f"{API}/sandboxes/{sandbox['name']}", params={"namespace": name})


@pytest.fixture
def templates(admin, fresh):
    made = []

    def make(suffix, **spec):
        name = f"{fresh}-{suffix}"
        answer = admin.post(API + "/templates", json={"name": name, "spec": spec})
        assert answer.status_code == 201, answer.text
        made.append(name)
        return name
    yield make
    for name in reversed(made):  # children before their parents
        wait_for(lambda: admin.delete(f"{API}/templates/{name}").status_code in (204, 404))


def put(admin, scope, policy):
    answer = admin.put(f"{POLICIES}/{scope}", json=policy)
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---- the routes ----

def test_6_3_the_examples_of_the_contract():
    with Router(keys=("u1", "admin")) as router, router.client("admin") as admin, router.client("u1") as u1:
        assert u1.get(POLICIES).json() == {"cluster": None, "namespaces": []}
        policy = {"maxSandboxesPerUser": 5, "maxIdleTimeout": "2h", "description": "house rules"}
        answer = admin.put(POLICIES, json=policy)
        assert (answer.status_code, answer.json()) == (200, {"scope": "cluster", "policy": policy})
        team = {"maxSandboxesTotal": 20, "maxCpu": "4", "allowedTemplates": ["general-coding", "langgraph-agent"]}
        assert put(admin, "team-a", team) == {"namespace": "team-a", "policy": team}
        assert u1.get(POLICIES + "/team-b").json() == {"namespace": "team-b", "policy": {}}
        assert u1.get(POLICIES + "/team-a").json() == {"namespace": "team-a", "policy": team}
        assert u1.get(POLICIES).json() == {"cluster": policy, "namespaces": [{"namespace": "team-a", "policy": team}]}
        effective = u1.get(API + "/governance/effective", params={"namespace": "team-a"}).json()
        assert effective["namespace"] == "team-a" and effective["policy"] == {**policy, **team}
        assert set(effective["defaults"]) == {"maxMemory"}  # the policy has a cap on cpu of its own
        assert u1.get(API + "/governance/effective").json()["namespace"] == "default"
        # the scope's own name addresses the cluster's default, its deletion included
        assert u1.get(POLICIES + "/__cluster__").json() == {"namespace": "__cluster__", "policy": policy}
        assert admin.delete(POLICIES + "/team-a").status_code == 204
        assert admin.delete(POLICIES + "/team-a").status_code == 204
        assert admin.delete(POLICIES + "/__cluster__").status_code == 204
        assert u1.get(POLICIES).json() == {"cluster": None, "namespaces": []}
        # policies outlive the Router
        put(admin, "team-a", team)
        router.terminate()
        router.restart()
        with router.client("u1") as again:
            assert again.get(POLICIES + "/team-a").json()["policy"] == team


def test_6_3_writing_is_for_administrators(u1):
    for method, path in (("PUT", POLICIES), ("PUT", POLICIES + "/x"), ("DELETE", POLICIES + "/x")):
        assert error_of(u1.request(method, path, content=b"{}"), 403)["error"] == "admin_required"


def test_6_1_what_limits_nothing_is_left_out(admin, namespace):
    nothing = {"maxSandboxesPerUser": 0, "maxCpu": "", "allowedTemplates": [], "maxTimeout": None, "description": ""}
    assert put(admin, namespace, nothing)["policy"] == {}
    assert put(admin, namespace, {"maxMemory": 1073741824, "maxCpu": "0.50"})["policy"] == {"maxMemory": "1073741824", "maxCpu": "0.50"}


@pytest.mark.parametrize("policy, field", [
    ({"maxCpu": "lots"}, "maxCpu"), ({"maxCpu": "-1"}, "maxCpu"), ({"maxMemory": "1 Gi"}, "maxMemory"), ({"maxStorage": []}, "maxStorage"),
    ({"maxStorage": "0"}, "maxStorage"), ({"maxTimeout": "1 day"}, "maxTimeout"), ({"maxTimeout": 60}, "maxTimeout"),
    ({"maxIdleTimeout": "0s"}, "maxIdleTimeout"), ({"maxIdleTimeout": "-1h"}, "maxIdleTimeout"),
    ({"maxSandboxesTotal": -1}, "maxSandboxesTotal"), ({"maxSandboxesTotal": 1.5}, "maxSandboxesTotal"),
    ({"maxSandboxesTotal": "5"}, "maxSandboxesTotal"), ({"maxSandboxesTotal": 10**12}, "maxSandboxesTotal"),
    ({"maxSandboxesPerUser": True}, "maxSandboxesPerUser"), ({"allowedTemplates": "base"}, "allowedTemplates"),
    ({"allowedTemplates": [""]}, "allowedTemplates"), ({"allowedTemplates": [1]}, "allowedTemplates"),
    ({"approvedRegistries": ["x" * 600]}, "approvedRegistries"), ({"description": 5}, "description"),
    ({"maxCPU": "2"}, "maxCPU"), ({"maxSandboxes": 5}, "maxSandboxes"),
])
def test_W87_S27_policies_are_validated_on_write(admin, namespace, policy, field):
    put(admin, namespace, {"maxSandboxesTotal": 7})
    body = error_of(admin.put(f"{POLICIES}/{namespace}", json=policy), 400)
    assert body["error"].startswith("invalid request body: ") and field in body["error"]
    assert body["field"] == field
    error_of(admin.put(POLICIES, json=policy), 400)
    assert admin.get(f"{POLICIES}/{namespace}").json()["policy"] == {"maxSandboxesTotal": 7}


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"null", b'{"maxCpu":"1","maxCpu":"2"}', b'{"a":' * 80 + b"1" + b"}" * 80,
                                  b'{"maxSandboxesTotal":1e999}', b'{"description":"\\u0000"}', b'{"description":"\xff"}', b'{"maxCpu"'])
def test_S27_bodies_that_are_not_a_policy(admin, body):
    error_of(admin.put(POLICIES + "/s27", content=body), 400)
    assert admin.get(POLICIES + "/s27").json()["policy"] == {}


def test_S27_a_policy_that_is_too_large(admin):
    error_of(admin.put(POLICIES + "/s27", json={"allowedTemplates": ["x" * 500] * 900}), 413)


@pytest.mark.parametrize("name", ["UPPER", "a_b", "-a", "x" * 64, "a.b", "%C3%BC"])
def test_6_3_a_namespace_is_a_dns_label(admin, name):
    error_of(admin.put(f"{POLICIES}/{name}", json={}), 400)
    assert admin.get(f"{POLICIES}/{name}").json()["policy"] == {}
    assert admin.delete(f"{POLICIES}/{name}").status_code == 204


def test_W37_parallel_writes_of_different_scopes_all_stay(admin, keyed):
    names = [f"gov-par-{i}" for i in range(16)]

    def write(name):
        with keyed.client("admin") as client:
            return client.put(f"{POLICIES}/{name}", json={"description": name})
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(write, names))
    assert [a.status_code for a in answers] == [200] * 16, [a.text for a in answers]
    stored = {n["namespace"]: n["policy"] for n in admin.get(POLICIES).json()["namespaces"]}
    assert all(stored[name] == {"description": name} for name in names)
    for name in names:
        admin.delete(f"{POLICIES}/{name}")


# ---- what is checked ----

def test_6_5_every_value_rule_on_create(u1, admin, namespace, templates):
    base = templates("base")
    put(admin, namespace, {"maxCpu": "1", "maxMemory": "1Gi", "maxStorage": "50Gi", "maxTimeout": "8h", "maxIdleTimeout": "1h",
                           "allowedTemplates": [base], "approvedRegistries": ["reg.example/"]})
    greedy = {"image": "evil.example/x", "resources": {"limits": {"cpu": "2", "memory": "2Gi"}}, "storage": {"size": "80Gi"},
              "timeout": "24h", "idleTimeout": "4h"}
    answer = create(u1, "greedy", namespace, overrides=greedy)
    assert codes(answer) == ["template_not_allowed", "image_registry_not_approved", "cpu_limit_exceeded", "memory_limit_exceeded",
                             "storage_limit_exceeded", "timeout_exceeded", "idle_timeout_exceeded"]
    messages = [v["message"] for v in answer.json()["violations"]]
    assert messages == [f'template "no-such-template" is not permitted in this namespace (allowed: {base})',
                        'image "evil.example/x" is not in an approved registry (reg.example/)',
                        "cpu limit 2 exceeds governance cap 1", "memory limit 2Gi exceeds governance cap 1Gi",
                        "storage size 80Gi exceeds governance cap 50Gi", "timeout 24h0m0s exceeds governance cap 8h",
                        "idleTimeout 4h0m0s exceeds governance cap 1h"]
    error_of(u1.get(f"{API}/sandboxes/greedy", params={"namespace": namespace}), 404)
    modest = {"image": "reg.example/x", "resources": {"limits": {"cpu": "1", "memory": "1024Mi"}}, "storage": {"size": "50Gi"},
              "timeout": "8h", "idleTimeout": "60m"}
    assert create(u1, "modest", namespace, template=base, overrides=modest).status_code == 201


def test_W88_values_of_the_template_are_checked(u1, admin, namespace, templates):
    wide = templates("wide", resources={"limits": {"cpu": "3", "memory": "3Gi"}}, storage={"size": "30Gi"}, timeout="24h", idleTimeout="4h",
                     image={"repository": "evil.example/y"})
    child = templates("child", inheritsFrom={"name": wide, "kind": "ClusterSandboxTemplate"})
    put(admin, namespace, {"maxCpu": "1", "maxMemory": "1Gi", "maxStorage": "10Gi", "maxTimeout": "8h", "maxIdleTimeout": "1h",
                           "approvedRegistries": ["reg.example/"]})
    every = ["image_registry_not_approved", "cpu_limit_exceeded", "memory_limit_exceeded", "storage_limit_exceeded", "timeout_exceeded",
             "idle_timeout_exceeded"]
    assert codes(create(u1, "w88", namespace, template=wide)) == every
    assert codes(create(u1, "w88", namespace, template=child)) == every
    # what the sandbox itself sets takes the template's place, member by member
    own = {"resources": {"limits": {"cpu": "1"}}, "timeout": "1h", "image": "reg.example/z"}
    assert codes(create(u1, "w88", namespace, template=wide, overrides=own)) == ["memory_limit_exceeded", "storage_limit_exceeded",
                                                                                 "idle_timeout_exceeded"]


def stored(router, namespace, name):
    with sqlite3.connect(f"file:{router.state_dir}/state.db?mode=ro", uri=True) as db:
        row = db.execute("SELECT json FROM objects WHERE kind = 'Sandbox' AND namespace = ? AND name = ?", (namespace, name)).fetchone()
    return json.loads(row[0])


def test_W88_leaving_a_limit_out_does_not_evade_it(keyed, u1, admin, namespace, templates):
    bare = templates("bare")
    put(admin, namespace, {"maxCpu": "1500m", "maxMemory": "1Gi", "maxStorage": "5Gi", "maxTimeout": "8h", "maxIdleTimeout": "90m"})
    assert create(u1, "w88-open", namespace, template=bare).status_code == 201
    spec = stored(keyed, namespace, "w88-open")["spec"]
    assert spec["timeout"] == "8h0m0s" and spec["idleTimeout"] == "1h30m0s" and spec["storage"]["size"] == "5Gi"
    assert spec["resources"] == {"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "128Mi"}}


def test_tutorial_10_the_built_in_cap_looks_at_the_sandbox_only(u1, admin, namespace, templates):
    """A template is the administrator's word: the built-in default is no policy of theirs."""
    huge = templates("huge", resources={"limits": {"cpu": "900"}})
    assert create(u1, "huge", namespace, template=huge).status_code == 201
    assert codes(create(u1, "own", namespace, template=huge, overrides={"resources": {"cpu": "999"}})) == ["cpu_limit_exceeded"]
    put(admin, namespace, {"maxCpu": "1000"})  # a policy takes the built-in cap's place
    assert create(u1, "own", namespace, template=huge, overrides={"resources": {"cpu": "999"}}).status_code == 201


def test_W32_every_member_of_a_namespace_is_laid_over(u1, admin, namespace, templates):
    agent = templates("agent", mode="agent", image={"repository": "host"})  # one that runs: what has failed does not count
    put(admin, namespace, {"maxAgentSandboxes": 1, "allowedAgentImages": ["ho"], "maxConcurrentInvokesPerSandbox": 3})
    effective = u1.get(API + "/governance/effective", params={"namespace": namespace}).json()["policy"]
    assert effective == {"maxAgentSandboxes": 1, "allowedAgentImages": ["ho"], "maxConcurrentInvokesPerSandbox": 3}
    other = templates("other", mode="agent", image={"repository": "reg.example/x"})
    assert codes(create(u1, "a0", namespace, template=other)) == ["agent_image_not_approved"]
    assert create(u1, "a1", namespace, template=agent).status_code == 201
    assert codes(create(u1, "a2", namespace, template=agent)) == ["agent_sandbox_quota_exceeded"]
    assert create(u1, "c1", namespace).status_code == 201  # not in agent mode


# ---- changes ----

def patch(client, name, namespace, **body):
    return client.patch(f"{API}/sandboxes/{name}", params={"namespace": namespace}, json=body)


def test_W78_only_what_changes_is_checked(u1, admin, namespace, templates):
    wide = templates("wide", resources={"limits": {"cpu": "3"}}, storage={"size": "30Gi"})
    assert create(u1, "w78", namespace, template=wide, timeout="24h").status_code == 201
    put(admin, namespace, {"maxCpu": "1", "maxStorage": "1Gi", "maxTimeout": "1h", "maxIdleTimeout": "1h", "maxSandboxesTotal": 1,
                           "allowedTemplates": ["other"]})
    assert patch(u1, "w78", namespace, idleTimeout="30m").status_code == 200
    assert patch(u1, "w78", namespace, labels={"team": "x"}).status_code == 200
    assert codes(patch(u1, "w78", namespace, idleTimeout="2h")) == ["idle_timeout_exceeded"]
    assert codes(patch(u1, "w78", namespace, resources={"limits": {"cpu": "2"}}, timeout="2h")) == ["cpu_limit_exceeded", "timeout_exceeded"]


def test_vector_26_27_patch_of_the_idle_timeout(u1, admin, namespace, templates):
    bare = templates("bare")
    put(admin, namespace, {"maxSandboxesTotal": 1})
    assert create(u1, "v26", namespace, template=bare).status_code == 201
    assert patch(u1, "v26", namespace, idleTimeout="30m").status_code == 200
    put(admin, namespace, {"maxIdleTimeout": "10m"})
    answer = patch(u1, "v26", namespace, idleTimeout="30m")
    assert codes(answer) == ["idle_timeout_exceeded"]
    assert answer.json()["violations"][0]["message"] == "idleTimeout 30m0s exceeds governance cap 10m"


def test_1_6_E_violations_as_the_published_sdk_reads_them(keyed, u1, admin, namespace, templates):
    import agenttier
    bare = templates("bare")
    put(admin, namespace, {"maxSandboxesTotal": 1, "allowedTemplates": [bare]})
    with agenttier.AgentTierClient(api_url=keyed.url, auth=agenttier.APIKeyAuth(keyed.keys["u1"])) as client:
        client.create_sandbox(name="sdk-1", template=bare, namespace=namespace)
        with pytest.raises(agenttier.PolicyViolationError) as caught:
            client.create_sandbox(name="sdk-2", template="other", namespace=namespace)
    assert [v["code"] for v in caught.value.violations] == ["template_not_allowed", "namespace_quota_exceeded"]
    assert all(isinstance(v["message"], str) for v in caught.value.violations)


def test_W77_W88_removing_a_value_does_not_remove_its_cap(keyed, u1, admin, namespace, templates):
    wide = templates("wide", idleTimeout="4h")
    bare = templates("bare")
    for name, template in (("w77-wide", wide), ("w77-bare", bare)):
        assert create(u1, name, namespace, template=template, idleTimeout="10m").status_code == 201
    put(admin, namespace, {"maxIdleTimeout": "1h", "maxMemory": "2Gi"})
    assert codes(patch(u1, "w77-wide", namespace, idleTimeout=None)) == ["idle_timeout_exceeded"]  # the template's 4h would hold
    assert patch(u1, "w77-bare", namespace, idleTimeout=None).status_code == 200
    assert stored(keyed, namespace, "w77-bare")["spec"]["idleTimeout"] == "1h0m0s"
    assert patch(u1, "w77-bare", namespace, resources={"limits": {"cpu": "1"}}).status_code == 200
    assert stored(keyed, namespace, "w77-bare")["spec"]["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}


# ---- quotas ----

def test_6_4_what_counts(u1, u2, admin, namespace, templates):
    bare = templates("bare")
    put(admin, namespace, {"maxSandboxesPerUser": 1, "maxSandboxesTotal": 2})
    assert create(u1, "n1", namespace, template=bare).status_code == 201
    answer = create(u1, "n2", namespace, template=bare)
    assert answer.json()["violations"] == [{"code": "user_quota_exceeded",
                                            "message": "user already owns 1 sandboxes in this namespace (max 1)"}]
    assert create(u2, "n2", namespace, template=bare).status_code == 201
    assert codes(create(admin, "n3", namespace, template=bare)) == ["namespace_quota_exceeded"]
    assert codes(create(u2, "n3", namespace, template=bare)) == ["namespace_quota_exceeded", "user_quota_exceeded"]
    # one that is deleted gives its place back at once, one in Error does not take any
    assert u2.delete(f"{API}/sandboxes/n2", params={"namespace": namespace}).status_code == 204
    assert create(u2, "n3", namespace).status_code == 201
    wait_for(lambda: u2.get(f"{API}/sandboxes/n3", params={"namespace": namespace}).json()["status"] == "Error")
    assert create(u2, "n4", namespace, template=bare).status_code == 201


def test_S31_what_is_in_error_comes_back_only_where_there_is_a_place(keyed, u1, admin, namespace, templates):
    """It did not count: else one could fail one's sandboxes, make others in their place, and resume the first."""
    bare = templates("bare")

    def status(name):
        return u1.get(f"{API}/sandboxes/{name}", params={"namespace": namespace}).json()["status"]

    def resume(name, client=u1):
        return client.post(f"{API}/sandboxes/{name}/resume", params={"namespace": namespace})
    put(admin, namespace, {"maxSandboxesPerUser": 1})
    assert create(u1, "failed", namespace).status_code == 201
    wait_for(lambda: status("failed") == "Error")
    assert create(u1, "fine", namespace, template=bare).status_code == 201
    assert codes(resume("failed")) == codes(resume("failed", admin)) == ["user_quota_exceeded"]  # the owner's place, whoever asks
    bulk = u1.post(API + "/sandboxes/bulk-action", params={"namespace": namespace}, json={"action": "resume", "ids": ["failed"]}).json()["results"]
    assert bulk[0]["status"] == "error" and bulk[0]["error"].startswith("policy_violation: "), bulk
    assert status("failed") == "Error"
    # A stopped one kept its place: no quota is asked, also not one that is smaller by now.
    wait_for(lambda: status("fine") == "Running", 60)
    assert u1.post(f"{API}/sandboxes/fine/stop", params={"namespace": namespace}).status_code == 200
    wait_for(lambda: status("fine") == "Stopped", 60)
    assert create(u1, "other", namespace, template=bare).json()["violations"][0]["code"] == "user_quota_exceeded"
    assert resume("fine").status_code == 200
    assert u1.delete(f"{API}/sandboxes/fine", params={"namespace": namespace}).status_code == 204
    assert resume("failed").status_code == 200
    wait_for(lambda: status("failed") == "Error")
    assert "quota-claim" in json.dumps(stored(keyed, namespace, "failed"))
    for _ in range(2):  # and its place is free again, at once
        assert resume("failed").status_code == 200
        wait_for(lambda: status("failed") == "Error")
    assert create(u1, "next", namespace, template=bare).status_code == 201


def test_6_4_a_refused_name_takes_no_place(u1, admin, namespace, templates):
    bare = templates("bare")
    put(admin, namespace, {"maxSandboxesPerUser": 2})
    assert create(u1, "twice", namespace, template=bare).status_code == 201
    for _ in range(3):
        error_of(create(u1, "twice", namespace, template=bare), 409)
    assert create(u1, "second", namespace, template=bare).status_code == 201
    assert codes(create(u1, "third", namespace, template=bare)) == ["user_quota_exceeded"]


@pytest.mark.tsan
@pytest.mark.parametrize("policy, code", [({"maxSandboxesTotal": 3}, "namespace_quota_exceeded"),
                                          ({"maxSandboxesPerUser": 3}, "user_quota_exceeded"),
                                          ({"maxAgentSandboxes": 3}, "agent_sandbox_quota_exceeded")])
def test_S31_fifty_parallel_creates_below_the_quota_make_exactly_one(keyed, u1, admin, namespace, templates, policy, code):
    template = templates("agent", mode="agent")
    put(admin, namespace, policy)
    for i in range(2):
        assert create(u1, f"before-{i}", namespace, template=template).status_code == 201

    def one(i):
        with keyed.client("u1") as client:
            return create(client, f"race-{i}", namespace, template=template)
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, range(50)))
    assert sorted(a.status_code for a in answers) == [201] + [403] * 49
    assert all(codes(a) == [code] for a in answers if a.status_code == 403)
    assert len(u1.get(API + "/sandboxes", params={"namespace": namespace}).json()["sandboxes"]) == 3


def test_W48_a_refusal_by_policy_is_in_the_history(u1, admin, namespace):
    put(admin, namespace, {"allowedTemplates": ["other"], "maxTimeout": "1h"})
    answer = u1.post(API + "/sandboxes", headers={"X-Request-ID": namespace},
                     json={"name": "refused", "namespace": namespace, "template": "t", "timeout": "2h"})
    assert codes(answer) == ["template_not_allowed", "timeout_exceeded"]
    (entry,) = wait_for(lambda: admin.get(API + "/audit/events", params={"requestId": namespace}).json()["events"])
    assert (entry["eventType"], entry["sandboxId"], entry["namespace"]) == ("create", "refused", namespace)
    assert entry["details"]["violations"] == ["template_not_allowed", "timeout_exceeded"]
    assert (entry["details"]["code"], entry["details"]["outcome"]) == ("policy_violation", "denied")


def test_I31_a_retry_takes_no_second_place(u1, admin, namespace, templates):
    bare = templates("bare")
    put(admin, namespace, {"maxSandboxesPerUser": 2})
    body = {"name": "i31", "namespace": namespace, "templateRef": {"name": bare}}
    for _ in range(4):
        assert u1.post(API + "/sandboxes", json=body, headers={"Idempotency-Key": namespace}).status_code == 201
    assert create(u1, "i31-b", namespace, template=bare).status_code == 201
    assert codes(create(u1, "i31-c", namespace, template=bare)) == ["user_quota_exceeded"]


# ---- W-30, W-87: where policies are and what happens when they are broken ----

def ledger(router, namespace):
    """The stored ConfigMaps of policies by namespace."""
    with sqlite3.connect(f"file:{router.state_dir}/state.db?mode=ro", uri=True) as db:
        rows = db.execute("SELECT namespace, json FROM objects WHERE kind = 'ConfigMap' AND name = 'agenttier-governance'").fetchall()
    return {ns: json.loads(text)["data"]["policies"] for ns, text in rows}


def break_policies(router, text):
    """Writes the stored text as somebody with an editor would, while the Router is down."""
    with sqlite3.connect(router.state_dir / "state.db") as db:
        ns, stored_text = db.execute("SELECT namespace, json FROM objects WHERE kind = 'ConfigMap' AND name = 'agenttier-governance'").fetchone()
        o = json.loads(stored_text)
        o["data"]["policies"] = text
        db.execute("UPDATE objects SET json = ? WHERE kind = 'ConfigMap' AND name = 'agenttier-governance' AND namespace = ?", (json.dumps(o), ns))


def test_W30_policies_are_in_the_install_namespace_or_where_the_reference_put_them():
    with Router("--namespace=platform", dev_auth=True) as router, router.client() as admin:
        put(admin, "team", {"maxSandboxesTotal": 1})
        assert set(ledger(router, "platform")) == {"platform"}
    with Router(dev_auth=True) as router:
        with router.client() as admin:
            put(admin, "team", {"maxSandboxesTotal": 1})
        router.terminate()
        assert set(ledger(router, "agenttier")) == {"agenttier"}
        router.flags.append("--namespace=platform")
        router.restart()
        with router.client() as admin:
            assert admin.get(POLICIES + "/team").json()["policy"] == {"maxSandboxesTotal": 1}
            put(admin, "other", {"maxSandboxesTotal": 2})
            assert admin.get(POLICIES + "/team").json()["policy"] == {"maxSandboxesTotal": 1}
        assert set(ledger(router, "platform")) == {"agenttier"}


@pytest.mark.parametrize("closed", [False, True])
def test_W87_broken_policies_fail_open_or_closed(closed):
    with Router(*(["--policy-fail-closed"] if closed else []), keys=("u1", "admin")) as router:
        with router.client("admin") as admin:
            put(admin, "team", {"maxSandboxesTotal": 1})
        router.terminate()
        break_policies(router, '{"team":{"maxSandboxesTotal":1,"maxCpu":"lots"},"fine":{}}')
        router.restart()
        with router.client("u1") as u1, router.client("admin") as admin:
            if closed:
                assert error_of(create(u1, "x", "team"), 503)["code"] == "policy_unavailable"
                error_of(u1.get(API + "/governance/effective", params={"namespace": "team"}), 503)
            else:
                # what can be read of it holds
                assert create(u1, "x", "team", template=TEMPLATE).status_code == 201
                assert codes(create(u1, "y", "team", template=TEMPLATE)) == ["namespace_quota_exceeded"]
            wait_for(lambda: "cannot be read" in router.tail(100000), what="word of it in the log")
            # whoever repairs it ends it
            put(admin, "team", {"maxSandboxesTotal": 5})
            assert create(u1, "z", "team").status_code == 201
        router.terminate()
        break_policies(router, "not JSON")
        router.restart()
        with router.client("u1") as u1, router.client("admin") as admin:
            assert create(u1, "x2", "team").status_code == (503 if closed else 201)
            error_of(admin.put(POLICIES + "/team", json={}), 500)  # never written over
            assert ledger(router, "agenttier")["agenttier"] == "not JSON"
