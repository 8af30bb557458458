"""Two Routers and others write at random while the apiserver misbehaves at random. When the storm is over, both know
exactly what is there, and no write that was confirmed is lost."""

import os
import random
import threading
import time

import pytest
from cluster_router import ClusterRouter, sandbox
from fake_apiserver import cut, delay, reset, status
from harness import wait_for

SECONDS = float(os.environ.get("AGENTTIER_CHAOS_SECONDS", "8"))


def misbehave(api, dice, stop):
    faults = [cut(), cut(40), reset(), status(500, "InternalError"), status(429, headers={"Retry-After": "1"}),
              status(504, "Timeout"), delay(0.2)]
    while not stop.wait(dice.uniform(0.05, 0.3)):
        what = dice.randrange(7)
        if what == 0:
            api.cut_watches(how=dice.choice(["close", "reset"]))
        elif what == 1:
            api.silent = True
            stop.wait(0.3)
            api.silent = False
        elif what == 2:
            api.compact()
            api.cut_watches()
        elif what == 3:
            api.on("*", dice.choice(["sandboxes", "sandboxes[?]limit", "watch=true"]), dice.choice(faults), times=3)
        elif what == 4:
            api.go_away()
            stop.wait(0.2)
            api.come_back()


def write(router, api, dice, stop, confirmed, lost):
    """Creates, changes and deletes sandboxes of its own; remembers what was confirmed."""
    with router.client(timeout=40) as client:
        n = 0
        while not stop.is_set():
            n += 1
            name = f"{dice.choice('abcdefgh')}-{router.port}"
            action = dice.randrange(4)
            if action < 2 and confirmed.get(name) is None:
                code = router.create(name, client, idleTimeout="30m").status_code
                if code == 201:
                    confirmed[name] = "30m0s"
                    if client.get(f"/api/v1/sandboxes/{name}").status_code != 200:
                        lost.append(f"{name} was created and not seen")
                else:
                    confirmed.pop(name, None)
                    confirmed[name] = "?"
            elif action == 2 and confirmed.get(name):
                minutes = dice.randrange(10, 59)
                code = client.patch(f"/api/v1/sandboxes/{name}", json={"idleTimeout": f"{minutes}m"}).status_code
                confirmed[name] = f"{minutes}m0s" if code == 200 and confirmed[name] != "?" else "?"
            elif action == 3 and confirmed.get(name):
                code = client.delete(f"/api/v1/sandboxes/{name}").status_code
                confirmed[name] = None if code in (204, 404) else "?"
                if code == 204 and client.get(f"/api/v1/sandboxes/{name}").status_code == 200:
                    lost.append(f"{name} was deleted and is seen")


def others(api, dice, stop):
    while not stop.wait(0.02):
        name = "x" + dice.choice("abcdef")
        if dice.random() < 0.3 and api.get("sandboxes", name, "default"):
            api.remove("sandboxes", name, "default")
        else:
            api.put("sandboxes", sandbox(name, idleTimeout=f"{dice.randrange(99)}m"))


def known(router):
    answer = router.client().get("/api/v1/sandboxes")
    return {s["name"] for s in answer.json()["sandboxes"]} if answer.status_code == 200 else None


@pytest.mark.tsan
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_a_storm_every_replica_knows_what_is_there(api, seed):
    dice = random.Random(seed)
    with ClusterRouter(api) as one, ClusterRouter(api) as two:
        stop, confirmed, lost = threading.Event(), ({}, {}), []
        threads = [threading.Thread(target=misbehave, args=(api, random.Random(dice.random()), stop)),
                   threading.Thread(target=others, args=(api, random.Random(dice.random()), stop))]
        threads += [threading.Thread(target=write, args=(r, api, random.Random(dice.random()), stop, c, lost))
                    for r, c in zip((one, two), confirmed)]
        for t in threads:
            t.start()
        time.sleep(SECONDS)
        stop.set()
        for t in threads:
            t.join()
        api.clear()
        api.silent = False
        if api.listener is None:
            api.come_back()
        for router in (one, two):  # what was under way when the writers ended may still be written
            wait_for(lambda r=router: known(r) == {o["metadata"]["name"] for o in api.all("sandboxes")}, 30, 0.1, f"seed {seed}: the same")
        there = {o["metadata"]["name"]: o["spec"].get("idleTimeout") for o in api.all("sandboxes")}
        assert not lost, lost
        for wanted in confirmed:
            for name, timeout in wanted.items():
                assert timeout == "?" or there.get(name) == timeout, f"{name}: confirmed {timeout}, is {there.get(name)}"
