"""Rate limits, forwarded addresses, CORS of every method, security headers: http-api.md 1.10, 1.11; lessons S3, S20, S21, S32, S33."""

import contextlib
import json
import time

import pytest

from harness import MiB, Raw, Router, error_of, wait_for

API = "/api/v1"
ME = API + "/user/me"


def statuses(client, count, path=ME, **options):
    return [client.get(path, **options).status_code for _ in range(count)]


def until_refused(client, left, rate):
    """The first answer 429: after the calls that are left, and one for what comes back meanwhile at `rate` a second."""
    began, passed = time.monotonic(), 0
    while (answer := client.get(ME)).status_code != 429:
        passed += 1
        assert passed <= left + 1 + (time.monotonic() - began) * rate, "not limited"
    assert passed >= left
    return answer


def test_1_11_per_user_and_headers():
    with Router("--ratelimit-per-user-rate=0.5", keys=("u1", "u2")) as router, router.client("u1") as u1, router.client("u2") as u2:
        first = u1.get(ME)
        assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("100", "99")
        assert 1 <= int(first.headers["RateLimit-Reset"]) <= 3
        answer = until_refused(u1, 99, 0.5)
        body = error_of(answer, 429)
        assert body["error"] == "rate_limited" and body["retryAfter"] == int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["RateLimit-Remaining"] == "0"
        assert u2.get(ME).status_code == 200  # others go on
        assert statuses(u1, 3, "/healthz") == [200] * 3


def test_1_11_bulk_costs_its_items():
    with Router("--ratelimit-per-user-rate=0.001", keys=("u1",)) as router, router.client("u1") as u1:
        answer = u1.post(API + "/sandboxes/bulk-action", json={"action": "stop", "ids": [f"x{n}" for n in range(60)]})
        assert answer.status_code == 200, answer.text
        assert u1.get(ME).headers["RateLimit-Remaining"] == "39"
        error_of(u1.post(API + "/sandboxes/bulk-action", json={"action": "stop", "ids": [f"x{n}" for n in range(60)]}), 429)


def test_1_11_expensive_routes_have_a_bucket_of_their_own():
    with Router("--ratelimit-expensive-rate=0.001", keys=("u1", "u2")) as router, router.client("u1") as u1, router.client("u2") as u2:
        got = [u1.post(API + "/sandboxes", json={"name": "BAD NAME"}).status_code for _ in range(22)]
        assert got == [400] * 20 + [429] * 2
        assert u1.get(ME).status_code == 200
        assert u2.post(API + "/sandboxes", json={"name": "BAD NAME"}).status_code == 400


def test_vector_70_per_ip():
    with Router("--ratelimit-per-ip-rate=1", keys=("u1",)) as router, router.anonymous() as client:
        assert int(until_refused(client, 30, 1).headers["Retry-After"]) >= 1


def test_W58_paths_without_a_route_are_limited_too_and_probes_are_not():
    with Router("--ratelimit-per-ip-rate=0.001") as router, router.anonymous() as client:
        got = [client.get(path).status_code for path in (API + "/nope", "/nope", API + "/user/me/") * 14]
        assert got == [404] * 30 + [429] * 12, got
        error_of(client.delete(API + "/user/me"), 429)  # 405 otherwise
        error_of(client.get(ME), 429)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200, path


def test_S20_W42_only_a_trusted_proxy_speaks_for_others():
    def spend(router, **headers):
        with router.anonymous(headers=headers) as client:
            return statuses(client, 31).count(429)
    with Router("--ratelimit-per-ip-rate=0.001", "--trusted-proxies=127.0.0.1, 10.0.0.0/8", keys=("u1",)) as router:
        assert spend(router, **{"X-Forwarded-For": "203.0.113.1"}) == 1
        assert spend(router, **{"X-Forwarded-For": "203.0.113.2"}) == 1  # another client, another bucket
        # What the client made up stands on the left and changes nothing.
        assert spend(router, **{"X-Forwarded-For": "198.51.100.9, 203.0.113.1"}) == 31
        assert spend(router, **{"X-Forwarded-For": "203.0.113.1, 10.1.2.3"}) == 31  # two proxies
        assert spend(router, **{"X-Forwarded-For": "203.0.113.1:4711"}) == 31
        assert spend(router, **{"X-Real-IP": "203.0.113.2"}) == 31
        # S21: nothing valid in it is the proxy itself.
        assert spend(router, **{"X-Forwarded-For": "unknown, ,"}) == 1
        assert spend(router, **{"X-Forwarded-For": "_hidden"}) == 31
        # A proxy may add a line of its own below the client's.
        with Raw(router) as raw:
            raw.send(f"GET {ME} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.77\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n")
            assert raw.response()[0] == 429
        assert '"remote_addr":"203.0.113.1"' in router.log.read_text().replace(": ", ":") or "203.0.113.1" in router.log.read_text()
    with Router("--ratelimit-per-ip-rate=0.001", keys=("u1",)) as router:
        assert spend(router, **{"X-Forwarded-For": "203.0.113.1"}) == 1
        assert spend(router, **{"X-Forwarded-For": "203.0.113.2"}) == 31


def test_S20_a_proxy_that_is_not_trusted_is_named_once():
    def warnings(router):
        return [line for line in router.log.read_text(errors="replace").splitlines() if "--trusted-proxies" in line]
    for flags, count in (((), 1), (("--trusted-proxies=127.0.0.1",), 0)):
        with Router(*flags) as router, router.anonymous() as client:
            client.get(ME)
            assert warnings(router) == []
            for _ in range(3):
                client.get(ME, headers={"X-Forwarded-For": "203.0.113.9"})
            router.terminate()
            assert len(warnings(router)) == count and all('"127.0.0.1"' in w and "203.0.113.9" not in w for w in warnings(router))


def test_S20_a_client_cannot_have_headers_removed():
    """Connection: X-Forwarded-For names a header of the proxy's; it counts all the same."""
    with Router("--ratelimit-per-ip-rate=0.001", "--trusted-proxies=127.0.0.1", keys=("u1",)) as router:
        with Raw(router) as raw:
            seen = []
            for _ in range(32):
                raw.send(f"GET {ME} HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, X-Forwarded-For\r\nX-Forwarded-For: 203.0.113.5\r\n\r\n")
                seen.append(raw.response()[0])
        assert seen[-1] == 429
        with router.anonymous(headers={"X-Forwarded-For": "203.0.113.6"}) as client:
            assert client.get(ME).status_code == 401


@pytest.mark.parametrize("value", ["10.0.0.0/99", "proxy.example", "*"])
def test_S20_networks_that_are_none_are_refused(value):
    import subprocess
    from harness import BINARY, WRAP, clean_environment
    done = subprocess.run([*WRAP, str(BINARY), "--backend=local", "--state-dir=/tmp/at-never", f"--trusted-proxies={value}"],
                          capture_output=True, text=True, timeout=120, env=clean_environment(), check=False)
    assert done.returncode == 2 and "--trusted-proxies" in done.stderr


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_S33_preflight_for_every_method(method):
    with Router("--cors-allowed-origins=https://c.example", keys=("u1",)) as router, router.anonymous() as client:
        answer = client.options(API + "/sandboxes/x", headers={"Origin": "https://c.example", "Access-Control-Request-Method": method})
        assert answer.status_code == 204
        assert method in [m.strip() for m in answer.headers["Access-Control-Allow-Methods"].split(",")]
        assert "Access-Control-Allow-Credentials" not in answer.headers and answer.headers["Access-Control-Allow-Origin"] != "*"
        for name in ("RateLimit-Remaining", "Retry-After", "X-Request-ID"):
            assert name in answer.headers["Access-Control-Expose-Headers"]


def test_S33_preflight_of_a_file_that_is_called_preview():
    """Only what follows a sandbox's own /preview/ is the application's."""
    with Router("--cors-allowed-origins=https://a.example") as router, router.anonymous() as client:
        for path in (f"{API}/sandboxes/x/files/workspace/preview/y", f"{API}/sandboxes/preview/files/preview/"):
            for origin, status in (("https://a.example", 204), ("https://b.example", 403)):
                assert client.options(path, headers={"Origin": origin}).status_code == status, (path, origin)
        assert client.options(f"{API}/sandboxes/x/preview/80/y", headers={"Origin": "https://b.example"}).status_code == 401


def test_security_headers(keyed, u1):
    for answer in (u1.get(ME), u1.get(API + "/sandboxes"), u1.get(API + "/nope"), keyed.anonymous().get(ME),
                   u1.post(API + "/user/api-keys", json={"name": "headers"}), keyed.anonymous().get("/healthz")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["Cache-Control"] == "no-store"
    with keyed.anonymous() as client:
        assert client.get(ME).headers["WWW-Authenticate"] == "Bearer"
        assert client.get(ME, headers={"Authorization": "Bearer x.y.z"}).headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_S32_request_ids_of_clients(u1):
    for good in ("a", "A-b_c.9", "x" * 128):
        assert u1.get(ME, headers={"X-Request-ID": good}).headers["X-Request-ID"] == good
    for bad in ("", "x" * 129, "a b", "a/b", "<script>", "a;b", "a=b", "\u00e9".encode()):
        given = u1.get(ME, headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert len(given) == 16 and int(given, 16) >= 0, (bad, given)


FOREIGN = [{"Origin": "https://evil.example"}, {"Origin": "http://localhost.evil.example"}, {"Origin": "null"}, {"Origin": "file://"},
           {"Sec-Fetch-Site": "cross-site"}, {"Origin": "chrome-extension://x"}]
OWN = [{}, {"Origin": "http://localhost:3000"}, {"Origin": "http://127.0.0.1:8081"}, {"Origin": "http://[::1]:1"}, {"Sec-Fetch-Site": "same-origin"},
       {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, {"Sec-Fetch-Site": "none"}]


@pytest.mark.parametrize("headers", FOREIGN)
def test_S03_a_page_from_elsewhere_cannot_use_the_development_mode(dev, headers):
    """Nobody is asked for credentials there: a web page that is open in the developer's browser must not be, either."""
    with dev.anonymous() as client:
        assert error_of(client.get(API + "/sandboxes", headers=headers), 403)["code"] == "origin_not_allowed"
        error_of(client.post(API + "/sandboxes", content=json.dumps({"name": "csrf", "template": "general-coding"}),
                             headers={**headers, "Content-Type": "text/plain"}), 403)
        error_of(client.get(API + "/sandboxes/csrf"), 404)


@pytest.mark.parametrize("headers", OWN)
def test_S03_pages_of_this_machine_can(dev, headers):
    with dev.anonymous() as client:
        assert client.get(API + "/sandboxes", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example:8081", "evillocalhost",
                                  "1.2.3", "0x7f000001"])
def test_S03_a_name_that_was_made_to_lead_here_does_not_open_the_development_mode(dev, host):
    """DNS rebinding: to the browser, the page at evil.example and this server are then of one origin, and a GET has no Origin at all."""
    with dev.anonymous() as client:
        for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}, {"Host": host, "Sec-Fetch-Site": "same-origin"}):
            assert error_of(client.get(API + "/sandboxes", headers=headers), 403)["code"] == "host_not_allowed"
            error_of(client.get(API + "/sandboxes/x/preview/8080/", headers=headers), 403)
            error_of(client.post(API + "/sandboxes", json={"name": "rebound", "template": "general-coding"}, headers=headers), 403)
        error_of(client.get(API + "/sandboxes/rebound"), 404)
        assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8081", "box.localhost:1", "127.0.0.1", "[::1]:8081", "192.0.2.7:8081"])
def test_S03_this_machine_and_addresses_open_it(dev, host):
    with dev.anonymous() as client:
        assert client.get(ME, headers={"Host": host}).status_code == 200


def test_S03_configured_names_open_it(u1):
    with Router("--cors-allowed-origins=https://console.example, http://dev.example:8081", dev_auth=True) as router, router.anonymous() as client:
        assert client.get(ME, headers={"Host": "console.example"}).status_code == 200
        assert client.get(ME, headers={"Host": "Dev.example:9"}).status_code == 200
        error_of(client.get(ME, headers={"Host": "evil.example"}), 403)
    assert u1.get(ME, headers={"Host": "evil.example"}).status_code == 200, "with credentials the name does not matter"


def test_S03_configured_origins_can():
    with Router("--cors-allowed-origins=https://console.example", dev_auth=True) as router, router.anonymous() as client:
        assert client.get(ME, headers={"Origin": "https://console.example"}).status_code == 200
        error_of(client.get(ME, headers={"Origin": "https://other.example"}), 403)


def test_S03_with_credentials_the_origin_does_not_matter(u1):
    """They are never sent by a browser on its own: there are no cookies."""
    assert u1.get(ME, headers={"Origin": "https://evil.example"}).status_code == 200


# ---- memory ----

def test_S26_a_small_body_may_not_become_a_large_value(u1):
    """Two bytes of text a value, some fifty in memory."""
    for path in ("/sandboxes/bulk", "/sandboxes/bulk-action"):
        answer = u1.post(API + path, content=b'{"items": [' + b"0," * 2000000 + b"0]}")
        assert error_of(answer, 413)["code"] == "body_too_large"
    listed = [str(i) for i in range(100000)]
    assert u1.put(API + "/user/preferences", json={"none": listed[:20000]}).status_code == 200
    error_of(u1.post(API + "/sandboxes/bulk-action", json={"action": "stop", "ids": listed}), 400)


def test_S26_large_bodies_share_a_budget_and_small_ones_go_on(keyed, u1):
    """256 MiB of them at once, for everybody; callers that hold on to many connections get no more."""
    size = 8 * MiB - 1024
    head = (f"POST {API}/sandboxes/bulk HTTP/1.1\r\nHost: x\r\nX-API-Key: {keyed.keys['u1']}\r\n"
            f"Content-Length: {size}\r\n\r\n").encode()
    filler = b'{"items": ["' + b"x" * (size - 1000)

    def another():
        with Raw(keyed, timeout=60) as raw:
            raw.send(head + filler + b" " * (size - len(filler)))
            return raw.response()[0]

    with contextlib.ExitStack() as stack:
        def one_more():
            stack.enter_context(Raw(keyed, timeout=60)).send(head + filler)

        for _ in range(32):
            one_more()
        # What is asked here may take the place of one whose bytes are still on their way: then that one is refused.
        wait_for(lambda: another() == 503 or one_more(), timeout=300, what="the end of the budget")
        assert u1.get(ME).status_code == 200
        assert u1.put(API + "/user/preferences", json={"a": "x" * 60000}).status_code == 200
    wait_for(lambda: another() == 400, timeout=300, what="room again")
