"""API keys and the caller: http-api.md 2.15, 2.16 and 3.3."""

import calendar
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import pytest

from harness import BINARY, WRAP, Router, clean_environment, error_of, free_port, wait_for

API = "/api/v1"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$")


def test_2_15_me(u1, admin):
    assert u1.get(API + "/user/me").json() | {"name": ""} == {"sub": "u1", "email": "u1@example.org", "name": "", "groups": [],
                                                             "isAdmin": False}
    assert admin.get(API + "/user/me").json()["isAdmin"] is True


def test_2_16_mint_list_revoke(keyed, u1, u2):
    made = u1.post(API + "/user/api-keys", json={"name": "ci", "expiresIn": "1h"})
    assert made.status_code == 201, made.text
    body = made.json()
    assert re.fullmatch(r"atk_[A-Za-z0-9_-]{43}", body["key"])
    assert re.fullmatch(r"agenttier-apikey-[0-9a-f]{40}", body["id"])
    assert body["name"] == "ci" and not body["sandboxId"] and body["actionGroups"] in ([], None)
    assert RFC3339.match(body["createdAt"]) and RFC3339.match(body["expiresAt"])
    assert isinstance(body["warning"], str)
    listed = {k["id"]: k for k in u1.get(API + "/user/api-keys").json()["keys"]}
    mine = listed[body["id"]]
    assert mine["userId"] == "u1" and mine["name"] == "ci" and mine["expiresAt"] == body["expiresAt"]
    assert body["key"] not in str(listed) and "keyHash" not in str(listed)
    assert body["id"] not in str(u2.get(API + "/user/api-keys").json())
    error_of(u2.delete(f"{API}/user/api-keys/{body['id']}"), 403)
    with keyed.client(body["key"]) as client:
        assert client.get(API + "/user/me").json()["name"] == "ci"
        assert u1.delete(f"{API}/user/api-keys/{body['id']}").json() == {"status": "revoked", "id": body["id"]}
        error_of(client.get(API + "/user/me"), 401)
    error_of(u1.delete(f"{API}/user/api-keys/{body['id']}"), 404)


def test_2_16_body_is_optional(u1):
    for options in ({}, {"content": b""}, {"json": {}}):
        answer = u1.post(API + "/user/api-keys", **options)
        assert answer.status_code == 201, answer.text
        assert answer.json()["expiresAt"] is None
        u1.delete(f"{API}/user/api-keys/{answer.json()['id']}")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "tab\t", "\x7f", "c1 \x9b31m", "\r"])
def test_S28_labels_without_control_characters(u1, name):
    """They are shown in lists, in terminals too, and not only to whom they are from."""
    assert error_of(u1.post(API + "/user/api-keys", json={"name": name}), 400)["field"] == "name"
    made = u1.post(API + "/user/api-keys", json={"name": "Ärger & 日本 \u00a0"})
    assert made.status_code == 201 and made.json()["name"] == "Ärger & 日本 \u00a0"
    u1.delete(f"{API}/user/api-keys/{made.json()['id']}")


@pytest.mark.parametrize("body", [
    {"unknown": 1}, {"name": 5}, {"expiresIn": "0"}, {"expiresIn": "-1h"}, {"expiresIn": 5}, {"expiresIn": "soon"}, {"scopes": "stop"},
    {"sandboxId": 5}, {"scopes": ["stop"]}, {"actionGroups": ["stop"]}, [], "x", {"name": "x" * 5000},
])
def test_2_16_bad_bodies_are_400(u1, body):
    error_of(u1.post(API + "/user/api-keys", json=body), 400)


@pytest.mark.parametrize("body", [{"scopes": ["delete"]}, {"scopes": ["nonsense"]}, {"scopes": [5]},
                                  {"scopes": ["stop"], "actionGroups": ["resume"]}])
def test_2_16_W21_bad_scopes_are_400(u1, box, body):
    error_of(u1.post(API + "/user/api-keys", json={"sandboxId": box.name, **body}), 400)


def test_2_16_W21_scopes_and_action_groups_that_agree(u1, box):
    answer = u1.post(API + "/user/api-keys", json={"sandboxId": box.name, "scopes": ["stop", "ports"], "actionGroups": ["ports", "stop"]})
    assert answer.status_code == 201, answer.text
    assert set(answer.json()["actionGroups"]) == {"stop", "ports"}
    for empty in ({"scopes": []}, {"actionGroups": []}, {"scopes": None}):
        answer = u1.post(API + "/user/api-keys", json={"sandboxId": box.name, **empty})
        assert (answer.status_code, len(answer.json()["actionGroups"])) == (201, 8)


def test_3_3_a_minted_key_of_an_admin_is_no_admin(keyed, admin):
    made = admin.post(API + "/user/api-keys", json={"name": "mine"}).json()
    with keyed.client(made["key"]) as client:
        me = client.get(API + "/user/me").json()
        assert me["sub"] == "admin" and me["isAdmin"] is False
        error_of(client.post(API + "/templates", json={"name": "x", "spec": {}}), 403)


def after_its_end(client, expires_at):
    """The answer right after the key's `expiresAt`; until then it is good, however fast this machine is."""
    at = calendar.timegm(time.strptime(expires_at[:19], "%Y-%m-%dT%H:%M:%S")) + float("0" + expires_at[19:-1])
    while True:
        asked = time.time()
        answer = client.get(API + "/user/me")
        if time.time() < at - 0.001:  # of which the Router knows the milliseconds
            assert answer.status_code == 200, answer.text
        if asked >= at:
            return answer
        time.sleep(0.02)


def test_3_3_expiry(keyed, u1):
    for life in ("1500ms", "2s"):
        made = u1.post(API + "/user/api-keys", json={"expiresIn": life}).json()
        with keyed.client(made["key"]) as client:
            assert error_of(after_its_end(client, made["expiresAt"]), 401)["error"] == "invalid_api_key"


def test_admin_revokes_any_key(keyed, u1, admin):
    made = u1.post(API + "/user/api-keys", json={"name": "x"}).json()
    assert admin.delete(f"{API}/user/api-keys/{made['id']}").status_code == 200
    with keyed.client(made["key"]) as client:
        error_of(client.get(API + "/user/me"), 401)


@pytest.mark.parametrize("key_id", ["nope", "agenttier-apikey-" + "0" * 40, "..", "a%2fb", "x" * 3000])
def test_2_16_unknown_key_is_404(u1, key_id):
    error_of(u1.delete(f"{API}/user/api-keys/{key_id}"), (400, 404, 405) if key_id == ".." else 404)


def test_create_key_beside_a_running_router(keyed):
    """The command works on the same state; the Router follows within a moment."""
    key = keyed.create_key("late", "--name=label")
    with keyed.client(key) as client:
        me = wait_for(lambda: (answer := client.get(API + "/user/me")).status_code == 200 and answer, 2, what="the new key")
        assert (me.json()["sub"], me.json()["name"]) == ("late", "label")


def test_W54_last_use_is_written_down_once_an_hour(keyed, u1):
    made = u1.post(API + "/user/api-keys", json={"name": "w54"}).json()

    def listed():
        return next(k for k in u1.get(API + "/user/api-keys").json()["keys"] if k["id"] == made["id"])
    assert "lastUsedAt" not in listed()
    with keyed.client(made["key"]) as client:
        client.get(API + "/user/me")
        at = wait_for(lambda: listed().get("lastUsedAt"), 10, what="lastUsedAt")
        assert RFC3339.match(at)
        time.sleep(1.1)
        assert client.get(API + "/user/me").status_code == 200
        time.sleep(0.5)
        assert listed()["lastUsedAt"] == at
    assert u1.delete(f"{API}/user/api-keys/{made['id']}").status_code == 200


def test_W55_users_whose_labels_collide_do_not_see_each_other(keyed):
    """`a|b` and `a/b` have one label."""
    with keyed.client(keyed.create_key("a|b", "--name=one")) as one, keyed.client(keyed.create_key("a/b", "--name=two")) as two:
        wait_for(lambda: one.get(API + "/user/me").status_code == two.get(API + "/user/me").status_code == 200, what="the keys")
        assert [k["name"] for k in one.get(API + "/user/api-keys").json()["keys"]] == ["one"]
        assert [k["name"] for k in two.get(API + "/user/api-keys").json()["keys"]] == ["two"]


def test_W75_caps_on_number_and_life():
    with Router("--api-keys-per-user=5", "--api-key-max-lifetime=1h", keys=("u1",)) as router, router.client("u1") as client:
        assert client.post(API + "/user/api-keys", json={}).json()["expiresAt"] is not None
        error_of(client.post(API + "/user/api-keys", json={"expiresIn": "2h"}), 400)
        assert client.post(API + "/user/api-keys", json={"expiresIn": "8s"}).status_code == 201
        # u1's own key, two more: two are left, whoever asks at once
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: client.post(API + "/user/api-keys", json={}), range(10)))
        assert sorted(a.status_code for a in answers) == [201] * 2 + [409] * 8
        assert error_of(answers[[a.status_code for a in answers].index(409)])["code"] == "key_limit_reached"
        wait_for(lambda: client.post(API + "/user/api-keys", json={}).status_code == 201, what="room")  # of the expired one
        error_of(client.post(API + "/user/api-keys", json={}), 409)


def test_W75_administrators_list_all_keys(keyed, u1, admin):
    made = [u1.post(API + "/user/api-keys", json={"name": f"w75-{n}"}).json()["id"] for n in range(3)]
    error_of(u1.get(API + "/admin/api-keys"), 403)
    mine = admin.get(API + "/admin/api-keys", params={"user": "u1"}).json()["keys"]
    assert set(made) <= {k["id"] for k in mine} and {k["userId"] for k in mine} == {"u1"}
    found, cursor = [], None
    for _ in range(200):
        page = admin.get(API + "/admin/api-keys", params={"limit": 2, **({"continue": cursor} if cursor else {})}).json()
        found += page["keys"]
        cursor = page.get("continue")
        if not cursor:
            break
    ids = [k["id"] for k in found]
    assert ids == sorted(set(ids)) and set(made) <= set(ids)
    assert not any("key" in k or "keyHash" in k for k in found)
    assert {"u1", "admin"} <= {k["userId"] for k in found}
    for value in ("0", "501", "x", "-1"):
        error_of(admin.get(API + "/admin/api-keys", params={"limit": value}), 400)
    assert admin.get(API + "/admin/api-keys", params={"user": "nobody"}).json() == {"keys": []}
    for key in made:
        assert admin.delete(f"{API}/user/api-keys/{key}").status_code == 200


def test_W56_who_fails_too_often_is_told_to_slow_down():
    """Failures of an address are limited; good credentials of that address go on."""
    with Router("--ratelimit-auth-failures-rate=0.001", keys=("u1",)) as router, router.client("u1") as good, router.anonymous() as bad:
        answers = [bad.get(API + "/user/me", headers={"X-API-Key": f"atk_{n:043d}"}) for n in range(130)]
        assert [a.status_code for a in answers] == [401] * 100 + [429] * 30
        limited = answers[-1]
        body = error_of(limited, 429)
        assert body["error"] == "rate_limited" and int(limited.headers["Retry-After"]) == body["retryAfter"] >= 1
        assert good.get(API + "/user/me").status_code == 200
        assert error_of(bad.get(API + "/user/me"), 401)["error"] == "missing_authorization"  # no guess, no cost
        assert 'agenttier_auth_total{outcome="limited"} 0' not in bad.get("/metrics").text


def test_S08_revocation_and_expiry_hold_for_what_is_remembered(keyed, u1):
    made = u1.post(API + "/user/api-keys", json={"expiresIn": "4s"}).json()
    with keyed.client(made["key"]) as client, keyed.anonymous(headers={"Authorization": "Bearer " + made["key"]}) as bearer:
        assert client.get(API + "/user/me").status_code == bearer.get(API + "/user/me").status_code == 200
        error_of(after_its_end(client, made["expiresAt"]), 401)
        error_of(bearer.get(API + "/user/me"), 401)


def test_S08_part_of_a_key_tells_nothing(keyed):
    """A key that shares its beginning with a good one is as unknown as any other."""
    good = keyed.keys["u1"]
    with keyed.anonymous() as client:
        answers = {client.get(API + "/user/me", headers={"X-API-Key": key}).text
                   for key in (good[:-1], good[:-1] + ("A" if good[-1] != "A" else "B"), good + "A", "atk_" + "A" * 43, "x")}
    assert len(answers) == 1, answers


def test_create_key_usage():
    for arguments in ([], ["--state-dir=/tmp/x"], ["--sub=x"], ["--nonsense"]):
        done = subprocess.run([*WRAP, str(BINARY), "create-key", *arguments], capture_output=True, text=True, timeout=120,
                              env=clean_environment(), check=False)
        assert done.returncode == 2, arguments
    done = subprocess.run([*WRAP, str(BINARY), "create-key", "--help"], capture_output=True, text=True, timeout=120,
                          env=clean_environment(), check=False)
    assert done.returncode == 0 and "--sub" in done.stdout


def test_S29_keys_are_not_in_the_state(keyed):
    text = b"".join(p.read_bytes() for p in keyed.state_dir.glob("*") if p.is_file())
    assert text
    for key in keyed.keys.values():
        assert key.encode() not in text


def test_S29_memory_is_not_for_others_of_the_same_user():
    """No core, no debugger of the same user's: the kernel gives the files of such a process to root."""
    user = 65534 if os.getuid() == 0 else os.getuid()
    tmp_path = pathlib.Path(tempfile.mkdtemp(prefix="at-s29-", dir="/tmp"))
    tmp_path.chmod(0o755)
    (state := tmp_path / "state").mkdir()
    os.chown(state, user, -1)
    port = free_port()
    with open(tmp_path / "log", "wb") as log, subprocess.Popen(
            [*WRAP, str(BINARY), "--dev-auth", f"--state-dir={state}", f"--listen-addr=127.0.0.1:{port}"], stdout=log, stderr=log,
            env=clean_environment(), cwd="/", user=user if os.getuid() == 0 else None) as process:
        try:
            wait_for(lambda: process.poll() is not None or b"serving" in (tmp_path / "log").read_bytes(), what="the Router")
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert os.stat(f"/proc/{process.pid}/status").st_uid == 0
            assert f"Uid:\t{user}\t" in open(f"/proc/{process.pid}/status", encoding="ascii").read()
        finally:
            process.terminate()
    shutil.rmtree(tmp_path)


def test_S29_state_is_private(keyed):
    assert keyed.state_dir.stat().st_mode & 0o077 == 0 or all(
        p.stat().st_mode & 0o007 == 0 for p in keyed.state_dir.iterdir())
