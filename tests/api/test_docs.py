"""What the documents show works as it stands there: their curl lines and Python blocks, one after the other."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from harness import BINARY, ROOT, Router, clean_environment, wait_for

DOCUMENTS = ["README.md", "docs/getting-started.md", "docs/api.md", "docs/configuration.md", "docs/troubleshooting.md", "docs/security.md"]
URL = re.compile(r"(?:http://)?localhost:8081")


def blocks(name):
    """The indented blocks of a document, each as a list of lines."""
    found, block = [], []
    for line in (ROOT / name).read_text(encoding="utf-8").split("\n") + ["x"]:
        if line.startswith("    "):
            block.append(line[4:])
        elif not line.strip() and block:
            block.append("")
        else:
            if block:
                found.append(block)
            block = []
    return found


def curl_blocks(name):
    return [b for b in blocks(name) if any(line.startswith("curl ") for line in b)]


def python_code(name):
    """The Python blocks of a document: one program, as they build on each other."""
    return "\n".join("\n".join(b) for b in blocks(name) if re.match(r"(from|import) |sandbox\.|client\.", b[0]))


@pytest.fixture
def router():
    with Router(dev_auth=True) as router:
        yield router


@pytest.mark.parametrize("name", [n for n in DOCUMENTS if curl_blocks(n)])
def test_curl_lines(router, name):
    if not shutil.which("curl"):
        pytest.skip("there is no curl here")
    ran = 0

    def settled():
        with router.client() as client:
            return all(s["status"] != "Creating" for s in client.get("/api/v1/sandboxes").json()["sandboxes"])
    for block in curl_blocks(name):
        for line in block:
            if not line.startswith("curl "):
                continue
            command = URL.sub(router.url, line)
            done = subprocess.run(["bash", "-c", f'curl() {{ command curl -sS --fail-with-body --max-time 60 "$@"; }}; {command}'],
                                  cwd=ROOT, capture_output=True, text=True, timeout=300, env=clean_environment(), check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if "print(2+2)" in line:
                assert '"stdout":"4\\n"' in done.stdout
            ran += 1
            wait_for(settled, what="the sandbox")  # as somebody does who looks at the answers
    assert ran


@pytest.mark.parametrize("name", [n for n in DOCUMENTS if python_code(n)])
def test_python_blocks(router, name):
    code = URL.sub(router.url, python_code(name))
    # What the documents show in an order of their own: the sandbox lives until the end.
    code = re.sub(r"^sandbox\.delete\(\).*$", "", code, flags=re.M) + "\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=clean_environment(), check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    assert done.stdout


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md"])
def test_command_lines(name, tmp_path):
    """`create-key` as it is shown makes a key."""
    lines = [line for block in blocks(name) for line in block if line.startswith("build/agenttier-router create-key")]
    assert lines
    for line in lines:
        command = line.replace("build/agenttier-router", str(BINARY)).replace("DIR", str(tmp_path))
        done = subprocess.run(command.split(), capture_output=True, text=True, timeout=120, env=clean_environment(), check=False)
        assert done.returncode == 0 and done.stdout.startswith("atk_"), done.stdout + done.stderr


def test_links_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_flag_is_documented():
    """docs/configuration.md names every flag of --help, and no other."""
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    shown = subprocess.run([BINARY, "--help"], capture_output=True, text=True, timeout=120, check=True).stdout
    flags = set(re.findall(r"^ +(--[a-z][a-z0-9-]+)", shown, re.M)) - {"--help", "--version"}
    documented = set(re.findall(r"(--[a-z][a-z0-9-]+)", text))
    assert len(flags) > 10
    assert not flags - documented, f"not in docs/configuration.md: {sorted(flags - documented)}"
