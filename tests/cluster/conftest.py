"""Fixtures of the cluster tests: one release of the chart for all, changed as the tests need it.

Run by ./dev test cluster, which brings the cluster up before and takes it down after. Tests that want
dev-auth and those that do not stand in files of their own: each change is a rollout."""

import itertools
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "api"))

import testbed  # noqa: E402
import ingress as ingress_controller  # noqa: E402

for variable in [name for name in os.environ if name.startswith("AGENTTIER_") and not name.startswith(("AGENTTIER_KUBE", "AGENTTIER_BUILD"))]:
    del os.environ[variable]  # the SDK reads some of them


def pytest_sessionstart(session):
    if session.config.option.collectonly:
        return
    try:
        testbed.wait_for(testbed.api_ready, 60, 0.5, "the API server")
    except AssertionError:
        pytest.exit("no cluster answers: ./dev test cluster", 4)


@pytest.fixture(scope="session")
def image_tag():
    """The image of the built programs, in the cluster."""
    return testbed.build_image()


@pytest.fixture(scope="session")
def release(image_tag):
    made = testbed.Release(image_tag)
    yield made
    if not os.environ.get("AGENTTIER_KUBE_KEEP"):
        for namespace in {s["metadata"]["namespace"] for s in testbed.get("sandboxes.agenttier.io", "-A")}:
            testbed.remove_sandboxes(namespace)
        made.uninstall()


@pytest.fixture(scope="module")
def dev(release):
    """The chart with devAuth, through kubectl port-forward: no credentials."""
    release.configure(auth={"devAuth": True})
    with testbed.PortForward() as forward:
        yield testbed.Api(forward.url)


@pytest.fixture(scope="session")
def nginx():
    with ingress_controller.IngressController() as running:
        yield running


@pytest.fixture(scope="module")
def secured(release):
    """The chart as it is meant to be used: no devAuth, an Ingress, previews under names of their own."""
    return release.configure(
        auth={"devAuth": False},
        router={**release.base["router"], "trustedProxies": [testbed.SETTINGS["NODE_IP"] + "/32"]},
        networking={"previewDomain": testbed.PREVIEWS, "portForwardIngressClass": "test"},
        optional={"ingress": {"enabled": True, "className": "test", "host": testbed.HOST}})


@pytest.fixture(scope="session")
def made_keys():
    return {}


@pytest.fixture(scope="module")
def api(secured, nginx, made_keys):
    """Through the Ingress, with API keys: u1 and u2 are users, admin is an administrator."""
    for user in ("u1", "u2", "admin"):
        if user not in made_keys:
            made_keys[user] = secured.create_key(user, *(["--admin"] if user == "admin" else []))
    for key in made_keys.values():
        secured.on_every_replica({"X-API-Key": key}, lambda to: to.get("/api/v1/user/me").status_code == 200, "a key known")
    nginx.wait_for(testbed.HOST)
    return testbed.Api(f"http://{testbed.HOST}:{nginx.port}", headers={"X-API-Key": made_keys["u1"]}, keys=made_keys)


_serial = itertools.count(1)


@pytest.fixture
def fresh():
    """A name that no other sandbox has."""
    return f"t{next(_serial)}-{os.getpid()}"


@pytest.fixture(scope="module")
def box(api, request):
    """A running sandbox of u1, shared by the tests of one file."""
    handle = api.sandbox(request.module.__name__.rpartition(".")[2].replace("_", "-"), key="u1")
    yield handle
    handle.remove()
    handle.client.close()
