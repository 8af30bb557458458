"""Clones and backups: http-api.md 2.6, 4.6; http-api-extended.md 5; W-11, W-12, W-85; weaknesses 52 to 63."""

import asyncio
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

import pytest

from harness import Router, Sandbox, error_of, wait_for
from test_tutorial import load

API = "/api/v1"
# Everything that a copy has to keep, made by a command inside: one line of facts for each name, to be compared.
MAKE_TREE = r"""
cd /workspace && mkdir -p t/deep/er t/closed t/empty && cd t
printf hello > plain; printf script > run.sh; chmod 0754 run.sh; printf secret > private; chmod 0600 private
printf none > unreadable; chmod 0000 unreadable
ln plain deep/hard; ln -s plain soft; ln -s /etc/passwd outside; ln -s nowhere broken; ln -s ../../.. up
printf x > 'a name with spaces'; printf x > "$(printf 'new\nline')"; printf x > "$(printf 'bytes\377\376')"; mkfifo pipe
truncate -s 64M sparse; printf tail | dd of=sparse bs=1 seek=50331648 conv=notrunc 2>/dev/null
head -c 3000000 /dev/urandom > big; printf x > closed/in; chmod 0555 closed; chmod 1777 empty
touch -h -d '2001-02-03T04:05:06.789Z' plain soft deep
"""
READ_TREE = r"""
import hashlib, os, stat
top = b"/workspace/t"
inodes = {}
for here, names, files in sorted(os.walk(top)):
    for name in [b"."] + sorted(names + files):
        path = os.path.join(here, name)
        st = os.lstat(path)
        kind = stat.S_IFMT(st.st_mode)
        what = ""
        if kind == stat.S_IFLNK: what = os.readlink(path)
        elif kind == stat.S_IFREG and st.st_mode & 0o400: what = hashlib.sha256(open(path, "rb").read()).hexdigest()
        first = inodes.setdefault(st.st_ino, path)
        print(path, oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink if kind != stat.S_IFDIR else "",
              st.st_size if kind == stat.S_IFREG else "", st.st_mtime_ns, what, first)
print("sparse", os.stat(top + b"/sparse").st_blocks < 4096)
"""


def handle(router, client, name):
    return Sandbox(router, client, name)


def facts(box):
    box.write("/tmp/facts.py", READ_TREE.encode())
    return box.run("python3 /tmp/facts.py", timeout=60)


def clone(box, status=202, headers=None, **body):
    answer = box.post("/clone", json=body, headers=headers or {})
    assert answer.status_code == status, answer.text
    return answer.json()


def cloned(router, box, **body):
    made = handle(router, box.client, clone(box, **body)["name"])
    made.wait("Running")
    return made


@pytest.mark.tsan
def test_2_6_a_clone_has_the_workspace_and_nothing_else_changes(keyed, box, u1, fresh):
    box.run(MAKE_TREE, timeout=60)
    before = facts(box)
    answer = clone(box, name=fresh)
    assert {k: answer[k] for k in ("name", "namespace", "clonedFrom", "phase")} == {
        "name": fresh, "namespace": "default", "clonedFrom": box.name, "phase": "Pending"}
    assert f"{API}/sandboxes/{fresh}" in answer["message"]
    box.run("echo changed > /workspace/t/plain; rm /workspace/t/run.sh")  # not in the clone: it was taken before
    copy = handle(keyed, u1, fresh)
    state = copy.wait("Running")
    assert state["pvcName"] == fresh + "-workspace" and state["createdBy"]["email"] == "u1@example.org"
    assert facts(copy) == before
    copy.run("echo other > /workspace/t/private")
    assert box.read("/workspace/t/private") == b"secret"
    copy.remove()


def test_2_6_a_stopped_sandbox_and_a_clone_of_a_clone(keyed, u1, fresh):
    source = keyed.sandbox(fresh, key="u1")
    source.run("echo first > /workspace/a; touch /tmp/not-in-it")
    assert source.post("/stop").status_code == 200
    source.wait("Stopped")
    one = cloned(keyed, source)
    assert one.read("/workspace/a") == b"first\n"
    assert one.exec("test -e /tmp/not-in-it")["exitCode"] == 1
    one.run("echo second > /workspace/b")
    two = cloned(keyed, one)
    assert two.run("cat /workspace/a /workspace/b") == "first\nsecond\n"
    source.remove()  # copies depend on nothing
    for box in (one, two):
        assert box.post("/stop").status_code == 200
        box.wait("Stopped")
        assert box.post("/resume").status_code == 200
        box.wait("Running")
        assert box.read("/workspace/a") == b"first\n"
        box.remove()
    source.client.close()


def test_5_5_a_templates_scripts_do_not_run_again_in_a_clone(keyed, u1, admin, fresh):
    template = {"name": fresh, "spec": {"harness": {"workingDir": "/workspace"}, "files": [
        {"path": "/workspace/settings", "content": "from the template"}], "initScripts": ["echo ran >> /workspace/log"]}}
    assert admin.post(API + "/templates", json=template).status_code == 201
    source = keyed.sandbox(fresh, key="u1", templateRef={"name": fresh, "kind": "ClusterSandboxTemplate"})
    source.run("echo mine > /workspace/settings")
    copy = cloned(keyed, source)
    assert copy.run("cat /workspace/log /workspace/settings") == "ran\nmine\n"
    copy.remove()
    source.remove()
    source.client.close()
    assert admin.delete(f"{API}/templates/{fresh}").status_code == 204


@pytest.mark.parametrize("body", [{"name": "UPPER"}, {"name": "-a"}, {"name": "a" * 64}, {"name": "a.b"}, {"name": 7}, {"name": "x" * 300},
                                  {"snapshotClass": 1}, {"snapshotClass": "fast"}, [], "x"])
def test_2_6_bad_bodies_are_400(box, body):
    error_of(box.post("/clone", json=body), 400)


def test_2_6_the_name_is_trimmed_and_members_may_be_null_or_empty(keyed, box, u1, fresh):
    assert clone(box, name=f"  {fresh}\n", snapshotClass=None)["name"] == fresh
    for body in ({"name": None}, {"name": " ", "snapshotClass": ""}):
        name = clone(box, **body)["name"]
        assert re.fullmatch(box.name + r"-clone-\d{10}-[0-9a-f]{6}", name)
        assert u1.delete(f"{API}/sandboxes/{name}").status_code == 204
    handle(keyed, u1, fresh).remove()


def test_W09_a_chunked_body_is_read(keyed, box, u1, fresh):
    answer = box.post("/clone", content=iter([b'{"name": ', json.dumps(fresh).encode(), b"}"]))
    assert (answer.status_code, answer.json()["name"]) == (202, fresh)
    handle(keyed, u1, fresh).remove()


def test_2_6_a_sandbox_without_a_workspace_is_400(u1, fresh):
    assert u1.post(API + "/sandboxes", json={"name": fresh, "template": "no-such-template"}).status_code == 201
    wait_for(lambda: u1.get(f"{API}/sandboxes/{fresh}").json()["status"] == "Error")
    body = error_of(u1.post(f"{API}/sandboxes/{fresh}/clone"), 400)
    assert body["code"] == "no_workspace_volume" and "no PVC to clone (phase=Error)" in body["error"]
    u1.delete(f"{API}/sandboxes/{fresh}")


def snapshots_of(router):
    """Names of folders; one under way is NAME.new."""
    return {p.name for p in (router.state_dir / "snapshots").iterdir()}


def new_snapshots(router, before):
    """What has come since, whatever earlier tests have removed meanwhile."""
    return {name.removesuffix(".new") for name in snapshots_of(router)} - {name.removesuffix(".new") for name in before}


def test_weakness_57_a_taken_name_is_409_and_leaves_nothing(keyed, box, u2, fresh):
    assert u2.post(API + "/sandboxes", json={"name": fresh, "template": "no-such-template"}).status_code == 201
    before = snapshots_of(keyed)
    assert error_of(box.post("/clone", json={"name": fresh}), 409)["code"] == "already_exists"
    assert error_of(box.post("/clone", json={"name": box.name}), 409)["code"] == "already_exists"
    assert not new_snapshots(keyed, before)
    u2.delete(f"{API}/sandboxes/{fresh}")


@pytest.mark.tsan
def test_W85_many_clones_at_once_all_have_names_of_their_own(keyed, u1, fresh):
    name = (fresh + "-" + "long" * 16)[:63]
    source = keyed.sandbox(name, key="u1")
    source.run("echo here > /workspace/a")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: clone(source), range(8)))
    names = {m["name"] for m in made} | {m["snapshot"] for m in made}
    assert len(names) == 16 and max(map(len, names)) <= 63 and all(re.fullmatch("[a-z0-9-]+", n) for n in names)
    for m in made:
        copy = handle(keyed, u1, m["name"])
        copy.wait("Running", 120)
        assert copy.read("/workspace/a") == b"here\n"
        copy.remove()
    source.remove()
    source.client.close()


def test_I32_parallel_clones_to_one_name_make_one(keyed, box, u1, fresh):
    before = snapshots_of(keyed)
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: box.post("/clone", json={"name": fresh}), range(5)))
    assert sorted(a.status_code for a in answers) == [202] + [409] * 4
    handle(keyed, u1, fresh).wait("Running")
    wait_for(lambda: len(new_snapshots(keyed, before)) == 1, what="snapshots of refused clones gone")
    handle(keyed, u1, fresh).remove()


def test_W12_sharing_is_not_copied_nor_are_labels(keyed, u1, u2, fresh):
    source = keyed.sandbox(fresh, key="u1", env=[{"name": "COPIED", "value": "yes"}], idleTimeout="2h")
    assert source.post("/share", json={"identity": "u2", "level": "collaborator"}).status_code == 200
    link = source.post("/share-links", json={"level": "viewer"}).json()["token"]
    assert source.request("PATCH", json={"labels": {"team": "x"}}).status_code == 200
    copy = cloned(keyed, source)
    assert copy.get("/share").json()["users"] == [] and copy.get("/share-links").json()["shareLinks"] == []
    error_of(u2.get(f"{API}/sandboxes/{copy.name}"), 404)
    assert u2.post(API + "/share-links/redeem", json={"token": link}).json()["sandboxId"] == fresh
    assert copy.run("echo $COPIED") == "yes\n"
    copy.remove()
    source.remove()
    source.client.close()


def test_3_8_an_administrators_clone_is_the_administrators(box, admin, u1, keyed, fresh):
    assert admin.post(f"{API}/sandboxes/{box.name}/clone", json={"name": fresh}).status_code == 202
    error_of(u1.get(f"{API}/sandboxes/{fresh}"), 404)
    handle(keyed, admin, fresh).wait("Running")
    handle(keyed, admin, fresh).remove()


# ---- W-11: what holds for create holds for clone ----

def put_policy(admin, namespace, policy):
    assert admin.put(f"{API}/governance/policies/{namespace}", json=policy).status_code == 200


@pytest.fixture
def team(admin, fresh):
    yield "team-" + fresh
    admin.delete(f"{API}/governance/policies/team-{fresh}")


def test_W11_quotas_hold_for_clones_exactly(keyed, u1, admin, team, fresh):
    source = keyed.sandbox(fresh, key="u1", namespace=team)
    put_policy(admin, team, {"maxSandboxesPerUser": 3})
    before = snapshots_of(keyed)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: source.post("/clone"), range(6)))
    assert sorted(a.status_code for a in answers) == [202] * 2 + [403] * 4
    refused = [a for a in answers if a.status_code == 403]
    assert all(a.json()["error"] == "policy_violation" and a.json()["violations"][0]["code"] == "user_quota_exceeded" for a in refused)
    wait_for(lambda: len(new_snapshots(keyed, before)) == 2, what="snapshots of refused clones gone")
    for answer in answers:
        if answer.status_code == 202:
            copy = Sandbox(keyed, u1, answer.json()["name"], team)
            copy.wait("Running")
            copy.remove()
    source.remove()
    source.client.close()


def test_W11_policies_hold_for_clones(keyed, u1, admin, team, fresh):
    source = keyed.sandbox(fresh, key="u1", namespace=team, timeout="8h")
    before = snapshots_of(keyed)
    put_policy(admin, team, {"maxTimeout": "1h", "allowedTemplates": ["another"]})
    body = error_of(source.post("/clone"), 403)
    assert {v["code"] for v in body["violations"]} == {"timeout_exceeded", "template_not_allowed"}
    assert not new_snapshots(keyed, before)
    source.remove()
    source.client.close()


def test_W48_clones_are_in_the_history(keyed, box, admin, u1, u2, fresh):
    made = clone(box, name=fresh, headers={"X-Request-ID": "clone-" + fresh})
    (event,) = wait_for(lambda: admin.get(API + "/audit/events", params={"requestId": "clone-" + fresh}).json()["events"])
    assert (event["eventType"], event["sandboxName"], event["details"]["outcome"]) == ("clone", fresh, "success")
    assert event["details"]["clonedFrom"] == box.name and event["details"]["snapshotName"] == made["snapshot"]
    error_of(u2.post(f"{API}/sandboxes/{box.name}/clone", headers={"X-Request-ID": "denied-" + fresh}), 404)
    (event,) = wait_for(lambda: admin.get(API + "/audit/events", params={"requestId": "denied-" + fresh}).json()["events"])
    assert (event["eventType"], event["details"]["outcome"]) == ("clone", "denied")
    handle(keyed, u1, fresh).remove()


# ---- I8: retries ----

def test_I8_a_retry_with_the_same_key_is_the_same_clone(keyed, box, u1, fresh):
    key = {"Idempotency-Key": "clone-" + fresh}
    before = snapshots_of(keyed)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: box.post("/clone", headers=key), range(4)))
    assert [a.status_code for a in answers] == [202] * 4, [a.text for a in answers]
    assert len({(a.json()["name"], a.json()["snapshot"]) for a in answers}) == 1
    assert sum("Idempotency-Replayed" not in a.headers for a in answers) == 1
    copy = handle(keyed, u1, answers[0].json()["name"])
    copy.wait("Running")
    assert box.post("/clone", headers=key).json()["name"] == copy.name
    wait_for(lambda: len(new_snapshots(keyed, before)) == 1, what="one snapshot")
    assert error_of(box.post("/clone", headers=key, json={"name": "other-" + fresh}), 409)["code"] == "idempotency_key_reused"
    assert error_of(copy.post("/clone", headers=key), 409)["code"] == "idempotency_key_reused"
    error_of(u1.post(API + "/sandboxes", headers=key, json={"name": "c-" + fresh, "template": "x"}), 409)
    copy.remove()


# ---- backups: http-api-extended.md 5.3 to 5.6 ----

def backups(box):
    answer = box.get("/backups")
    assert answer.status_code == 200, answer.text
    return answer.json()["backups"]


def backup(box, headers=None, status=201, **body):
    answer = box.post("/backups", json=body, headers=headers or {})
    assert answer.status_code == status, answer.text
    return answer.json()


def restore(box, snapshot, status=202, headers=None, **body):
    answer = box.post(f"/backups/{snapshot}/restore", json=body, headers=headers or {})
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture
def source(keyed, fresh):
    """A sandbox of one test alone."""
    handle = keyed.sandbox(fresh + "-src", key="u1")
    yield handle
    handle.remove()
    wait_for(lambda: not any("." in name for name in snapshots_of(keyed)), 60, what="no half snapshot left over")
    handle.client.close()


@pytest.mark.tsan
def test_5_backups_are_made_listed_restored_and_deleted(keyed, source, u1, fresh):
    assert backups(source) == []
    source.run("echo one > /workspace/a")
    first = backup(source)
    assert re.fullmatch(source.name + r"-workspace-backup-\d{10}-[0-9a-f]{6}", first["name"])
    assert first["kind"] == "scheduled-backup" and first["readyToUse"] is True and first["restoreSize"] == "1Mi"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["createdAt"])
    source.run("echo two > /workspace/a")
    second = backup(source)
    copy = clone(source, name=fresh + "-copy")
    listed = backups(source)
    assert [(b["name"], b["kind"]) for b in listed] == sorted(
        [(first["name"], "scheduled-backup"), (second["name"], "scheduled-backup")]) + [(copy["snapshot"], "clone")]
    answer = restore(source, first["name"], name=f" {fresh}-old ")
    assert {k: v for k, v in answer.items() if k != "message"} == {
        "name": fresh + "-old", "namespace": "default", "restoredFrom": source.name, "snapshot": first["name"], "phase": "Pending"}
    assert f"{API}/sandboxes/{fresh}-old" in answer["message"]
    old = handle(keyed, u1, fresh + "-old")
    old.wait("Running")
    assert old.read("/workspace/a") == b"one\n" and source.read("/workspace/a") == b"two\n"
    again = handle(keyed, u1, restore(source, copy["snapshot"])["name"])  # also the snapshot of a clone
    again.wait("Running")
    assert re.fullmatch(source.name + r"-restore-\d{10}-[0-9a-f]{6}", again.name) and again.read("/workspace/a") == b"two\n"
    handle(keyed, u1, fresh + "-copy").wait("Running")  # until then it needs its snapshot
    for name in (first["name"], copy["snapshot"]):
        answer = source.delete("/backups/" + name)
        assert (answer.status_code, answer.json()) == (200, {"status": "deleted", "name": name})
        wait_for(lambda n=name: source.delete("/backups/" + n).status_code == 404, what="its end")
        assert error_of(source.post(f"/backups/{name}/restore"), 404)["code"] == "snapshot_not_found"
    assert [b["name"] for b in backups(source)] == [second["name"]]
    for box in (old, again, handle(keyed, u1, fresh + "-copy")):
        box.wait("Running")  # what they were made from is not needed any more
        assert box.post("/stop").status_code == 200
        box.wait("Stopped")
        assert box.post("/resume").status_code == 200
        box.wait("Running")
        box.remove()
    source.delete("/backups/" + second["name"])
    wait_for(lambda: not list((keyed.state_dir / "trash").iterdir()), what="the files of deleted snapshots gone")


def test_5_4_a_sandbox_without_a_workspace_cannot_be_backed_up(u1, fresh):
    assert u1.post(API + "/sandboxes", json={"name": fresh, "template": "no-such-template"}).status_code == 201
    wait_for(lambda: u1.get(f"{API}/sandboxes/{fresh}").json()["status"] == "Error")
    body = error_of(u1.post(f"{API}/sandboxes/{fresh}/backups", json={"snapshotClass": 5}), 400)
    assert body["code"] == "no_workspace_volume" and "no PVC to back up (phase=Error)" in body["error"]
    assert u1.get(f"{API}/sandboxes/{fresh}/backups").json() == {"backups": []}
    u1.delete(f"{API}/sandboxes/{fresh}")


@pytest.mark.parametrize("body", [{"name": "UPPER"}, {"name": "a" * 64}, {"name": 5}, [1]])
def test_5_5_bad_bodies_are_400(source, body):
    error_of(source.post(f"/backups/{backup(source)['name']}/restore", json=body), 400)
    if not isinstance(body, dict):
        error_of(source.post("/backups", json=body), 400)


def test_5_4_classes_are_a_clusters(source):
    error_of(source.post("/backups", json={"snapshotClass": "fast"}), 400)
    assert backups(source) == []


def test_5_5_the_same_checks_as_create(keyed, u1, admin, team, fresh):
    box = keyed.sandbox(fresh, key="u1", namespace=team)
    name = backup(box)["name"]
    put_policy(admin, team, {"maxSandboxesPerUser": 1})
    assert error_of(box.post(f"/backups/{name}/restore"), 403)["violations"][0]["code"] == "user_quota_exceeded"
    put_policy(admin, team, {})
    error_of(box.post(f"/backups/{name}/restore", json={"name": fresh}), 409)
    box.delete("/backups/" + name)
    box.remove()
    box.client.close()


def test_5_5_weakness_53_sharing_is_not_restored(keyed, source, u1, u2):
    source.post("/share", json={"identity": "u2", "level": "viewer"})
    assert u2.get(f"{API}/sandboxes/{source.name}").status_code == 200
    error_of(u2.get(f"{API}/sandboxes/{source.name}/backups"), 404)
    copy = handle(keyed, u1, restore(source, backup(source)["name"])["name"])
    error_of(u2.get(f"{API}/sandboxes/{copy.name}"), 404)
    copy.wait("Running")
    copy.remove()


def test_weakness_54_backups_of_another_owner_of_the_name_are_nobody_elses(keyed, u1, u2, fresh):
    mine = keyed.sandbox(fresh, key="u1")
    mine.run("echo secret > /workspace/s")
    name, snapshot = backup(mine)["name"], clone(mine, name=fresh + "-c")["snapshot"]
    handle(keyed, u1, fresh + "-c").wait("Running")
    handle(keyed, u1, fresh + "-c").remove()
    mine.remove()
    theirs = keyed.sandbox(fresh, key="u2")
    assert backups(theirs) == []
    for foreign in (name, snapshot):
        assert error_of(theirs.post(f"/backups/{foreign}/restore"), 404)["code"] == "snapshot_not_found"
        error_of(theirs.delete("/backups/" + foreign), 404)
    theirs.remove()
    # The same owner has them back.
    mine = keyed.sandbox(fresh, key="u1")
    assert {b["name"] for b in backups(mine)} == {name, snapshot}
    back = handle(keyed, u1, restore(mine, name)["name"])
    back.wait("Running")
    assert back.read("/workspace/s") == b"secret\n"
    back.remove()
    for old in (name, snapshot):
        assert mine.delete("/backups/" + old).status_code == 200
    mine.remove()
    theirs.client.close()
    mine.client.close()


def test_5_5_a_snapshot_of_another_sandbox_is_404(source, box):
    name = backup(source)["name"]
    assert error_of(box.post(f"/backups/{name}/restore"), 404)["code"] == "snapshot_not_found"
    error_of(box.delete("/backups/" + name), 404)
    for odd in ("%2e%2e", "UPPER", "a" * 300, "a%2fb"):
        assert box.delete("/backups/" + odd).status_code in (404, 405)
    assert source.delete("/backups/" + name).status_code == 200


@pytest.mark.tsan
def test_I8_retries_of_backups_and_restores(keyed, source, u1):
    key = {"Idempotency-Key": "b-" + source.name}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: source.post("/backups", headers=key), range(4)))
    assert [a.status_code for a in answers] == [201] * 4, [a.text for a in answers]
    (name,) = {a.json()["name"] for a in answers}
    assert sum("Idempotency-Replayed" not in a.headers for a in answers) == 1
    assert [b["name"] for b in backups(source)] == [name]
    assert error_of(source.post("/backups", headers=key, json={"snapshotClass": " "}), 409)["code"] == "idempotency_key_reused"
    made = restore(source, name, headers=key)
    assert restore(source, name, headers=key) == made
    copy = handle(keyed, u1, made["name"])
    copy.wait("Running")
    copy.remove()


def test_W85_two_backups_in_one_second_are_two(source):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        names = {b["name"] for b in pool.map(lambda _: backup(source), range(6))}
    assert len(names) == 6 and {b["name"] for b in backups(source)} == names
    for name in names:
        assert source.delete("/backups/" + name).status_code == 200


def test_5_4_W48_events_and_history(source, admin):
    name = backup(source, headers={"X-Request-ID": "made-" + source.name})["name"]
    restored = restore(source, name, headers={"X-Request-ID": "restored-" + source.name})["name"]
    wait_for(lambda: source.client.get(f"{API}/sandboxes/{restored}").json()["status"] == "Running", 60)
    assert source.delete("/backups/" + name, headers={"X-Request-ID": "deleted-" + source.name}).status_code == 200
    for request, action, sandbox in (("made-", "backup.create", source.name), ("restored-", "backup.restore", restored),
                                     ("deleted-", "backup.delete", source.name)):
        (event,) = wait_for(lambda r=request: admin.get(API + "/audit/events", params={"requestId": r + source.name}).json()["events"])
        assert (event["eventType"], event["sandboxName"], event["details"]["snapshotName"]) == (action, sandbox, name)
    found = wait_for(lambda: len(e := [e for e in admin.get(API + "/audit/events", params={"sandbox": source.name, "kind": "event"}).json()["events"]
                                       if e["eventType"].startswith("Backup")]) == 2 and e)
    assert {(e["eventType"], e["details"]["reason"]) for e in found} == {("BackupCreated", name), ("BackupPruned", name)}
    source.client.delete(f"{API}/sandboxes/{restored}")


def test_a_snapshot_that_is_being_restored_is_not_deleted(fresh):
    with Router(dev_auth=True) as router:
        source = slow_source(router, fresh)
        name = backup(source)["name"]
        wait_for(lambda: backups(source)[0]["readyToUse"], 60)
        copy = handle(router, source.client, restore(source, name)["name"])
        answer = source.delete("/backups/" + name)
        if copy.status() == "Creating":  # then it was before, too
            assert error_of(answer, 409)["code"] == "snapshot_in_use" and answer.headers["Retry-After"]
        copy.wait("Running", 120)
        assert copy.run(WHOLE) == source.whole
        wait_for(lambda: source.delete("/backups/" + name).status_code in (200, 404), what="deletion")
        wait_for(lambda: folders(router)["snapshots"] == [] and folders(router)["trash"] == [], what="its files gone")
        assert copy.run(WHOLE) == source.whole


def test_backups_outlive_a_restart(fresh):
    with Router(dev_auth=True) as router:
        source = router.sandbox(fresh)
        source.run("echo kept > /workspace/a")
        name = backup(source)["name"]
        assert router.terminate() == 0
        router.restart()
        source.client = router.client()
        assert [(b["name"], b["readyToUse"]) for b in backups(source)] == [(name, True)]
        copy = handle(router, source.client, restore(source, name)["name"])
        copy.wait("Running")
        assert copy.read("/workspace/a") == b"kept\n" and folders(router)["lost"] == []


# ---- the copy itself: hostile sources, a full disk, crashes ----

def test_S13_links_that_are_exchanged_meanwhile_are_never_followed(keyed, u1, fresh, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "flag").write_text("of this machine")
    (tmp_path / "flag").chmod(0o644)
    source = keyed.sandbox(fresh, key="u1")
    source.run("mkdir /workspace/many; cd /workspace/many; for i in $(seq 100); do mkdir $i; echo x > $i/f; done")
    source.write("/tmp/swap.py", f"""
import os, shutil
os.chdir("/workspace")
while True:
    for name in ("many/1", "many/50", "many/100", "d"):
        shutil.rmtree(name, ignore_errors=True)
        os.symlink("{tmp_path}", name)
        os.unlink(name)
        os.symlink("{tmp_path}/flag", name)
        os.unlink(name)
        os.mkdir(name)
        open(name + "/flag", "w").write("mine")
""".encode())
    source.run("nohup python3 /tmp/swap.py > /dev/null 2>&1 &")
    for _ in range(4):
        copy = cloned(keyed, source)
        assert set(copy.run("cd /workspace; find . -name flag -type f -exec sh -c 'cat \"$1\"; echo' - {} \\;").split("\n")) <= {"mine", ""}
        assert int(copy.run("ls /workspace/many | wc -l")) >= 97
        copy.remove()
    source.remove()
    source.client.close()


def test_W74_what_cannot_be_copied_is_left_out(keyed, u1, fresh):
    source = keyed.sandbox(fresh, key="u1")
    source.run("cd /workspace; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"; echo x > a")
    copy = cloned(keyed, source)
    assert copy.run("ls -A /workspace") == "a\n"
    copy.remove()
    source.remove()
    source.client.close()


def test_a_path_that_is_too_long_is_a_typed_error(keyed, u1, fresh):
    source = keyed.sandbox(fresh, key="u1")
    before = snapshots_of(keyed)
    source.run("cd /workspace; python3 -c \"import os\nfor i in range(30):\n os.mkdir('d' * 200); os.chdir('d' * 200)\"")
    body = error_of(source.post("/clone"), 409)
    assert body["code"] == "snapshot_failed" and "more than 4095 bytes" in body["error"]
    assert not new_snapshots(keyed, before)
    source.remove()
    source.client.close()


@pytest.fixture
def little(tmp_path):
    """A Router whose state folder is on a small file system of its own. Not its top: the harness looks for the folder's
    name in everybody's mounts."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("a file system cannot be mounted here: " + mounted.stderr.decode())
    try:
        with Router(dev_auth=True, state_dir=tempfile.mkdtemp(prefix="at-test-", dir=disk)) as router:
            yield router
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def free_mib(router):
    disk = os.statvfs(router.state_dir)
    return disk.f_bavail * disk.f_frsize >> 20


def ballast(router, free):
    """Takes what is free of the disk but for so many MiB."""
    with open(router.state_dir / "ballast", "wb") as file:
        left = (free_mib(router) - free) << 20
        os.posix_fallocate(file.fileno(), 0, left)


def test_a_full_disk_is_507_and_leaves_nothing(little, fresh):
    source = little.sandbox(fresh)
    source.run("echo " + fresh + " > /workspace/.name; head -c 40000000 /dev/zero | tr '\\0' x > /workspace/big")
    ballast(little, 40)
    free = free_mib(little)
    body = error_of(source.post("/clone"), 507)
    assert body["code"] == "insufficient_storage", body
    assert len(source.client.get(API + "/sandboxes").json()["sandboxes"]) == 1
    wait_for(lambda: not snapshots_of(little) and not list((little.state_dir / "trash").iterdir()), what="nothing left over")
    assert free_mib(little) >= free - 2
    assert source.run("cat /workspace/big | wc -c") == "40000000\n"
    # The snapshot fits and the copy of it does not: the clone says so, and resumes when there is room.
    os.truncate(little.state_dir / "ballast", 0)
    ballast(little, 80)
    name = clone(source)["name"]
    copy = handle(little, source.client, name)
    state = copy.wait("Error")
    assert "PVC creation failed" in state["message"] and "disk is full" in state["message"]
    uid = only_other(little, source)
    assert list((little.state_dir / "sandboxes" / uid / "workspace").iterdir()) == []
    os.unlink(little.state_dir / "ballast")
    assert copy.post("/resume").status_code == 200
    copy.wait("Running")
    assert copy.run("cat /workspace/big | wc -c") == "40000000\n"
    copy.remove()
    source.remove()
    source.client.close()


def only_other(router, box):
    """The folder in sandboxes/ that is not that of `box`."""
    (uid,) = (p.name for p in (router.state_dir / "sandboxes").iterdir() if p.name != uid_of(router, box.name))
    return uid


def uid_of(router, name):
    for folder in (router.state_dir / "sandboxes").iterdir():
        launch = pathlib.Path(folder, "workspace", ".name")
        if launch.exists() and launch.read_text().strip() == name:
            return folder.name
    return None


WHOLE = "cd /workspace && find . -type f -exec sha256sum {} + | sort"


def slow_source(router, name):
    """A sandbox whose workspace takes a while to be copied."""
    source = router.sandbox(name)
    source.write("/tmp/make.py", f"""
import os
os.chdir("/workspace")
open(".name", "w").write({name!r})
for d in range(10):
    os.mkdir(str(d))
    for f in range(10):
        open(f"{{d}}/{{f}}", "w").write(str(f))
    with open(f"{{d}}/large", "wb") as file:
        for _ in range(12):
            file.write(os.urandom(1 << 20))
""".encode())
    source.run("python3 /tmp/make.py", timeout=120)
    source.whole = source.run(WHOLE, timeout=120)
    return source


def folders(router):
    return {d: sorted(p.name for p in (router.state_dir / d).iterdir()) for d in ("sandboxes", "snapshots", "trash", "lost")}


def in_background(function):
    pool = concurrent.futures.ThreadPoolExecutor(1)
    return pool.submit(function)


def until_caught(attempt):
    """What is over before it can be interrupted is begun anew."""
    for _ in range(10):
        with Router(dev_auth=True) as router:
            if attempt(router):
                return
    pytest.fail("the copy was never caught in the middle")


def test_kill_9_while_the_snapshot_is_taken_leaves_nothing(fresh):
    def attempt(router):
        source = slow_source(router, fresh)
        asked = in_background(lambda: source.client.post(source.base + "/clone", json={"name": "copy-" + fresh}))
        wait_for(lambda: any(n.endswith(".new") for n in folders(router)["snapshots"]) or asked.done(), interval=0, what="a copy under way")
        router.kill()
        caught = any(n.endswith(".new") for n in folders(router)["snapshots"])
        router.restart()
        source.client = router.client()
        if not caught:
            return False
        assert asked.exception(30) is not None  # nobody was told that it worked
        wait_for(lambda: folders(router) == {"sandboxes": [uid_of(router, fresh)], "snapshots": [], "trash": [], "lost": []},
                 what="nothing left over")
        assert [s["name"] for s in source.client.get(API + "/sandboxes").json()["sandboxes"]] == [fresh]
        copy = cloned(router, source, name="copy-" + fresh)
        assert copy.run(WHOLE) == source.whole
        return True
    until_caught(attempt)


def test_kill_9_while_a_clone_is_filled_begins_anew(fresh):
    def attempt(router):
        source = slow_source(router, fresh)
        name = clone(source)["name"]
        copy = handle(router, source.client, name)
        wait_for(lambda: list(router.state_dir.glob("sandboxes/*/filling")) or copy.status() == "Running", interval=0, what="a workspace being filled")
        router.kill()
        caught = bool(list(router.state_dir.glob("sandboxes/*/filling")))
        router.restart()
        copy = handle(router, router.client(), name)
        copy.wait("Running", 120)
        assert copy.run(WHOLE) == source.whole
        assert not list(router.state_dir.glob("sandboxes/*/filling")) and not list(router.state_dir.glob("sandboxes/*/links"))
        return caught
    until_caught(attempt)


@pytest.mark.tsan
def test_a_clone_that_is_deleted_while_it_is_filled_goes_at_once(fresh):
    with Router(dev_auth=True) as router:
        source = slow_source(router, fresh)
        copy = handle(router, source.client, clone(source)["name"])
        assert copy.delete().status_code == 204
        copy.gone()
        wait_for(lambda: folders(router)["sandboxes"] == [uid_of(router, fresh)] and not folders(router)["trash"], what="its files gone")
        source.remove()
        wait_for(lambda: not folders(router)["sandboxes"] and not folders(router)["trash"], 60, what="all files gone")


@pytest.mark.tsan
def test_a_source_that_is_deleted_meanwhile_is_no_half_copy(fresh):
    with Router(dev_auth=True) as router:
        source = slow_source(router, fresh)
        asked = in_background(lambda: source.client.post(source.base + "/clone", json={"name": "copy-" + fresh}))
        wait_for(lambda: any(n.endswith(".new") for n in folders(router)["snapshots"]) or asked.done(), interval=0)
        other = router.client()
        assert other.delete(f"{API}/sandboxes/{fresh}").status_code == 204
        answer = asked.result(60)
        if answer.status_code == 202:  # it was faster
            copy = handle(router, other, "copy-" + fresh)
            copy.wait("Running", 120)
            assert copy.run(WHOLE) == source.whole
        else:
            assert answer.status_code == 409 and answer.json()["code"] == "snapshot_failed", answer.text
            wait_for(lambda: folders(router) == {"sandboxes": [], "snapshots": [], "trash": [], "lost": []}, what="nothing left over")


def test_a_long_copy_keeps_nobody_waiting(fresh):
    with Router(dev_auth=True) as router:
        big, small = slow_source(router, fresh + "-big"), router.sandbox(fresh + "-small")
        asked = [in_background(lambda: router.client().post(big.base + "/clone")) for _ in range(3)]
        wait_for(lambda: any(n.endswith(".new") for n in folders(router)["snapshots"]) or all(a.done() for a in asked), interval=0,
                 what="a copy under way")
        assert small.run("echo here") == "here\n" and big.run("echo here") == "here\n"
        copy = cloned(router, small)
        assert copy.status() == "Running"
        for answer in asked:
            assert answer.result(60).status_code == 202


# ---- the published SDK ----

def test_the_published_sdk_clones(dev, devbox):
    sdk = load("0.8.1")
    with sdk.AgentTierClient(api_url=dev.url) as client:
        devbox.run("echo by-sdk > /workspace/sdk")
        source = client.get_sandbox(devbox.name)
        for options in ({"name": "sdk-fork"}, {}):
            copy = source.clone(**options)
            copy.wait_until_running(timeout=120, poll_interval=0.05)
            assert copy.exec("cat /workspace/sdk").stdout == "by-sdk\n" and copy.namespace == "default"
            copy.delete()
        with pytest.raises(sdk.ConflictError):
            source.clone(name=devbox.name)

    async def in_the_loop():
        async with sdk.AsyncAgentTierClient(api_url=dev.url) as client:
            copy = await (await client.get_sandbox(devbox.name)).clone()
            await copy.wait_until_running(timeout=120, poll_interval=0.05)
            assert (await copy.exec("cat /workspace/sdk")).stdout == "by-sdk\n"
            await copy.delete()
    asyncio.run(in_the_loop())


def test_a_copy_is_of_one_moment_though_the_sandbox_runs(keyed, u1, fresh):
    """Pairs of files that are always written one after the other, with pauses: a snapshot has both or none of a pair."""
    source = keyed.sandbox(fresh, key="u1")
    source.write("/tmp/pairs.py", b"""
import os, time
for n in range(100000):
    for name in ("a", "b"):
        with open(f"/workspace/{name}.new", "w") as file: file.write(str(n))
        os.rename(f"/workspace/{name}.new", f"/workspace/{name}")
    time.sleep(2)
""")
    source.run("nohup python3 /tmp/pairs.py > /dev/null 2>&1 &")
    source.run("until test -e /workspace/b; do sleep 0.01; done")
    for _ in range(8):
        copy = cloned(keyed, source)
        assert copy.read("/workspace/a") == copy.read("/workspace/b") and copy.run("ls /workspace") == "a\nb\n"
        copy.remove()
    source.remove()
    source.client.close()


def test_W06_who_loses_a_namespace_keeps_what_is_there_and_copies_nothing(fresh):
    with Router(keys=("u1", "admin")) as router:
        box = router.sandbox(fresh, key="u1", namespace="team")
        kept = backup(box)["name"]
        router.terminate()
        router.flags.append("--namespace-groups=default=*")
        router.restart()
        with router.client("u1") as u1, router.client("admin") as admin:
            box = Sandbox(router, u1, fresh)
            assert box.run("echo on") == "on\n"
            assert error_of(box.post("/clone"), 403)["code"] == "namespace_not_allowed"
            assert error_of(box.post(f"/backups/{kept}/restore"), 403)["code"] == "namespace_not_allowed"
            items = [{"name": f"{fresh}-{place}", "template": "no-such-template", "namespace": place} for place in ("team", "default")]
            results = u1.post(API + "/sandboxes/bulk", json={"items": items}).json()["results"]
            assert [(r["status"], r.get("code")) for r in results] == [("error", "namespace_not_allowed"), ("created", None)]
            assert {s["name"] for s in admin.get(API + "/sandboxes").json()["sandboxes"]} == {fresh, fresh + "-default"}
