"""Fixtures of the runtime's tests: one over its UNIX socket, one over TCP with a token, both for all tests."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import client  # noqa: E402


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not client.BINARY.exists():
        pytest.exit(f"{client.BINARY} is not built: ./dev test runtime", 4)


@pytest.fixture(scope="session")
def unix():
    runtime = client.Runtime("unix")
    yield runtime
    runtime.close()


@pytest.fixture(scope="session")
def tcp():
    runtime = client.Runtime("tcp")
    yield runtime
    runtime.close()


@pytest.fixture(params=["unix", "tcp"])
def rt(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def own():
    """A function that starts a runtime for this test alone."""
    started = []

    def start(*args, **kwargs):
        runtime = client.Runtime(*args, **kwargs)
        started.append(runtime)
        return runtime

    yield start
    for runtime in started:
        runtime.close()


@pytest.fixture(autouse=True)
def sanitizers():
    yield
    for runtime in client.running:
        alarm = runtime.alarm()
        assert not alarm, alarm
        assert runtime.process.poll() is None, runtime.log.read_text()
