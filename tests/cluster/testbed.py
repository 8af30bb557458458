"""The cluster of tests/cluster/kube, the chart installed on it, and ways to its API.

Nothing here is thrown away between the tests but by those who made it: one release of the chart serves
the whole run and is changed by `helm upgrade` when a test needs other values."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "api"))

import harness  # noqa: E402
from harness import free_port, wait_for  # noqa: E402

KUBE = pathlib.Path(__file__).parent / "kube"
BUILD = pathlib.Path(os.environ.get("AGENTTIER_BUILD", ROOT / "build"))
CHART = ROOT / "deploy" / "helm"
NAMESPACE = "agenttier"
RELEASE = "agenttier"
ROUTER = "agenttier-router"
SANDBOX_IMAGE = "agenttier.local/sandbox:1"
LABEL = "agenttier.io/sandbox"
HOST = "localhost"  # of the Ingress
PREVIEWS = "preview.test"
# Seconds for what is certain to come and whose time is not what is tested: on a busy machine all of a cluster is slow.
PATIENCE = 180


def _settings():
    """The settings of kube/env, as it has them with this environment."""
    names = ("KUBE_BIN", "KUBE_STATE", "KUBECONFIG_OUT", "CTR_SOCK", "KUBE_IMAGES", "PORT_API", "NODE_IP")
    script = f". {KUBE}/env; for n in {' '.join(names)}; do echo \"$n=${{!n}}\"; done"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


SETTINGS = _settings()
BIN = pathlib.Path(SETTINGS["KUBE_BIN"])
STATE = pathlib.Path(SETTINGS["KUBE_STATE"])
ENVIRONMENT = {**os.environ, "KUBECONFIG": SETTINGS["KUBECONFIG_OUT"], "PATH": f"{BIN}:{os.environ['PATH']}", "HELM_CACHE_HOME": "/tmp/.helm"}


def run(*command, check=True, timeout=PATIENCE + 60, data=None, text=True):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=text, timeout=timeout, input=data,
                          env=ENVIRONMENT, check=False)
    if check:
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def kubectl(*arguments, **options):
    return run("kubectl", *arguments, **options).stdout


def helm(*arguments, **options):
    return run("helm", *arguments, **options).stdout


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def get(*arguments):
    """One object, when its name follows its kind, else a list; None when there is none of that name."""
    done = run("kubectl", "get", *arguments, "-o", "json", "--ignore-not-found")
    if not done.stdout.strip():
        named = len(arguments) > 1 and not str(arguments[1]).startswith("-")
        return None if named else []
    found = json.loads(done.stdout)
    return found["items"] if found["kind"].endswith("List") else found


def apply(manifest, *options, check=True):
    return run("kubectl", "apply", "-f", "-", *options, check=check, data=manifest if isinstance(manifest, str) else json.dumps(manifest))


def new_namespace(name, *labels):
    """An empty one, also when an earlier run has left it, with the account that pods are given."""
    remove_namespace(name)
    kubectl("create", "namespace", name)
    if labels:
        kubectl("label", "namespace", name, *labels)
    wait_for(lambda: get("serviceaccount", "default", "-n", name), PATIENCE, 0.1, f"the default account of {name}")


def remove_namespace(name):
    kubectl("delete", "namespace", name, "--ignore-not-found", f"--timeout={PATIENCE}s")


def remove_sandboxes(namespace, *names):
    """Those, or all; until they are gone."""
    kubectl("delete", "sandboxes.agenttier.io", *(names or ["--all"]), "-n", namespace, f"--timeout={PATIENCE}s")


def wait_established(*crds):
    """Not `kubectl wait`: it fails on one so young that nothing has been said of it."""
    def established(crd):
        found = get("crd", crd)
        return found and any(c["type"] == "Established" and c["status"] == "True" for c in found.get("status", {}).get("conditions") or [])
    for crd in crds:
        wait_for(lambda name=crd: established(name), PATIENCE, 0.1, f"{crd} established")
        wait_for(lambda name=crd: run("kubectl", "get", name, "-A", check=False).returncode == 0, PATIENCE, 0.1, f"{crd} served")


def install_crds():
    """The chart's custom resources, as they are in the tree now."""
    files = sorted((CHART / "crds").glob("*.yaml"))
    for file in files:
        kubectl("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", file)
    wait_established(*[f"{file.stem}.agenttier.io" for file in files])


def wait_gone(*what):
    """Until there is no such object."""
    wait_for(lambda: not get(*what), PATIENCE, 0.3, f"the end of {what}")


def wait_served(service, namespace=NAMESPACE):
    """Until kube-proxy, which learns of them by a watch of its own, leads to all ready pods of a service, and to no others."""
    def leads():
        slices = get("endpointslices", "-n", namespace, "-l", f"kubernetes.io/service-name={service}")
        ready = {address for s in slices for e in s["endpoints"] or [] if e["conditions"].get("ready") for address in e["addresses"]}
        rules = run("iptables-save", "-t", "nat").stdout
        led = set(re.findall(rf'"{namespace}/{service}:\S+ -> ([0-9.]+):\d+"', rules))
        return ready and led == ready
    wait_for(leads, PATIENCE, 0.2, f"the service {service}")


# Pod Security: what does not keep to "restricted" is refused, and named in a warning where it is a template.
RESTRICTED = ("pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")


def in_pod(name, *command, namespace="default", container=None, check=True, timeout=PATIENCE):
    where = ["-c", container] if container else []
    return run("kubectl", "exec", "-n", namespace, name, *where, "--", *command, check=check, timeout=timeout)


# ---- parts of the cluster, to be killed and started again ----

def part_pid(name):
    return int((STATE / "pid" / name).read_text().split()[0])


def kill_part(name):
    os.kill(part_pid(name), signal.SIGKILL)


def start_part(name):
    subprocess.run([str(STATE / "cmd" / name), "start"], check=True, timeout=PATIENCE)


def api_ready():
    return run("kubectl", "get", "--raw", "/readyz", "--request-timeout=2s", check=False).returncode == 0


def processes(pod, name):
    """Process ids on this machine of a program in a pod."""
    uid = pod["metadata"]["uid"]
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if (pathlib.Path("/proc", entry, "comm").read_text().strip() in (name, name[:15])
                        and uid in pathlib.Path("/proc", entry, "cgroup").read_text().replace("_", "-")):
                    found.append(int(entry))
            except OSError:
                pass
    return found


# ---- images ----

def import_image(file):
    run("ctr", "-a", SETTINGS["CTR_SOCK"], "-n", "k8s.io", "images", "import", file)


def build_image():
    """The image of the programs as they are in BUILD, imported; its tag. Named for its content, so that an
    upgrade to another one is a rollout."""
    sha = hashlib.sha256((ROOT / "deploy/image/build").read_bytes())
    for program in ("agenttier-router", "agenttier-controller", "agenttier-runtime"):
        sha.update((BUILD / program).read_bytes())
    tag = "t" + sha.hexdigest()[:12]
    name = f"agenttier.local/agenttier:{tag}"
    known = run("ctr", "-a", SETTINGS["CTR_SOCK"], "-n", "k8s.io", "images", "ls", "-q").stdout.split()
    if name not in known:
        file = ROOT / ".cache" / "agenttier-image.tar"
        run(ROOT / "deploy/image/build", name, file)
        import_image(file)
    return tag


# ---- the release ----

class Release:
    """The chart, installed as `agenttier` in namespace `agenttier`."""

    def __init__(self, tag):
        small = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}}
        self.base = {
            "global": {"registry": "agenttier.local"},
            "router": {"image": {"tag": tag}, "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
            "controller": {"image": {"tag": tag}, "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
            "defaults": {"sandbox": {"image": SANDBOX_IMAGE, "resources": small}},
            "templates": {"only": ["general-coding"]},
        }
        others = os.environ.get("AGENTTIER_KUBE_WATCH")  # on a cluster with other controllers: the namespaces of the tests
        if others:
            self.base["controller"]["extraArgs"] = [f"--watch-namespaces={others}"]
        self.values = None

    def configure(self, **values):
        """`helm upgrade --install` with these values over those of every test; nothing when they are in force. Until the
        pods of before are gone: requests, port-forwards and what tests do to pods are to meet those that stay."""
        wanted = merge(self.base, values)
        if wanted == self.values:
            return self
        self.values = None
        helm("upgrade", "--install", RELEASE, CHART, "-n", NAMESPACE, "--create-namespace", "--wait", "--timeout", f"{PATIENCE}s",
             "-f", "-", data=json.dumps(wanted))
        self.settled()
        self.values = wanted
        return self

    def settled(self):
        """Waits until each deployment has the pods that it is to have, ready, and no others."""
        for component in ("router", "controller"):
            kubectl("rollout", "status", f"deployment/agenttier-{component}", "-n", NAMESPACE, f"--timeout={PATIENCE}s")
            wait_for(lambda of=component: self._is_settled(of), PATIENCE, 0.3, f"the pods of the {component} settled")
        wait_served(ROUTER)

    @staticmethod
    def _is_settled(component):
        wanted = get("deployment", f"agenttier-{component}", "-n", NAMESPACE)
        pods = get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/component={component}")
        return len(pods) == wanted["spec"]["replicas"] and all(is_ready(p) and not p["metadata"].get("deletionTimestamp") for p in pods)

    def routers(self):
        """The Router's pods that are there to stay."""
        pods = get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=router")
        return [p for p in pods if not p["metadata"].get("deletionTimestamp")]

    def restarts(self):
        """How often containers of the Router's pods have been started again."""
        return sum(c["restartCount"] for p in self.routers() for c in p["status"]["containerStatuses"])

    def restarted(self, count):
        """Waits until what was killed is back. A pod counts as Ready for a moment after the end of its program."""
        wait_for(lambda: self.restarts() == count, PATIENCE, 0.3, "the replica started again")
        self.settled()

    def on_every_replica(self, headers, condition, what, timeout=PATIENCE):
        """Waits until condition(client) holds at each replica of the Router, asked past the Service. The Service leads each
        connection to another replica, and each learns by a watch of its own what was written through the others."""
        for pod in self.routers():
            with httpx.Client(base_url=f"http://{pod['status']['podIP']}:8080", headers=headers, timeout=90, trust_env=False) as client:
                wait_for(lambda to=client: condition(to), timeout, 0.1, f"{what}, at {pod['metadata']['name']}")

    def logs(self, component, lines=200):
        return kubectl("logs", "-n", NAMESPACE, "-l", f"app.kubernetes.io/component={component}", f"--tail={lines}", "--prefix")

    def create_key(self, sub, *flags):
        """A key as an administrator makes it: in a pod of the Router."""
        out = kubectl("exec", "-n", NAMESPACE, f"deployment/{ROUTER}", "--", "agenttier-router", "create-key", "--backend=kubernetes",
                      "--sub", sub, "--email", f"{sub}@example.org", *flags)
        return re.search(r"atk_[A-Za-z0-9_-]{43}", out)[0]

    def service_address(self):
        return get("service", ROUTER, "-n", NAMESPACE)["spec"]["clusterIP"]

    def uninstall(self):
        helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", f"{PATIENCE}s", check=False)
        self.values = None
        wait_gone("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component in (router,controller)")


def merge(a, b):
    out = dict(a)
    for key, value in b.items():
        out[key] = merge(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


class Process:
    """A program that runs beside a test."""

    def __init__(self, *command):
        self.command = [str(part) for part in command]

    def start(self):
        self.log = tempfile.NamedTemporaryFile(prefix="at-cluster-", suffix=".log", delete=False)
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=ENVIRONMENT)
        return self

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.log.name)

    def output(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")


class Api:
    """A way to the API: an address and how one logs in there. Looks to the tests of tests/api like one of their Routers."""

    def __init__(self, url, headers=None, keys=None):
        self.url = url
        self.headers = dict(headers or {})
        self.keys = keys or {}
        self.port = int(url.rpartition(":")[2])

    def client(self, key=None, timeout=90.0, **options):
        key = self.keys.get(key, key)
        headers = {"X-API-Key": key} if key else self.headers
        return httpx.Client(base_url=self.url, headers={**headers, **options.pop("headers", {})}, timeout=timeout, trust_env=False, **options)

    def anonymous(self, **options):
        return httpx.Client(base_url=self.url, timeout=options.pop("timeout", 90.0), trust_env=False, **options)

    def sandbox(self, name, key=None, **body):
        client = self.client(key)
        body = {"name": name, "templateRef": {"name": harness.TEMPLATE, "kind": "ClusterSandboxTemplate"}, **body}
        answer = client.post("/api/v1/sandboxes", json=body)
        assert answer.status_code == 201, answer.text
        handle = Sandbox(self, client, name, body.get("namespace"))
        handle.wait("Running")
        return handle

    def tail(self):
        lines = kubectl("logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=agenttier", "--tail=200", "--prefix").splitlines()
        return "\n".join([line for line in lines if '"msg":"request"' not in line][-40:])


class Sandbox(harness.Sandbox):
    """A handle of a sandbox in the cluster, with what kubectl shows of it."""

    @property
    def where(self):
        return self.namespace or "default"

    def resource(self):
        return get("sandboxes.agenttier.io", self.name, "-n", self.where)

    def pods(self):
        return get("pods", "-n", self.where, "-l", f"{LABEL}={self.name}")

    def pod(self):
        (found,) = [p for p in self.pods() if not p["metadata"].get("deletionTimestamp")]
        return found

    def ps(self):
        """The commands of all processes in the sandbox's container, as `ps` in the pod shows them."""
        pod = self.pod()
        out = in_pod(pod["metadata"]["name"], "ps", "-e", "-o", "args=", namespace=self.where, container="sandbox").stdout
        return [line.strip() for line in out.splitlines()]

    def wait_runtime(self):
        """Until the pod has its runtime, which is brought there after it has begun to run."""
        def marked():
            pod = self.pod()
            return pod["metadata"]["annotations"].get("agenttier.io/runtime-ready") == pod["status"]["containerStatuses"][0]["containerID"]
        wait_for(marked, PATIENCE, 0.2, f"the runtime of {self.name}")

    def remove(self):
        def deleted():
            answer = self.delete()
            assert answer.status_code in (204, 404, 503), answer.text  # 503: to be repeated
            return answer.status_code != 503
        wait_for(deleted, PATIENCE, 0.5, f"{self.name} deleted")
        self.gone(PATIENCE)


class PortForward:
    """`kubectl port-forward svc/agenttier-router PORT:80`, as the tutorial has it."""

    def __init__(self, service=ROUTER, port=80, namespace=NAMESPACE):
        self.local = free_port()
        self.process = Process("kubectl", "port-forward", "-n", namespace, f"svc/{service}", f"{self.local}:{port}")

    def __enter__(self):
        self.process.start()
        wait_for(lambda: "Forwarding from" in self.process.output() or self.process.process.poll() is not None, PATIENCE, what="port-forward")
        assert self.process.process.poll() is None, self.process.output()
        self.url = f"http://127.0.0.1:{self.local}"
        return self

    def __exit__(self, *_):
        self.process.stop()


def events(namespace, name):
    found = get("events", "-n", namespace, "--field-selector", f"involvedObject.kind=Sandbox,involvedObject.name={name}")
    return [e["reason"] for e in found]


def wait_events(namespace, name, *reasons):
    """They are written by a thread of its own, a moment after what they tell of."""
    wait_for(lambda: set(reasons) <= set(events(namespace, name)), PATIENCE, 0.2, f"events {reasons} of {name}")


def matching(read, holds, timeout, what):
    """Reads until what was read holds, and returns that: another look could see what comes after."""
    seen = []
    deadline = time.monotonic() + timeout
    while True:
        now = read()
        if holds(now):
            return now
        if not seen or seen[-1] != now:
            seen.append(now)
        assert time.monotonic() < deadline, f"{what} not within {timeout} s; seen: {seen[-5:]}"
        time.sleep(0.1)


