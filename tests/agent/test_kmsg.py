"""The kernel log of a firmware-first host: each error record once, whatever lies between two polls."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.kernel_log import KernelLog
from agent.observation import Moment, Poll
from agent.sources import kmsg
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
        self.device = KernelLogDevice(root / "kmsg")
        self.log = KernelLog()
        self.cursor: dict = {}
        self.now = START

    def say(self, *lines: str, age_s: float = 2.0) -> None:
        self.device.say(*lines, time_s=self.now.boottime_ns / 1e9 + 5 - age_s)

    def poll(self, after_s: float = 5) -> Poll:
        ns = int(after_s * 1e9)
        self.now = replace(self.now, time_ns=self.now.time_ns + ns, boottime_ns=self.now.boottime_ns + ns)
        poll = kmsg.poll(self.log, self.device.path, self.sysfs, self.cursor, self.now)
        self.cursor = poll.cursor
        return poll

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
    poll = watcher.poll()
    (observation,) = poll.observations
    assert (observation.device, observation.severity, observation.stream) == ("fru/DIMM_B1", "uncorrected", "dram")
    assert (observation.count, observation.time_error_s) == (1, 5.0)
    assert observation.detail["row"] == "77" and observation.detail["is_floor"] is True
    assert [(device.name, device.label) for device in poll.devices] == [("fru/DIMM_B1", "DIMM_B1")]
    assert not watcher.poll().observations and not poll.trouble and poll.absent is None


def test_errors_of_a_device_in_one_poll_are_one_observation_with_their_addresses(watcher: Watcher) -> None:
    for number in range(20):
        watcher.say(*block(number, address=0x1000 * number))
    watcher.say(*block(20, dimm="C1"), *block(21, severity="fatal"))
    poll = watcher.poll()
    assert counted(poll) == {
        ("fru/DIMM_B1", "corrected"): 20,
        ("fru/DIMM_C1", "corrected"): 1,
        ("fru/DIMM_B1", "fatal"): 1,
    }
    assert len(poll.observations[0].detail["addresses"]) == kmsg.ADDRESSES_MAX
    assert "addresses" not in poll.observations[1].detail


@pytest.mark.parametrize("cut", range(1, 8))
@pytest.mark.parametrize("restarts", [False, True])
def test_a_record_that_is_still_being_printed_waits(watcher: Watcher, cut: int, restarts: bool) -> None:
    lines = block(7)
    watcher.say(*block(6, dimm="A1"), *lines[:cut], age_s=0.1)
    assert not watcher.poll().observations
    watcher.say(*block(8, dimm="C1")[:2], *lines[cut:], *block(8, dimm="C1")[2:])
    if restarts:
        watcher.restart()
    poll = watcher.poll()
    assert sorted(counted(poll)) == [
        ("fru/DIMM_A1", "corrected"), ("fru/DIMM_B1", "corrected"), ("fru/DIMM_C1", "corrected")
    ]  # fmt: skip
    assert poll.observations[1].detail["error_type"] == "2, single-bit ECC"
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
            watcher.say(lines.pop(0), age_s=5)
            if at in polls:
                found.append(watcher.poll(after_s=0.1))
            if at in restarts:
                watcher.restart()
        found += [watcher.poll(), watcher.poll()]
    assert sorted(item.device for poll in found for item in poll.observations) == [f"fru/DIMM_{n}" for n in range(4)]
    assert all(item.count == 1 and len(item.detail) == 11 for poll in found for item in poll.observations)


def test_a_clock_of_the_log_that_runs_ahead_delays_a_record_by_one_poll(watcher: Watcher) -> None:
    watcher.say(*block(1), age_s=-100)
    assert not watcher.poll().observations
    assert counted(watcher.poll()) == {("fru/DIMM_B1", "corrected"): 1}


def test_a_restart_repeats_nothing_and_a_new_boot_begins_anew(watcher: Watcher) -> None:
    watcher.say(*block(1))
    watcher.poll()
    watcher.restart()
    watcher.say(*block(2))
    (observation,) = watcher.poll().observations
    assert observation.count == 1
    watcher.restart()
    watcher.now = replace(watcher.now, boottime_ns=295 * 10**9, boot_id="boot-2")
    (observation,) = watcher.poll().observations
    assert (observation.count, observation.time_error_s) == (2, 300.0), "all of this boot's log is new"


def test_with_an_edac_driver_the_log_is_evidence_and_counts_nothing(watcher: Watcher) -> None:
    controller(watcher.sysfs).create()
    watcher.say(*block(1), "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Chan#1_DIMM#0")
    poll = watcher.poll()
    assert not poll.observations and not poll.devices


def test_other_lines_about_hardware_count_nothing(watcher: Watcher) -> None:
    watcher.say(
        "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 9: 8c00004000010090",
        "[Hardware Error]: Corrected error, no action required.",
        "user[77]: {1}[Hardware Error]:  Error 0, type: fatal",
        *(line.replace("memory error", "PCIe error") for line in block(3)),
    )
    assert not watcher.poll().observations


def test_what_the_kernel_left_out_is_said(watcher: Watcher) -> None:
    watcher.say("ghes_print_estatus: 12 callbacks suppressed", "net_ratelimit: 7 callbacks suppressed")
    (sentence,) = watcher.poll().trouble
    assert "12 error records" in sentence
    assert not watcher.poll().trouble


def test_records_that_were_overwritten_are_said(watcher: Watcher) -> None:
    watcher.poll()
    watcher.say(*(f"line {n}" for n in range(9)), *block(1))
    watcher.restart(first=5)
    poll = watcher.poll()
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
