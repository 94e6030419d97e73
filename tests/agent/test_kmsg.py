"""The kernel log of a firmware-first host: each error record once, whatever lies between two polls."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import AgentSettings
from agent.kernel_log import KernelLog
from agent.observation import Event, Moment, Poll, Role
from agent.reconcile import reconcile
from agent.sources import kmsg
from agent.sources.table import SOURCES
from tests.agent.edac_tree import controller
from tests.agent.kernel_log_device import KernelLogDevice

START = Moment(time_ns=1_795_000_000 * 10**9, boottime_ns=100 * 10**9, boot_id="boot-1")


def block(number: int, dimm: str = "B1", severity: str = "corrected", address: int = 0x1000) -> list[str]:
    lines = [
        "Hardware error from APEI Generic Hardware Error Source: 4",
        f"event severity: {severity}",
        f" Error 0, type: {severity}",
        f" fru_text: DIMM_{dimm}",
        "  section_type: memory error",
        f"  physical_address: {address:#018x}",
        "  node:0 card:1 module:0 rank:0 bank:3 row:77 column:8 ",
        "  error_type: 2, single-bit ECC",
    ]
    return [f"{{{number}}}[Hardware Error]: {line}" for line in lines]


class Watcher:
    def __init__(self, root: Path) -> None:
        self.sysfs = root / "sys"
        self.takes_checks = True
        self.device = KernelLogDevice(root / "kmsg")
        self.log = KernelLog()
        self.cursor: dict = {}
        self.now = START

    def say(self, *lines: str, time_s: float | None = None) -> None:
        """`time_s`: what the log's own clock shows, which the agent's may have left far behind, or ahead."""
        self.device.say(*lines, time_s=self.now.boottime_ns / 1e9 if time_s is None else time_s)

    def poll(self, after_s: float = 5) -> Poll:
        ns = int(after_s * 1e9)
        self.now = replace(self.now, time_ns=self.now.time_ns + ns, boottime_ns=self.now.boottime_ns + ns)
        poll = kmsg.poll(self.log, self.device.path, self.sysfs, self.cursor, self.now, takes_checks=self.takes_checks)
        self.cursor = json.loads(json.dumps(poll.cursor))
        return poll

    def told(self) -> Poll:
        """What has been said, once it is sure that no more lines of it come."""
        reading = self.poll()
        assert reading.is_unfinished and not reading.observations and not reading.devices
        assert self.poll(after_s=0.5).is_unfinished
        poll = self.poll(after_s=0.5)
        assert not poll.is_unfinished
        return replace(poll, trouble=reading.trouble)

    def restart(self, first: int = 0) -> None:
        self.log.close()
        self.device.replay(first)


@contextlib.contextmanager
def watching(root: Path) -> Iterator[Watcher]:
    watcher = Watcher(root)
    try:
        yield watcher
    finally:
        watcher.log.close()
        watcher.device.close()


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    with watching(tmp_path) as watcher:
        yield watcher


def counted(poll: Poll) -> dict[tuple[str, str], int]:
    return {(item.device, item.severity): item.count for item in poll.observations}


def test_a_record_is_a_fault_on_the_device_it_names(watcher: Watcher) -> None:
    assert not watcher.poll().observations
    watcher.say("usb 1-1: new device", *block(1, severity="recoverable"))
    poll = watcher.told()
    (observation,) = poll.observations
    assert (observation.device, observation.severity, observation.stream) == ("fru/DIMM_B1", "uncorrected", "dram")
    assert (observation.count, observation.time_error_s) == (1, 6.0), "since the last poll that saw nothing of it"
    assert observation.detail["row"] == "77" and observation.detail["is_floor"] is True
    assert [(device.name, device.label) for device in poll.devices] == [("fru/DIMM_B1", "DIMM_B1")]
    assert not watcher.poll().observations and not poll.trouble and poll.absent is None


def test_errors_of_a_device_in_one_poll_are_one_observation_with_their_addresses(watcher: Watcher) -> None:
    for number in range(20):
        watcher.say(*block(number, address=0x1000 * number))
    watcher.say(*block(20, dimm="C1"), *block(21, severity="fatal"))
    poll = watcher.told()
    assert counted(poll) == {
        ("fru/DIMM_B1", "corrected"): 20,
        ("fru/DIMM_C1", "corrected"): 1,
        ("fru/DIMM_B1", "fatal"): 1,
    }
    assert len(poll.observations[0].detail["addresses"]) == kmsg.ADDRESSES_MAX
    assert "addresses" not in poll.observations[1].detail


@pytest.mark.parametrize("cut", range(1, 8))
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("log_clock_s", [0.0, 90.0, 100.0, 1e6])
def test_a_record_that_is_still_being_printed_waits(
    watcher: Watcher, cut: int, restarts: bool, log_clock_s: float
) -> None:
    """Whatever the clock of the log shows: it drifts by seconds a day, and stands still while the machine sleeps."""
    lines = block(7)
    watcher.say(*block(6, dimm="A1"), *lines[:cut], time_s=log_clock_s)
    assert not watcher.poll().observations
    watcher.say(*block(8, dimm="C1")[:2], *lines[cut:], *block(8, dimm="C1")[2:], time_s=log_clock_s)
    if restarts:
        watcher.restart()
    found = [*watcher.poll(after_s=0.5).observations, *watcher.poll(after_s=0.9).observations]
    found += watcher.poll(after_s=0.1).observations
    assert sorted((item.device, item.count) for item in found) == [
        ("fru/DIMM_A1", 1), ("fru/DIMM_B1", 1), ("fru/DIMM_C1", 1)
    ]  # fmt: skip
    assert all(item.detail["error_type"] == "2, single-bit ECC" for item in found)
    assert not watcher.poll().observations


@settings(max_examples=60)
@given(
    order=st.lists(st.integers(0, 3), min_size=32, max_size=32),
    polls=st.sets(st.integers(1, 31), max_size=8),
    restarts=st.sets(st.integers(1, 31), max_size=4),
)
def test_however_records_are_mixed_and_polls_fall_each_counts_once(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], polls: set[int], restarts: set[int]
) -> None:
    blocks = [block(number, dimm=f"{number}") for number in range(4)]
    with watching(tmp_path_factory.mktemp("log")) as watcher:
        found = []
        for at, choice in enumerate(order):
            lines = next(blocks[(choice + n) % 4] for n in range(4) if blocks[(choice + n) % 4])
            watcher.say(lines.pop(0), time_s=float(at % 7))
            if at in polls:
                found.append(watcher.poll(after_s=0.1))
            if at in restarts:
                watcher.restart()
        found += [watcher.poll(), watcher.poll()]
    assert sorted(item.device for poll in found for item in poll.observations) == [f"fru/DIMM_{n}" for n in range(4)]
    assert all(item.count == 1 and len(item.detail) == 11 for poll in found for item in poll.observations)


def test_a_restart_repeats_nothing_and_a_new_boot_begins_anew(watcher: Watcher) -> None:
    watcher.say(*block(1))
    watcher.told()
    watcher.restart()
    watcher.say(*block(2))
    (observation,) = watcher.told().observations
    assert observation.count == 1
    watcher.restart()
    watcher.now = replace(watcher.now, boottime_ns=294 * 10**9, boot_id="boot-2")
    (observation,) = watcher.told().observations
    assert (observation.count, observation.time_error_s) == (2, 300.0), "all of this boot's log is new"


def test_with_an_edac_driver_the_log_counts_no_errors_of_memory(watcher: Watcher) -> None:
    controller(watcher.sysfs).create()
    watcher.say(*block(1), "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Chan#1_DIMM#0")
    watcher.say(*(f"{{2}}[Hardware Error]: {line}" for line in PROCESSOR), *machine_check())
    poll = watcher.told()
    assert counted(poll) == {("cpu/0x0000000000000010", "corrected"): 1}
    assert [device.stream for device in poll.devices] == ["sram"]


MCE = {"witnesses": ("mce_record",), "device": "socket0/bank255", "addresses": (0x1000,), "severity": "uncorrected"}
POISONED = {**MCE, "witnesses": ("memory_failure_event",), "device": "page/unknown"}
OF_CORE = {"witnesses": ("non_standard_event",), "stream": "sram", "device": "cpu/0x0000000000000010"}
PROCESSOR = [
    "event severity: corrected",
    " Error 0, type: corrected",
    "  section_type: general processor error",
    "  error_type: 0x01",
    "  processor_id: 0x0000000000000010",
]


def event(now: Moment, **parts: Any) -> Event:
    common = {"role": Role.SHARED, "stream": "dram", "severity": "corrected", "count": 1, "time_error_s": 1.0}
    return Event(**{**common, "first_ns": now.time_ns, "time_ns": now.time_ns, "since_ns": 0, **parts})


@pytest.mark.parametrize("log_clock_s", [0.0, 1e6])
@pytest.mark.parametrize("pause_s", [0.25, 0.9, 5.0, 20.0])
@pytest.mark.parametrize("is_printed_late", [False, True])
@pytest.mark.parametrize(
    ("lines", "events", "device"),
    [
        (block(1, severity="recoverable"), [MCE, POISONED], "fru/DIMM_B1"),
        (block(1, severity="recoverable"), [POISONED], "fru/DIMM_B1"),  # as on ARM
        ([f"{{2}}[Hardware Error]: {line}" for line in PROCESSOR], [OF_CORE], "cpu/0x0000000000000010"),
    ],
)
def test_what_firmware_reports_is_one_error_whoever_else_tells_of_it(
    watcher: Watcher,
    lines: list[str],
    events: list[dict],
    device: str,
    log_clock_s: float,
    pause_s: float,
    is_printed_late: bool,
) -> None:
    """Printed before the kernel passes it on, or, where firmware raises an NMI, a moment later."""
    watcher.poll()
    state: dict[str, Any] = {}
    found = []
    for cycle in range(40):
        if cycle == int(is_printed_late):
            watcher.say(*lines, time_s=log_clock_s)
        log = watcher.poll(after_s=0.01 if cycle == 0 else min(pause_s, 0.25) if cycle == 1 else pause_s)
        trace = Poll(cursor={}, events=tuple(event(watcher.now, **parts) for parts in events) if cycle == 0 else ())
        faults, changes = reconcile({"tracefs": trace, "kmsg": log}, state, watcher.now, "host")
        state |= json.loads(json.dumps(changes))
        found += faults
    (fault,) = found
    assert (fault.device, fault.count) == (device, 1)
    assert set(fault.witnesses) == {"kmsg", *(parts["witnesses"][0] for parts in events)}


def test_other_lines_about_hardware_count_nothing(watcher: Watcher) -> None:
    watcher.say(
        "mce: [Hardware Error]: Machine check events logged",
        "mce: [Hardware Error]: TSC 0 ADDR 1234000 MISC 8c",
        "[Hardware Error]: Corrected error, no action required.",
        "user[77]: {1}[Hardware Error]:  Error 0, type: fatal",
        *(line.replace("memory error", "PCIe error") for line in block(3)),
    )
    poll = watcher.told()
    assert not poll.observations and not poll.trouble


def machine_check(status: int = 0x8C00014000010090, bank: int = 9, cpu: int = 3) -> list[str]:
    lines = [
        f"CPU {cpu}: Machine Check: 0 Bank {bank}: {status:016x}",
        "TSC 0 ADDR 1234000 MISC 8c ",
        "PROCESSOR 0:60fb1 TIME 1795453642 SOCKET 1 APIC 0 microcode 1",
    ]
    return [f"mce: [Hardware Error]: {line}" for line in lines]


def test_machine_checks_count_where_they_are_not_traced(watcher: Watcher) -> None:
    watcher.say(*machine_check(), *machine_check(0x8C00004000010136, bank=1), *machine_check())
    found = {item.device: item for item in watcher.told().observations}
    assert {device: (item.stream, item.count) for device, item in found.items()} == {
        "socket1/bank9": ("dram", 10),
        "socket1/cpu3/bank1": ("sram", 1),
    }
    assert found["socket1/bank9"].detail["address"] == "0x1234000" and found["socket1/bank9"].detail["is_floor"]
    watcher.say(*machine_check(bank=255), *machine_check(0xBD000000000000C0)[:1])
    assert counted(watcher.told()) == {("cpu3/bank9", "uncorrected"): 1}, "firmware's stands in a record of its own"
    watcher.takes_checks = False
    watcher.say(*machine_check())
    assert not watcher.poll().is_unfinished and not watcher.poll().observations


def test_whether_the_log_is_asked_for_machine_checks(tmp_path: Path) -> None:
    def counts() -> bool:
        with watching(Path(tempfile.mkdtemp(dir=tmp_path))) as watcher:
            settings = replace(
                AgentSettings(), sysfs=watcher.sysfs, tracefs=tmp_path, rasdaemon_db=database, kmsg=watcher.device.path
            )
            watcher.say(*machine_check())
            return SOURCES["kmsg"].poll(settings, {}, watcher.now).is_unfinished

    database, enable = tmp_path / "ras.db", tmp_path / "instances/flipwatch/events/mce/mce_record/enable"
    assert counts()
    enable.parent.mkdir(parents=True)
    enable.write_text("1\n")
    assert not counts(), "they are traced"
    enable.write_text("0\n")
    assert counts()
    database.touch()
    assert not counts(), "rasdaemon records them"


def test_banks_that_were_full_at_boot_are_the_last_words_of_the_boot_before(watcher: Watcher) -> None:
    watcher.say(*machine_check(0xBE00000000800400, bank=5), *machine_check(), time_s=1.5)
    assert counted(watcher.told()) == {("socket1/bank9", "corrected"): 5}
    watcher.say(*machine_check(0xBE00000000800400, bank=5), time_s=61)
    assert counted(watcher.told()) == {("socket1/cpu3/bank5", "fatal"): 1}


def test_what_the_kernel_left_out_is_said(watcher: Watcher) -> None:
    watcher.say("ghes_print_estatus: 12 callbacks suppressed", "net_ratelimit: 7 callbacks suppressed")
    (sentence,) = watcher.poll().trouble
    assert "12 error records" in sentence
    assert not watcher.poll().trouble


def test_records_that_were_overwritten_are_said(watcher: Watcher) -> None:
    watcher.poll()
    watcher.say(*(f"line {n}" for n in range(9)), *block(1))
    watcher.restart(first=5)
    poll = watcher.told()
    assert "5 records were overwritten" in poll.trouble[0]
    assert counted(poll) == {("fru/DIMM_B1", "corrected"): 1}
    assert not watcher.poll().trouble


def test_a_log_that_wrapped_before_the_first_poll_of_all_is_no_trouble(watcher: Watcher) -> None:
    watcher.say(*(f"line {n}" for n in range(9)))
    watcher.restart(first=5)
    assert not watcher.poll().trouble


def test_without_a_log_the_source_is_absent_and_keeps_its_place(watcher: Watcher) -> None:
    watcher.say(*block(1))
    watcher.poll()
    before = watcher.cursor
    watcher.log.close()
    watcher.device.path.unlink()
    poll = watcher.poll()
    assert "there is no" in poll.absent and poll.cursor == before and poll.blind is None and not poll.trouble


def test_a_log_that_is_no_device_is_trouble(watcher: Watcher) -> None:
    watcher.device.path.unlink()
    watcher.device.path.mkdir()
    assert watcher.poll().trouble == (f"{watcher.device.path}: Is a directory",)


def test_a_forbidden_log_says_what_would_help(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> Iterator[None]:  # tests run as root, whom nothing is forbidden
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(watcher.log, "records", forbidden)
    assert "CAP_SYSLOG" in watcher.poll().absent
