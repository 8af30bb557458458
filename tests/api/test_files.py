"""Files: http-api.md 2.9, lessons I9 to I11, S11, S12 and S26."""

import concurrent.futures
import hashlib
import os
import pathlib
import re
import time

import pytest

from harness import FILE_LIMIT, MiB, Raw, error_of, wait_for

SIZES = [0, 1, 65536, 100 * 1024, MiB, FILE_LIMIT]


def content(size):
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


def pieces(data, size=70000):
    for i in range(0, len(data), size):
        yield data[i:i + size]


def request_head(box, method, path, *headers):
    return (f"{method} {box.base}/files/{path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {box.router.keys['u1']}\r\n"
            + "".join(h + "\r\n" for h in headers) + "\r\n")


def names(box, path="/workspace"):
    answer = box.get("/files/", params={"path": path})
    assert answer.status_code == 200, answer.text
    return [e["name"] for e in answer.json()["entries"]]


# ---- there and back ----

@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", SIZES)
def test_I9_I10_upload_and_download_of_any_size(box, size, framing):
    data = content(size)
    answer = box.put(f"/files/workspace/size-{framing}.bin", content=data if framing == "length" else pieces(data))
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["path"], body["bytes"]) == (f"/workspace/size-{framing}.bin", size)
    assert box.run(f"stat -c %s /workspace/size-{framing}.bin").strip() == str(size)
    answer = box.get(f"/files/workspace/size-{framing}.bin")
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == str(size)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.content == data


def test_I9_upload_is_acknowledged_only_when_it_is_there(box):
    for i in range(30):
        data = os.urandom(20000)
        box.write(f"/workspace/ack-{i % 3}", data)
        assert box.run(f"sha256sum < /workspace/ack-{i % 3}").split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_1_12_one_byte_too_many_is_413_after_draining(box, framing):
    data = bytes(FILE_LIMIT + 1)
    answer = box.put("/files/workspace/too-big", content=data if framing == "length" else pieces(data))
    error_of(answer, 413)
    assert "too-big" not in "".join(names(box))


def test_tutorial_413_is_seen_by_a_client_that_sends_everything_first(box):
    """The SDK sends the whole body before it reads: no reset may eat the answer."""
    with Raw(box.router, timeout=30) as raw:
        raw.send(request_head(box, "PUT", "workspace/too-big", f"Content-Length: {FILE_LIMIT + 2 * MiB}"))
        for _ in range(34 * 16):
            raw.send(bytes(65536))
        assert raw.response()[0] == 413


def test_1_12_413_for_a_download_above_the_limit(box):
    box.run(f"truncate -s {FILE_LIMIT + 1} /workspace/sparse; truncate -s {FILE_LIMIT} /workspace/sparse-ok")
    error_of(box.get("/files/workspace/sparse"), 413)
    assert len(box.read("/workspace/sparse-ok")) == FILE_LIMIT
    box.run("rm /workspace/sparse /workspace/sparse-ok")


def test_expect_100_continue(box):
    with Raw(box.router) as raw:
        raw.send(request_head(box, "PUT", "workspace/expected", "Content-Length: 5", "Expect: 100-continue"))
        assert raw.response()[0] == 100
        raw.send("hello")
        assert raw.response()[0] == 201
    assert box.read("/workspace/expected") == b"hello"


def test_expect_100_continue_refused_before_the_body(box):
    for length, key, wanted in ((FILE_LIMIT + 1, box.router.keys["u1"], 413), (5, "bad", 401)):
        with Raw(box.router) as raw:
            raw.send(f"PUT {box.base}/files/workspace/no HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
                     f"Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n")
            assert raw.response()[0] == wanted


# ---- partial and conditional reads ----

@pytest.fixture(scope="module")
def alphabet(box):
    box.write("/workspace/abc", b"abcdefghijklmnopqrstuvwxyz")
    return "/files/workspace/abc"


@pytest.mark.parametrize("value, expected, where", [
    ("bytes=0-0", b"a", "0-0"), ("bytes=2-4", b"cde", "2-4"), ("bytes=24-", b"yz", "24-25"), ("bytes=-3", b"xyz", "23-25"),
    ("bytes=0-999", b"abcdefghijklmnopqrstuvwxyz", "0-25"), ("bytes=-999", b"abcdefghijklmnopqrstuvwxyz", "0-25"),
])
def test_range(box, alphabet, value, expected, where):
    answer = box.get(alphabet, headers={"Range": value})
    assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["Content-Range"] == f"bytes {where}/26"


def test_range_that_cannot_be_satisfied(box, alphabet):
    answer = box.get(alphabet, headers={"Range": "bytes=26-"})
    error_of(answer, 416)
    assert answer.headers["Content-Range"] == "bytes */26"


@pytest.mark.parametrize("value", ["bytes=5-2", "bytes=", "bytes=a-b", "lines=1-2", "bytes=-", "bytes=1"])
def test_malformed_range_is_ignored(box, alphabet, value):
    answer = box.get(alphabet, headers={"Range": value})
    assert (answer.status_code, len(answer.content)) == (200, 26)


def test_etag(box, alphabet):
    first = box.get(alphabet)
    tag = first.headers["ETag"]
    assert re.fullmatch(r'"[^"]+"', tag)
    assert box.get(alphabet).headers["ETag"] == tag
    answer = box.get(alphabet, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert box.get(alphabet, headers={"If-None-Match": '"other"'}).status_code == 200
    answer = box.get(alphabet, headers={"Range": "bytes=0-1", "If-Range": tag})
    assert answer.status_code == 206
    answer = box.get(alphabet, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (answer.status_code, len(answer.content)) == (200, 26)
    box.write("/workspace/abc", b"abcdefghijklmnopqrstuvwxyz")
    assert box.get(alphabet).headers["ETag"] != tag


def test_head_of_a_file(box, alphabet):
    answer = box.request("HEAD", alphabet)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == "26"


@pytest.mark.parametrize("name, shown", [("plain.txt", "plain.txt"), ('quo"te.txt', "quote.txt"), ("sp ace", "space"), ("ü€", "file"),
                                         ("new\nline", "newline")])
def test_2_9_content_disposition_is_safe(box, name, shown):
    from urllib.parse import quote
    box.write("/workspace/" + quote(name), b"x")
    answer = box.get("/files/workspace/" + quote(name))
    found = re.fullmatch(r'attachment; filename="([A-Za-z0-9._-]+)"', answer.headers["Content-Disposition"])
    assert found, answer.headers["Content-Disposition"]
    assert re.sub("[^a-z0-9.]", "", found[1]) == shown


# ---- listing ----

def test_2_9_list(box):
    box.run(r"""mkdir -p /workspace/l/sub && cd /workspace/l && printf 12345 > 'two  blanks' && printf x > .hidden &&
        ln -s sub link && ln -s /nowhere broken && mkfifo pipe && chmod 4755 .hidden && touch -d @1700000000 'two  blanks' &&
        touch 'ü' "quo'te" 'new
line' -- '-dash'""")
    answer = box.get("/files/", params={"path": "/workspace/l/../l/"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["path"] == "/workspace/l"
    entries = {e["name"]: e for e in body["entries"]}
    assert set(entries) == {"sub", "two  blanks", ".hidden", "link", "broken", "pipe", "ü", "quo'te", "new\nline", "-dash"}
    blank = entries["two  blanks"]
    assert (blank["size"], blank["isDir"], blank["modifiedAt"]) == (5, False, 1700000000)
    assert re.fullmatch(r"-rw-r--r--", blank["mode"])
    assert entries["sub"]["isDir"] is True and entries["sub"]["mode"].startswith("d")
    assert entries["link"]["isDir"] is False and entries["link"]["mode"].startswith("l")
    assert entries["link"]["linkTarget"] == "sub"
    assert entries[".hidden"]["mode"] == "-rwsr-xr-x"
    assert entries["pipe"]["mode"].startswith("p")


def test_2_9_list_default_and_empty(box):
    body = box.get("/files/").json()
    assert body["path"] == "/workspace"
    box.run("mkdir -p /workspace/empty")
    assert box.get("/files/", params={"path": "/workspace/empty"}).json() == {"path": "/workspace/empty", "entries": []}


def test_2_9_list_of_many(box):
    box.run("mkdir -p /workspace/many && cd /workspace/many && seq -f 'file-with-a-longer-name-%05g' 5000 | xargs touch")
    assert len(names(box, "/workspace/many")) == 5000
    box.run("rm -r /workspace/many")


@pytest.mark.parametrize("path", ["/workspace/none", "/workspace/abc-file", "/root/x"])
def test_2_9_list_of_what_is_not_a_directory(box, path):
    box.write("/workspace/abc-file", b"x")
    error_of(box.get("/files/", params={"path": path}), 404)


def test_2_9_names_that_are_not_utf8(box):
    box.run(r"mkdir -p /workspace/raw && cd /workspace/raw && touch $(printf 'bad\377name')")
    assert names(box, "/workspace/raw") == ["bad\ufffdname"]


# ---- writing ----

def test_2_9_parents_are_made_and_mode_is_kept(box):
    box.write("/workspace/p/q/r/file", b"1")
    assert box.run("stat -c %a /workspace/p/q/r/file").strip() == "644"
    box.run("chmod 750 /workspace/p/q/r/file")
    box.write("/workspace/p/q/r/file", b"22")
    assert box.run("stat -c '%a %s' /workspace/p/q/r/file").strip() == "750 2"


def test_2_9_written_as_the_sandbox_user(box):
    box.write("/workspace/mine", b"1")
    assert box.run("test -O /workspace/mine && echo own").strip() == "own"


def test_W67_overwriting_is_atomic(box):
    """A reader in the sandbox sees the old content or the new one, whole."""
    box.write("/workspace/atomic", b"a" * MiB)
    box.write("/tmp/reader.py", b"""
import collections, time
seen = collections.Counter()
end = time.time() + 4
while time.time() < end:
    data = open('/workspace/atomic', 'rb').read()
    seen[(len(data), len(set(data)))] += 1
print(sorted(seen))
""")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reader = pool.submit(box.run, "python3 /tmp/reader.py")
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            for letter in (b"a", b"b"):
                box.write("/workspace/atomic", letter * MiB)
        assert reader.result().strip() == f"[({MiB}, 1)]"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_cut_upload_leaves_nothing_behind(box, framing):
    box.run("mkdir -p /workspace/cut")
    box.write("/workspace/cut/old", b"old")
    for name in ("old", "new"):
        header = "Content-Length: 1000000" if framing == "length" else "Transfer-Encoding: chunked"
        with Raw(box.router) as raw:
            raw.send(request_head(box, "PUT", f"workspace/cut/{name}", header))
            raw.send(bytes(300000) if framing == "length" else b"493e0\r\n" + bytes(300000) + b"\r\n")
            time.sleep(0.3)
    wait_for(lambda: box.run("ls -A /workspace/cut").split() == ["old"], what="no temporary file")
    assert box.read("/workspace/cut/old") == b"old"


def test_parallel_uploads_of_one_file_end_with_one_of_them(box):
    def write(i):
        box.write("/workspace/race", bytes([65 + i]) * 300000)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    data = box.read("/workspace/race")
    assert len(data) == 300000 and len(set(data)) == 1
    assert [n for n in names(box) if "race" in n] == ["race"]


def test_write_where_it_is_not_possible(box):
    box.run("mkdir -p /workspace/adir && echo x > /workspace/afile")
    for path, codes in (("workspace/adir", (400, 409, 500)), ("workspace/afile/x", (400, 404, 409, 500)), ("", (400, 404, 405)),
                        ("usr/bin/newfile", (403, 500)), ("proc/version", (400, 403, 500)), ("etc/passwd", (403, 500))):
        error_of(box.put("/files/" + path, content=b"x"), codes)
    assert box.run("ls -A /workspace/adir") == ""


def test_disk_full_is_507_or_500_and_leaves_nothing(box):
    """/tmp or /dev/shm is memory with a limit in every sandbox; where it is not, there is nothing to test."""
    found = box.run("for d in /tmp /dev/shm; do set -- $(stat -f -c '%T %b %S' $d); "
                    "[ $1 = tmpfs ] && [ $(($2 * $3)) -gt 0 ] && [ $(($2 * $3)) -lt 600000000 ] && echo $d $(($2 * $3)); done; true")
    if not found:
        pytest.skip("no small memory file system in the sandbox")
    directory, _ = found.splitlines()[0].split()
    box.exec(f"cat /dev/zero > {directory}/filler 2>/dev/null; true", timeout=60)
    try:
        error_of(box.put(f"/files{directory}/more", content=bytes(MiB)), (500, 507))
        assert "more" not in "".join(names(box, directory))
    finally:
        box.run(f"rm -f {directory}/filler")
    box.write(f"{directory}/more", bytes(MiB))


# ---- S11: strange paths ----

@pytest.mark.parametrize("name", ["it's", 'quo"te', "back\\slash", "back`tick", "dollar$HOME", "semi;colon", "new\nline", "cr\rx",
                                  "-dash", "blank end ", " ", "ü€😀", "%41", "a%2fb", "?query", "#hash", "...", "a" * 255])
def test_W49_S11_S14_any_name_can_be_written_and_read(box, name):
    from urllib.parse import quote
    if "%2f" in name:
        pytest.skip("a slash cannot be in a name")
    data = name.encode() * 3
    answer = box.client.put(f"{box.base}/files/workspace/odd/{quote(name, safe='')}", content=data)
    assert answer.status_code == 201, answer.text
    assert answer.json()["path"] == "/workspace/odd/" + name
    assert name in names(box, "/workspace/odd")
    answer = box.client.get(f"{box.base}/files/workspace/odd/{quote(name, safe='')}")
    assert (answer.status_code, answer.content) == (200, data)


def raw_get(box, path):
    with Raw(box.router) as raw:
        raw.send(request_head(box, "GET", path))
        return raw.response()


def test_S11_nul_is_refused(box):
    for path in ("workspace/a%00b", "%00", "workspace/abc%00.txt"):
        assert raw_get(box, path)[0] in (400, 404)
        with Raw(box.router) as raw:
            raw.send(request_head(box, "PUT", path, "Content-Length: 1") + "x")
            assert raw.response()[0] in (400, 404)
    error_of(box.get("/files/", params={"path": "/workspace\x00/etc"}), 400)


def test_S11_overlong_paths(box):
    error_of(box.get("/files/workspace/" + "a" * 256), (400, 404))
    error_of(box.get("/files/" + "d/" * 2500 + "x"), (400, 404))
    error_of(box.put("/files/workspace/" + "a" * 256, content=b"x"), (400, 500))


def test_S11_dots_cannot_leave_the_sandbox(box):
    """What the path resolves to is a file of the sandbox, never one of the machine."""
    secret = pathlib.Path(box.router.state_dir, "host-secret")
    secret.write_text("HOST SECRET")
    for path in (f"workspace/../../../..{secret}", f"workspace/%2e%2e/%2e%2e/%2e%2e{secret}", f"..%2f..%2f..{secret}",
                 f"workspace/..%2f..%2f..%2f{secret}", f"proc/1/root{secret}", f"proc/self/root{secret}", str(secret)[1:]):
        answer = raw_get(box, path)
        assert b"HOST SECRET" not in answer[2], path
        assert answer[0] in (400, 403, 404), (path, answer)


@pytest.mark.parametrize("path", ["proc/self/mem", "proc/self/environ", "proc/1/environ", "proc/kcore", "sys/kernel/notes",
                                  "proc/self/fd/0", "dev/zero", "dev/random", "dev/full", "dev/tty"])
def test_W51_S11_devices_and_kernel_files_are_refused(box, path):
    started = time.monotonic()
    answer = box.get("/files/" + path)
    error_of(answer, (400, 403, 404))
    assert time.monotonic() - started < 30


def test_W51_S11_fifo_socket_and_directory(box):
    box.run("mkdir -p /workspace/s && cd /workspace/s && rm -f fifo sock && mkfifo fifo && python3 -c "
            "'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'; ln -sf /dev/zero zero; ln -sf fifo tofifo")
    for name in ("fifo", "sock", "zero", "tofifo", "."):
        started = time.monotonic()
        error_of(box.get(f"/files/workspace/s/{name}"), (400, 403, 404))
        assert time.monotonic() - started < 30
    for name in ("fifo", "sock", "zero", "tofifo"):
        started = time.monotonic()
        answer = box.put(f"/files/workspace/s/{name}", content=b"data")
        assert time.monotonic() - started < 30
        if answer.status_code == 201:  # replaced by a file, never written through
            assert box.read(f"/workspace/s/{name}") == b"data"
    assert box.run("stat -c %F /dev/zero").strip() == "character special file"


# ---- S12: links ----

def test_S12_symlinks_inside_are_followed_for_reading(box):
    box.run("cd /workspace && mkdir -p links/real && echo data > links/real/file && ln -sfn real links/dir && "
            "ln -sf real/file links/leaf && ln -sf /workspace/links/real/file links/absolute && ln -sf loop links/loop")
    for path in ("leaf", "dir/file", "absolute"):
        assert box.read(f"/workspace/links/{path}") == b"data\n"
    error_of(box.get("/files/workspace/links/loop"), (400, 404))
    assert [e["name"] for e in box.get("/files/", params={"path": "/workspace/links/dir"}).json()["entries"]] == ["file"]


def test_S12_symlinks_to_the_machine_show_the_sandbox(box):
    secret = pathlib.Path(box.router.state_dir, "host-secret-2")
    secret.write_text("HOST SECRET")
    box.run(f"mkdir -p /workspace/evil && ln -sf {secret} /workspace/evil/leaf && ln -sfn {secret.parent} /workspace/evil/dir && "
            "ln -sfn /proc/1/root /workspace/evil/root && ln -sfn /proc/self/cwd /workspace/evil/cwd")
    for path in ("leaf", "dir/host-secret-2", f"root{secret}", f"cwd/../..{secret}"):
        answer = box.get(f"/files/workspace/evil/{path}")
        assert b"HOST SECRET" not in answer.content
        assert answer.status_code in (400, 403, 404)
    target = pathlib.Path(box.router.state_dir, "written-through")
    box.run(f"ln -sf {target} /workspace/evil/write; ln -sfn {target.parent} /workspace/evil/wdir")
    box.put("/files/workspace/evil/write", content=b"x")
    box.put("/files/workspace/evil/wdir/written-through", content=b"x")
    assert not target.exists()


def test_S12_swapping_a_directory_for_a_link_during_uploads(box):
    """Whatever wins the race, nothing appears outside the sandbox."""
    target = pathlib.Path(box.router.state_dir, "toctou")
    target.mkdir(exist_ok=True)
    box.write("/tmp/swap.py", f"""
import os, time
os.makedirs('/workspace/t', exist_ok=True); os.chdir('/workspace/t')
end = time.time() + 4
while time.time() < end:
    os.makedirs('d', exist_ok=True)
    os.rename('d', 'e')
    os.symlink('{target}', 'd')
    os.unlink('d')
    os.rename('e', 'd')
""".encode())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        swapper = pool.submit(box.exec, "python3 /tmp/swap.py", timeout=20)
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            box.put("/files/workspace/t/d/file", content=b"x" * 1000)
        swapper.result()
    assert list(target.iterdir()) == []


# ---- S26: slow readers ----

def test_S26_slow_reader_holds_nothing_up(box):
    box.write("/workspace/slow", content(FILE_LIMIT))
    readers = []
    for _ in range(20):
        raw = Raw(box.router, timeout=30)
        raw.send(request_head(box, "GET", "workspace/slow"))
        readers.append(raw)
    time.sleep(1)
    memory = rss(box.router.process.pid)
    started = time.monotonic()
    assert box.read("/workspace/slow") == content(FILE_LIMIT)
    assert time.monotonic() - started < 20
    assert rss(box.router.process.pid) - memory < 64 * MiB
    first = readers[0].response()
    assert first[0] == 200 and len(first[2]) == FILE_LIMIT
    for raw in readers:
        raw.socket.close()


def rss(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def test_I10_memory_does_not_grow_with_uploads(box):
    data = content(FILE_LIMIT)
    box.write("/workspace/rss", data)
    before = rss(box.router.process.pid)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: box.write(f"/workspace/rss-{i}", data), range(6)))
    assert rss(box.router.process.pid) - before < 64 * MiB
    box.run("rm /workspace/rss*")
