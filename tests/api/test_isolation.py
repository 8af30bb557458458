"""What code in a sandbox can see and do: the machine, other sandboxes and the Router are out of its
reach (docs, lessons I27, S15, O7)."""

import json
import os
import pathlib
import re

import pytest

from harness import Router, processes_of, wait_for


@pytest.fixture(scope="module")
def pair(keyed):
    """Two sandboxes of different users."""
    a, b = keyed.sandbox("iso-a", key="u1"), keyed.sandbox("iso-b", key="u2")
    yield a, b
    a.remove()
    b.remove()


def python(box, source):
    box.write("/tmp/probe.py", source.encode())
    return box.exec("python3 /tmp/probe.py")


def test_identity_is_not_root(pair):
    a, _ = pair
    assert a.run("id -u").strip() != "0"
    status = a.run("cat /proc/self/status")
    for line in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh"):
        assert re.search(rf"^{line}:\s+0+$", status, re.M), line
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    assert re.search(r"^Seccomp:\s+2$", status, re.M)


def test_uid_outside_is_not_root(keyed, pair):
    a, _ = pair
    a.run("nohup sleep 765.25 > /dev/null 2>&1 &")

    def sleepers():  # nohup becomes one a moment later
        return [pid for pid, arguments in processes_of(keyed.state_dir.name).items() if arguments == "sleep 765.25"]
    pids = wait_for(sleepers, what="the command")
    assert len(pids) == 1
    uids = re.search(r"^Uid:\s+(.*)$", pathlib.Path(f"/proc/{pids[0]}/status").read_text(), re.M)[1].split()
    if os.getuid() == 0:
        assert "0" not in uids, "code in a sandbox runs as root of the machine"
    assert pathlib.Path(f"/proc/{pids[0]}/ns/pid").readlink() != pathlib.Path("/proc/self/ns/pid").readlink()
    for namespace in ("user", "mnt", "pid", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pids[0]}/ns/{namespace}") != os.readlink(f"/proc/self/ns/{namespace}"), namespace


def test_files_of_the_machine_are_hidden(keyed, pair):
    a, _ = pair
    pathlib.Path(keyed.state_dir, "top-secret").write_text("TOP SECRET")
    for path in (keyed.state_dir, "/root", "/home", "/var/lib", "/etc/shadow", "/etc/ssh", "/boot", "/mnt", "/media", "/srv", "/work",
                 "/etc/ssl/private", "/var/log", "/var/run/docker.sock", "/run/containerd", "/run/dbus", "/sys/fs/cgroup/cgroup.procs"):
        result = a.exec(["sh", "-c", 'cat "$0" 2>/dev/null; ls -A "$0" 2>/dev/null', str(path)])
        if str(path) in ("/home", "/root"):
            assert set(result["stdout"].split()) <= {"sandbox", ".bashrc", ".profile", ".cache"}, (path, result["stdout"])
            continue
        assert result["stdout"].strip() == "", (path, result["stdout"])
    result = python(a, f"""
import os
for root, dirs, files in os.walk('/'):
    dirs[:] = [d for d in dirs if os.path.join(root, d) not in ('/proc', '/sys', '/usr')]
    for name in dirs + files:
        if 'top-secret' in name or {keyed.state_dir.name!r} in name: print(os.path.join(root, name))
""")
    assert result["stdout"] == "" and result["exitCode"] == 0, result


def test_what_etc_shows_of_the_machine_is_read_only(pair):
    a, _ = pair
    shown = [name for name in ("alternatives", "ssl/certs", "perl", "terminfo") if pathlib.Path("/etc", name).is_dir()]
    assert shown, "this machine has none of them"
    mounts = {}
    for line in a.run("cat /proc/self/mountinfo").splitlines():
        fields = line.split()
        mounts[fields[4]] = set(fields[5].split(","))
    for name in shown:
        assert mounts[f"/etc/{name}"] >= {"ro", "nosuid", "nodev"}, (name, mounts)
        listed = set(a.run(f"ls -A /etc/{name}").splitlines())
        assert listed == set(os.listdir(f"/etc/{name}")), name
    loose = {place: options for place, options in mounts.items() if place.startswith("/etc") and not options >= {"ro", "nosuid", "nodev"}}
    assert not loose


def test_system_folders_are_read_only(pair):
    a, _ = pair
    for path in ("/usr/x", "/etc/x", "/bin/x", "/lib/x", "/x", "/proc/sys/kernel/core_pattern", "/sys/x", "/usr/bin/python3"):
        assert a.exec(["sh", "-c", 'echo x > "$0"', path])["exitCode"] != 0, path
    for path in ("/workspace/x", "/tmp/x", "/dev/null", "/dev/shm/x"):
        assert a.exec(["sh", "-c", 'echo x > "$0"', path])["exitCode"] == 0, path


def test_setuid_programs_are_powerless(pair):
    a, _ = pair
    result = a.exec("for p in su mount passwd sudo newgrp; do command -v $p; done; su -c id root < /dev/null; mount -t tmpfs none /tmp")
    assert result["exitCode"] != 0 and "uid=0" not in result["stdout"]


def test_other_processes_are_invisible(keyed, pair):
    a, b = pair
    b.run("nohup sleep 876.5 > /dev/null 2>&1 &")
    listing = a.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "876.5" not in listing and "agenttier-router" not in listing and str(keyed.state_dir) not in listing
    count = int(a.run("ls -d /proc/[0-9]* | wc -l"))
    assert count < 30
    # Whoever has the Router's number in there, it is not the Router.
    found = a.exec(f"kill -0 {keyed.process.pid} && tr '\\0' ' ' < /proc/{keyed.process.pid}/cmdline")
    assert found["exitCode"] != 0 or "agenttier-router" not in found["stdout"]


def test_other_sandboxes_files_are_invisible(pair):
    a, b = pair
    a.write("/workspace/private", b"of a")
    a.run("echo of a > /tmp/private; echo of a > /dev/shm/private")
    for path in ("/workspace/private", "/tmp/private", "/dev/shm/private"):
        assert b.exec(f"cat {path}")["exitCode"] != 0, path


def test_network_is_loopback_only(keyed, pair):
    a, b = pair
    interfaces = python(a, "import socket; print([name for _, name in socket.if_nameindex()])")["stdout"].strip()
    assert interfaces == "['lo']"
    result = python(a, f"""
import socket
def attempt(host, port):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET); s.settimeout(2)
    try: s.connect((host, port)); return 'connected'
    except OSError as e: return 'refused'
print(attempt('127.0.0.1', {keyed.port}), attempt('169.254.169.254', 80), attempt('192.0.2.1', 80), attempt('1.1.1.1', 443),
      attempt('::1', {keyed.port}))
s = socket.create_server(('127.0.0.1', 7654)); c = socket.create_connection(('127.0.0.1', 7654)); print('loopback works')
""")
    assert result["stdout"] == "refused refused refused refused refused\nloopback works\n", result


def test_abstract_sockets_of_the_machine_are_out_of_reach(pair):
    import socket
    a, _ = pair
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0at-test-abstract-{os.getpid()}")
        server.listen()
        result = python(a, "import socket; s = socket.socket(socket.AF_UNIX); "
                           f"s.connect('\\0at-test-abstract-{os.getpid()}'); print('connected')")
    assert "connected" not in result["stdout"]


def test_O7_I27_nothing_of_ours_is_in_the_environment(keyed, pair):
    a, _ = pair
    environment = a.run("env; cat /proc/self/environ /proc/1/environ 2>/dev/null | tr '\\0' '\\n'")
    assert not re.search(r"TOKEN|SECRET|API_KEY|atk_|PASSWORD|ASAN|at-test-", environment), environment
    names = {line.split("=")[0] for line in environment.splitlines() if "=" in line}
    assert {"HOME", "PATH"} <= names
    leaked = {name for name in os.environ if name not in names and False} | (names & {"LS_COLORS", "SSH_AUTH_SOCK", "VIRTUAL_ENV", "SUDO_USER",
                                                                                      "PYTEST_CURRENT_TEST", "XDG_RUNTIME_DIR"})
    assert not leaked


def test_open_descriptors_are_only_the_standard_ones(pair):
    a, _ = pair
    result = python(a, "import os; print(sorted(os.listdir('/proc/self/fd'))); "
                       "print([os.readlink(f'/proc/self/fd/{f}') for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}')])")
    assert result["stdout"].splitlines()[0] == "['0', '1', '2', '3']", result["stdout"]  # 3 lists the folder
    for line in result["stdout"].splitlines()[1:]:
        assert "at-test" not in line


DANGEROUS = {
    "unshare user": "unshare(0x10000000)", "unshare mount": "unshare(0x20000)", "mount": "mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "umount": "umount2(b'/proc', 2)", "pivot_root": "syscall(155, b'/tmp', b'/tmp')", "setns": "setns(0, 0)",
    "bpf": "syscall(321, 0, 0, 0)", "perf_event_open": "syscall(298, 0, 0, -1, -1, 0)", "kexec_load": "syscall(246, 0, 0, 0, 0)",
    "init_module": "syscall(175, 0, 0, 0)", "add_key": "syscall(248, b'user', b'x', b'y', 1, -2)", "keyctl": "syscall(250, 0, -3, 0)",
    "ptrace init": "ptrace(16, 1, 0, 0)", "reboot": "syscall(169, 0, 0, 0)", "swapon": "swapon(b'/x', 0)", "acct": "acct(b'/x')",
    "clone user": "syscall(56, 0x10000011, 0, 0, 0, 0)", "userfaultfd": "syscall(323, 0)", "io_uring_setup": "syscall(425, 1, 0)",
    "open_by_handle_at": "syscall(304, -100, 0, 0)", "settimeofday": "settimeofday(b'\\0' * 16, 0)", "personality": "syscall(135, 0x400000)",
    "tiocsti": "ioctl(0, 0x5412, b'x')",
}


@pytest.mark.parametrize("call", DANGEROUS.values(), ids=DANGEROUS.keys())
def test_seccomp_refuses_dangerous_calls(pair, call):
    a, _ = pair
    result = python(a, f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
r = libc.{call}
import os
if r == 0 and 'clone' in {call!r}: os._exit(0)
print(r, ctypes.get_errno())
""")
    assert result["stdout"].startswith("-1 ") or result["exitCode"] != 0, result
    assert "-1 0" not in result["stdout"]


def test_limits_hold_a_fork_bomb(pair):
    a, b = pair
    a.exec("python3 -c 'import os\nfor _ in range(100000):\n try:\n  if os.fork() == 0: import time; time.sleep(20); os._exit(0)\n"
           " except OSError: break'", timeout=8)
    assert b.run("echo fine") == "fine\n"
    wait_for(lambda: (r := a.post("/exec", json={"command": "echo again"})).status_code == 200 and r.json()["stdout"] == "again\n", 90,
             what="the sandbox usable again")


def test_S28_hostile_names_in_the_log(keyed, pair):
    a, _ = pair
    a.client.get(a.base + "/files/workspace/%0aFAKE%20LOG%20LINE%1b[31m", headers={"User-Agent": "x\ty\x1b[31mz"})
    for line in keyed.log.read_bytes().splitlines():
        assert not line.startswith(b"FAKE")
        assert b"\x1b" not in line


def test_host_environment_of_the_router_stays_outside(tmp_path):
    with Router(dev_auth=True, env={"AWS_SECRET_ACCESS_KEY": "leak-me-not", "DATABASE_URL": "leak-me-too"}) as router:
        handle = router.sandbox("env-check")
        assert "leak-me" not in handle.run("env; cat /proc/*/environ 2>/dev/null; true")
        assert json.loads(handle.get().text)["status"] == "Running"
