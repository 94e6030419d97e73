"""The agent as a process of its own: what it serves, and that killing it loses and doubles nothing."""

import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import AgentSettings, load
from agent.daemon import Agent
from agent.journal import encode_cursor
from agent.observation import Moment, Poll
from agent.report import decode
from agent.sources.table import SOURCES
from tests.agent.edac_tree import controller, total
from tests.agent.processes import Daemon, errors_metric, eventually

GOLDEN = Path(__file__).with_name("golden_metrics.txt")
SLOT = "mc0/channel0/slot0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    controller(tmp_path / "sys").create()
    return tmp_path


def test_every_device_stands_at_zero_and_the_page_is_golden(root: Path) -> None:
    with Daemon(root) as agent:
        assert agent.metrics()[errors_metric(SLOT)] == 0
        mc = controller(root / "sys")
        mc.inject("dimm0", 3)
        mc.inject("dimm1", 1, kind="ue")
        mc.inject_noinfo(2)
        eventually(lambda: sum(v for k, v in agent.metrics().items() if "memory_errors" in k) == 6)
        page = agent.get("/metrics")[1]
    assert "_created" not in page
    memory = page[: page.index("# HELP flipwatch_source_up")]
    memory = re.sub(r"(last_fault_timestamp_seconds\{.*\}) [0-9.e+]+", r"\1 TIME", memory)
    assert memory == GOLDEN.read_text()


def test_values_survive_a_kill_exactly(root: Path) -> None:
    mc = controller(root / "sys")
    with Daemon(root) as agent:
        mc.inject("dimm0", 3)
        eventually(lambda: agent.metrics()[errors_metric(SLOT)] == 3)
        before = {name: value for name, value in agent.metrics().items() if "_total" in name or "timestamp" in name}
        agent.kill()
        mc.inject("dimm0", 4)
        agent.start()
        after = agent.metrics()
        assert after[errors_metric(SLOT)] == 7, "what happened meanwhile is there before the first scrape"
        changed = {name for name, value in before.items() if after[name] != value}
        assert {name.partition("{")[0] for name in changed} <= {
            "flipwatch_memory_errors_total",
            "flipwatch_journal_faults_total",
            "flipwatch_device_last_fault_timestamp_seconds",
        }
        _, faults = agent.faults()
        assert [(fault.seq, fault.count) for fault in faults] == [(1, 3), (2, 4)]


def test_novelty_goes_through_the_whole_agent(root: Path) -> None:
    with Daemon(root) as agent:
        assert list(agent.faults()[0].watching) == ["dram"], "counters at zero for thirty days prove quiet"
        mc = controller(root / "sys")
        for expected in (1, 2):
            mc.inject("dimm0")
            eventually(lambda n=expected: len(agent.faults()[1]) == n)
        assert [fault.novel for fault in agent.faults()[1]] == [True, False]
        assert agent.metrics()['flipwatch_novel_faults_total{stream="dram"}'] == 1
        assert agent.metrics()['flipwatch_open_faults{severity="corrected",stream="dram"}'] == 1


def test_the_faults_of_a_cursor(root: Path) -> None:
    mc = controller(root / "sys")
    with Daemon(root) as agent:
        for number in range(1, 6):
            mc.inject("dimm0", number)
            eventually(lambda n=number: len(agent.faults()[1]) == n)
        header, faults = agent.faults()
        assert [fault.count for fault in faults] == [1, 2, 3, 4, 5]
        assert header.complete_until_ns <= header.time_ns and header.host == "host-1" and header.boot_id
        (span,) = header.journals
        assert (span.first_seq, span.last_seq) == (1, 5)

        cursor, collected = None, []
        while True:
            header, part = agent.faults(cursor, limit=2)
            assert agent.faults(cursor, limit=2)[1] == part, "asked again, the answer is the same"
            if not part:
                break
            collected += part
            cursor = header.cursor
        assert collected == faults
        mc.inject("dimm1")
        eventually(lambda: agent.faults(cursor)[1])
        assert [fault.device for fault in agent.faults(cursor)[1]] == ["mc0/channel0/slot1"]

        other = encode_cursor({"0" * 32: 99})
        assert [fault.seq for fault in agent.faults(other)[1]] == [1, 2, 3, 4, 5, 6]
        for bad in ("", "%00", "nonsense", "e30"):
            assert agent.get(f"/v1/faults?after={bad}")[0] == 400
        for bad in ("0", "-1", "x", "9" * 20, ""):
            status, sentence = agent.get(f"/v1/faults?limit={bad}")
            assert status == 400 and "limit" in sentence
        assert agent.get("/nothing")[0] == 404 and agent.get("/")[0] == 200


def test_a_journal_that_cannot_be_written_is_loud_and_shows_nothing(root: Path) -> None:
    mc = controller(root / "sys")
    with Daemon(root) as agent:
        assert agent.get("/healthz") == (200, "ok\n")
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        for count in (1, 2, 3):
            mc.inject("dimm0", count)
            eventually(lambda n=count: f"{n} faults wait" in agent.get("/healthz")[1])
        assert agent.get("/healthz")[0] == 503
        assert agent.faults()[1] == [] and agent.metrics()[errors_metric(SLOT)] == 0
        assert agent.metrics()["flipwatch_journal_writable"] == 0
        assert agent.faults()[0].complete_until_ns < agent.faults()[0].time_ns
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        eventually(lambda: agent.get("/healthz")[0] == 200)
        assert [(fault.seq, fault.count) for fault in agent.faults()[1]] == [(1, 1), (2, 2), (3, 3)]
        assert agent.metrics()["flipwatch_journal_dropped_total"] == 0
        agent.stop()
        assert sum("can't write" in line for line in agent.log) == 1, "one line, not one per poll"


def test_a_damaged_journal_is_told_and_a_new_one_begins(root: Path) -> None:
    mc = controller(root / "sys")
    with Daemon(root) as agent:
        for count in (1, 2):
            mc.inject("dimm0", count)
            eventually(lambda n=count: len(agent.faults()[1]) == n)
        (old,) = agent.faults()[0].journals
        agent.kill()
        (segment,) = (root / "state/memory").glob("*.log")
        data = bytearray(segment.read_bytes())
        data[data.rindex(b'"count":1')] ^= 1
        segment.write_bytes(data)
        agent.start()
        mc.inject("dimm0", 4)
        eventually(lambda: len(agent.faults()[1]) == 2)
        header, faults = agent.faults()
        assert [(f.journal == old.journal, f.seq, f.count) for f in faults] == [(True, 2, 2), (False, 1, 4)]
        assert agent.metrics()["flipwatch_journal_lost_faults"] == 1
        assert agent.metrics()["flipwatch_journal_damaged_bytes"] > 0
        assert len(header.journals) == 2
        agent.stop()
        assert any("the journal was damaged" in line for line in agent.log)


def test_idle_and_slow_clients_stop_no_scrape(root: Path) -> None:
    with Daemon(root) as agent:
        host, port = agent.url.removeprefix("http://").split(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(60)]
        try:
            for number, client in enumerate(clients):
                if number % 2:
                    client.sendall(b"GET /metrics HTTP/1.1\r\nHost:")  # and never the rest
            for _ in range(3):
                assert agent.metrics()[errors_metric(SLOT)] == 0
            threads = len(list(Path(f"/proc/{agent.process.pid}/task").iterdir()))
            assert threads < 30, "connections are bounded"
        finally:
            for client in clients:
                client.close()


def test_only_polls_wake_an_idle_agent(root: Path) -> None:
    """A thread that waits has to go on waiting: none looks every second whether there is something to do."""

    def written() -> int:
        return sum(file.stat().st_size for file in (root / "state").rglob("*.log"))

    with Daemon(root, settings={"heartbeat_s": 0.05}) as agent:
        before = eventually(lambda: _waits(agent.process.pid))
        for _ in range(15):  # polls, each of which writes a heartbeat
            size = written()
            eventually(lambda: written() > size)  # noqa: B023
        assert _waits(agent.process.pid) == before


def _waits(pid: int) -> dict[str, str] | None:
    """How often each thread but the main one began to wait; None unless all of them wait now."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)]
    found = {}
    for task in tasks:
        lines = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        if not lines["State"].startswith("S"):
            return None
        found[task.name] = lines["voluntary_ctxt_switches"]
    return found


def test_it_starts_itself_anew_in_the_environment_that_keeps_it_small(root: Path) -> None:
    with Daemon(root, environment={"MALLOC_ARENA_MAX": "3"}) as agent:
        environment = Path(f"/proc/{agent.process.pid}/environ").read_bytes().split(b"\0")
        assert b"PYTHONNODEBUGRANGES=1" in environment
        assert b"MALLOC_ARENA_MAX=3" in environment, "what is set there already stays"
        assert agent.stop() == 0


@pytest.mark.parametrize(
    "request_line", [b"GET http://[ HTTP/1.1", b"GET /\xff?\xfe HTTP/1.1", b"\x00\x01\x02", b"POST /metrics HTTP/1.1"]
)
def test_a_request_that_makes_no_sense_is_refused(root: Path, request_line: bytes) -> None:
    with Daemon(root) as agent:
        host, port = agent.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = client.makefile("rb").read()
        assert re.search(rb"\b(400|404|501)\b", answer)
        assert agent.stop() == 0 and not any("Traceback" in line for line in agent.log)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_it_wants(root: Path, tmp_path: Path, abstract: bool) -> None:
    path = f"\0flipwatch-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(30)
        environment = {"NOTIFY_SOCKET": path.replace("\0", "@"), "WATCHDOG_USEC": "200000"}
        with Daemon(root, environment=environment) as agent:
            heard = manager.recv(1000).decode()
            assert heard.startswith("READY=1\n") and "STATUS=watching 4 DIMMs, " in heard
            messages = [manager.recv(1000).decode() for _ in range(6)]
            assert "WATCHDOG=1" in messages and any(message.startswith("STATUS=") for message in messages)
            assert agent.stop() == 0
            rest = iter(lambda: manager.recv(1000).decode(), "STOPPING=1")
            assert len(list(rest)) < 100


def test_a_clean_stop_writes_the_last_heartbeat(root: Path) -> None:
    with Daemon(root, settings={"heartbeat_s": 3600}) as agent:
        complete_ns = agent.faults()[0].complete_until_ns
        eventually(lambda: agent.faults()[0].complete_until_ns > complete_ns + 10**9)
        last_ns = agent.faults()[0].complete_until_ns
        assert agent.stop() == 0
        controller(root / "sys").inject("dimm0")
        agent.start()
        (fault,) = agent.faults()[1]
        between_s = (fault.time_ns - last_ns) / 1e9 + 0.001  # the wall clock and the other are read one after the other
        assert fault.time_error_s <= between_s, "dated from the last poll, not from the last write"


def run_agent(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flipwatch", "agent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_what_keeps_it_from_starting_is_one_sentence(root: Path, tmp_path: Path) -> None:
    with Daemon(root) as agent:
        taken = agent.url.removeprefix("http://")
        config = root / "agent.toml"
        second = run_agent("--config", str(config))
        assert (second.returncode, second.stderr.count("\n")) == (2, 1)
        assert "another process writes this journal" in second.stderr
    for settings, words in (
        ({"listen": taken, "state_dir": str(tmp_path / "elsewhere")}, None),
        ({"listen": "a..b:80"}, "a..b:80"),
        ({"listen": "203.0.113.7:9861"}, "203.0.113.7:9861"),
        ({"state_dir": "/dev/null/state"}, "/dev/null"),
        ({"proc": str(tmp_path)}, "boot_id"),
    ):
        with socket.socket() as holder:
            if words is None:
                holder.bind(("127.0.0.1", int(taken.rpartition(":")[2])))
                holder.listen()
            config = Daemon(root, settings=settings).write_config()
            done = run_agent("--config", str(config))
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert (words or taken) in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_killed_in_a_loop_the_follower_ends_with_exactly_the_injected_errors(root: Path) -> None:
    rng = random.Random(3)
    mc = controller(root / "sys")
    agent = Daemon(root, settings={"poll_interval_s": 0.25})
    cursor, seen, counted = None, Counter(), Counter()

    def follow() -> None:
        nonlocal cursor
        header, faults = agent.faults(cursor, limit=3)
        for fault in faults:
            seen[fault.journal, fault.seq] += 1
            counted[fault.device] += fault.count
        cursor = header.cursor

    injected = Counter()
    for _ in range(8):
        with agent:
            for _ in range(rng.randrange(1, 12)):
                number = rng.randrange(4)
                mc.inject(f"dimm{number}", number + 1)
                injected[f"mc0/channel{number // 2}/slot{number % 2}"] += number + 1
                if rng.random() < 0.5:
                    follow()
            agent.signal(signal.SIGKILL)
    with agent:
        eventually(lambda: follow() or sum(counted.values()) >= total([mc]))
        follow()
        assert set(seen.values()) == {1}, "every seq once"
        assert counted == injected and sum(injected.values()) == total([mc])
        metrics = agent.metrics()
        assert {device: metrics[errors_metric(device)] for device in injected} == injected


def test_what_changes_back_while_the_journal_cannot_be_written_has_changed_back(root: Path) -> None:
    mc = controller(root / "sys")

    def polled_once_more() -> None:
        before_ns = agent.faults()[0].complete_until_ns
        eventually(lambda: agent.faults()[0].complete_until_ns > before_ns + 2 * 10**8)

    with Daemon(root) as agent:
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        for label in ("another", "label of dimm0"):
            mc.set("dimm0/dimm_label", label)
            polled_once_more()
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        mc.inject("dimm1")
        eventually(lambda: agent.faults()[1])
        assert 'label="label of dimm0"' in agent.get("/metrics")[1] and "another" not in agent.get("/metrics")[1]


def test_a_witness_with_a_defect_is_one_metric_and_one_line_and_the_others_go_on(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defective(_settings: AgentSettings, _cursor: dict, now: Moment) -> Poll:
        raise ValueError(f"what nobody\nforesaw at {now.time_ns}")

    rasdaemon = SOURCES["rasdaemon"]
    monkeypatch.setitem(SOURCES, "rasdaemon", replace(rasdaemon, poll=defective))
    mc = controller(root / "sys")
    agent = Agent(load(Daemon(root, settings={"tracefs": str(root / "no")}).write_config()))
    try:
        with caplog.at_level("INFO"):
            for number in range(1, 4):
                mc.inject("dimm0", number)
                agent._cycle()
            page = agent.metrics().decode()
            agent._sources["rasdaemon"] = rasdaemon
            agent._cycle()
            agent._cycle()
        faults = [decode(line) for line in agent.faults(None, 10).decode().splitlines()[1:]]
    finally:
        agent._server.server_close()
        agent._journal.close()
    assert [fault.count for fault in faults] == [1, 2, 3]
    assert 'flipwatch_source_up{source="rasdaemon"} 0.0' in page
    assert 'flipwatch_source_up{source="edac"} 1.0' in page
    lines = [line for line in caplog.messages if "rasdaemon" in line]
    assert len(lines) == 2 and "absent" in lines[1]
    assert "please report it: test_agent.py, line" in lines[0] and "ValueError: what nobody\\nforesaw at" in lines[0]
