#!/usr/bin/env python3
"""Measures the release build's Kubernetes backend and prints a table like run.py's. The first rows need no cluster: the
Router stands on the scripted apiserver of tests/faults. The others want a real one, that of $KUBECONFIG or of
tests/cluster/kube; Router and controller then run outside of it, on a namespace that is made for them and deleted.

    ./dev bench kubernetes [--rounds N] [--only WORD] [--json FILE] [--image IMAGE]
"""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid

from measure import (ROOT, SIZE, ask, begin, compare_rates, cpu_of, cpu_per_request, finish, harness, many_sandboxes, memory_of, receive, request,
                     row, wrk)
from harness import MiB, free_port, wait_for

sys.path[1:1] = [str(ROOT / "tests" / "faults"), str(ROOT / "tests" / "cluster")]

import httpx  # noqa: E402
from cluster_router import ClusterRouter, template  # noqa: E402
from fake_apiserver import FakeApiserver, now  # noqa: E402

OWNER = "dev-user"  # whom a Router with --dev-auth takes everybody for


# ---- on the scripted apiserver ----

def fields_of(manager, subresource=None, count=40):
    """An entry of managedFields as large as the real ones."""
    entry = {"manager": manager, "operation": "Update", "apiVersion": "v1", "time": now(), "fieldsType": "FieldsV1",
             "fieldsV1": {f"f:member-{i}": {".": {}, "f:name": {}} for i in range(count)}}
    return {**entry, "subresource": subresource} if subresource else entry


def running_sandbox(i):
    """A sandbox and its pod as controller and kubelet leave them."""
    name, uid, at = f"full-{i}", str(uuid.UUID(int=i + 1)), now()
    sandbox = {"apiVersion": "agenttier.io/v1alpha1", "kind": "Sandbox",
               "metadata": {"name": name, "namespace": "default", "uid": uid, "creationTimestamp": at, "generation": 1,
                            "finalizers": ["agenttier.io/sandbox-cleanup"], "labels": {"agenttier.io/template": "t"},
                            "managedFields": [fields_of("agenttier-router"), fields_of("agenttier-controller", "status")]},
               "spec": {"mode": "code", "createdBy": {"sub": OWNER, "email": "dev@example.org"}, "timeout": "8h0m0s", "idleTimeout": "30m0s",
                        "templateRef": {"name": "t", "kind": "ClusterSandboxTemplate"}, "storage": {"size": "10Gi"}},
               "status": {"phase": "Running", "podName": f"{name}-pod", "pvcName": f"{name}-workspace", "startedAt": at,
                          "conditions": [{"type": "Ready", "status": "True", "reason": "PodReady", "lastTransitionTime": at}]}}
    mounts = [{"name": n, "mountPath": p} for n, p in (("workspace", "/workspace"), ("tmp", "/tmp"), ("runtime", "/.agenttier"))]
    pod = {"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": f"{name}-pod", "namespace": "default", "uid": str(uuid.UUID(int=i + 1 + (1 << 64))), "creationTimestamp": at,
                        "labels": {"agenttier.io/sandbox": name, "agenttier.io/managed": "true", "agenttier.io/template": "t"},
                        "ownerReferences": [{"apiVersion": "agenttier.io/v1alpha1", "kind": "Sandbox", "name": name, "uid": uid, "controller": True}],
                        "managedFields": [fields_of("agenttier-controller"), fields_of("kubelet", "status")]},
           "spec": {"restartPolicy": "Never", "nodeName": f"node-{i % 50}", "terminationGracePeriodSeconds": 30, "automountServiceAccountToken": False,
                    "containers": [{"name": "sandbox", "image": "agenttier.local/sandbox:1", "volumeMounts": mounts,
                                    "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
                                    "env": [{"name": f"VARIABLE_{n}", "value": "some text of the template's"} for n in range(10)]}],
                    "volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": f"{name}-workspace"}},
                                {"name": "tmp", "emptyDir": {}}, {"name": "runtime", "emptyDir": {"sizeLimit": "32Mi"}}]},
           "status": {"phase": "Running", "podIP": f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", "hostIP": "10.255.0.1", "startTime": at,
                      "conditions": [{"type": t, "status": "True", "lastTransitionTime": at}
                                     for t in ("PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers")],
                      "containerStatuses": [{"name": "sandbox", "ready": True, "started": True, "restartCount": 0, "image": "agenttier.local/sandbox:1",
                                             "imageID": "sha256:" + "0" * 64, "containerID": "containerd://" + "0" * 64,
                                             "state": {"running": {"startedAt": at}}}]}}
    return sandbox, pod


def full_apiserver(count):
    """Context manager: an apiserver with `count` running sandboxes and their pods."""
    api = FakeApiserver()
    api.put("clustersandboxtemplates", template())
    sandboxes, pods = zip(*(running_sandbox(i) for i in range(count)))
    api.fill("sandboxes", sandboxes)
    api.fill("pods", pods)
    return api


def calls(api, since):
    return [r for r in api.requests[since:] if r.query.get("watch") not in ("true", "1")]


def cached(rounds):
    """1,000 sandboxes and their pods in the cache: reads beside the local store, what they cost the apiserver, memory."""
    local = harness.Router("--log-level=warn", dev_auth=True)
    try:
        local.start()
        local.terminate()
        many_sandboxes(local, 1000, "default", OWNER)
        with full_apiserver(1000) as api, ClusterRouter(api, "--log-level=warn") as router:
            local.restart()
            try:
                pid = router.process.pid
                resident, own = memory_of(pid, "VmRSS"), memory_of(pid, "RssAnon")
                for name, path in (("read of one, 1,000 cached, to local store", "/api/v1/sandboxes/full-500"),
                                   ("list of 50 of 1,000 cached, to local store", "/api/v1/sandboxes?limit=50")):
                    bytes_ = [len(r.client().get(path).raise_for_status().content) for r in (router, local)]
                    loads = [lambda r=r: wrk(r.url + path) for r in (router, local)]  # pylint: disable=cell-var-from-loop
                    ratio, a, b = compare_rates(*loads, rounds)
                    cost = [cpu_per_request(r.process.pid, load) for r, load in zip((router, local), loads)]
                    row(name, f"{ratio:.2f}", "", None, f"{a:,.0f}/s against {b:,.0f}/s; {bytes_[0]:,} and {bytes_[1]:,} bytes; "
                        f"{cost[0]:.1f} and {cost[1]:.1f} µs of processor time")
                since = len(api.requests)
                connection = socket.create_connection(("127.0.0.1", router.port), 60)
                for i in range(500):
                    for path in (f"/api/v1/sandboxes/full-{i}", "/api/v1/sandboxes?limit=50"):
                        status, answer = ask(connection, request(router, "GET", path))
                        assert status == 200, (path, status, answer)
                made = calls(api, since)
                row("apiserver requests for 1,000 reads", str(len(made)), "0", not made, "500 reads of one and 500 lists of 50" + "".join(f"; {r}" for r in made[:3]))
                row("resident memory, 1,000 sandboxes and pods", f"{resident / 1e6:.1f} MB", "<= 30 MB", resident <= 30e6,
                    f"of it {own / 1e6:.1f} MB not from files; {memory_of(pid, 'VmRSS') / 1e6:.1f} MB after the reads of these rows")
            finally:
                local.terminate()
    finally:
        shutil.rmtree(local.state_dir, ignore_errors=True)


def fetch_lists(api):
    """Seconds for the same lists, in the same pages, by a client that drops them, and their bytes."""
    started, size = time.monotonic(), 0
    with httpx.Client(base_url=api.url, trust_env=False, timeout=60) as client:
        for path in ("/apis/agenttier.io/v1alpha1/sandboxes", "/api/v1/pods"):
            more = ""
            while True:
                data = client.get(path, params={"limit": 500, **({"continue": more} if more else {})}).raise_for_status().content
                size += len(data)
                found = re.search(rb'"continue": "([^"]+)"', data[:1000])
                if not found:
                    break
                more = found[1].decode()
    return time.monotonic() - started, size


def sync(_rounds):
    """10,000 sandboxes and their pods: from the Router's start to /readyz."""
    with full_apiserver(10_000) as api:
        bare, size = fetch_lists(api)
        started = time.monotonic()
        with ClusterRouter(api, "--log-level=warn") as router:
            took, cost = time.monotonic() - started, cpu_of(router.process.pid)
            page = router.client().get("/api/v1/sandboxes?limit=1").raise_for_status().json()
            assert len(page["sandboxes"]) == 1, page
            assert router.client().get("/api/v1/sandboxes/full-9999").status_code == 200
            row("sync of 10,000 sandboxes and pods", f"{took:.1f} s", "", None,
                f"{cost:.1f} s of the Router's processor time; {bare:.1f} s for the same {size / MiB:.0f} MiB of lists by a client that drops them")
            resident = memory_of(router.process.pid, "VmRSS")
            row("resident memory, 10,000 sandboxes and pods", f"{resident / 1e6:.0f} MB", "", None, f"at most {memory_of(router.process.pid, 'VmHWM') / 1e6:.0f} MB on the way")


# ---- on a real cluster ----

class Cluster:
    """A namespace on the cluster, Router and controller of the build on it, and two sandboxes: "fast", which has the
    runtime, and "plain", which is reached by pods/exec alone."""

    def __init__(self, testbed, kubeconfig, image):
        self.testbed, self.kubeconfig, self.image = testbed, kubeconfig, image
        self.namespace = f"bench-{os.getpid()}"
        testbed.ENVIRONMENT["KUBECONFIG"] = kubeconfig

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            kubectl = self.testbed.kubectl
            kubectl("create", "namespace", self.namespace)
            stack.callback(kubectl, "delete", "namespace", self.namespace, "--timeout=90s", timeout=100, check=False)
            wait_for(lambda: self.testbed.get("serviceaccount", "default", "-n", self.namespace), 30, what="the namespace's account")
            health = free_port()
            where = [f"--namespace={self.namespace}", f"--sandbox-namespace={self.namespace}"]
            controller = self.testbed.Process(
                self.testbed.BUILD / "agenttier-controller", f"--kubeconfig={self.kubeconfig}", *where, f"--watch-namespaces={self.namespace}",
                f"--metrics-bind-address=127.0.0.1:{free_port()}", f"--health-probe-bind-address=127.0.0.1:{health}",
                f"--runtime={self.testbed.BUILD / 'agenttier-runtime'}").start()
            stack.callback(controller.stop)
            wait_for(lambda: self.answers(f"http://127.0.0.1:{health}/readyz"), 30, what="the controller; " + controller.output())
            self.router = stack.enter_context(ClusterRouter(None, "--log-level=warn", *where, kubeconfig=self.kubeconfig))
            port = free_port()
            proxy = self.testbed.Process("kubectl", "proxy", f"--port={port}").start()
            stack.callback(proxy.stop)
            self.apiserver = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/namespaces/{self.namespace}", trust_env=False, timeout=60)
            wait_for(lambda: self.answers(f"http://127.0.0.1:{port}/readyz"), 30, what="kubectl proxy")
            for name, runtime in (("fast", True), ("plain", False)):
                self.testbed.apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "SandboxTemplate", "metadata": {"name": name, "namespace": self.namespace},
                                    "spec": {"image": {"repository": self.image}, "storage": {"size": "1Gi"}, "harness": {"useHTTPExec": runtime},
                                             "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}}})
            # Last made, first undone: sandboxes are deleted while their controller is still there.
            stack.callback(kubectl, "delete", "sandboxes.agenttier.io", "--all", "-n", self.namespace, "--timeout=60s", timeout=70, check=False)
            self.connection = socket.create_connection(("127.0.0.1", self.router.port), 120)
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for name in ("fast", "plain"):
                self.create(name, name)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    @staticmethod
    def answers(url):
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(url, timeout=2, trust_env=False).status_code == 200
        return False

    def ask(self, method, path, body=None):
        return ask(self.connection, request(self.router, method, "/api/v1/sandboxes" + path, body))

    def create(self, name, of):
        """Seconds from the request to Running, as a client sees it."""
        started = time.perf_counter()
        status, body = self.ask("POST", "", {"name": name, "templateRef": {"name": of, "kind": "SandboxTemplate"}})
        assert status == 201, body
        while True:
            status, body = self.ask("GET", f"/{name}")
            assert status == 200, body
            found = json.loads(body)
            if found["status"] == "Running":
                return time.perf_counter() - started
            assert found["status"] not in ("Error", "Stopped") and time.perf_counter() - started < 120, found
            time.sleep(0.005)

    def pod(self, sandbox):
        (found,) = self.testbed.get("pods", "-n", self.namespace, "-l", f"{self.testbed.LABEL}={sandbox}")
        return found

    def runtime(self):
        """Address and token of the runtime of "fast"."""
        secret = self.testbed.get("secret", "fast-runtime-token", "-n", self.namespace)
        return self.pod("fast")["status"]["podIP"], base64.b64decode(secret["data"]["token"]).decode()

    def in_pod(self, sandbox, *command):
        """A command line of kubectl exec."""
        return ["kubectl", "exec", "-i", "-n", self.namespace, self.pod(sandbox)["metadata"]["name"], "-c", "sandbox", "--", *command]


def timed(action):
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def exec_true(cluster, rounds):
    address, token = cluster.runtime()
    body = b'{"command":["true"]}'
    direct_request = (f"POST /exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
                      f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    commands = {name: cluster.in_pod(name, "true") for name in ("fast", "plain")}

    def through(name):
        status, answer = cluster.ask("POST", f"/{name}/exec", {"command": ["true"]})
        assert status == 200 and json.loads(answer)["exitCode"] == 0, answer

    def direct():
        with socket.create_connection((address, 9000), 60) as connection:
            connection.sendall(direct_request)
            got = b""
            while more := connection.recv(65536):  # each answer of the runtime ends its connection
                got += more
            assert got.startswith(b"HTTP/1.1 200") and b'"exitCode":0' in got.replace(b" ", b""), got

    def kubectl(name):
        subprocess.run(commands[name], env=cluster.testbed.ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)

    for first in (direct, lambda: through("fast"), lambda: through("plain")):
        first()
    pairs = [(timed(lambda: through("fast")), timed(direct)) for _ in range(rounds * 20)]
    more = statistics.median(a - b for a, b in pairs) * 1000
    row("exec of true by the runtime, more than direct", f"{more:.2f} ms", "<= 1 ms", more <= 1,
        f"{statistics.median(a for a, _ in pairs) * 1000:.2f} ms against {statistics.median(b for _, b in pairs) * 1000:.2f} ms of POST :9000/exec")
    for name, label, goal in (("fast", "exec of true by the runtime, kubectl's time to", 10), ("plain", "exec of true by pods/exec, kubectl's time to", None)):
        turns = [(timed(lambda: through(name)), timed(lambda: kubectl(name))) for _ in range(rounds * 3)]  # pylint: disable=cell-var-from-loop
        ratio = statistics.median(b / a for a, b in turns)
        row(label, f"{ratio:.1f}", f">= {goal}" if goal else "", ratio >= goal if goal else None,
            f"{statistics.median(a for a, _ in turns) * 1000:.1f} ms against {statistics.median(b for _, b in turns) * 1000:.1f} ms of kubectl exec")


def transfers(cluster, rounds):
    data = os.urandom(SIZE)
    environment = cluster.testbed.ENVIRONMENT

    def upload(name):
        with socket.create_connection(("127.0.0.1", cluster.router.port), 120) as c:
            c.sendall(f"PUT /api/v1/sandboxes/{name}/files/workspace/big HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIZE}\r\n\r\n".encode())
            c.sendall(data)
            answer = c.recv(4096)
            assert answer.startswith(b"HTTP/1.1 201"), answer

    def download(name):
        with socket.create_connection(("127.0.0.1", cluster.router.port), 120) as c:
            c.sendall(f"GET /api/v1/sandboxes/{name}/files/workspace/big HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            got = b""
            while b"\r\n\r\n" not in got:
                more = c.recv(4096)
                assert more, got
                got += more
            head, _, rest = got.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200") and f"Content-Length: {SIZE}".encode() in head, head
            receive(c, SIZE - len(rest))

    for name, way in (("fast", "runtime"), ("plain", "pods/exec")):
        into, out_of = cluster.in_pod(name, "sh", "-c", "cat > /workspace/raw"), cluster.in_pod(name, "cat", "/workspace/raw")

        def kubectl_in(into=into):
            subprocess.run(into, env=environment, input=data, capture_output=True, check=True, timeout=120)

        def kubectl_out(out_of=out_of):
            assert len(subprocess.run(out_of, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120).stdout) == SIZE

        for label, ours, peer in ((f"upload of 32 MiB by {way}", upload, kubectl_in), (f"download of 32 MiB by {way}", download, kubectl_out)):
            ratio, a, b = compare_rates(lambda: SIZE / timed(lambda: ours(name)), lambda: SIZE / timed(peer), rounds)  # pylint: disable=cell-var-from-loop
            row(f"{label}, to kubectl", f"{ratio:.2f}", "", None, f"{a / MiB:,.0f} MiB/s against {b / MiB:,.0f} MiB/s of cat by kubectl exec")


def bare_pod(cluster, name, model, claim):
    """Seconds from the requests for a claim and a pod like the sandbox's to its being ready, as a watch tells."""
    spec = {k: v for k, v in model["spec"].items() if k not in ("nodeName", "tolerations", "serviceAccount", "serviceAccountName", "priority",
                                                                "preemptionPolicy", "enableServiceLinks")}
    spec["volumes"] = [{**v, "persistentVolumeClaim": {"claimName": name}} if "persistentVolumeClaim" in v else v for v in spec["volumes"]]
    wanted = {k: claim["spec"][k] for k in ("accessModes", "resources", "storageClassName") if k in claim["spec"]}
    listening, ready = threading.Event(), []

    def watch():
        with cluster.apiserver.stream("GET", "/pods", params={"watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": 120}) as answer:
            listening.set()
            for line in answer.iter_lines():
                conditions = json.loads(line)["object"].get("status", {}).get("conditions", [])
                if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                    ready.append(time.perf_counter())
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    listening.wait(0.5)  # a watch of nothing yet may show no head: the connection is there by then
    started = time.perf_counter()
    cluster.apiserver.post("/persistentvolumeclaims", json={"metadata": {"name": name}, "spec": wanted}).raise_for_status()
    cluster.apiserver.post("/pods", json={"metadata": {"name": name}, "spec": spec}).raise_for_status()
    thread.join(125)
    assert ready, f"the pod {name} did not become ready"
    return ready[0] - started


def creation(cluster, rounds):
    """create to Running beside a bare pod with the same spec and a volume of its own, one after the other."""
    model = cluster.pod("fast")
    claim = cluster.testbed.get("pvc", "fast-workspace", "-n", cluster.namespace)
    pairs = []
    for i in range(rounds):
        turns = {}
        for side in ("sandbox", "bare") if i % 2 else ("bare", "sandbox"):
            name = f"{side}-{i}"
            if side == "sandbox":
                turns[side] = cluster.create(name, "fast")
                assert cluster.ask("DELETE", f"/{name}")[0] == 204
            else:
                turns[side] = bare_pod(cluster, name, model, claim)
                cluster.apiserver.delete(f"/pods/{name}").raise_for_status()
                cluster.apiserver.delete(f"/persistentvolumeclaims/{name}").raise_for_status()
            # Nothing of one is still being taken down while the other is measured.
            wait_for(lambda: len(cluster.testbed.get("pods,pvc", "-n", cluster.namespace)) == 4, 60, 0.2, "what two sandboxes have")
        pairs.append((turns["sandbox"], turns["bare"]))
    more = statistics.median(a - b for a, b in pairs) * 1000
    row("create to Running, more than a bare pod", f"{more:.0f} ms", "<= 100 ms", more <= 100,
        f"{statistics.median(a for a, _ in pairs):.2f} s against {statistics.median(b for _, b in pairs):.2f} s with the same spec and volume; "
        + ", ".join(f"{a:.2f}/{b:.2f}" for a, b in pairs))


def kubeconfig_of(testbed):
    """Of a cluster that answers, or None."""
    own = os.environ.get("KUBECONFIG")
    if own:
        testbed.ENVIRONMENT["KUBECONFIG"] = own
        return own if testbed.api_ready() else None
    if subprocess.run([testbed.KUBE / "running"], check=False).returncode:
        return None
    return testbed.SETTINGS["KUBECONFIG_OUT"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of each comparison")
    parser.add_argument("--only", default="", help="a word in the rows' function: cached, sync, exec_true, transfers, creation")
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument("--image", help="the sandboxes' image on the cluster (default: that of tests/cluster/kube)")
    options = parser.parse_args()
    begin(options.rounds)
    for function in (cached, sync):
        if options.only in function.__name__:
            function(options.rounds)
    on_cluster = [f for f in (exec_true, transfers, creation) if options.only in f.__name__]
    if on_cluster:
        import testbed
        kubeconfig = kubeconfig_of(testbed)
        if kubeconfig:
            with Cluster(testbed, str(pathlib.Path(kubeconfig).resolve()), options.image or testbed.SANDBOX_IMAGE) as cluster:
                for function in on_cluster:
                    function(cluster, options.rounds)
        else:
            print(f"{', '.join(f.__name__ for f in on_cluster)}: no cluster answers; start one with tests/cluster/kube/up, or name one in $KUBECONFIG")
    finish(options.json)


if __name__ == "__main__":
    main()
