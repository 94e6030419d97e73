"""The self-test of the cores: who is tested when, who is blamed, and when that is a fault; then on the real cores."""

import json
import os
import random
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent import config, core_tester, cores, daemon
from agent.core_tester import CoreTester
from agent.cores import Check
from agent.metrics import SourceStatus
from agent.novelty import DAY_NS, QUIET_NS
from agent.observation import Moment, Poll
from agent.reconcile import reconcile, watching
from agent.report import MemoryFault, decode
from checksum import affinity, crc32c
from checksum.crc32c import Buffer
from tests.agent.processes import Daemon, eventually

PERIOD_S = 3600.0
FAST, TABLE = crc32c.kernels()[0], crc32c.kernels()[-1]


def moment(seconds: float, boot: str = "boot-1") -> Moment:
    return Moment(time_ns=int(1e18 + seconds * 1e9), boottime_ns=int(seconds * 1e9), boot_id=boot)


# --- whose turn it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 64, 256, 1000])
def test_every_core_has_its_turn_within_the_period(count: int) -> None:
    rng, now_s, core, tested_s = random.Random(count), 0.0, -1, dict.fromkeys(range(count), 0.0)
    while now_s < 3 * PERIOD_S:
        core = cores.next_core(range(count), core)
        assert now_s - tested_s[core] <= PERIOD_S
        tested_s[core] = now_s
        now_s += cores.wait_s(count, PERIOD_S, step_cpu_s=rng.uniform(0.0003, 0.0015))
    assert min(tested_s.values()) > now_s - PERIOD_S


def test_cores_that_come_and_go_keep_the_round_going() -> None:
    rng, core, waited = random.Random(1), -1, {0: 0, 5: 0}  # those that stay
    for _ in range(2000):
        there = sorted({*waited, *rng.sample(range(8), rng.randrange(8))})
        core = cores.next_core(there, core)
        assert core in there
        waited = {stays: 0 if stays == core else steps + 1 for stays, steps in waited.items()}
        assert max(waited.values()) < 8, "no core that stays is passed over for longer than a round"


@pytest.mark.parametrize("count", [2, 256, 10_000])
def test_the_share_of_the_processor_is_bounded(count: int) -> None:
    for step_cpu_s in (0.0001, 0.002, 1.0):
        assert step_cpu_s / cores.wait_s(count, PERIOD_S, step_cpu_s) <= cores.CPU_SHARE_MAX * (1 + 1e-9)


# --- who is blamed -----------------------------------------------------------------------------------------------


class Machine:
    """Cores of which some compute wrongly: (core, kernel) -> on which of its turns; None is not to know the vectors."""

    def __init__(self, wrong: Mapping[tuple[int, str], int | None]) -> None:
        self._wrong = wrong
        self.asked: list[int] = []

    def sums(self, core: int, data: Buffer, kernels: Sequence[str]) -> dict[str, int | None]:
        self.asked.append(core)
        found: dict[str, int | None] = {kernel: crc32c.crc32c(data) for kernel in kernels}
        for kernel in kernels:
            if (core, kernel) in self._wrong:
                flip = self._wrong[core, kernel]
                found[kernel] = None if flip is None else crc32c.crc32c(data) ^ flip
        return found


def checked(core: int, count: int, wrong: Mapping[tuple[int, str], int | None]) -> Check:
    return cores.check(core, range(count), random.Random(1), Machine(wrong).sums)


def every_kernel(core: int, flip: int | None) -> dict[tuple[int, str], int | None]:
    return {(core, kernel): flip for kernel in crc32c.kernels()}


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_cores_that_count_rightly_pass(count: int) -> None:
    for core in range(count):
        assert checked(core, count, {}) == Check(core)


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize("flip", [1, None])
def test_a_bad_core_is_blamed(count: int, flip: int | None) -> None:
    assert checked(0, count, every_kernel(0, flip)) == Check(0, 2, crc32c.kernels())
    assert checked(0, count, {(0, FAST): flip}) == Check(0, 2, (FAST,))
    assert checked(0, count, {(0, TABLE): flip}) == Check(0, 2, (TABLE,))


@pytest.mark.parametrize("flip", [1, None])
def test_a_bad_witness_is_not_the_fault_of_the_core_it_is_compared_with(flip: int | None) -> None:
    for core in range(5):
        if core != 2:
            assert checked(core, 5, every_kernel(2, flip)) == Check(core)
            assert checked(core, 5, {(2, TABLE): flip}) == Check(core)


def test_a_lone_core_is_judged_by_its_kernels_and_the_vectors() -> None:
    assert checked(0, 1, {(0, FAST): None}) == Check(0, 2, (FAST,))
    if len(crc32c.kernels()) > 2:
        assert checked(0, 1, {(0, FAST): 1}) == Check(0, 2, (FAST,))


def test_a_passing_core_costs_two_looks_and_sees_other_data_each_time() -> None:
    machine, seen = Machine({}), set()

    def sums(core: int, data: Buffer, kernels: Sequence[str]) -> dict[str, int | None]:
        seen.add(bytes(data))
        return machine.sums(core, data, kernels)

    rng = random.Random(5)
    for _ in range(3):
        cores.check(1, range(4), rng, sums)
    assert len(machine.asked) == 6 and len(seen) == 3


# --- when that is a fault ----------------------------------------------------------------------------------------


class Agent:
    """What the agent remembers from poll to poll."""

    def __init__(self, sysfs: Path = Path("/nonexistent")) -> None:
        self.sysfs = sysfs
        self.state: dict[str, Any] = {}

    def poll(self, now: Moment, *checks: Check) -> tuple[MemoryFault, ...]:
        found: Poll = cores.poll(self.sysfs, checks, self.cursor, now, PERIOD_S)
        faults, changes = reconcile({cores.SOURCE: found}, self.state, now, "host-1")
        changes |= {f"{cores.SOURCE}/{key}": value for key, value in found.cursor.items()}
        self.state |= json.loads(json.dumps(changes))  # as the journal gives it back
        return faults

    @property
    def cursor(self) -> dict[str, Any]:
        prefix = f"{cores.SOURCE}/"
        return {key.removeprefix(prefix): value for key, value in self.state.items() if key.startswith(prefix)}


ONCE, TWICE, PASSED = Check(3, 1, (FAST,)), Check(3, 2, (FAST,)), Check(3)


def test_the_second_failure_is_one_fault() -> None:
    agent = Agent()
    assert agent.poll(moment(0), PASSED) == ()
    assert agent.poll(moment(3600), ONCE) == ()
    assert agent.poll(moment(7200), PASSED) == (), "once is none, and it isn't forgotten"
    (fault,) = agent.poll(moment(10_800), ONCE)
    assert (fault.device, fault.stream, fault.severity, fault.count) == ("cpu3", "core", "uncorrected", 2)
    assert fault.detail["kernels"] == [FAST] and fault.witnesses == ("self-test",)
    assert fault.time_error_s == 3600
    for hour in range(4, 10):
        assert agent.poll(moment(hour * 3600), TWICE) == (), "it has been told"
    assert agent.poll(moment(36_000), PASSED) == ()
    assert agent.poll(moment(39_600), ONCE) == ()
    assert len(agent.poll(moment(43_200), ONCE)) == 1, "after it passed it is another fault"


def test_failing_again_at_once_is_enough() -> None:
    (fault,) = Agent().poll(moment(0), TWICE)
    assert (fault.count, fault.time_error_s) == (2, PERIOD_S)


def test_two_cores_that_fail_once_are_no_fault() -> None:
    assert Agent().poll(moment(0), Check(1, 1, (FAST,)), Check(2, 1, (FAST,))) == ()


def test_an_old_failure_no_longer_counts() -> None:
    agent = Agent()
    agent.poll(moment(0), ONCE)
    agent.poll(moment(QUIET_NS / 1e9), PASSED)
    assert agent.cursor["failed"] == {}
    assert agent.poll(moment(QUIET_NS / 1e9 + 3600), ONCE) == ()


def test_the_stream_is_watched_and_novelty_decided_after_seven_days() -> None:
    agent, hour = Agent(), 0
    while hour * 3600 * 10**9 <= QUIET_NS:
        agent.poll(moment(hour * 3600), PASSED, Check(1))
        hour += 1
    assert watching(agent.state, ["core"]) == {"core": moment(0).time_ns + QUIET_NS}
    (fault,) = agent.poll(moment(hour * 3600), TWICE)
    assert fault.novel


def test_a_pause_of_days_is_a_gap() -> None:
    agent = Agent()
    agent.poll(moment(0), PASSED)
    agent.poll(moment(3600), PASSED)
    later = moment(3600 + 2 * DAY_NS / 1e9)
    agent.poll(later, PASSED)
    assert watching(agent.state, ["core"]) == {"core": later.time_ns + QUIET_NS}
    (fault,) = agent.poll(Moment(later.time_ns + 5 * 10**9, 7, "boot-2"), TWICE)
    assert fault.time_error_s == 5, "over a boot the wall clock tells"


def test_an_idle_poll_is_no_reason_to_write() -> None:
    agent = Agent()
    agent.poll(moment(0), PASSED)
    before = dict(agent.state)
    agent.poll(moment(3600))
    assert agent.state == before
    agent.poll(moment(7200), PASSED)
    changed = {key for key in agent.state if agent.state[key] != before[key]}
    assert changed == {"self-test/polled"} and all(daemon._is_heartbeat(key) for key in changed)


def test_the_place_of_a_core_is_told(tmp_path: Path) -> None:
    topology = tmp_path / "devices/system/cpu/cpu3/topology"
    topology.mkdir(parents=True)
    (topology / "physical_package_id").write_text("1\n")
    (topology / "core_id").write_text("17\n")
    agent = Agent(tmp_path)
    (fault,) = agent.poll(moment(0), TWICE)
    assert fault.detail == {"kernels": [FAST], "package": 1, "core": 17}
    assert agent.state["device/core/cpu3"]["label"] == "package 1 core 17"


# --- the real cores ----------------------------------------------------------------------------------------------


def test_the_cores_of_this_machine_pass() -> None:
    allowed, rng = affinity.allowed_cores(), random.Random(1)
    for core in allowed:
        assert cores.check(core, allowed, rng, cores.sums_on) == Check(core)
    assert affinity.allowed_cores() == allowed


def test_sums_are_computed_on_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(crc32c, "compute", lambda kernel, data, crc=0: seen.append(os.sched_getaffinity(0)) or 7)
    for core in affinity.allowed_cores():
        assert cores.sums_on(core, b"data", [FAST]) == {FAST: None}, "it doesn't know the vectors"
        assert {*map(frozenset, seen)} == {frozenset({core})}
        seen.clear()


def make_agent(root: Path, **settings: object) -> daemon.Agent:
    path = Daemon(root, settings={"core_self_test_s": 1.0, **settings}).write_config()
    return daemon.Agent(config.load(path))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Any]:
    """A function that starts an agent in this process and returns its URL."""
    running: list[tuple[daemon.Agent, threading.Thread]] = []

    def start(**settings: object) -> str:
        agent = make_agent(tmp_path, **settings)
        thread = threading.Thread(target=agent.run)
        thread.start()
        running.append((agent, thread))
        return agent.url

    yield start
    for agent, thread in running:
        agent.stop()
        thread.join()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def test_the_agent_tells_of_a_core_that_cannot_count(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = affinity.allowed_cores()
    if len(allowed) < 2:
        pytest.skip("needs two cores: one that computes wrongly and one that tells")
    compute = crc32c.compute

    def failing(kernel: str, data: Buffer, crc: int = 0) -> int:
        is_bad = kernel == FAST and os.sched_getaffinity(0) == {allowed[0]}
        return compute(kernel, data, crc) ^ is_bad

    monkeypatch.setattr(crc32c, "compute", failing)
    monkeypatch.setattr(cores, "CPU_SHARE_MAX", 0.1)  # the other core shall have its turn soon
    url = served()
    faults = eventually(lambda: [decode(line) for line in get(f"{url}/v1/faults").splitlines()][1:])
    metric = f'flipwatch_memory_errors_total{{device="cpu{allowed[0]}",severity="uncorrected",stream="core"}} 2.0'
    other = f'flipwatch_memory_errors_total{{device="cpu{allowed[1]}",severity="uncorrected",stream="core"}} 0.0'
    page = eventually(lambda: page if other in (page := get(f"{url}/metrics")) else None)
    assert metric in page and 'flipwatch_source_up{source="self-test"} 1.0' in page
    (fault,) = faults
    assert isinstance(fault, MemoryFault)
    assert (fault.stream, fault.device, fault.severity) == ("core", f"cpu{allowed[0]}", "uncorrected")
    assert fault.detail["kernels"] == [FAST] and fault.witnesses == ("self-test",)


def test_a_core_that_does_not_answer_is_a_dead_source(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def hang(*_: object) -> Check:
        go_on.wait()
        return Check(0)

    monkeypatch.setattr(cores, "check", hang)
    monkeypatch.setattr(core_tester, "CORE_ANSWERS_S", 0.2)
    url = served()
    try:
        eventually(lambda: 'flipwatch_source_up{source="self-test"} 0.0' in get(f"{url}/metrics"))
        go_on.set()
        eventually(lambda: 'flipwatch_source_up{source="self-test"} 1.0' in get(f"{url}/metrics"))
    finally:
        go_on.set()


def test_a_core_that_goes_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def going(core: int, *_: object) -> Check:
        seen.append(core)
        if len(seen) == 1:
            raise affinity.CoreGone("core 0 can't be used")
        return Check(core)

    monkeypatch.setattr(cores, "check", going)
    monkeypatch.setattr(cores, "wait_s", lambda *_: 0.01)
    tester = CoreTester(PERIOD_S)
    tester.start()
    eventually(lambda: len(seen) > 2)
    tester.stop()
    assert tester.poll(config.AgentSettings(), {}, moment(0)).cursor["polled"]


def test_it_can_be_switched_off_and_says_if_it_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def sources(**settings: object) -> dict[str, SourceStatus]:
        agent = make_agent(tmp_path, **settings)
        agent._cycle()
        agent._server.server_close()
        agent._journal.close()
        return agent._statuses

    assert cores.SOURCE in sources()
    assert cores.SOURCE not in sources(core_self_test_s=0) and "self-test" not in caplog.text
    monkeypatch.setattr(crc32c, "extension", None)
    assert cores.SOURCE not in sources() and "no self-test of the cores" in caplog.text


def test_the_thread_leaves_the_agent_where_it_is() -> None:
    before = os.sched_getaffinity(0)
    tester = CoreTester(1e-3)
    tester.start()
    try:
        for _ in range(50):
            assert os.sched_getaffinity(0) == before
            time.sleep(0.001)
        eventually(lambda: tester.poll(config.AgentSettings(), {}, moment(0)).cursor["polled"])
    finally:
        tester.stop()


def test_the_doctor_is_told_which_cores_were_tested_of_late() -> None:
    at = moment(10_000)
    early, late = moment(0), moment(9_000)
    state = {
        "self-test/polled": {f"cpu{n}": [m.time_ns, m.boottime_ns, m.boot_id] for n, m in enumerate((early, late))}
    }
    poll = cores.look(state, 3600, at)
    assert [device.name for device in poll.devices] == ["cpu1"] and poll.absent is None
    assert "no core in 7200 s" in str(cores.look({}, 3600, at).absent)
    assert "core_self_test_s is 0" in str(cores.look(state, 0, at).absent)
