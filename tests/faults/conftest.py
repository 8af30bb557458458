"""Fixtures: a scripted apiserver, and a Router on it."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from cluster_router import ClusterRouter, harness, template  # noqa: E402
from fake_apiserver import FakeApiserver  # noqa: E402


@pytest.fixture
def api():
    with FakeApiserver() as server:
        server.put("clustersandboxtemplates", template())
        yield server


@pytest.fixture
def router(api):
    with ClusterRouter(api) as started:
        yield started


@pytest.fixture(autouse=True)
def no_alarms():
    """What a sanitizer prints fails the test in which it was printed."""
    yield
    for router in list(harness.running):
        alarm = router.alarms()
        assert not alarm, alarm
