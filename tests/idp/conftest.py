"""Fixtures: Dex, and what the tests of the API have."""

import pathlib
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "api")]

import dex as provider  # noqa: E402
import harness  # noqa: E402


@pytest.fixture(scope="session")
def folder():
    with tempfile.TemporaryDirectory(prefix="at-dex-") as made:
        yield pathlib.Path(made)


@pytest.fixture(scope="session")
def dex(folder):
    if not provider.DEX:
        pytest.exit("Dex is not built: ./dev test idp", 4)
    (folder / "one").mkdir()
    with provider.Dex(folder / "one") as started:
        yield started


@pytest.fixture(autouse=True)
def sanitizers():
    """What a sanitizer prints fails the test in which it was printed."""
    yield
    for router in list(harness.running):
        alarm = router.alarms()
        assert not alarm, alarm
