"""The container image that is built without a container engine."""

import hashlib
import json
import tarfile

import pytest

import testbed
from testbed import ROOT, run

PROGRAMS = ("agenttier-router", "agenttier-controller", "agenttier-runtime")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp("image") / "image.tar"
    run(ROOT / "deploy/image/build", "agenttier.local/agenttier:size", file)
    return file


def opened(file):
    """The image's configuration and its files: name -> member."""
    with tarfile.open(file) as outer:
        (manifest,) = json.load(outer.extractfile("manifest.json"))
        config = json.load(outer.extractfile(manifest["Config"]))
        (name,) = manifest["Layers"]
        layer = outer.extractfile(name).read()
        assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
        outer.extract(name, file.parent)
    with tarfile.open(file.parent / name) as inner:
        return manifest, config, {m.name.removeprefix("./"): m for m in inner.getmembers()}


def test_it_is_under_40_megabytes(image):
    assert image.stat().st_size < 40 * 1000 * 1000


def test_the_same_sources_give_the_same_bytes(image, tmp_path):
    run(ROOT / "deploy/image/build", "agenttier.local/agenttier:size", tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == image.read_bytes()


def test_it_holds_the_programs_and_little_else(image):
    manifest, config, files = opened(image)
    assert manifest["RepoTags"] == ["agenttier.local/agenttier:size"]
    assert config["config"]["User"] == "65532:65532" and config["config"]["Entrypoint"] == ["/usr/bin/agenttier-router"]
    assert "AGENTTIER_BACKEND=kubernetes" in config["config"]["Env"]
    programs = sorted(name for name, m in files.items() if name.startswith("usr/bin/"))
    assert programs == sorted("usr/bin/" + p for p in PROGRAMS)
    assert all(m.uid == m.gid == m.mtime == 0 for m in files.values())
    assert not [name for name, m in files.items() if m.mode & 0o6000], "set-uid"
    writable = [name for name, m in files.items() if m.mode & 0o022 and not m.issym()]
    assert writable == ["tmp"]
    assert files["etc/ssl/certs/ca-certificates.crt"].size > 100_000
    assert "usr/share/doc/libc6/copyright" in files and "usr/share/doc/agenttier/copyright" in files


def test_programs_start_without_a_file_system_to_write_to(image):
    _, config, files = opened(image)
    tag = testbed.build_image()
    for program in PROGRAMS[:2]:
        name = program.replace("agenttier", "start")
        manifest = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{
                "name": "c", "image": f"agenttier.local/agenttier:{tag}", "command": ["/usr/bin/" + program, "--version"],
                "securityContext": {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
                                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]}}
        testbed.kubectl("delete", "pod", name, "--ignore-not-found", f"--timeout={testbed.PATIENCE}s")
        testbed.apply(manifest)
        testbed.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", f"--timeout={testbed.PATIENCE}s")
        assert program in testbed.kubectl("logs", name)
        testbed.kubectl("delete", "pod", name, "--wait=false")
