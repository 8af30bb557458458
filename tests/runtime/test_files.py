"""Files, directories and archives: docs/runtime-protocol.md, lessons I9, S11 to S13, W-20, W-52."""

import io
import os
import pathlib
import socket
import stat
import tarfile
import urllib.parse

import pytest

from client import read_answer


def q(path):
    return urllib.parse.quote(str(path), safe="/")


@pytest.fixture
def tree(rt, tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("dir/file")
    (tmp_path / "out").symlink_to("/etc")
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


def test_stat(rt, tree):
    entry = rt.ask("GET", f"/stat?path={q(tree)}/dir/../dir//file").json()
    assert (entry["name"], entry["path"], entry["type"], entry["size"], entry["isDir"]) == ("file", f"{tree}/dir/file", "file", 10, False)
    for path in ("dir/file/..", "dir/none/../", "dir/x/y/../.."):  # what was cut off does not come back
        assert rt.ask("GET", f"/stat?path={q(tree)}/{path}").json()["path"] == f"{tree}/dir"
    assert rt.ask("GET", f"/stat?path={q(tree)}/link").json()["linkTarget"] == "dir/file"
    assert rt.ask("GET", f"/stat?path={q(tree)}/dir").json()["isDir"] is True
    rt.ask("GET", f"/stat?path={q(tree)}/none").error(404, "file_not_found")


def test_dir(rt, tree):
    (tree / "dir" / "ü").write_text("")
    with open(os.path.join(os.fsencode(tree), b"dir", b"bad\xff"), "w"):
        pass
    entries = rt.ask("GET", f"/dir?path={q(tree)}/dir").json()["entries"]
    assert [e["name"] for e in entries] == ["bad\ufffd", "file", "ü"]
    rt.ask("GET", f"/dir?path={q(tree)}/dir/file").error(400, "not_a_directory")
    rt.ask("GET", f"/dir?path={q(tree)}/none").error(404)


@pytest.mark.parametrize("header, status, body", [
    ("bytes=0-3", 206, b"0123"), ("bytes=4-", 206, b"456789"), ("bytes=9-20", 206, b"9"), ("bytes=10-", 416, None),
    ("bytes=5-4", 200, b"0123456789"), (None, 200, b"0123456789"),
])
def test_ranges(rt, tree, header, status, body):
    answer = rt.ask("GET", f"/files?path={q(tree)}/dir/file", headers=[("Range", header)] if header else [])
    assert answer.status == status
    if body is not None:
        assert answer.body == body and answer.headers["x-file-size"] == "10" and answer.headers["etag"].startswith('"')
    else:
        answer.error(416, "range_not_satisfiable")


def test_descriptor_passing(unix, tree):
    answer = unix.ask("GET", f"/files?path={q(tree)}/dir/file&pass=fd", headers=[("Range", "bytes=2-5")])
    assert answer.headers["x-file-length"] == "4" and answer.headers["x-file-offset"] == "2" and len(answer.fds) == 1
    fd = answer.fds[0]
    assert os.pread(fd, 100, 0) == b"0123456789"
    with pytest.raises(OSError):
        os.write(fd, b"x")
    os.close(fd)


def test_no_descriptor_over_tcp(tcp, tree):
    answer = tcp.ask("GET", f"/files?path={q(tree)}/dir/file&pass=fd")
    assert answer.status in (200, 400) and (answer.status == 400 or answer.body == b"0123456789")


def test_I9_put_is_atomic_and_checked(rt, tree):
    target = tree / "new" / "deep" / "file"
    answer = rt.ask("PUT", f"/files?path={q(target)}", b"hello")
    assert answer.status == 201 and answer.json()["bytes"] == 5 and answer.json()["created"] is True
    assert target.read_bytes() == b"hello"
    answer = rt.ask("PUT", f"/files?path={q(target)}", (b"x" * 1000 for _ in range(100)))
    assert answer.status == 201 and answer.json()["created"] is False and target.stat().st_size == 100000
    # shorter than announced: the old content stays, and nothing is left beside it
    with rt.connect() as connection:
        connection.sendall(rt.head("PUT", f"/files?path={q(target)}", [("Content-Length", 500000)]) + b"y" * 1000)
        connection.shutdown(socket.SHUT_WR)
        answer = read_answer(connection)
        assert answer is None or answer.status == 400
    assert target.read_bytes() == b"x" * 100000 and os.listdir(target.parent) == ["file"]


def test_put_keeps_mode_and_follows_a_link_to_a_file(rt, tree):
    os.chmod(tree / "dir" / "file", 0o751)
    assert rt.ask("PUT", f"/files?path={q(tree)}/link", b"through").status == 201
    assert (tree / "dir" / "file").read_bytes() == b"through" and (tree / "link").is_symlink()
    assert stat.S_IMODE((tree / "dir" / "file").stat().st_mode) == 0o751


NOT_FILES = ["fifo", "dir", "out"]


@pytest.mark.parametrize("name", NOT_FILES)
def test_S11_only_regular_files(rt, tree, name):
    rt.ask("GET", f"/files?path={q(tree)}/{name}").error(400, "not_a_file")
    rt.ask("PUT", f"/files?path={q(tree)}/{name}", b"x").error(400, "not_a_file")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/environ", "/proc/1/root/etc/passwd", "/proc/self/fd/0", "/sys/kernel/uevent_helper",
                                  "/dev/../proc/version"])
def test_S11_kernel_file_systems_and_devices(rt, path):
    for method, body in (("GET", None), ("PUT", b"x")):
        answer = rt.ask(method, f"/files?path={path}", body)
        assert answer.status in (400, 403, 404), (method, answer.body)
        answer.error(answer.status)


@pytest.mark.parametrize("query", ["", "path=", "path=relative", "path=%00", "path=/a%00b", "path=%zz", "path=/a&path=/b", "path=/" + "x" * 4097,
                                   "path=/" + "a/" * 3000, "other=/x"])
def test_S11_bad_paths(rt, query):
    for method, route, body in (("GET", "/files", None), ("PUT", "/files", b"x"), ("DELETE", "/files", None), ("GET", "/stat", None),
                                ("GET", "/dir", None), ("POST", "/mkdir", b""), ("GET", "/archive", None), ("PUT", "/archive", b"")):
        rt.ask(method, f"{route}?{query}", body).error(400, "bad_path")


def test_S11_strange_names_are_only_names(rt, tmp_path):
    for name in ("-rf", "a b", "'\"$(x)`;", "new\nline", "ü€", "%2e%2e", "\\", "*"):
        path = tmp_path / name
        assert rt.ask("PUT", f"/files?path={q(path)}", name.encode()).status == 201
        assert path.read_bytes() == name.encode()
        assert rt.ask("GET", f"/files?path={q(path)}").body == name.encode()
        assert rt.ask("DELETE", f"/files?path={q(path)}").status == 204
    assert os.listdir(tmp_path) == []


def test_delete(rt, tree):
    rt.ask("DELETE", f"/files?path={q(tree)}/dir").error(409, "directory_not_empty")
    assert rt.ask("DELETE", f"/files?path={q(tree)}/out&recursive=true").status == 204
    assert pathlib.Path("/etc").is_dir()
    assert rt.ask("DELETE", f"/files?path={q(tree)}/dir&recursive=true").status == 204
    assert not (tree / "dir").exists()
    rt.ask("DELETE", f"/files?path={q(tree)}/dir").error(404)
    for path in ("/", "/proc", "/.."):
        rt.ask("DELETE", f"/files?path={path}&recursive=true").error(403)


def test_mkdir(rt, tree):
    assert rt.ask("POST", f"/mkdir?path={q(tree)}/a/b/c", b"").status == 201
    assert rt.ask("POST", f"/mkdir?path={q(tree)}/a/b/c", b"").status == 200
    rt.ask("POST", f"/mkdir?path={q(tree)}/dir/file", b"").error(409, "not_a_directory")
    rt.ask("POST", f"/mkdir?path={q(tree)}/dir/file/x", b"")


# ---- archives ----

def make_tar(*entries):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, kind, value in entries:
            info = tarfile.TarInfo(name)
            info.type = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE,
                         "char": tarfile.CHRTYPE}[kind]
            info.mode = 0o4755 if kind == "file" else 0o755
            if kind == "file":
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))
            else:
                info.linkname = value or ""
                tar.addfile(info)
    return data.getvalue()


def test_archive_out(rt, tree):
    answer = rt.ask("GET", f"/archive?path={q(tree)}")
    assert answer.headers["content-type"] == "application/x-tar" and not answer.cut
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        assert sorted(tar.getnames()) == ["dir", "dir/file", "link", "out"]
        assert tar.getmember("out").issym() and tar.extractfile("dir/file").read() == b"0123456789"
    rt.ask("GET", f"/archive?path={q(tree)}/dir/file").error(400, "not_a_directory")


def test_archive_in(rt, tree):
    data = make_tar(("d", "dir", None), ("d/f", "file", b"content"), ("l", "link", "d/f"), ("h", "hard", "d/f"))
    answer = rt.ask("PUT", f"/archive?path={q(tree)}/in", data)
    assert answer.status == 200 and answer.json()["entries"] == 4
    assert (tree / "in" / "h").read_bytes() == b"content" and os.readlink(tree / "in" / "l") == "d/f"
    assert stat.S_IMODE((tree / "in" / "d" / "f").stat().st_mode) == 0o755  # never setuid


@pytest.mark.parametrize("entries", [
    [("../x", "file", b"x")], [("/tmp/at-escaped", "file", b"x")], [("a/../../x", "file", b"x")],
    [("l", "link", "/tmp"), ("l/at-escaped", "file", b"x")], [("h", "hard", "/etc/passwd")], [("h", "hard", "../dir/file")],
    [("c", "char", None)],
])
def test_S13_hostile_archives(rt, tree, entries):
    rt.ask("PUT", f"/archive?path={q(tree)}/in", make_tar(*entries)).error(400, "bad_archive")
    assert not (tree / "x").exists() and not os.path.exists("/tmp/at-escaped")


def test_S12_within(rt, tree):
    (tree / "root").mkdir()
    (tree / "root" / "real").mkdir()
    for name, target in (("away", "../dir"), ("absolute", str(tree / "dir")), ("inside", "real"), ("inside2", str(tree / "root/real"))):
        (tree / "root" / name).symlink_to(target)
    data = make_tar(("f", "file", b"x"))
    within = f"&within={q(tree)}/root"
    for name in ("away", "absolute", "away/deep", "real/../../dir", "inside/../away"):
        target = f"/archive?path={q(tree)}/root/{name}{within}"
        rt.ask("PUT", target, data).error(400, "bad_path")
    for name in ("away", "absolute"):
        rt.ask("GET", f"/archive?path={q(tree)}/root/{name}{within}").error(400, "bad_path")
    assert os.listdir(tree / "dir") == ["file"]
    for name in ("inside", "inside2", "real/new/deep", "inside/new2"):
        assert rt.ask("PUT", f"/archive?path={q(tree)}/root/{name}{within}", data).status == 200
        assert rt.ask("GET", f"/archive?path={q(tree)}/root/{name}{within}").status == 200
    rt.ask("GET", f"/archive?path={q(tree)}/root-other{within}").error(400, "bad_path")
    rt.ask("GET", f"/archive?path={q(tree)}/root/real/f/x{within}").error(400, "not_a_directory")
    rt.ask("PUT", f"/archive?path={q(tree)}/root/real/f{within}", data).error(409)


def test_W14_a_file_that_cannot_be_read_cuts_the_archive(rt, tree):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    os.chmod(tree / "dir" / "file", 0)
    assert rt.ask("GET", f"/archive?path={q(tree)}").cut
