"""Archives, out as zip and in as tar: http-api.md 2.9, lesson S13, observation O1."""

import io
import pathlib
import stat
import struct
import tarfile
import time
import zipfile
import zlib

import pytest

from harness import MiB, Raw, error_of


@pytest.fixture(scope="module", autouse=True)
def tree(box):
    box.run(r"""mkdir -p /workspace/tree/sub/empty && cd /workspace/tree && printf hello > a.txt && printf '\000\377' > bin &&
        seq 100000 > sub/long && ln -s a.txt link && ln -s /etc/passwd absolute && ln a.txt hard && mkfifo fifo &&
        printf '#!/bin/sh\n' > run.sh && chmod 755 run.sh && printf u > 'ü €' && printf x > "quo'te" && printf n > 'new
line' && printf h > .hidden && : > nothing && touch -d '2021-05-06 07:08:10 UTC' a.txt""")


def fetch(box, path, **options):
    answer = box.get("/archive", params={"path": path}, **options)
    assert answer.status_code == 200, answer.text
    return answer, zipfile.ZipFile(io.BytesIO(answer.content))


def test_2_9_O1_zip_of_a_directory(box):
    answer, archive = fetch(box, "/workspace/tree")
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{box.name}-tree.zip"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert archive.testzip() is None
    names = set(archive.namelist())
    assert names - {"./"} == {"a.txt", "bin", "sub/", "sub/empty/", "sub/long", "link", "absolute", "hard", "run.sh", "ü €", "quo'te",
                              "new\nline", ".hidden", "nothing"}
    assert archive.read("a.txt") == b"hello"
    assert archive.read("bin") == b"\x00\xff"
    assert archive.read("sub/long").splitlines()[-1] == b"100000"
    assert archive.read("nothing") == b""


def test_W52_modes_links_and_times(box):
    _, archive = fetch(box, "/workspace/tree")
    def mode(name):
        return archive.getinfo(name).external_attr >> 16
    assert stat.S_ISLNK(mode("link")) and archive.read("link") == b"a.txt"
    assert stat.S_ISLNK(mode("absolute")) and archive.read("absolute") == b"/etc/passwd"
    assert archive.read("hard") == b"hello" and stat.S_ISREG(mode("hard"))
    assert mode("run.sh") & 0o777 == 0o755
    assert mode("a.txt") & 0o777 == 0o644
    assert archive.getinfo("sub/long").compress_type == zipfile.ZIP_DEFLATED
    assert archive.getinfo("a.txt").date_time[:5] in ((2021, 5, 6, 7, 8), archive.getinfo("hard").date_time[:5])


def test_2_9_default_is_the_workspace(box):
    answer, archive = fetch(box, "/workspace")
    assert "tree/a.txt" in archive.namelist()
    answer = box.get("/archive")
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{box.name}-workspace.zip"'


def test_2_9_O1_one_file_and_an_empty_directory(box):
    box.run("mkdir -p /workspace/one /workspace/none && echo 1 > /workspace/one/f")
    assert [n for n in fetch(box, "/workspace/one")[1].namelist() if n != "./"] == ["f"]
    assert [n for n in fetch(box, "/workspace/none")[1].namelist() if n != "./"] == []


def test_2_9_missing_directory_and_file(box):
    error_of(box.get("/archive", params={"path": "/workspace/missing"}), 404)
    error_of(box.get("/archive", params={"path": "/workspace/tree/a.txt"}), (400, 404))


@pytest.mark.parametrize("path", ["/", "/etc", "/workspace/..", "/workspace/../etc", "/workspacex", "/tmp", "/workspace\x00"])
def test_2_9_only_the_workspace(box, path):
    error_of(box.get("/archive", params={"path": path}), 400)


def test_2_9_a_link_out_of_the_workspace_is_not_followed(box):
    box.run("ln -sfn /etc /workspace/out")
    answer = box.get("/archive", params={"path": "/workspace/out"})
    if answer.status_code == 200:
        names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
        assert "passwd" not in names
    else:
        error_of(answer, (400, 403, 404))
    box.run("rm /workspace/out")


@pytest.mark.parametrize("target", ["/tmp/outside", "../tmp/outside", "/"])
def test_S12_a_link_in_the_middle_of_the_path_leads_nowhere_else(box, target):
    """Neither out of the workspace nor into it: what the path means after its links is what counts."""
    box.run("mkdir -p /tmp/outside/sub/tmp && echo secret > /tmp/outside/sub/file && ln -sfnT %s /workspace/mid" % target)
    below = {"/": "mid/tmp/outside/sub"}.get(target, "mid/sub")
    for path in (f"/workspace/{below}", f"/workspace/mid/./../mid/{below.partition('/')[2]}", "/workspace/mid"):
        assert error_of(box.get("/archive", params={"path": path}), 400)["code"] == "bad_path"
        error_of(unpack(box, make_tar(("new-file", "file", b"x")), path=path), 400)
        error_of(unpack(box, make_tar(("new-file", "file", b"x")), path=path + "/new/deep"), 400)
    assert box.run("cd /tmp/outside && find . | sort").split() == [".", "./sub", "./sub/file", "./sub/tmp"]
    box.run("rm -r /workspace/mid /tmp/outside")


@pytest.mark.parametrize("target", ["real", "/workspace/real", "../workspace/real"])
def test_S12_a_link_that_stays_inside_is_followed(box, target):
    box.run("mkdir -p /workspace/real/sub && echo 1 > /workspace/real/sub/f && ln -sfnT %s /workspace/alias" % target)
    assert fetch(box, "/workspace/alias/sub")[1].read("f") == b"1\n"
    assert unpack(box, make_tar(("g", "file", b"2")), path="/workspace/alias/made/here").status_code == 200
    assert box.read("/workspace/real/made/here/g") == b"2"
    box.run("rm -r /workspace/real /workspace/alias")


def test_S12_a_directory_swapped_for_a_link_while_archives_come_and_go(box):
    box.run("mkdir -p /tmp/target /workspace/swap/d && echo secret > /tmp/target/secret && echo own > /workspace/swap/d/own")
    box.write("/tmp/swap.py", b"""
import ctypes, os, time
os.chdir('/workspace/swap')
os.symlink('/tmp/target', 'l')
libc = ctypes.CDLL(None)
while not os.path.exists('/workspace/swap/stop'):
    for _ in range(100):
        libc.renameat2(-100, b'd', -100, b'l', 2)  # AT_FDCWD, RENAME_EXCHANGE
open('/tmp/swap-ended', 'w')
""")
    box.run("nohup python3 /tmp/swap.py > /dev/null 2>&1 &")
    for _ in range(40):
        answer = box.get("/archive", params={"path": "/workspace/swap/d", "format": "tar"})
        assert b"secret" not in answer.content
        unpack(box, make_tar(("put", "file", b"x")), path="/workspace/swap/d/e")
    assert box.run("ls -R /tmp/target").split() == ["/tmp/target:", "secret"]
    box.run("touch /workspace/swap/stop; until test -e /tmp/swap-ended; do sleep 0.1; done; rm -rf /workspace/swap /tmp/target")


def test_2_9_large_archive_is_streamed(box, tmp_path):
    box.run("mkdir -p /workspace/large && cd /workspace/large && head -c 20000000 /dev/urandom > random && "
            "truncate -s 200000000 sparse && for i in $(seq 300); do echo $i > f$i; done", timeout=60)
    started = time.monotonic()
    first = None
    size = 0
    with box.client.stream("GET", box.base + "/archive", params={"path": "/workspace/large"}, timeout=120) as answer:
        assert answer.status_code == 200
        with open(tmp_path / "large.zip", "wb") as file:
            for chunk in answer.iter_bytes():
                first = first or time.monotonic() - started
                size += len(chunk)
                file.write(chunk)
    archive = zipfile.ZipFile(tmp_path / "large.zip")
    assert archive.testzip() is None
    assert archive.getinfo("sparse").file_size == 200000000
    assert len([n for n in archive.namelist() if n != "./"]) == 302
    assert 20000000 < size < 22000000
    box.run("rm -r /workspace/large")


def test_W14_a_directory_that_fails_half_way_cuts_the_connection(box):
    """A file that shrinks while it is read: the archive must not look complete."""
    # What comes before it is more than is held back: the answer has begun.
    box.run("mkdir -p /workspace/shrink && head -c 300000 /dev/urandom > /workspace/shrink/a")
    box.write("/tmp/shrink.py", b"""
import os, threading, time
os.makedirs('/workspace/shrink', exist_ok=True)
end = time.time() + 8
with open('/workspace/shrink/f', 'wb') as f:
    while time.time() < end:
        f.truncate(30000000); time.sleep(0.01); f.truncate(10)
""")
    box.run("python3 /tmp/shrink.py > /dev/null 2>&1 & until test -e /workspace/shrink/f; do sleep 0.05; done")
    cut = complete = 0
    for _ in range(8):
        raw = Raw(box.router, timeout=30)
        raw.send(f"GET {box.base}/archive?path=/workspace/shrink HTTP/1.1\r\nHost: x\r\nX-API-Key: {box.router.keys['u1']}\r\n\r\n")
        try:
            status, _, body = raw.response()
        except AssertionError:
            cut += 1
            continue
        finally:
            raw.socket.close()
        assert status == 200
        assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None
        complete += 1
    assert cut + complete == 8
    time.sleep(1)
    box.run("rm -rf /workspace/shrink")


def test_client_that_leaves_frees_everything(box):
    box.run("mkdir -p /workspace/leave && head -c 60000000 /dev/urandom > /workspace/leave/f", timeout=60)
    for _ in range(5):
        raw = Raw(box.router)
        raw.send(f"GET {box.base}/archive?path=/workspace/leave HTTP/1.1\r\nHost: x\r\nX-API-Key: {box.router.keys['u1']}\r\n\r\n")
        raw.socket.recv(1000)
        raw.socket.close()
    box.run("rm -r /workspace/leave")
    assert fetch(box, "/workspace/one")[1].namelist()


# ---- in: tar ----

def make_tar(*entries, gz=False, format=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if gz else "w", format=format) as tar:
        for name, kind, value in entries:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            info.mtime = 1600000000
            if kind == "file":
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))
                continue
            info.type = {"dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "char": tarfile.CHRTYPE,
                         "fifo": tarfile.FIFOTYPE}[kind]
            if kind == "dir":
                info.mode = 0o755
            info.linkname = value or ""
            info.devmajor, info.devminor = 1, 3
            tar.addfile(info)
    return buffer.getvalue()


def unpack(box, data, path="/workspace/in", **options):
    return box.put("/archive", params={"path": path}, content=data, headers={"Content-Type": "application/x-tar"}, **options)


def test_archive_in(box):
    data = make_tar(("d", "dir", None), ("d/file", "file", b"content"), ("ü €", "file", b"u"), ("l", "link", "d/file"),
                    ("x" * 150 + "/deep", "file", b"long"), ("big", "file", bytes(3 * MiB)))
    answer = unpack(box, data)
    assert answer.status_code in (200, 201), answer.text
    assert box.read("/workspace/in/d/file") == b"content"
    assert box.read("/workspace/in/l") == b"content"
    assert box.read("/workspace/in/" + "x" * 150 + "/deep") == b"long"
    assert box.run("stat -c %s /workspace/in/big").strip() == str(3 * MiB)
    assert answer.json()["path"] == "/workspace/in"


@pytest.mark.parametrize("framing", ["gnu", "ustar", "chunked"])
def test_archive_in_other_formats(box, framing):
    format = {"gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}.get(framing, tarfile.PAX_FORMAT)
    data = make_tar(("n" * 90, "file", b"1"), format=format)
    body = data if framing != "chunked" else (data[i:i + 700] for i in range(0, len(data), 700))
    answer = unpack(box, body, path=f"/workspace/in-{framing}")
    assert answer.status_code in (200, 201), answer.text
    assert box.read(f"/workspace/in-{framing}/" + "n" * 90) == b"1"


def test_archive_out_and_in_again(box):
    """What comes out of one directory as tar can be put into another, file by file the same."""
    _, archive = fetch(box, "/workspace/tree")
    entries = [(i.filename, "file", archive.read(i)) for i in archive.infolist()
               if stat.S_ISREG(i.external_attr >> 16) and "\n" not in i.filename]
    assert unpack(box, make_tar(*entries), path="/workspace/again").status_code in (200, 201)
    for name, _, value in entries:
        assert box.client.get(box.base + "/files/workspace/again/" + name).content == value


HOSTILE = {
    "dotdot": [("../escaped", "file", b"x")],
    "inner dotdot": [("a/../../escaped", "file", b"x")],
    "absolute": [("/tmp/escaped-absolute", "file", b"x")],
    "link then file": [("l", "link", "/tmp"), ("l/escaped-link", "file", b"x")],
    "relative link then file": [("m", "link", "../.."), ("m/tmp/escaped-link2", "file", b"x")],
    "hard link out": [("h", "hard", "/etc/passwd")],
    "hard link dotdot": [("h", "hard", "../tree/a.txt")],
    "device": [("null", "char", None)],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
def test_S13_hostile_entries_are_refused(box, entries):
    box.run("rm -rf /workspace/hostile && mkdir -p /workspace/hostile")
    answer = unpack(box, make_tar(*entries), path="/workspace/hostile")
    error_of(answer, 400)
    assert box.run("ls /workspace/escaped /tmp/escaped* /workspace/hostile/h /workspace/hostile/null 2>/dev/null; true") == ""


def test_S13_overwriting_through_a_link_that_is_there(box):
    box.run("rm -rf /workspace/through && mkdir -p /workspace/through && ln -s /tmp/victim /workspace/through/file && "
            "echo safe > /tmp/victim && ln -s /tmp /workspace/through/dir")
    unpack(box, make_tar(("file", "file", b"overwritten")), path="/workspace/through")
    error_of(unpack(box, make_tar(("dir/victim", "file", b"overwritten")), path="/workspace/through"), 400)
    assert box.read("/tmp/victim") == b"safe\n"


def bomb_header():
    info = tarfile.TarInfo("x")
    info.size = 10 << 30
    return info.tobuf(tarfile.GNU_FORMAT)


BROKEN = {
    "text": b"hello world" * 100,
    "cut": make_tar(("f", "file", bytes(100000)))[:50000],
    "size lies": bomb_header() + bytes(5000),
    "bad checksum": make_tar(("f", "file", b"1")).replace(b"ustar", b"vstar", 1),
    "nul name": make_tar(("f", "file", b"1"))[:0] + bytes(100) + b"0" * 412 + bytes(1024),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_S13_broken_archives_are_400(box, data):
    error_of(unpack(box, data, path="/workspace/broken"), (400, 413))


def test_S13_setuid_is_dropped(box):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("suid")
        info.mode = 0o6755
        info.uid = info.gid = 0
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    assert unpack(box, buffer.getvalue(), path="/workspace/suid").status_code in (200, 201)
    assert box.run("stat -c %a /workspace/suid/suid").strip() == "755"


def test_archive_in_needs_a_directory_below_the_workspace(box):
    for path in ("/etc", "/workspace/../etc", "/"):
        error_of(unpack(box, make_tar(("f", "file", b"1")), path=path), (400, 403))
