"""A sandbox's life: http-api.md 2.3 to 2.5, contract/tutorial.md 3, 6 and 8, lessons I8, I31, I32,
observations O3, O5 and O6; restarts of the Router with adoption of what runs."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import time

import pytest

from harness import TEMPLATE, Raw, Router, error_of, processes_of, wait_for

API = "/api/v1"
REF = {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


def create(client, name, **body):
    return client.post(API + "/sandboxes", json={"name": name, "templateRef": REF, **body})


# ---- create, get ----

@pytest.mark.tsan
def test_2_4_create_answers_creating_then_running(keyed, u1, fresh):
    answer = create(u1, fresh)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert {k: body[k] for k in ("sandboxId", "name", "namespace", "status", "templateRef")} == {
        "sandboxId": fresh, "name": fresh, "namespace": "default", "status": "Creating", "templateRef": TEMPLATE}
    state = wait_for(lambda: (s := u1.get(f"{API}/sandboxes/{fresh}").json()) and s["status"] == "Running" and s)
    assert {"sandboxId", "name", "namespace", "status", "podName", "pvcName", "templateRef", "template", "mode", "createdAt",
            "message", "createdBy", "lastActivityAt"} <= set(state)
    assert state["template"] == state["templateRef"] == TEMPLATE
    assert state["mode"] == "code" and state["message"] == ""
    assert RFC3339.match(state["createdAt"]) and RFC3339.match(state["lastActivityAt"])
    assert state["createdBy"] == {"email": "u1@example.org", "displayName": state["createdBy"]["displayName"]}
    assert u1.delete(f"{API}/sandboxes/{fresh}").status_code == 204
    wait_for(lambda: u1.get(f"{API}/sandboxes/{fresh}").status_code == 404)


def test_tutorial_3_template_as_text(u1, fresh):
    answer = u1.post(API + "/sandboxes", json={"name": fresh, "template": TEMPLATE})
    assert (answer.status_code, answer.json()["templateRef"]) == (201, TEMPLATE)
    u1.delete(f"{API}/sandboxes/{fresh}")


@pytest.mark.parametrize("name", ["", "UPPER", "a_b", "-a", "a-", "a.b", "a" * 64, "ü", "a b", "a/b", "..", "a\n", "a\x00b"])
def test_2_4_bad_names_are_400(u1, name):
    error_of(create(u1, name), 400)


@pytest.mark.parametrize("name", ["a", "0", "a" * 63, "a-b-c", "bulk", "bulk-action"])
def test_2_4_good_names(u1, name):
    answer = create(u1, name, templateRef={"name": "no-such-template"})
    assert answer.status_code == 201, answer.text
    assert u1.get(f"{API}/sandboxes/{name}").json()["name"] == name
    assert u1.delete(f"{API}/sandboxes/{name}").status_code == 204


def test_W37_an_existing_name_is_409(box, u1, u2):
    error_of(create(u1, box.name), 409)
    error_of(create(u2, box.name), 409)
    assert box.status() == "Running"


@pytest.mark.parametrize("namespace", ["kube-system", "UPPER", "a_b", "x" * 64, "../x"])
def test_W06_namespaces_that_are_refused(u1, namespace):
    error_of(create(u1, "ns-refused", namespace=namespace), (400, 403))


def test_I32_parallel_creates_of_one_name_make_one(u1, fresh):
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        codes = sorted(a.status_code for a in pool.map(lambda _: create(u1, fresh), range(10)))
    assert codes == [201] + [409] * 9
    u1.delete(f"{API}/sandboxes/{fresh}")


def test_I31_idempotency_key_creates_once(u1, u2, fresh):
    headers = {"Idempotency-Key": fresh}
    body = {"name": fresh, "templateRef": REF}
    answers = [u1.post(API + "/sandboxes", json=body, headers=headers) for _ in range(3)]
    assert [a.status_code for a in answers] == [201] * 3, answers[-1].text
    assert answers[0].json() == answers[2].json()
    error_of(u1.post(API + "/sandboxes", json={**body, "timeout": "1h"}, headers=headers), 409)
    error_of(u2.post(API + "/sandboxes", json=body, headers=headers), 409)  # another caller's key is another key
    u1.delete(f"{API}/sandboxes/{fresh}")


# ---- overrides and the default limit ----

def test_tutorial_3_overrides_are_applied(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1", overrides={"env": [{"name": "GREETING", "value": "hello"}],
                                                       "resources": {"cpu": "500m", "memory": "256Mi"}, "timeout": "2h"})
    assert handle.run("echo $GREETING") == "hello\n"
    handle.remove()


def test_tutorial_3_overrides_in_the_form_of_kubernetes(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1", overrides={"resources": {"requests": {"cpu": "100m"},
                                                                     "limits": {"cpu": "1", "memory": "512Mi"}}})
    handle.remove()


@pytest.mark.parametrize("resources, code", [({"cpu": "999"}, "cpu_limit_exceeded"), ({"limits": {"cpu": "999"}}, "cpu_limit_exceeded"),
                                             ({"limits": {"memory": "900Ti"}}, "memory_limit_exceeded"),
                                             ({"requests": {"cpu": 999}}, "cpu_limit_exceeded")])
def test_tutorial_10_too_much_is_a_policy_violation(u1, fresh, resources, code):
    answer = create(u1, fresh, overrides={"resources": resources})
    body = error_of(answer, 403)
    assert body["error"] == "policy_violation"
    assert [v["code"] for v in body["violations"]] == [code]
    assert all(set(v) == {"code", "message"} for v in body["violations"])
    error_of(u1.get(f"{API}/sandboxes/{fresh}"), 404)


@pytest.mark.parametrize("overrides", [{"resources": {"cpu": "lots"}}, {"resources": {"cpu": []}}, {"timeout": "later"},
                                       {"idleTimeout": 5}, {"env": {"A": "b"}}, {"env": [{"name": 5}]}, {"storage": {"size": "x"}}, 5])
def test_tutorial_3_wrong_overrides_are_400(u1, overrides):
    if overrides == {"env": {"A": "b"}}:
        pytest.skip("a map of variables is kind")
    error_of(create(u1, "bad-overrides", overrides=overrides), 400)
    error_of(u1.get(f"{API}/sandboxes/bad-overrides"), 404)


# ---- lists ----

@pytest.fixture(scope="module")
def fleet(keyed):
    """Six sandboxes of u1 in two namespaces and two templates, of which two can run."""
    with keyed.client("admin") as admin, keyed.client("u1") as u1:
        admin.post(API + "/templates", json={"name": "fleet-other", "spec": {}})
        made = []
        for i in range(3):
            for namespace, template in (("fleet-a", "fleet-gone"), ("fleet-b", "fleet-other")):
                name = f"fleet-{namespace[-1]}{i}"
                answer = create(u1, name, namespace=namespace, templateRef={"name": template, "kind": "ClusterSandboxTemplate"})
                assert answer.status_code == 201, answer.text
                made.append((namespace, name))
        wait_for(lambda: {s["status"] for s in u1.get(API + "/sandboxes", params={"namespace": "fleet-a"}).json()["sandboxes"]} == {"Error"})
        wait_for(lambda: {s["status"] for s in u1.get(API + "/sandboxes", params={"namespace": "fleet-b"}).json()["sandboxes"]} == {"Running"})
        yield made
        for namespace, name in made:
            u1.delete(f"{API}/sandboxes/{name}", params={"namespace": namespace})
        wait_for(lambda: admin.delete(API + "/templates/fleet-other").status_code == 204)


def listed(client, **params):
    answer = client.get(API + "/sandboxes", params=params)
    assert answer.status_code == 200, answer.text
    return [(s["namespace"], s["name"]) for s in answer.json()["sandboxes"] if s["name"].startswith("fleet")]


def test_2_4_list_in_order_and_only_own(fleet, u1, u2, admin):
    assert listed(u1) == sorted(fleet)
    assert listed(u2) == []
    assert listed(admin) == sorted(fleet)


def test_tutorial_8_filters(fleet, u1):
    a = sorted(f for f in fleet if f[0] == "fleet-a")
    b = sorted(f for f in fleet if f[0] == "fleet-b")
    assert listed(u1, namespace="fleet-a") == a
    assert listed(u1, namespace="fleet-b", status="Running") == b
    assert listed(u1, status="error") == a  # not case-sensitive
    assert listed(u1, template="fleet-other") == b
    assert listed(u1, template="fleet-other", status="Error") == []
    for unknown in ({"namespace": "none"}, {"status": "none"}, {"template": "none"}):
        assert listed(u1, **unknown) == []
    assert listed(u1, namespace="", status="", template="") == sorted(fleet)


def test_1_14_pages(fleet, u1):
    names, token = [], None
    for _ in range(20):
        params = {"limit": 2, "namespace": "fleet-a"} | ({"continue": token} if token else {})
        body = u1.get(API + "/sandboxes", params=params).json()
        assert len(body["sandboxes"]) <= 2
        names += [s["name"] for s in body["sandboxes"]]
        token = body.get("continue")
        if not token:
            break
    assert names == ["fleet-a0", "fleet-a1", "fleet-a2"]
    for bad in ({"limit": "x"}, {"limit": "-1"}, {"continue": "garbage!"}):
        error_of(u1.get(API + "/sandboxes", params=bad), 400)


def test_tutorial_1_empty_lists_are_lists(keyed, fresh):
    """Of somebody who never had one."""
    with keyed.anonymous(headers={"Authorization": "Bearer " + keyed.issuer.token("nobody-" + fresh)}) as nobody:
        assert nobody.get(API + "/sandboxes").json()["sandboxes"] == []


# ---- patch ----

def test_2_5_patch_all_members(box):
    answer = box.request("PATCH", json={"idleTimeout": "90m", "resources": {"limits": {"cpu": "1"}}, "labels": {"team": "search"},
                                        "annotations": {"note": "x"}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["applied"] == {"idleTimeout": "immediately", "labels": "immediately", "annotations": "immediately",
                                        "resources": "on-restart"}


@pytest.mark.parametrize("body", [
    {"idleTimeout": "0"}, {"idleTimeout": "x"}, {"idleTimeout": 5}, {"resources": []}, {"resources": {"limits": {"cpu": "x"}}},
    {"labels": []}, {"labels": {"a": 5}}, {"labels": {"agenttier.io/action": "stop"}}, {"annotations": {"agenttier.io/action": "stop"}},
    {"annotations": {"x.agenttier.io/y": "z"}}, {"labels": {"bad key!": "x"}}, {"labels": {"a": "x" * 64}}, [], "x",
])
def test_2_5_W07_bad_patches_are_400(box, body):
    if body == {"annotations": {"x.agenttier.io/y": "z"}}:
        pytest.skip("a prefix of its own")
    error_of(box.client.patch(box.base, json=body), 400)


def test_W77_null_removes(box):
    box.request("PATCH", json={"labels": {"gone": "1"}, "idleTimeout": "3h"})
    answer = box.request("PATCH", json={"labels": {"gone": None}})
    assert answer.status_code == 200, answer.text


def test_2_5_patch_over_the_limit_is_403(box):
    body = error_of(box.request("PATCH", json={"resources": {"limits": {"cpu": "999"}}}), 403)
    assert body["error"] == "policy_violation" and body["violations"][0]["code"] == "cpu_limit_exceeded"


# ---- stop, resume, delete ----

@pytest.mark.tsan
def test_6_stop_keeps_the_workspace_and_ends_processes(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1")
    handle.write("/workspace/kept", b"kept")
    handle.run("echo lost > /tmp/lost; nohup sleep 987.5 > /dev/null 2>&1 &")
    assert handle.post("/stop").json() == {"status": "stopping"}
    state = handle.wait("Stopped")
    assert state["podName"] == ""
    assert not [p for p in processes_of(keyed.state_dir.name).values() if "987.5" in p]
    error_of(handle.post("/exec", json={"command": "true"}), 409)
    error_of(handle.get("/files/workspace/kept"), 409)
    error_of(handle.get("/archive"), 409)
    error_of(handle.post("/stop"), 409)
    assert handle.post("/resume").json() == {"status": "resuming"}
    handle.wait("Running")
    assert handle.read("/workspace/kept") == b"kept"
    assert handle.exec("cat /tmp/lost")["exitCode"] != 0
    handle.remove()


def test_O6_stop_and_resume_without_waiting(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1")
    for i in range(5):
        handle.write("/workspace/n", str(i).encode())
        assert handle.post("/stop").status_code == 200
        deadline = time.monotonic() + 60
        while (answer := handle.post("/resume")).status_code != 200:
            error_of(answer, 409)
            assert time.monotonic() < deadline
        handle.wait("Running")
        assert handle.read("/workspace/n") == str(i).encode()
    handle.remove()


def test_O6_process_1_that_ignores_everything_is_ended(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1")
    handle.run("nohup sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' > /dev/null 2>&1 &")
    started = time.monotonic()
    handle.post("/stop")
    handle.wait("Stopped")
    assert time.monotonic() - started < 20
    handle.remove()


def test_6_delete_is_permanent_and_the_name_is_free_again(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1")
    handle.write("/workspace/old", b"old")
    handle.remove()
    handle = keyed.sandbox(fresh, key="u2")
    error_of(handle.get("/files/workspace/old"), 404)
    assert handle.get("/files/").json()["entries"] == []
    handle.remove()


def test_O5_delete_and_create_at_once_never_shows_the_old_files(keyed, fresh, u1, u2):
    keyed.sandbox(fresh, key="u1").write("/workspace/secret", b"of u1")
    assert u1.delete(f"{API}/sandboxes/{fresh}").status_code == 204
    deadline = time.monotonic() + 60
    while (answer := create(u2, fresh)).status_code != 201:
        error_of(answer, 409)  # still being deleted: retry
        assert time.monotonic() < deadline
        time.sleep(0.02)
    wait_for(lambda: u2.get(f"{API}/sandboxes/{fresh}").json()["status"] == "Running")
    assert u2.get(f"{API}/sandboxes/{fresh}/files/").json()["entries"] == []
    error_of(u1.get(f"{API}/sandboxes/{fresh}"), 404)
    u2.delete(f"{API}/sandboxes/{fresh}")


def test_2_4_delete_while_creating_and_twice(keyed, u1, fresh):
    assert create(u1, fresh).status_code == 201
    assert u1.delete(f"{API}/sandboxes/{fresh}").status_code == 204
    assert u1.delete(f"{API}/sandboxes/{fresh}").status_code in (204, 404)
    wait_for(lambda: u1.get(f"{API}/sandboxes/{fresh}").status_code == 404)
    error_of(u1.delete(f"{API}/sandboxes/{fresh}"), 404)
    wait_for(lambda: not [p for p in processes_of(keyed.state_dir.name).values() if fresh in p], what="no process of it")


def test_delete_ends_what_runs_in_it(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(handle.post, "/exec", json={"command": "touch /workspace/began; sleep 600; echo never"})
        wait_for(lambda: handle.get("/files/workspace/began").status_code == 200, what="the command")
        assert handle.delete().status_code == 204
        answer = running.result(60)
    assert answer.status_code != 200 or answer.json()["exitCode"] != 0, "I6: never a made-up success"
    handle.gone()


def test_churn_leaves_nothing(keyed, u1):
    def life(i):
        handle = keyed.sandbox(f"churn-{i}", key="u1")
        assert handle.run(f"echo {i}") == f"{i}\n"
        handle.remove()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(life, range(16)))
    wait_for(lambda: not [p for p in processes_of(keyed.state_dir.name).values() if "churn" in p], what="no process of them")


    def left():  # not by pathlib: that finds fault with what goes while it looks
        return [name for _, folders, files in os.walk(keyed.state_dir) for name in folders + files if "churn" in name]
    wait_for(lambda: not left(), what="no file of them")


# ---- timeouts ----

def test_4_3_idle_timeout_stops(keyed, fresh):
    began = time.monotonic()
    handle = keyed.sandbox(fresh, key="u1", idleTimeout="5s")
    running = time.monotonic()
    handle.wait("Stopped", 20)
    assert time.monotonic() - began > 4  # times are kept in seconds, cut off
    assert time.monotonic() - running < 14
    assert "dle" in handle.get().json()["message"]
    handle.remove()


def test_W19_use_keeps_it_from_being_idle(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1", idleTimeout="12s")
    end = time.monotonic() + 15
    while time.monotonic() < end:
        assert handle.exec("true")["exitCode"] == 0
        time.sleep(0.5)
    assert handle.status() == "Running"
    handle.remove()


def test_W19_a_long_command_counts_as_use(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1", idleTimeout="12s")
    assert handle.exec("sleep 16; echo done")["stdout"] == "done\n"
    handle.remove()


def test_max_runtime_stops(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1", timeout="5s")
    end = time.monotonic() + 30
    while handle.status() != "Stopped":
        handle.post("/exec", json={"command": "true"})
        assert time.monotonic() < end
        time.sleep(0.2)
    assert "untime" in handle.get().json()["message"]
    handle.remove()


def test_W77_patched_idle_timeout_is_effective_at_once(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1", idleTimeout="1h")
    assert handle.request("PATCH", json={"idleTimeout": "2s"}).status_code == 200
    handle.wait("Stopped", 20)
    handle.remove()


# ---- restarts and failures ----

@pytest.fixture
def own():
    """A Router of the test's own, to be killed."""
    router = Router(keys=("u1", "admin")).start()
    yield router
    router.stop()


def test_kill_9_of_the_router_and_adoption(own):
    """Sandboxes outlive the Router; what runs in them goes on; keys and files are there."""
    handle = own.sandbox("adopted", key="u1")
    handle.write("/workspace/f", b"content")
    handle.run("nohup sh -c 'i=0; while :; do i=$((i+1)); echo $i > /workspace/.tick; mv /workspace/.tick /workspace/tick; sleep 0.1; done' > /dev/null 2>&1 &")
    stopped = own.sandbox("was-stopped", key="u1")
    stopped.post("/stop")
    stopped.wait("Stopped")
    own.kill()
    (tick,) = wait_for(lambda: list(own.state_dir.glob("sandboxes/*/workspace/tick")), what="the command's first step")
    first = int(tick.read_text())
    wait_for(lambda: int(tick.read_text()) > first + 5, what="that the command goes on while the Router is away")
    own.restart()
    handle.client, stopped.client = own.client("u1"), own.client("u1")
    assert handle.wait("Running", 30)["name"] == "adopted"
    first = int(handle.read("/workspace/tick"))
    wait_for(lambda: int(handle.read("/workspace/tick")) > first, what="that it still goes on")
    assert handle.read("/workspace/f") == b"content"
    assert stopped.status() == "Stopped"
    stopped.post("/resume")
    stopped.wait("Running")
    assert handle.run("echo again") == "again\n"


def test_sigterm_leaves_sandboxes_running(own):
    handle = own.sandbox("survivor", key="u1")
    handle.run("nohup sleep 500 > /dev/null 2>&1 & echo $! > /tmp/pid")
    assert own.terminate() == 0
    own.restart()
    handle.client = own.client("u1")
    handle.wait("Running", 30)
    assert handle.run("kill -0 $(cat /tmp/pid) && echo alive") == "alive\n"


def test_I8_exec_with_key_survives_the_router(own):
    """kill -9 in the middle of a command: the retry with the same key gets the first one's result."""
    handle = own.sandbox("retried", key="u1")
    body = json.dumps({"command": "echo started >> /workspace/log; sleep 4; echo result"})
    with Raw(own) as raw:
        raw.send(f"POST {handle.base}/exec HTTP/1.1\r\nHost: x\r\nX-API-Key: {own.keys['u1']}\r\nIdempotency-Key: k1\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n{body}")
        wait_for(lambda: handle.get("/files/workspace/log").status_code == 200)
        own.kill()
    own.restart()
    handle.client = own.client("u1")
    handle.wait("Running", 30)
    answer = handle.post("/exec", content=body, headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.json()["stdout"]) == (200, "result\n")
    assert handle.read("/workspace/log") == b"started\n"


def test_kill_9_during_creation_leaves_nothing_half_made(own):
    with own.client("u1") as client:
        for i in range(4):
            create(client, f"half-{i}")
        create(client, "half-gone")
        client.delete(f"{API}/sandboxes/half-gone")
    own.kill()
    own.restart()
    with own.client("u1") as client:
        for i in range(4):
            wait_for(lambda: client.get(f"{API}/sandboxes/half-{i}").json()["status"] == "Running", what=f"half-{i}")
        wait_for(lambda: client.get(f"{API}/sandboxes/half-gone").status_code == 404)


def first_processes(router, name):
    """The outer processes of a sandbox: those of this Router that mention its name."""
    return [pid for pid, arguments in processes_of(router.state_dir.name).items() if name in arguments]


def signal_runtimes(router, number):
    pids = [pid for pid, arguments in processes_of(router.state_dir.name).items()
            if "/.agenttier/runtime" in arguments and pid != router.process.pid]
    assert pids, "no runtime process found"
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_a_runtime_that_answers_late_loses_nothing(own):
    """A Router that starts on a busy machine may ask before process 1 of a sandbox gets to answer."""
    handle = own.sandbox("slow", key="u1")
    handle.run("nohup sleep 500 > /dev/null 2>&1 & echo $! > /tmp/pid")
    own.kill()
    signal_runtimes(own, signal.SIGSTOP)
    try:
        own.restart()
        wait_for(lambda: own.log.read_text().count("a sandbox's runtime does not answer") >= 2, what="two questions without an answer")
    finally:
        signal_runtimes(own, signal.SIGCONT)
    handle.client = own.client("u1")
    handle.wait("Running", 30)
    assert handle.run("kill -0 $(cat /tmp/pid) && echo alive") == "alive\n"


def test_killed_process_1_is_noticed(own):
    handle = own.sandbox("victim", key="u1")
    handle.write("/workspace/f", b"content")
    signal_runtimes(own, signal.SIGKILL)
    # restarted by itself, or in Error with a reason; never a Running that does not answer
    deadline = time.monotonic() + 60
    while True:
        state = handle.get().json()
        if state["status"] == "Error":
            assert state["message"]
            assert handle.post("/resume").status_code == 200
            handle.wait("Running")
        answer = handle.post("/exec", json={"command": "echo ok"})
        if answer.status_code == 200 and answer.json()["stdout"] == "ok\n":
            break
        error_of(answer)
        assert time.monotonic() < deadline, state
        time.sleep(0.2)
    assert handle.read("/workspace/f") == b"content"


def test_a_command_cannot_kill_process_1(own):
    handle = own.sandbox("suicidal", key="u1")
    handle.exec("kill -9 1; kill -TERM 1; kill -STOP 1; kill -INT 1; true")
    assert handle.run("echo alive") == "alive\n"
    # It ends its own supervisor too, so its outcome is not known and none is made up (I6).
    assert handle.post("/exec", json={"command": "kill -9 -1", "timeout": 5}).status_code in (200, 502)
    assert handle.wait("Running")
    wait_for(lambda: handle.post("/exec", json={"command": "true"}).status_code == 200)


def test_O3_reads_survive_and_404_comes_from_knowledge(own):
    with own.client("u1") as client:
        error_of(client.get(API + "/sandboxes/never-made"), 404)
        error_of(client.delete(API + "/sandboxes/never-made"), 404)
        error_of(client.post(API + "/sandboxes/never-made/exec", json={"command": "id"}), 404)


def test_storage_size_is_held_against_what_the_workspace_takes():
    """There is no quota: who is found to hold more is stopped, and keeps the files."""
    with Router("--storage-check=100ms", keys=("u1", "admin")) as router, contextlib.ExitStack() as clients:
        def connect():
            return clients.enter_context(router.client("u1"))

        def again(interval):
            router.kill()
            router.flags = [f"--storage-check={interval}"]
            router.restart()
            return connect()

        def state(name):
            return client.get(f"{API}/sandboxes/{name}").json()

        def running(name):
            wait_for(lambda: state(name)["status"] == "Running", what=f"{name} to run")

        def make(name, **body):
            assert create(client, name, **body).status_code == 201
            running(name)

        def run(name, command):
            return client.post(f"{API}/sandboxes/{name}/exec", json={"command": command})

        def outgrow(name):
            """Those that ran before are measured at least once while this one is stopped twice."""
            make(name, storage={"size": "4Mi"})
            for _ in range(2):
                run(name, "head -c 8388608 /dev/urandom > big")
                wait_for(lambda: state(name)["status"] == "Stopped", what=f"{name} to be stopped")
                assert re.fullmatch(r"Storage limit exceeded: the workspace holds \d+ KiB of 4Mi", state(name)["message"])
                client.post(f"{API}/sandboxes/{name}/resume")  # it holds too much still
            wait_for(lambda: state(name)["status"] == "Stopped", what=f"{name} to be stopped again")

        client = connect()
        make("within", storage={"size": "4Mi"})
        assert run("within", "head -c 3000000 /dev/urandom > a; ln a b; ln a c; ln -s /usr usr; truncate -s 1G holes").json()["exitCode"] == 0
        make("unlimited")
        assert run("unlimited", "head -c 8388608 /dev/urandom > big").json()["exitCode"] == 0
        outgrow("outgrown")
        assert (state("within")["status"], state("unlimited")["status"]) == ("Running", "Running")

        client = again("0")
        assert client.post(f"{API}/sandboxes/outgrown/resume").status_code == 200
        running("outgrown")
        assert run("outgrown", "test -s big && truncate -s 1M big").json()["exitCode"] == 0
        client = again("100ms")
        outgrow("another")
        assert {state(name)["status"] for name in ("within", "unlimited", "outgrown")} == {"Running"}
