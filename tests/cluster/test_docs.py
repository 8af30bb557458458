"""docs/deployment.md: what it tells people to type works, and what it names is there."""

import json
import re

import pytest
import yaml

import testbed
from testbed import BUILD, CHART, ROOT, apply, new_namespace, run

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
            run("bash", "-c", f"cd {ROOT} && {command}{extra}", timeout=180)
    finally:
        release.uninstall()


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
