"""Commands: http-api.md 2.8, lessons I1 to I8, I30 and I31."""

import concurrent.futures
import json
import socket
import time

import pytest

from harness import MiB, Raw, error_of, wait_for

LIMIT = 8 * MiB


def alive(box, pattern):
    """How many processes of the sandbox have `pattern` in their arguments."""
    script = ("import os\nn = 0\nfor p in os.listdir('/proc'):\n"
              "    try: n += p.isdigit() and int(p) != os.getpid() and PATTERN in open(f'/proc/{p}/cmdline').read()\n"
              "    except OSError: pass\nprint(n)").replace("PATTERN", f"{pattern[:3]!r} + {pattern[3:]!r}")
    return int(box.exec(["python3", "-c", script])["stdout"])


# ---- what comes back ----

@pytest.mark.tsan
def test_2_8_answer_has_all_members(box):
    result = box.exec("echo out; echo err >&2")
    assert (result["stdout"], result["stderr"], result["exitCode"]) == ("out\n", "err\n", 0)
    assert isinstance(result["durationMs"], int) and 0 <= result["durationMs"] < 20000
    assert result["timedOut"] is False and result["truncated"] is False


@pytest.mark.parametrize("command, code", [("true", 0), ("false", 1), ("exit 255", 255), ("exit 300", 300 & 255),
                                           ("no-such-command-here", 127), ("/etc/passwd", 126), (["sh", "-c", "exit 9"], 9)])
def test_I6_exit_codes(box, command, code):
    assert box.exec(command)["exitCode"] == code


def test_2_8_killed_by_a_signal_is_never_0(box):
    result = box.exec("kill -9 $$")
    assert result["exitCode"] in (-1, 137)


def test_2_8_argv_that_cannot_start(box):
    result = box.exec(["/no/such/program"])
    assert result["exitCode"] in (-1, 127)
    assert "[runtime] " in result["stderr"].splitlines()[-1]


@pytest.mark.parametrize("command", [["printf", "%s|", "a b", "$HOME", "*", "'\"`;\n", "-x", ""],
                                     ["sh", "-c", 'printf "%s|" "$@"', "sh", "ü", "\t"]])
def test_S14_argv_is_passed_exactly(box, command):
    rest = command[2:] if command[0] == "printf" else command[4:]
    assert box.exec(command)["stdout"] == "".join(a + "|" for a in rest)


def test_tutorial_4_list_of_the_tutorial(box):
    assert box.exec(["bash", "-lc", "echo $USER; echo $HOME; pwd"])["exitCode"] == 0


def test_2_8_stdin_is_empty_not_a_terminal(box):
    result = box.exec("cat; [ -t 0 ] || echo no tty", timeout=10)
    assert (result["stdout"], result["exitCode"]) == ("no tty\n", 0)


def test_2_8_starts_in_the_workspace(box):
    assert box.run("pwd") == "/workspace\n"


def test_2_8_environment_and_working_directory_of_one_command(box):
    result = box.exec("echo $GREETING; pwd", env={"GREETING": "a b$c"}, workingDir="/tmp")
    assert result["stdout"] == "a b$c\n/tmp\n"


def test_2_8_long_argument_up_to_the_kernel_limit(box):
    text = "x" * 100_000
    assert box.exec(["printf", "%s", text])["stdout"] == text
    result = box.exec("printf %s '" + "y" * 120_000 + "' | wc -c")
    assert result["stdout"].strip() == "120000"


def test_2_8_a_command_longer_than_one_argument_may_be(box):
    """The kernel takes 128 KiB for one argument: a named error, not silence."""
    answer = box.post("/exec", json={"command": "true " + "z" * 200_000})
    if answer.status_code == 200:
        result = answer.json()
        assert result["exitCode"] == 0 or (result["exitCode"] == -1 and result["stderr"])
    else:
        error_of(answer, 400)


# ---- bytes ----

def test_I30_multibyte_text_survives_chunk_borders(box):
    box.write("/tmp/euro.py", b"import sys\nfor i in range(100000): sys.stdout.write('\\u20ac\\U0001f600')\n")
    assert box.run("python3 /tmp/euro.py") == "€😀" * 100000


def test_I30_bytes_that_are_not_text_become_replacement_characters(box):
    result = box.exec(r"printf 'a\377b\303(\342\202'")
    assert result["stdout"].startswith("a\ufffdb")
    assert result["stdout"].endswith("\ufffd")
    assert "(" in result["stdout"]


def test_I30_nul_and_control_bytes(box):
    assert box.exec(r"printf 'a\000b\033[1mc\r\n'")["stdout"] == "a\x00b\x1b[1mc\r\n"


def test_I11_all_output_of_a_command_that_ends_at_once(box):
    for size in (0, 1, 4095, 4096, 65535, 65536, 65537, MiB, LIMIT):
        assert len(box.run(f"head -c {size} /dev/zero | tr '\\0' a")) == size


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_1_12_output_above_8_MiB_is_cut_and_marked(box, stream):
    redirect = "" if stream == "stdout" else " >&2"
    result = box.exec(f"(head -c {LIMIT + 1000} /dev/zero | tr '\\0' a){redirect}; exit 3", timeout=60)
    assert result["exitCode"] == 3
    assert result["truncated"] is True
    text = result[stream]
    assert text.endswith("\n[truncated]") or text.endswith("\n[truncated]\n")
    assert text.count("a") == LIMIT + (1 if "[truncated]" in text else 0)


def test_1_12_endless_output_ends_with_the_timeout(box):
    started = time.monotonic()
    result = box.exec("yes", timeout=3)
    assert time.monotonic() - started < 12
    assert result["timedOut"] and result["truncated"] and result["exitCode"] == -1
    assert len(result["stdout"]) <= LIMIT + 20


# ---- bad requests ----

@pytest.mark.parametrize("body", [
    {}, {"command": ""}, {"command": []}, {"command": [""]}, {"command": [5]}, {"command": ["a", None]}, {"command": 5},
    {"command": {}}, {"command": None}, {"command": "x\x00y"}, {"command": ["a\x00b"]}, {"command": "true", "timeout": "5"},
    {"command": "true", "timeout": -1}, {"command": "true", "timeout": 1.5}, {"command": "true", "timeout": True},
    {"command": "true", "env": []}, {"command": "true", "env": {"A": 5}}, {"command": "true", "env": {"A=B": "c"}},
    {"command": "true", "env": {"": "c"}}, {"command": "true", "workingDir": 5}, [], "x",
])
def test_2_8_bad_bodies_are_400(box, body):
    error_of(box.client.post(box.base + "/exec", json=body), 400)


def test_2_8_timeouts_at_the_edges(box):
    assert box.exec("true", timeout=0)["exitCode"] == 0  # 0: the default
    assert box.exec("true", timeout=1800)["exitCode"] == 0
    assert box.post("/exec", json={"command": "true", "timeout": 2**31 - 1}).json()["exitCode"] == 0  # clamped


def test_1_3_lookup_then_phase_then_body(box, u2):
    error_of(u2.post(box.base + "/exec", content=b"{"), 404)


# ---- ends ----

def test_I2_timeout_kills_the_whole_tree(box):
    """Also what hides behind setsid, double forks and ignored signals."""
    box.write("/tmp/hide.sh", b"""
trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 1.1001; done' &
(setsid setsid sleep 611.7 &) &
sleep 612.7 &
python3 -c '
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(613.7)
    os._exit(0)
os.wait()
' hidden-613.7
while :; do sleep 1.1002; done
""")
    started = time.monotonic()
    result = box.exec("sh /tmp/hide.sh", timeout=2)
    elapsed = time.monotonic() - started
    assert result["timedOut"] and result["exitCode"] == -1
    assert elapsed < 10, elapsed  # TERM, 2 s, KILL: before timeout + 10 s
    for pattern in ("sleep\x00611.7", "sleep\x00612.7", "613.7", "1.1001", "hide.sh"):
        wait_for(lambda: alive(box, pattern) == 0, 3, what=f"end of {pattern!r}")


def test_I4_term_comes_before_kill(box):
    result = box.exec("trap 'echo cleaned up; exit 0' TERM; while :; do sleep 0.1; done", timeout=3)
    assert result["stdout"] == "cleaned up\n"
    assert result["timedOut"] and result["exitCode"] == -1


def test_I4_output_before_the_timeout_is_kept(box):
    result = box.exec("echo before; sleep 30; echo after", timeout=3)
    assert result["stdout"] == "before\n" and result["timedOut"]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_I1_I3_disconnect_kills_the_command(box, how):
    marker = f"sleep 7{how.__len__()}1.25"
    body = json.dumps({"command": f"setsid {marker} & {marker}", "timeout": 600})
    raw = Raw(box.router)
    raw.send(f"POST {box.base}/exec HTTP/1.1\r\nHost: x\r\nX-API-Key: {box.router.keys['u1']}\r\n"
             f"Content-Length: {len(body)}\r\n\r\n{body}")
    pattern = marker.replace(" ", "\x00")
    wait_for(lambda: alive(box, pattern) == 2, what="start of the command")
    if how == "reset":
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    raw.socket.close()
    wait_for(lambda: alive(box, pattern) == 0, what="end of the command")


def test_tutorial_7_background_processes_survive_and_do_not_delay(box):
    for command in ("nohup sleep 333.1 > /dev/null 2>&1 &", "sleep 333.2 &", "setsid sleep 333.3 > /dev/null 2>&1 &",
                    "(sleep 333.4; echo late) & echo early"):
        started = time.monotonic()
        result = box.exec(command)
        assert time.monotonic() - started < 30, command
        assert result["exitCode"] == 0 and not result["timedOut"]
        assert "late" not in result["stdout"]
    time.sleep(1)
    for n in (1, 2, 3, 4):
        wait_for(lambda: alive(box, f"sleep\x00333.{n}") == 1, what=f"sleep 333.{n}")
    box.exec("kill $(ps -eo pid=,args= 2>/dev/null | grep '[s]leep 333' | awk '{print $1}') 2>/dev/null; true")


def test_I4_background_processes_outlive_the_timeout_of_others(box):
    box.run("nohup sleep 444.1 > /dev/null 2>&1 &")
    wait_for(lambda: alive(box, "sleep\x00444.1") == 1, what="the background process")
    assert box.exec("sleep 60", timeout=1)["timedOut"]
    assert alive(box, "sleep\x00444.1") == 1


def test_I2_orphans_are_reaped(box):
    box.run("for i in $(seq 50); do (true &) ; done")
    script = "import os,re\nprint(sum('State:\\tZ' in open(f'/proc/{p}/status').read() for p in os.listdir('/proc') if p.isdigit()))"
    wait_for(lambda: box.exec(["python3", "-c", script])["stdout"].strip() == "0", what="no zombies")


def test_I7_a_stopped_command_meets_its_deadline(box):
    started = time.monotonic()
    result = box.exec("kill -STOP $$", timeout=2)
    assert result["timedOut"]
    assert time.monotonic() - started < 20


def test_I5_a_silent_command_keeps_the_connection_busy_or_answers(box):
    """A long silent command: either bytes flow before the end, or at least the answer is right."""
    assert box.exec("sleep 12; echo done", timeout=40)["stdout"] == "done\n"


# ---- at the same time ----

@pytest.mark.tsan
def test_9_execs_run_in_parallel(box):
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        results = list(pool.map(lambda i: box.exec(f"sleep 3; echo {i}")["stdout"], range(10)))
    assert results == [f"{i}\n" for i in range(10)]
    assert time.monotonic() - started < 25  # one after the other they take 30 s


def test_slow_command_of_one_client_does_not_block_another(keyed, box):
    box.run("rm -rf /tmp/slow; mkdir /tmp/slow")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(box.exec, f"touch /tmp/slow/{i}; until test -e /tmp/slow/go; do sleep 0.1; done", timeout=120) for i in range(8)]
        wait_for(lambda: len(box.run("ls /tmp/slow").split()) == 8, what="eight slow commands")
        with keyed.client("u2") as other:
            for _ in range(20):
                assert other.get("/api/v1/user/me").status_code == 200
        assert not any(f.done() for f in slow)
        box.run("touch /tmp/slow/go")
        assert all(f.result()["exitCode"] == 0 for f in slow)


@pytest.mark.tsan
def test_many_short_commands(box):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: box.exec(f"echo {i}")["stdout"], range(100))) == [f"{i}\n" for i in range(100)]


def test_W71_more_commands_than_the_limit_are_429_or_wait(box):
    with concurrent.futures.ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(lambda i: box.post("/exec", json={"command": "sleep 3"}, timeout=60), range(80)))
    codes = [a.status_code for a in answers]
    assert set(codes) <= {200, 429}, codes
    assert codes.count(200) >= 60
    for answer in answers:
        if answer.status_code == 429:
            error_of(answer)
    assert box.exec("echo still here")["stdout"] == "still here\n"


# ---- again ----

def test_I8_I31_idempotency_key_runs_the_command_once(box):
    box.exec("rm -f /tmp/once")
    headers = {"Idempotency-Key": "exec-once-1"}
    answers = [box.post("/exec", json={"command": "echo x >> /tmp/once; wc -l < /tmp/once"}, headers=headers) for _ in range(3)]
    assert [a.status_code for a in answers] == [200] * 3, answers[-1].text
    assert {a.json()["stdout"].strip() for a in answers} == {"1"}
    assert box.read("/tmp/once") == b"x\n"


def test_I8_retry_while_the_first_still_runs_attaches_to_it(box):
    box.run("rm -f /tmp/once2 /tmp/once2-go")
    body = json.dumps({"command": "echo x >> /tmp/once2; until test -e /tmp/once2-go; do sleep 0.05; done; cat /tmp/once2"})
    with Raw(box.router) as raw:
        raw.send(f"POST {box.base}/exec HTTP/1.1\r\nHost: x\r\nX-API-Key: {box.router.keys['u1']}\r\nIdempotency-Key: exec-once-2\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n{body}")
        wait_for(lambda: box.get("/files/tmp/once2").status_code == 200, what="the first command")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # whoever sent it has given up
        retry = pool.submit(box.post, "/exec", content=body, headers={"Idempotency-Key": "exec-once-2"})
        time.sleep(1)  # it gets there meanwhile
        assert not retry.done()
        box.write("/tmp/once2-go", b"")
        answer = retry.result()
    assert (answer.status_code, answer.json()["stdout"]) == (200, "x\n")


def test_I31_same_key_with_another_body_is_409(box):
    headers = {"Idempotency-Key": "exec-once-3"}
    assert box.post("/exec", json={"command": "echo 1"}, headers=headers).status_code == 200
    error_of(box.post("/exec", json={"command": "echo 2"}, headers=headers), 409)


def test_4_3_activity_is_recorded(keyed, fresh):
    handle = keyed.sandbox(fresh, key="u1", idleTimeout="20s")
    before = handle.get().json()["lastActivityAt"]

    def newer():
        handle.run("true")
        return handle.get().json()["lastActivityAt"] > before
    wait_for(newer, interval=0.5, what="newer lastActivityAt")
    handle.remove()
