"""docs/deployment.md: what it tells people to type works, and what it names is there."""

import json
import re

import httpx
import pytest
import yaml

import testbed
from harness import wait_for
from testbed import BUILD, CHART, PATIENCE, ROOT, apply, new_namespace, run

TEXT = (ROOT / "docs" / "deployment.md").read_text()
BLOCKS = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", TEXT, re.S | re.M)
VALUES = [body for kind, word, body in BLOCKS if kind == "yaml" and word.strip() == "values"]


@pytest.mark.parametrize("block", VALUES)
def test_values_render_and_are_accepted(block):
    new_namespace("docs")
    text = run("helm", "template", "agenttier", CHART, "-n", "docs", "-f", "-", data=block).stdout
    apply(text, "--dry-run=server", "--validate=strict")
    testbed.kubectl("delete", "namespace", "docs", "--wait=false")


def test_try_it(release, tmp_path):
    """The commands under "Try it", word by word; only the images of this cluster are added."""
    (block,) = [body for kind, word, body in BLOCKS if kind == "sh" and word.strip() == "try"]
    release.uninstall()
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(release.base))
    commands = block.strip().splitlines()
    assert len(commands) == 3 and commands[0].startswith("helm install agenttier deploy/helm -n agenttier ")
    try:
        for command in commands:
            extra = f" -f {values}" if command.startswith("helm install") else ""
            run("bash", "-c", f"cd {ROOT} && {command}{extra}")
    finally:
        release.uninstall()


def test_moving_a_second_router_beside_the_first(release, secured, tmp_path):
    """The values of "Moving from the reference Router": two Routers on the same resources, keys and all."""
    (block,) = [b for b in VALUES if "fullnameOverride" in b]
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(testbed.merge(release.base, yaml.safe_load(block))))
    key = secured.create_key("mover")
    secured.on_every_replica({"X-API-Key": key}, lambda to: to.get("/api/v1/user/me").status_code == 200, "the key known")
    try:
        testbed.helm("install", "next", CHART, "-n", testbed.NAMESPACE, "-f", values, "--wait", "--timeout", f"{PATIENCE}s")
        urls = [f"http://{testbed.get('service', name, '-n', testbed.NAMESPACE)['spec']['clusterIP']}:8080"
                for name in ("agenttier-router", "agenttier-next-router")]
        testbed.wait_served("agenttier-next-router")
        old, new = (httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=90, trust_env=False) for url in urls)
        made = old.post("/api/v1/sandboxes", json={"name": "moved", "template": "general-coding"})
        assert made.status_code == 201, made.text
        wait_for(lambda: new.get("/api/v1/sandboxes/moved").status_code == 200, 5, 0.1, "the sandbox seen by the other Router")
        assert not testbed.get("deployment", "agenttier-next-controller", "-n", testbed.NAMESPACE)
        assert new.delete("/api/v1/sandboxes/moved").status_code == 204
        wait_for(lambda: old.get("/api/v1/sandboxes/moved").status_code == 404, PATIENCE, 0.2)
    finally:
        testbed.helm("uninstall", "next", "-n", testbed.NAMESPACE, "--wait", check=False)
        release.settled()  # pods of both have the same component


def test_every_value_that_is_named_is_there():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(re.findall(r"`((?:global|router|controller|auth|networking|optional|templates|defaults|observability)\.[A-Za-z.]+?)`", TEXT))
    assert len(named) > 10
    for path in named:
        found = values
        for key in path.rstrip(".").split("."):
            if key == "*":
                break
            assert key in found, path
            found = found[key]


def test_every_flag_that_is_named_is_there():
    known = run(BUILD / "agenttier-router", "--help").stdout + run(BUILD / "agenttier-router", "create-key", "--help").stdout
    for flag in ("--backend", "--kubeconfig", "--namespace", "--sub", "--admin"):
        assert flag in TEXT and flag in known, flag


def test_every_file_that_is_named_is_there():
    for path in set(re.findall(r"\bdeploy/[a-z/A-Z.-]+", TEXT)):
        assert (ROOT / path).exists(), path
