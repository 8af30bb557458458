"""The real Router against a scripted apiserver."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "api"))

import harness  # noqa: E402
import httpx  # noqa: E402

CR = "/apis/agenttier.io/v1alpha1"


class ClusterRouter(harness.Router):
    """`ready`: whether to wait for /readyz; `kubeconfig`: NULL = one for `api`; "" = as in a pod, by `env`."""

    def __init__(self, api, *flags, ready=True, kubeconfig=None, keys=(), dev_auth=True, env=None):
        self.api, self.ready = api, ready
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="at-fault-", dir="/tmp"))
        self.config = kubeconfig if kubeconfig is not None else api.kubeconfig(str(self.folder / "kubeconfig"))
        super().__init__(*flags, dev_auth=dev_auth, env=env, state_dir=self.folder, keys=keys)

    def arguments(self):
        return ["--backend=kubernetes"] + ([f"--kubeconfig={self.config}"] if self.config else [])

    def start(self):
        self.port = harness.free_port()
        command = [*harness.WRAP, str(harness.BINARY), *self.arguments(), f"--listen-addr=127.0.0.1:{self.port}"]
        command += ["--dev-auth"] if self.dev_auth else []
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command + self.flags, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=harness.clean_environment(**self.env), start_new_session=True)
        self.url = f"http://127.0.0.1:{self.port}"
        harness.running.append(self)
        harness.wait_for(lambda: self.process.poll() is not None or self._answers(), 60, 0.03, "an answer")
        assert self.process.poll() is None, f"the Router ended with {self.process.returncode}:\n{self.tail()}"
        if self.ready:  # Its watches stand too: until then what it does not find may be there.
            harness.wait_for(lambda: self.metric("agenttier_store_age_seconds") == 0, 60, 0.03, "its watches")
        return self

    def _answers(self):
        try:
            status = harness.get(self.url + ("/readyz" if self.ready else "/healthz")).status_code
        except httpx.HTTPError:
            return False
        return status == 200

    def readyz(self):
        return harness.get(self.url + "/readyz", 10)

    def metric(self, name):
        text = harness.get(self.url + "/metrics", 10).text
        found = re.search(rf"^{re.escape(name)} ([0-9.e+-]+)$", text, re.M)
        assert found, f"{name} is not among the metrics"
        return float(found[1])

    def records(self, text):
        """The lines of the log with `text` that are there whole."""
        return records(self.log, text)

    def settle(self):
        """Waits for the end of what it asks of its own accord when it has started."""
        harness.wait_for(lambda: self.records("has all permissions that it needs"), 30, what="the check of permissions")

    def create_key(self, user, *flags, admin=False):
        command = [*harness.WRAP, str(harness.BINARY), "create-key", *self.arguments(), f"--sub={user}",
                   f"--email={user}@example.org", *flags, *(["--admin"] if admin else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                              env=harness.clean_environment(**self.env))
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return re.search(r"atk_[A-Za-z0-9_-]{43}", done.stdout)[0]

    def delete_all(self, timeout=30):
        """Sandboxes here are objects without processes."""

    def stop(self):
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create(self, name, client=None, **body):
        client = client or self.client()
        return client.post("/api/v1/sandboxes", json={"name": name, "template": "t", **body})

    def names(self, client=None):
        answer = (client or self.client()).get("/api/v1/sandboxes")
        assert answer.status_code == 200, answer.text
        return [s["name"] for s in answer.json()["sandboxes"]]

    def wait_names(self, *names, timeout=30):
        harness.wait_for(lambda: self.names() == list(names), timeout, 0.02, f"sandboxes {names}")


def records(log, text):
    """The lines of a log that are JSON and hold `text`, but not one of which a part is still to be written."""
    return [json.loads(line) for line in log.read_text(errors="replace").splitlines(True) if text in line and line.endswith("\n")]


def template(name="t"):
    return {"metadata": {"name": name}, "spec": {"image": {"repository": "agenttier.local/sandbox:1"}}}


def sandbox(name, namespace="default", owner="dev-user", **spec):
    return {"metadata": {"name": name, "namespace": namespace},
            "spec": {"templateRef": {"name": "t", "kind": "ClusterSandboxTemplate"}, "mode": "code",
                     "createdBy": {"sub": owner}, **spec}}


def pause(seconds):
    time.sleep(seconds)


__all__ = ["ClusterRouter", "CR", "records", "template", "sandbox", "pause", "os"]
