"""The canary: bits that are flipped in its block, by writing there behind its back, are found and described."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import _canary
from agent.config import AgentSettings
from agent.observation import Moment, Poll
from agent.sources import canary
from agent.sources.table import SOURCES
from tests.agent import smbios_table
from tests.agent.processes import Daemon, eventually
from tests.agent.watcher import NOW

PROC = Path("/proc")
MIB = 1 << 20
NONE, MULTI_BIT = 3, 6  # error correction of a memory array (DMTF DSP0134, 7.17.3)


@pytest.fixture(autouse=True)
def no_block() -> Iterator[None]:
    canary.blocks.clear()
    yield
    for block in canary.blocks.values():
        block.memory.close()
    canary.blocks.clear()


def at(seconds: float) -> Moment:
    step_ns = int(seconds * 1e9)
    return replace(NOW, time_ns=NOW.time_ns + step_ns, boottime_ns=NOW.boottime_ns + step_ns)


def poll(seconds: float = 0, cursor: dict | None = None, mib: int = 1, proc: Path = PROC) -> Poll:
    return canary.poll(mib, proc, cursor or {}, at(seconds))


def flip(offset: int, bit: int, mib: int = 1) -> None:
    canary.blocks[mib].memory[offset + bit // 8] ^= 1 << bit % 8


def test_off_is_absent() -> None:
    assert poll(mib=0) == Poll(cursor={}, absent="it's off: canary_mib is 0")


@pytest.mark.parametrize(
    ("correction", "widths", "flags", "set_to", "size_mib"),
    [
        (NONE, (64, 64), "sse", None, canary.DEFAULT_MIB),
        (NONE, (72, 64), "sse", None, None),  # the modules have the bits
        (MULTI_BIT, (72, 64), "sse", None, None),
        (NONE, (64, 64), "sse hypervisor", None, None),  # the memory is another machine's
        (NONE, (64, 64), "sse", 0, None),
        (MULTI_BIT, (72, 64), "sse", 1, 1),
    ],
)
def test_hardware_without_ecc_has_one_unless_the_settings_say_otherwise(
    tmp_path: Path, correction: int, widths: tuple[int, int], flags: str, set_to: int | None, size_mib: int | None
) -> None:
    smbios_table.write(
        tmp_path / "sys", smbios_table.memory_array(correction) + smbios_table.memory_device(widths=widths)
    )
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"flags : fpu {flags}\n")
    settings = AgentSettings(sysfs=tmp_path / "sys", proc=tmp_path / "proc", canary_mib=set_to)
    told = SOURCES["canary"].poll(settings, {}, NOW)
    assert [device.size_bytes for device in told.devices] == ([size_mib * MIB] if size_mib else [])
    assert bool(told.absent) is (size_mib is None)


def test_a_quiet_block_says_nothing_and_is_watched_from_now_on() -> None:
    first = poll()
    assert (first.observations, first.trouble, [sight.since_ns for sight in first.first_sights]) == (
        (),
        (),
        [NOW.time_ns],
    )
    again = poll(5, first.cursor)
    assert (again.observations, again.first_sights, again.gaps) == ((), (), ())
    assert again.devices[0].size_bytes == MIB


def test_a_flipped_bit_is_found_once_and_described() -> None:
    cursor = poll().cursor  # the pattern now is that of the second pass: 0xAAAA...
    flip(4096 + 8 * 3, 5)
    flip(8192, 10)
    (observation,) = poll(5, cursor, proc=Path("/nowhere")).observations
    assert (observation.count, observation.severity, observation.stream, observation.time_error_s) == (
        2,
        "uncorrected",
        "canary",
        5,
    )
    assert observation.detail == {
        "flips": [
            {"offset_bytes": 4120, "bits": [5], "directions": ["1 to 0"], "is_lasting": True},
            {
                "offset_bytes": 8192,
                "bits": [10],
                "directions": ["0 to 1"] if 0xAAAA >> 10 & 1 == 0 else ["1 to 0"],
                "is_lasting": True,
            },
        ]
    }
    assert poll(10, cursor).observations == (), "it's reported once, and the word written anew"


def test_every_pass_turns_the_pattern_over() -> None:
    poll()
    assert canary.blocks[1].memory[:8] == b"\xaa" * 8
    poll(5)
    assert canary.blocks[1].memory[:8] == b"\x55" * 8


def test_a_chunk_at_a_poll_and_a_flip_is_as_late_as_its_chunk() -> None:
    poll(0, mib=20)
    flip(17 * MIB, 0, mib=20)
    flip(3, 1, mib=20)
    (second,) = poll(5, mib=20).observations
    assert second.detail["flips"][0]["offset_bytes"] == 17 * MIB and second.time_error_s == 5
    (first,) = poll(10, mib=20).observations
    assert first.detail["flips"][0]["offset_bytes"] == 0 and first.detail["flips"][0]["bits"] == [25]
    assert first.time_error_s == 10


def test_many_flips_are_counted_and_some_described() -> None:
    poll()
    canary.blocks[1].memory[: 8 * 1000] = bytes(8 * 1000)
    (observation,) = poll(5).observations
    assert observation.count == 1000 and len(observation.detail["flips"]) == canary.SHOWN_MAX


def test_a_misread_word_is_no_lasting_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    poll()
    block = canary.blocks[1]

    class Misreading:
        """The extension, whose first sweep reads one word wrongly."""

        fill, address = staticmethod(_canary.fill), staticmethod(_canary.address)
        sweeps = iter([(1, [(64, 0xAAAA_AAAA_AAAA_AAAB)])])

        def sweep(self, *arguments: object) -> object:
            return next(self.sweeps, None) or _canary.sweep(*arguments)

    monkeypatch.setattr(block, "_canary", Misreading())
    (observation,) = poll(5).observations
    assert observation.detail["flips"] == [
        {"offset_bytes": 64, "bits": [0], "directions": ["0 to 1"], "is_lasting": False}
    ]


def test_a_restart_is_a_gap() -> None:
    cursor = poll().cursor
    canary.blocks.clear()
    (gap,) = poll(60, cursor).gaps
    assert (gap.begin_ns, gap.end_ns) == (NOW.time_ns, at(60).time_ns)
    assert poll(65, cursor).gaps == ()


def test_the_physical_address_where_it_is_told(tmp_path: Path) -> None:
    poll()
    block = canary.blocks[1]
    place = _canary.address(block.memory) + 4096
    (tmp_path / "self").mkdir()
    with (tmp_path / "self/pagemap").open("wb") as pagemap:
        pagemap.seek(place // 4096 * 8)
        pagemap.write((1 << 63 | 0x1234).to_bytes(8, "little"))
    assert block.physical_address(4096 + 24, tmp_path) == 0x1234018
    assert block.physical_address(0, tmp_path) is None, "0 is what the kernel shows to those who may not know"
    flip(4096, 0)
    assert poll(5, proc=tmp_path).observations[0].detail["addresses"] == ["0x1234000"]


def test_memory_that_may_not_be_locked_is_trouble() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, hard))
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        (trouble,) = poll(mib=64).trouble
    finally:
        os.seteuid(user)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    assert trouble.startswith("64 MiB of memory can't be locked") and "LimitMEMLOCK" in trouble
    assert not canary.blocks and poll(mib=64).trouble == (), "it's tried again"


def test_without_its_extension_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent._canary", None)
    assert "C extension" in poll().trouble[0]


@pytest.mark.parametrize(("begin", "end"), [(-4096, 4096), (0, 2 * MIB), (8192, 4096), (1, 4096), (0, 4095)])
def test_the_extension_stays_within_the_block(begin: int, end: int) -> None:
    poll()
    for function in (_canary.sweep, _canary.fill):
        with pytest.raises(ValueError, match="whole pages"):
            function(canary.blocks[1].memory, begin, end, 0)
    with pytest.raises(TypeError):
        _canary.sweep(b"read only", 0, 0, 0)
    with pytest.raises(ValueError, match="whole pages"):
        _canary.sweep(memoryview(canary.blocks[1].memory)[8:], 0, 4096, 0)


def test_a_flip_in_a_running_agent_becomes_a_fault(tmp_path: Path) -> None:
    """Written into its memory from outside, as a particle would."""
    polled = 'flipwatch_source_poll_seconds{source="canary"}'
    with Daemon(tmp_path, settings={"canary_mib": 3, "poll_interval_s": 2}) as agent:
        before = agent.metrics()
        assert before['flipwatch_source_up{source="canary"}'] == 1
        pid = agent.process.pid
        place = locked_mapping(pid, 3 * MIB)
        eventually(lambda: agent.metrics()[polled] != before[polled])
        agent.signal(signal.SIGSTOP)  # just after a sweep, which would write what it has read already anew
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(place + 12345)
            byte = memory.read(1)[0]
            memory.seek(place + 12345)
            memory.write(bytes([byte ^ 4]))
        agent.signal(signal.SIGCONT)
        eventually(lambda: agent.faults()[1])
        (fault,) = agent.faults()[1]
        assert (fault.stream, fault.device, fault.severity, fault.count) == ("canary", "canary", "uncorrected", 1)
        (found,) = fault.detail["flips"]
        assert found["offset_bytes"] == 12344 and found["bits"] == [10]
        assert 'flipwatch_device_action{action="drain",device="canary",rule="canary"}' in agent.metrics()


def test_an_agent_without_one_says_so_once(tmp_path: Path) -> None:
    with Daemon(tmp_path) as agent:
        assert agent.metrics()['flipwatch_source_up{source="canary"}'] == 0
        assert agent.metrics()['flipwatch_ecc_blind{reason="no-driver"}'] == 1, "by EDAC, not by the canary"
        seen = agent.metrics()['flipwatch_source_poll_seconds{source="canary"}']
        eventually(lambda: agent.metrics()['flipwatch_source_poll_seconds{source="canary"}'] != seen)
        assert sum("source canary is absent" in line for line in agent.log) == 1


def locked_mapping(pid: int, size_bytes: int) -> int:
    """Where the process keeps that much locked memory."""
    place = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            place = int(words[0].partition("-")[0], 16)
        elif words[0] == "Locked:" and int(words[1]) << 10 == size_bytes:
            return place
    raise AssertionError("nothing of this size is locked")
