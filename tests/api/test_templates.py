"""Templates: http-api.md 2.14 and what the tutorial needs of them."""

import pytest

from harness import TEMPLATE, error_of, wait_for

API = "/api/v1"


@pytest.fixture
def name(admin, fresh):
    yield "tpl-" + fresh
    admin.delete(f"{API}/templates/tpl-{fresh}")


def test_tutorial_3_the_template_is_there(u1):
    listed = {t["name"]: t for t in u1.get(API + "/templates").json()["templates"]}
    assert TEMPLATE in listed
    one = u1.get(f"{API}/templates/{TEMPLATE}").json()
    assert one == listed[TEMPLATE]
    assert set(one) >= {"name", "description", "image", "resourceVersion", "spec"}
    assert isinstance(one["spec"], dict) and isinstance(one["image"], str)


def test_2_14_create_get_replace_delete(admin, u1, name):
    spec = {"description": "mine", "mode": "code", "storage": {"size": "1Gi"}, "env": [{"name": "A", "value": "b"}]}
    made = admin.post(API + "/templates", json={"name": name, "spec": spec})
    assert made.status_code == 201, made.text
    assert made.json()["name"] == name and made.json()["description"] == "mine"
    got = u1.get(f"{API}/templates/{name}")
    assert got.status_code == 200
    assert {k: got.json()["spec"][k] for k in spec} == spec
    error_of(admin.post(API + "/templates", json={"name": name, "spec": spec}), 409)
    put = admin.put(f"{API}/templates/{name}", json={"spec": {"description": "new"}})
    assert put.status_code == 200, put.text
    assert put.json()["description"] == "new" and "storage" not in put.json()["spec"]
    assert put.json()["resourceVersion"] != made.json()["resourceVersion"]
    answer = admin.delete(f"{API}/templates/{name}")
    assert (answer.status_code, answer.content) == (204, b"")
    error_of(u1.get(f"{API}/templates/{name}"), 404)
    error_of(admin.delete(f"{API}/templates/{name}"), 404)
    error_of(admin.put(f"{API}/templates/{name}", json={"spec": {}}), 404)


def test_W83_resource_version_is_honoured(admin, name):
    made = admin.post(API + "/templates", json={"name": name, "spec": {}}).json()
    new = admin.put(f"{API}/templates/{name}", json={"spec": {"description": "1"}, "resourceVersion": made["resourceVersion"]})
    assert new.status_code == 200, new.text
    error_of(admin.put(f"{API}/templates/{name}", json={"spec": {"description": "2"}, "resourceVersion": made["resourceVersion"]}), 409)
    assert admin.put(f"{API}/templates/{name}", json={"spec": {}}).status_code == 200


def test_W83_put_needs_a_spec(admin, name):
    admin.post(API + "/templates", json={"name": name, "spec": {}})
    error_of(admin.put(f"{API}/templates/{name}", json={}), 400)
    error_of(admin.put(f"{API}/templates/{name}", json={"spec": []}), 400)


@pytest.mark.parametrize("body", [
    {}, {"name": ""}, {"name": 5}, {"name": "UPPER", "spec": {}}, {"name": "a b", "spec": {}}, {"name": "t", "spec": []},
    {"name": "t", "spec": {"env": {}}}, {"name": "t", "spec": {"timeout": "later"}}, {"name": "t", "spec": {"storage": {"size": "big"}}},
    {"name": "t", "spec": {"image": 5}}, {"name": "t", "spec": {"mode": 5}}, {"name": "t", "spec": {"description": 5}},
])
def test_2_14_bad_templates_are_400(admin, body):
    answer = admin.post(API + "/templates", json=body)
    if answer.status_code == 201:
        admin.delete(API + "/templates/" + answer.json()["name"])
    error_of(answer, 400)


def test_2_14_unknown_members_are_dropped(admin, name):
    made = admin.post(API + "/templates", json={"name": name, "spec": {"mode": "code", "nonsense": {"a": 1}}})
    assert made.status_code == 201, made.text
    assert "nonsense" not in made.json()["spec"]


def test_a_sandbox_gets_what_its_template_says(keyed, admin, name):
    spec = {"env": [{"name": "FROM_TEMPLATE", "value": "a b"}], "resources": {"limits": {"cpu": "1", "memory": "512Mi"}}}
    assert admin.post(API + "/templates", json={"name": name, "spec": spec}).status_code == 201
    handle = keyed.sandbox(name, key="u1", templateRef={"name": name})
    assert handle.run("echo $FROM_TEMPLATE") == "a b\n"
    assert handle.get().json()["template"] == name
    handle.remove()


def test_controller_6_inheritance(keyed, admin, fresh):
    for made, spec in (("tpl-parent", {"env": [{"name": "A", "value": "parent"}, {"name": "B", "value": "parent"}]}),
                       ("tpl-child", {"inheritsFrom": {"name": "tpl-parent", "kind": "ClusterSandboxTemplate"},
                                      "env": [{"name": "B", "value": "child"}]})):
        assert admin.post(API + "/templates", json={"name": made, "spec": spec}).status_code == 201
    handle = keyed.sandbox(fresh, key="u1", templateRef={"name": "tpl-child"})
    assert handle.run("echo $A $B") == "parent child\n"
    handle.remove()
    for made in ("tpl-child", "tpl-parent"):
        assert admin.delete(API + "/templates/" + made).status_code == 204


def test_controller_6_a_circle_ends_in_error(admin, u1, fresh):
    kind = "ClusterSandboxTemplate"
    for made, parent in (("tpl-a", None), ("tpl-b", "tpl-a")):
        spec = {"inheritsFrom": {"name": parent, "kind": kind}} if parent else {}
        assert admin.post(API + "/templates", json={"name": made, "spec": spec}).status_code == 201
    if admin.put(API + "/templates/tpl-a", json={"spec": {"inheritsFrom": {"name": "tpl-b", "kind": kind}}}).status_code == 200:
        u1.post(API + "/sandboxes", json={"name": fresh, "template": "tpl-b"})
        state = wait_for(lambda: (s := u1.get(f"{API}/sandboxes/{fresh}").json())["status"] == "Error" and s)
        assert "emplate" in state["message"]
        assert u1.delete(f"{API}/sandboxes/{fresh}").status_code == 204
        wait_for(lambda: u1.get(f"{API}/sandboxes/{fresh}").status_code == 404)
        assert admin.put(API + "/templates/tpl-a", json={"spec": {}}).status_code == 200
    error_of(admin.delete(API + "/templates/tpl-a"), 409)  # W-83: tpl-b inherits from it
    for made in ("tpl-b", "tpl-a"):
        assert admin.delete(API + "/templates/" + made).status_code == 204
