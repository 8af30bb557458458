"""How requests are framed: what libmicrohttpd lets through and we must not, or answers in words of its own (lessons M4, M5,
S18, S26; http-api.md 1.6).

Each malformed request is followed by a second, valid one on the same connection: it must never be
answered, and the connection must be closed."""

import json
import os
import time

import pytest

from harness import MiB, Raw, raw_exchange, wait_for

PATH = "/api/v1/user/me"


@pytest.fixture
def wire(keyed):
    with Raw(keyed) as raw:
        raw.key = keyed.keys["u1"]
        yield raw


def good(key, path=PATH, method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: router.test\r\nX-API-Key: {key}\r\n\r\n"


def ours(answer, statuses=(400,)):
    """The answer is an error of the Router's own, not the library's page."""
    status, headers, body = answer
    assert status in statuses, answer
    assert headers["Content-Type"] == "application/json" and len(headers["X-Request-ID"]) == 16, dict(headers)
    value = json.loads(body)
    assert value["error"] and value["code"], value
    return value


def refused(wire, request, statuses=(400,), after=""):
    """Sends `request` and then a smuggled one; the first is refused, nothing else is answered."""
    smuggled = good(wire.key).replace("Host", "X-Smuggled: 1\r\nHost")
    wire.send(request.encode("latin-1") + after.encode("latin-1") + smuggled.encode())
    answer = wire.response()
    assert answer is not None, "closed without an answer"
    ours(answer, statuses)
    assert wire.response() is None, "a second answer followed"


def post(key, headers, body="", path="/api/v1/user/api-keys"):
    return (f"POST {path} HTTP/1.1\r\nHost: router.test\r\nX-API-Key: {key}\r\n" + "".join(h + "\r\n" for h in headers)
            + "\r\n" + body)


CHUNKED = "5\r\n{    \r\n0\r\n\r\n"


def test_M4_content_length_and_chunked(wire):
    refused(wire, post(wire.key, ["Content-Length: 6", "Transfer-Encoding: chunked"], "0\r\n\r\nX"))


def test_M4_chunked_and_content_length(wire):
    refused(wire, post(wire.key, ["Transfer-Encoding: chunked", "Content-Length: 4"], CHUNKED))


def test_M4_two_differing_content_lengths(wire):
    refused(wire, post(wire.key, ["Content-Length: 2", "Content-Length: 40"], "{}"))


def test_M4_two_equal_content_lengths(wire):
    refused(wire, post(wire.key, ["Content-Length: 2", "Content-Length: 2"], "{}"))


@pytest.mark.parametrize("value", ["2, 2", "+2", "-2", "0x2", "2 2", "2;", "", "18446744073709551618", "9" * 40, "2.0", "\t2x", "2 ", "2\t"])
def test_M4_malformed_content_length(wire, value):
    refused(wire, post(wire.key, [f"Content-Length: {value}"], "{}"))


def test_M4_second_transfer_encoding(wire):
    refused(wire, post(wire.key, ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], CHUNKED), (400, 501))


@pytest.mark.parametrize("value", ["xchunked", "gzip, chunked", "chunked, chunked", "identity", "chunked;q=1", "chunked, gzip",
                                   "\x0bchunked", "", "CHUNKED x", "chun ked"])
def test_M4_strange_transfer_encoding(wire, value):
    refused(wire, post(wire.key, [f"Transfer-Encoding: {value}"], CHUNKED), (400, 501))


def test_M4_transfer_encoding_of_http_1_0(wire):
    request = post(wire.key, ["Transfer-Encoding: chunked"], CHUNKED).replace("HTTP/1.1", "HTTP/1.0")
    refused(wire, request, (400, 501, 505))


@pytest.mark.parametrize("chunk", ["5;ext=1\r\n", "5 ;a\r\n", "5;\"\r\n\""])
def test_M4_chunk_extension_is_refused_or_skipped(wire, chunk):
    """An extension is legal; what matters is that nobody takes it for something else."""
    wire.send(post(wire.key, ["Transfer-Encoding: chunked"], f"{chunk}{{   }}\r\n0\r\n\r\n"))
    answer = wire.response()
    if '"' in chunk:
        ours(answer)  # the line ended within the quotes, so the data begins there
    else:
        assert answer[0] == 201, answer


@pytest.mark.parametrize("trailers", ["A: b\r\n", "nonsense\r\n", "Content-Length: 5\r\nHost: other\r\n", "A: " + "b" * 9000 + "\r\n"])
def test_M4_trailers_are_skipped(wire, trailers):
    wire.send(post(wire.key, ["Transfer-Encoding: chunked"], f"3\r\n{{ }}\r\n0\r\n{trailers}\r\n") + good(wire.key))
    assert wire.response()[0] == 201
    assert wire.response()[0] == 200


BAD_CHUNKS = ["x\r\n{}\r\n0\r\n\r\n", "-2\r\n{}\r\n0\r\n\r\n", "0x2\r\n{}\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
              "2\r\n{}XX0\r\n\r\n", "2\n{}\n0\n\n", "2\r\n{}\n0\r\n\r\n", "2\r\n{}\r\n0\r\n\n", "2\r\n{}\r\n0\r\nA: b\n\r\n",
              "2;" + "a" * 5000 + "\r\n{}\r\n0\r\n\r\n", "2\r\n{}\r\n0\r\nA: " + "b" * 20000 + "\r\n\r\n"]


@pytest.mark.parametrize("body", BAD_CHUNKS, ids=range(len(BAD_CHUNKS)))
def test_S18_malformed_chunks(wire, body):
    refused(wire, post(wire.key, ["Transfer-Encoding: chunked"], body))


@pytest.mark.parametrize("step", [1, 5, 100])
@pytest.mark.parametrize("body", BAD_CHUNKS[:7], ids=range(7))
def test_S18_malformed_chunks_in_pieces(keyed, wire, body, step):
    """No key is made of a body that was not whole, and no file: however it arrives."""
    with keyed.client("u1") as client:
        before = len(client.get("/api/v1/user/api-keys").json()["keys"])
        request = post(wire.key, ["Transfer-Encoding: chunked"], "1\r\n \r\n" + body).encode()
        for at in range(0, len(request), step):
            wire.send(request[at:at + step])
        ours(wire.response())
        assert len(client.get("/api/v1/user/api-keys").json()["keys"]) == before


def test_S18_an_upload_with_a_malformed_chunk_leaves_no_file(keyed, box):
    with Raw(keyed) as wire, keyed.client("u1") as client:
        path = box.base + "/files/workspace/chunks"
        piece = f"{MiB:x}\r\n".encode() + os.urandom(MiB) + b"\r\n"
        wire.send(post(keyed.keys["u1"], ["Transfer-Encoding: chunked"], path=path).replace("POST", "PUT", 1))
        wire.send(piece * 3)
        wire.send(b"10000\nabc")
        ours(wire.response())

        def listed():
            entries = client.get(box.base + "/files/", params={"path": "/workspace"}).json()["entries"]
            assert "chunks" not in [e["name"] for e in entries]
            return entries
        wait_for(lambda: not [e for e in listed() if e["size"] >= MiB], what="the end of what was written of it")


def test_M4_bare_lf_lines(wire):
    refused(wire, f"GET {PATH} HTTP/1.1\nHost: router.test\nX-API-Key: {wire.key}\n\n")


def test_M4_one_bare_lf_among_the_headers(wire):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nHost: router.test\nX-API-Key: {wire.key}\r\n\r\n")


def test_M4_bare_cr_in_a_line(wire):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nHost: router.test\r\nX-A: b\rX-API-Key: {wire.key}\r\n\r\n")


def test_M4_space_before_the_colon(wire):
    refused(wire, post(wire.key, ["Content-Length : 2"], "{}"))


def test_M4_obs_fold(wire):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nHost: router.test\r\nX-A: b\r\n folded\r\nX-API-Key: {wire.key}\r\n\r\n")


def test_M4_space_before_the_first_header(wire):
    refused(wire, f"GET {PATH} HTTP/1.1\r\n Host: router.test\r\nX-API-Key: {wire.key}\r\n\r\n")


@pytest.mark.parametrize("name", ["X\x01A", "X(A", "X A", "X\x7fA", "X@A", "X[A]", 'X"A"', "X\xe9A", "X/A", "", "X{A}", "X,A"])
def test_M4_bad_header_names(wire, name):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nHost: router.test\r\n{name}: 1\r\nX-API-Key: {wire.key}\r\n\r\n")


def test_M4_header_without_a_colon(wire):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nHost: router.test\r\nnonsense\r\nX-API-Key: {wire.key}\r\n\r\n")


@pytest.mark.parametrize("value", ["a\x00b", "a\x01b", "a\x7fb", "a\x1bb"])
def test_M4_control_characters_in_a_value(wire, value):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nHost: router.test\r\nX-A: {value}\r\nX-API-Key: {wire.key}\r\n\r\n")


def test_M4_two_hosts(wire):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nHost: router.test\r\nHost: other.test\r\nX-API-Key: {wire.key}\r\n\r\n")


def test_M4_no_host(wire):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nX-API-Key: {wire.key}\r\n\r\n")


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", 'a"b', "http://a", "a:b:c:d", "a\\b"])
def test_M4_malformed_host(wire, host):
    refused(wire, f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {wire.key}\r\n\r\n")


def test_two_api_keys_are_refused(keyed, wire):
    answer = raw_exchange(keyed, f"GET {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: bad\r\nX-API-Key: {wire.key}\r\n\r\n")
    assert answer[0] in (400, 401)


@pytest.mark.parametrize("line", [
    "GET {p} HTTP/1.1 x", "GET {p}", "GET  {p} HTTP/1.1", "GET {p}\x00 HTTP/1.1", " GET {p} HTTP/1.1", "G\x01T {p} HTTP/1.1", "G(T {p} HTTP/1.1",
    "GET {p} HTTP/2.0", "GET {p} HTTP/1.2x", "GET {p} http/1.1", "GET {p} HTTP/11", "GET\t{p}\tHTTP/1.1", "GET {p} XTTP/1.1",
    "GET {p} x HTTP/1.1", "GET {p}\x7f HTTP/1.1", "GET {p}?a\x01b HTTP/1.1", "GET relative HTTP/1.1",
    "GET {p}#fragment HTTP/1.1", "GET * HTTP/1.1",
])
def test_S18_malformed_request_lines(keyed, line):
    with Raw(keyed) as wire:
        wire.key = keyed.keys["u1"]
        request = line.replace("{p}", PATH) + f"\r\nHost: router.test\r\nX-API-Key: {wire.key}\r\n\r\n"
        wire.send(request + good(wire.key))
        answer = wire.response()
        if answer[0] != 404:
            ours(answer, (400, 501, 505))
            assert wire.response() is None


def test_S18_absolute_form_is_taken_by_its_path_or_refused(keyed):
    with Raw(keyed) as wire:
        wire.send(good(keyed.keys["u1"], "http://router.test" + PATH))
        answer = wire.response()
        assert answer[0] in (200, 400)
        if answer[0] == 200:
            assert b'"u1"' in answer[2]
    answer = raw_exchange(keyed, good(keyed.keys["u1"], "http://router.test@evil.test/healthz"))
    assert answer[0] in (400, 404, 200)
    assert raw_exchange(keyed, good(keyed.keys["u1"], "ftp://router.test" + PATH))[0] in (400, 404)
    assert raw_exchange(keyed, good(keyed.keys["u1"], "router.test:443", "CONNECT"))[0] in (400, 404, 405, 501)


@pytest.mark.parametrize("path", ["/api/v1/user/me%00", "/api/v1/user/me%00/x", "/api/v1/user%00/me", "/healthz%00",
                                  "/api/v1/sandboxes/a%00b", "/api/v1/user/me%", "/api/v1/user/me%4", "/api/v1/user/m%zz"])
def test_M5_S11_nul_and_bad_escapes_in_the_path(keyed, path):
    answer = raw_exchange(keyed, good(keyed.keys["u1"], path))
    assert answer[0] in (400, 404), answer


@pytest.mark.parametrize("path", ["/api/v1/sandboxes/..%2f..%2f..%2fhealthz", "/api/v1/sandboxes/%2e%2e%2fuser%2fme",
                                  "/api/v1/user%2fme", "/%2fhealthz", "/..%2fhealthz", "/api/v1/sandboxes/%2e%2e%5cuser"])
def test_M5_S11_encoded_slash_is_not_a_separator(keyed, path):
    answer = raw_exchange(keyed, good(keyed.keys["u1"], path))
    assert answer[0] in (400, 404), answer


@pytest.mark.parametrize("path", ["/api/v1/x/../user/me", "/api/v1/user/./me", "/api/v1//user///me", "//api/v1/user/me",
                                  "/api/v1/user/x/%2e%2e/me", "/../../api/v1/user/me"])
def test_1_2_dots_are_resolved_before_authentication(keyed, path):
    """The same canonical path for routing and for the rules of who may call."""
    answer = raw_exchange(keyed, good(keyed.keys["u1"], path))
    assert answer[0] in (200, 400, 404), answer
    anonymous = raw_exchange(keyed, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert anonymous[0] in (401, 400, 404), anonymous


@pytest.mark.parametrize("size", [9000, 70000, 2 * MiB])
def test_S11_overlong_target(keyed, size):
    """All of it is sent before the answer is read."""
    with Raw(keyed) as wire:
        wire.send(good(keyed.keys["u1"], "/api/v1/sandboxes/" + "a" * size))
        ours(wire.response(), (404,) if size < 32 * 1024 else (414,))
        if size >= 32 * 1024:
            assert wire.closed()


@pytest.mark.parametrize("size, shape", [(70 * 1024, "many"), (70 * 1024, "one"), (MiB + 65536, "many"), (MiB + 65536, "one")])
def test_1_12_header_block_too_large(keyed, size, shape):
    """All of it is sent before the answer is read."""
    with Raw(keyed) as wire:
        if shape == "one":
            headers = "X-Big: " + "a" * size + "\r\n"
        else:
            headers = "".join(f"X-Big-{i}: {'a' * 1000}\r\n" for i in range(size // 1000))
        wire.send(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: {keyed.keys['u1']}\r\n{headers}\r\n")
        ours(wire.response(), (431,))
        assert wire.closed()


HEAD_MAX = 48 * 1024
NOT_ALL = {
    "414": (b"GET /" + b"a" * HEAD_MAX, 414, "target_too_long"),
    "414 in a head": (b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "target_too_long"),
    "431 one": ((b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * HEAD_MAX)[:HEAD_MAX + 1], 431, "header_too_large"),
    "431 many": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(128)), 431, "header_too_large"),
    "505": (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 505, "version_not_supported"),
    "501": (b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n\r\n", 501, "unsupported_transfer_coding"),
    "colon": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400, "bad_request"),
    "bare LF": (b"GET /healthz HTTP/1.1\n", 400, "bad_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request"),
}


@pytest.mark.parametrize("name", NOT_ALL)
def test_1_6_what_is_no_request_is_answered_in_json(keyed, name):
    """Once, at once, with an id that the log has too; then the connection ends."""
    data, status, code = NOT_ALL[name]
    for before in (b"", good(keyed.keys["u1"]).encode()):
        with Raw(keyed) as wire:
            wire.send(before + data)
            if before:
                assert wire.response()[0] == 200
            answer = wire.response()
            assert ours(answer, (status,))["code"] == code
            assert answer[1]["Connection"].lower() == "close"
            assert wire.response() is None
            wait_for(lambda: answer[1]["X-Request-ID"] in keyed.log.read_text(), what="the line in the log")


def test_1_6_a_refused_head_request_has_no_body(keyed):
    with Raw(keyed) as wire:
        wire.send("HEAD /healthz HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n")
        status, headers, _ = wire.response("HEAD")
        assert status == 400 and int(headers["Content-Length"]) > 0
        assert wire.closed()


def test_1_12_the_largest_head_is_taken(keyed):
    """48 KiB and 128 headers, also in pieces and one behind the other."""
    key = keyed.keys["u1"]
    start = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
    many = [f"X-{i:03}: {'a' * 360}\r\n" for i in range(125)]
    many.append("X-Rest: " + "a" * (HEAD_MAX - len(start) - sum(map(len, many)) - len("X-Rest: \r\n\r\n")) + "\r\n")
    one = ["X-One: " + "a" * (HEAD_MAX - len(start) - len("X-One: \r\n\r\n")) + "\r\n"]
    for headers in (many, one):
        head = (start + "".join(headers) + "\r\n").encode()
        assert len(head) == HEAD_MAX
        with Raw(keyed) as wire:
            wire.send(head * 3)
            for _ in range(3):
                assert wire.response()[0] == 200
            for at in range(0, len(head), 1460):
                wire.send(head[at:at + 1460])
            assert wire.response()[0] == 200


def test_1_12_header_block_of_30_KiB_is_taken(keyed):
    headers = "".join(f"X-Big-{i}: {'a' * 1000}\r\n" for i in range(30))
    answer = raw_exchange(keyed, f"GET {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: {keyed.keys['u1']}\r\n{headers}\r\n")
    assert answer[0] == 200


def test_S26_slowloris_header_is_cut_after_5_seconds(keyed):
    with Raw(keyed, timeout=15) as wire:
        started = time.monotonic()
        wire.send(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n")
        while time.monotonic() - started < 12:
            try:
                wire.send("X-A: b\r\n")
            except (BrokenPipeError, ConnectionResetError):
                break
            wire.socket.settimeout(0.5)
            try:
                data = wire.socket.recv(65536)
            except TimeoutError:
                continue
            except ConnectionResetError:
                break
            if not data or b"408" in data or b"400" in data:
                break
        assert 3 < time.monotonic() - started < 12


def test_S26_a_second_head_that_stays_incomplete_is_cut_as_well(keyed):
    """Its beginning came with the first request, or right behind the answer: nothing more arrives that could be noticed."""
    for together in (True, False):
        with Raw(keyed) as wire:
            part = good(keyed.keys["u1"])[:-2]
            wire.send(good(keyed.keys["u1"]) + (part if together else ""))
            assert wire.response()[0] == 200
            if not together:
                wire.send(part)
            assert wire.closed(60)  # an idle connection is closed after 120 s


def test_pipelined_requests_are_answered_in_order(keyed):
    with Raw(keyed) as wire:
        wire.send((good(keyed.keys["u1"]) + good(keyed.keys["u2"]) + good(keyed.keys["u1"], "/healthz")) * 5)
        for _ in range(5):
            assert b'"u1"' in wire.response()[2]
            assert b'"u2"' in wire.response()[2]
            assert b"ok" in wire.response()[2]


def test_more_requests_than_a_buffer_holds_are_all_answered(keyed):
    """Some end at the end of the library's buffer, some are cut by it; the last one is refused."""
    key = keyed.keys["u1"]
    count = 500
    requests = "".join(good(key, PATH + "?" + "a" * (i % 211)) for i in range(count))
    assert len(requests) > 64 * 1024
    with Raw(keyed) as wire:
        wire.send(requests + post(key, ["Content-Length: x"]))
        for _ in range(count):
            status, _, body = wire.response()
            assert status == 200 and b'"u1"' in body
        ours(wire.response())
        assert wire.closed()


def test_S18_what_follows_a_request_to_upgrade_is_no_request(keyed):
    """It is not looked at, as it may be of another protocol: when the upgrade is not granted it is not answered either."""
    ask = good(keyed.keys["u1"]).replace("Host:", "Connection: upgrade\r\nUpgrade: h2c\r\nHost:")
    with Raw(keyed) as wire:
        wire.send(ask + good(keyed.keys["u1"]))
        assert wire.response()[0] == 200
        try:
            answer = wire.response()
        except ConnectionResetError:
            answer = None
        assert answer is None or ours(answer)
    with Raw(keyed) as wire:  # but a client that waited goes on
        for _ in range(3):
            wire.send(ask)
            assert wire.response()[0] == 200
        wire.send(good(keyed.keys["u1"]))
        assert wire.response()[0] == 200


def test_request_in_single_bytes(keyed):
    with Raw(keyed) as wire:
        for byte in good(keyed.keys["u1"]).encode():
            wire.send(bytes([byte]))
        assert wire.response()[0] == 200


def test_leading_empty_lines_are_skipped(keyed):
    answer = raw_exchange(keyed, "\r\n\r\n" + good(keyed.keys["u1"]))
    assert answer[0] in (200, 400)


def test_connection_close_and_http_1_0(keyed):
    with Raw(keyed) as wire:
        wire.send(good(keyed.keys["u1"]).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
        status, headers, _ = wire.response()
        assert status == 200 and headers["Connection"].lower() == "close"
        assert wire.closed()
    with Raw(keyed) as wire:
        wire.send(good(keyed.keys["u1"]).replace("HTTP/1.1", "HTTP/1.0"))
        status, headers, body = wire.response()
        assert status == 200 and b'"u1"' in body
        assert wire.closed()


def test_body_on_a_get_is_dropped_and_not_taken_for_a_request(keyed):
    inner = good(keyed.keys["u2"])
    with Raw(keyed) as wire:
        wire.send(good(keyed.keys["u1"]).replace("\r\n\r\n", f"\r\nContent-Length: {len(inner)}\r\n\r\n") + inner)
        answer = wire.response()
        assert answer[0] in (200, 400)
        wire.socket.settimeout(1)
        try:
            assert wire.response() is None
        except TimeoutError:
            pass


def test_refused_with_a_body_on_the_way_is_not_smuggled(keyed):
    """The body of a request that is answered early is never read as the next one."""
    inner = good(keyed.keys["u2"])
    for head in (f"POST /api/v1/nope HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\n\r\n",
                 f"POST /api/v1/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\n\r\n",
                 f"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\n\r\n"):
        with Raw(keyed) as wire:
            wire.send(head)
            time.sleep(0.2)
            try:
                wire.send(inner)
            except (BrokenPipeError, ConnectionResetError):
                continue
            answer = wire.response()
            assert answer is None or answer[0] in (401, 404, 405), answer
            wire.socket.settimeout(1)
            try:
                assert wire.response() is None
            except TimeoutError:
                pass
