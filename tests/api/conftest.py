"""Fixtures: a Router without authentication, one with API keys, sandboxes on each.

The tests of a file share their sandboxes (creation takes a moment), not what is in them:
names carry the test's own prefix."""

import itertools
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402
import issuer  # noqa: E402

for variable in [name for name in os.environ if name.startswith("AGENTTIER_")]:
    if variable not in ("AGENTTIER_BUILD", "AGENTTIER_RUNTIME", "AGENTTIER_WRAP", "AGENTTIER_TEST_SLOW"):
        del os.environ[variable]  # the SDK reads some of them


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not harness.BINARY.exists():
        pytest.exit(f"{harness.BINARY} is not built: ./dev test api", 4)


@pytest.fixture(scope="session")
def dev():
    """A Router in dev-auth mode: everybody is an administrator."""
    with harness.Router(dev_auth=True) as router:
        yield router


@pytest.fixture(scope="session")
def keyed():
    """A Router with API keys: u1 and u2 are users, admin is an administrator. Tokens of `issuer` are accepted too."""
    with issuer.Issuer() as provider:
        flags = [f"--oidc-issuer={provider.url}", f"--oidc-client-id={issuer.AUDIENCE}"]
        with harness.Router(*flags, keys=("u1", "u2", "admin")) as router:
            router.issuer = provider
            with router.anonymous() as client:
                harness.wait_for(lambda: client.get("/readyz").text == "ok", what="keys of the issuer")
            yield router


@pytest.fixture
def u1(keyed):
    with keyed.client("u1") as client:
        yield client


@pytest.fixture
def u2(keyed):
    with keyed.client("u2") as client:
        yield client


@pytest.fixture
def admin(keyed):
    with keyed.client("admin") as client:
        yield client


_serial = itertools.count(1)


@pytest.fixture
def fresh(request):
    """A name that no other sandbox has."""
    return f"t{next(_serial)}-{os.getpid()}"


@pytest.fixture(scope="module")
def box(keyed, request):
    """A running sandbox of u1, shared by the tests of one file."""
    name = request.module.__name__.rpartition(".")[2].replace("_", "-").lower()
    handle = keyed.sandbox(name, key="u1")
    yield handle
    handle.remove()
    handle.client.close()


@pytest.fixture(scope="module")
def devbox(dev, request):
    """A running sandbox on the Router without authentication."""
    name = request.module.__name__.rpartition(".")[2].replace("_", "-").lower()
    handle = dev.sandbox(name)
    yield handle
    handle.remove()
    handle.client.close()


@pytest.fixture(autouse=True)
def sanitizers():
    """Fails the test during which a sanitizer spoke, or a Router died."""
    yield
    for router in list(harness.running):
        alarm = router.alarms()
        assert not alarm, alarm
        if router.process.poll() is not None:
            harness.running.remove(router)
            pytest.fail(f"the Router ended with {router.process.returncode}:\n{router.tail()}")
