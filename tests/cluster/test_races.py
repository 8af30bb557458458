"""What goes wrong when things happen at once or in the wrong moment: O4, O5, O6, O10."""

import concurrent.futures
import os
import pathlib
import re
import time

import httpx

import testbed
from harness import TEMPLATE, error_of, wait_for

API = "/api/v1"
REF = {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}


def test_O5_the_same_name_again_never_gets_the_old_files(api, fresh):
    old = api.sandbox(fresh, key="u1")
    old.write("/workspace/secret", b"of the old owner")
    old_uid = old.resource()["metadata"]["uid"]
    assert old.delete().status_code == 204
    with api.client("u2") as other:
        wait_for(lambda: other.post(API + "/sandboxes", json={"name": fresh, "templateRef": REF}).status_code == 201, testbed.PATIENCE, 0.1, "the name free again")
        new = testbed.Sandbox(api, other, fresh)
        new.wait("Running")
        try:
            assert new.resource()["metadata"]["uid"] != old_uid
            assert new.get("/files/workspace/secret").status_code == 404
            assert new.run("ls -A /workspace") == ""
            time.sleep(5)  # longer than the old pod's grace
            assert new.status() == "Running"
            assert new.run("ls -A /workspace") == ""
        finally:
            new.remove()


def test_O6_stop_and_resume_at_once_never_reads_from_the_dying_pod(api, fresh, secured):
    box = api.sandbox(fresh, key="u1")
    box.write("/workspace/kept", b"kept" * 1000)
    for _ in range(2):
        assert box.post("/stop").status_code == 200
        secured.on_every_replica(api.headers, lambda to: to.get(box.base).json()["status"] == "Stopped", "Stopped")
        error_of(box.get("/files/workspace/kept"), 409)
        assert box.post("/resume").status_code == 200
        box.wait("Running")
        assert box.read("/workspace/kept") == b"kept" * 1000
    box.remove()


def calls_to_the_apiserver(release):
    found = 0
    for pod in release.routers():
        text = httpx.get(f"http://{pod['status']['podIP']}:8081/metrics", trust_env=False, timeout=60).text
        found += int(re.search(r"^agenttier_kubernetes_calls_total (\d+)", text, re.M)[1])
    return found


def test_O4_reads_are_not_throttled_and_cost_the_apiserver_nothing(api, fresh, release):
    """The reference gives 5 a second in a pod. Through the Ingress, one client."""
    box = api.sandbox(fresh, key="u1")
    try:
        box.run("true")  # what is asked once for each replica
        before, began = calls_to_the_apiserver(release), time.monotonic()
        for path in (API + "/sandboxes", box.base, box.base + "/ports") * 100:
            assert box.client.get(path).status_code == 200
        rate, calls = 300 / (time.monotonic() - began), calls_to_the_apiserver(release) - before
    finally:
        box.remove()
    print(f"{rate:.0f} reads a second, {calls} calls to the API server for 300 reads")
    assert rate > 30 and calls <= 3  # the use of a sandbox is written down now and then


def memory(release, field):
    """Of the Router's replicas, in MiB; VmRSS: now, VmHWM: at most so far."""
    found = []
    for pod in release.routers():
        (pid,) = testbed.processes(pod, "agenttier-router")
        (line,) = [line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field)]
        found.append(int(line.split()[1]) // 1024)
    return found


def test_O10_memory_does_not_grow_with_what_flows(api, fresh, release):
    """Refused and accepted uploads, downloads and archives, several at once: the reference went to 329 MiB."""
    box = api.sandbox(fresh, key="u1")
    data = os.urandom(1 << 20) * 32

    def work(i):
        with httpx.Client(base_url=api.url, headers=api.headers, timeout=300, trust_env=False) as client:
            path = f"{box.base}/files/workspace/file-{i}"
            refused = client.put(path, content=data + b"x").status_code
            return refused, client.put(path, content=data).status_code, client.get(path).content == data
    try:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            assert list(pool.map(work, range(6))) == [(413, 201, True)] * 6
        assert len(box.get("/archive", params={"path": "/workspace", "format": "tar"}, timeout=300).content) > 6 * len(data)
        print("MiB at most:", memory(release, "VmHWM"), "now:", memory(release, "VmRSS"))
        assert max(memory(release, "VmHWM")) < 100 and max(memory(release, "VmRSS")) < 80
    finally:
        box.remove()


def test_4_one_name_is_given_once_by_two_replicas(api, fresh, release):
    """Twelve clients at once, spread over the replicas: one gets it, the others are told."""
    def create(_):
        with httpx.Client(base_url=api.url, headers=api.headers, timeout=90, trust_env=False) as client:
            return client.post(API + "/sandboxes", json={"name": fresh, "templateRef": REF}).status_code
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        codes = sorted(pool.map(create, range(12)))
    assert codes == [201] + [409] * 11
    box = testbed.Sandbox(api, api.client("u1"), fresh)
    box.wait("Running")
    assert len(box.pods()) == 1
    box.remove()


def test_both_replicas_see_a_write_at_once(api, fresh, release):
    """A write that was answered is what every replica reads within a moment."""
    replicas = [f"http://{p['status']['podIP']}:8080" for p in release.routers()]
    assert len(replicas) == 2
    first, second = (httpx.Client(base_url=url, headers=api.headers, timeout=90, trust_env=False) for url in replicas)
    assert first.post(API + "/sandboxes", json={"name": fresh, "templateRef": REF}).status_code == 201
    assert first.get(f"{API}/sandboxes/{fresh}").status_code == 200
    wait_for(lambda: second.get(f"{API}/sandboxes/{fresh}").status_code == 200, 2, 0.02, "the other replica sees it")
    assert second.delete(f"{API}/sandboxes/{fresh}").status_code == 204
    wait_for(lambda: first.get(f"{API}/sandboxes/{fresh}").status_code == 404, testbed.PATIENCE, 0.1)
