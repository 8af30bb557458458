"""Quotas of two Routers on a real apiserver (lesson S31, W-65). The programs of the build tree, beside whatever the chart runs."""

import concurrent.futures
import pathlib
import sys

import pytest
import testbed
from testbed import wait_for

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "faults"))

from cluster_router import ClusterRouter  # noqa: E402

API = "/api/v1"
HOME, TEAM, TEMPLATE = "quota-home", "quota-team", "quota-template"


@pytest.fixture(scope="module")
def pair():
    for namespace in (HOME, TEAM):
        testbed.new_namespace(namespace)
    # A controller may be there or not: what it makes of these is small, and not in Error.
    small = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}
    testbed.apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "ClusterSandboxTemplate", "metadata": {"name": TEMPLATE},
                   "spec": {"image": {"repository": testbed.SANDBOX_IMAGE}, "resources": small}})
    config = testbed.SETTINGS["KUBECONFIG_OUT"]
    flags = (f"--namespace={HOME}", f"--sandbox-namespace={TEAM}")
    with ClusterRouter(None, *flags, kubeconfig=config) as one, ClusterRouter(None, *flags, kubeconfig=config) as two:
        yield one, two
    testbed.remove_sandboxes(TEAM)
    testbed.kubectl("delete", "clustersandboxtemplates.agenttier.io", TEMPLATE)
    for namespace in (TEAM, HOME):
        testbed.remove_namespace(namespace)


def test_S31_fifty_parallel_creates_on_two_routers_make_exactly_one(pair):
    one, two = pair
    with one.client() as client:
        assert client.put(f"{API}/governance/policies/{TEAM}", json={"maxSandboxesTotal": 3}).status_code == 200
        for i in range(2):
            assert client.post(API + "/sandboxes", json={"name": f"before-{i}", "template": TEMPLATE}).status_code == 201
    with two.client() as client:
        wait_for(lambda: client.get(f"{API}/governance/policies/{TEAM}").json()["policy"] == {"maxSandboxesTotal": 3}, 30)

    def create(i):
        with pair[i % 2].client() as client:
            while True:
                answer = client.post(API + "/sandboxes", json={"name": f"race-{i}", "template": TEMPLATE})
                if answer.status_code != 503:
                    return answer.status_code
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        codes = sorted(pool.map(create, range(50)))
    assert codes == [201] + [403] * 49
    assert len(testbed.get("sandboxes.agenttier.io", "-n", TEAM)) == 3
