"""The tutorial of the Python SDK as it is written: the chart with devAuth, kubectl port-forward, no
credentials. The steps are those of tests/api; here they run on pods."""

import pytest
from test_tutorial import (  # noqa: F401
    client,
    load,
    sandbox,
    test_step_02_health,
    test_step_03_create,
    test_step_03_create_with_everything,
    test_step_04_run_commands,
    test_step_04_timeout,
    test_step_05_files,
    test_step_05_limits,
    test_step_06_lifecycle,
    test_step_07_port_forwarding,
    test_step_08_find,
    test_step_09_async,
    test_step_10_errors,
    test_step_10_policy_violation_in_the_sdk_itself,
    test_step_11_delete_is_for_good,
)

import testbed


@pytest.fixture
def sdk():
    return load("0.8.1")


def test_dev_auth_is_out_of_reach_of_the_network(dev, release):
    """The API answers through port-forward only: on no address of a pod, and not on the Service's."""
    for pod in release.routers():
        for port, reached in ((8080, False), (8081, True)):
            answer = testbed.run("curl", "-sS", "-m", "60", "--noproxy", "*", f"http://{pod['status']['podIP']}:{port}/readyz", check=False)
            assert (answer.returncode == 0) is reached, answer.stderr
    answer = testbed.run("curl", "-sS", "-m", "60", "--noproxy", "*", f"http://{release.service_address()}/healthz", check=False)
    assert answer.returncode != 0


def test_helm_test(dev):
    out = testbed.helm("test", testbed.RELEASE, "-n", testbed.NAMESPACE, "--timeout", f"{testbed.PATIENCE}s")
    assert "Phase:          Succeeded" in out
