"""EDAC counters of the stock ie31200_edac driver: each error once, with its rank, whatever is reloaded, killed or dies.

The tests of this module share one guest and run in order: each goes on where the one before it stopped.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.report import MemoryFault
from tests.agent.processes import eventually
from tests.kernel.debian_kernel import Kernel
from tests.kernel.guest import FATAL_CHECK, Guest, started
from tests.kernel.guest_agent import GuestAgent

LATENCY_MAX_S = 3.0  # from the driver's taking the error to a fault that a collector could have read


@pytest.fixture(scope="module")
def guest(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Guest]:
    """One that starts again when it has died."""
    with started(kernel, tmp_path_factory.mktemp("guest"), state, options=()) as guest:
        yield guest


@pytest.fixture(scope="module")
def agent(guest: Guest) -> GuestAgent:
    return GuestAgent(guest).start()


def faults(agent: GuestAgent) -> list[MemoryFault]:
    return [fault for fault in agent.faults()[1] if isinstance(fault, MemoryFault)]


def counted(agent: GuestAgent) -> dict[tuple[str, str], int]:
    totals: dict[tuple[str, str], int] = {}
    for fault in faults(agent):
        key = (fault.device, str(fault.severity))
        totals[key] = totals.get(key, 0) + fault.count
    return totals


def epochs(agent: GuestAgent) -> int:
    """How many lives of the counters there have been."""
    return len({fault.epoch for fault in faults(agent) if fault.device.startswith("mc0")})


def in_sysfs(guest: Guest) -> int:
    return sum(map(int, guest.run("cat /sys/devices/system/edac/mc/mc0/[cu]e_count").split()))


def is_blind(agent: GuestAgent) -> bool:
    return any(name.startswith("flipwatch_ecc_blind{") and value == 1 for name, value in agent.metrics().items())


def test_without_a_driver_the_host_is_blind(agent: GuestAgent) -> None:
    assert is_blind(agent)
    assert "dram" not in agent.faults()[0].watching


def test_errors_are_seen_within_seconds(guest: Guest, agent: GuestAgent) -> None:
    guest.load("ie31200_edac")
    eventually(lambda: not is_blind(agent))
    for number, uncorrected in enumerate((False, False, True)):
        guest.bridge.inject(channel=number % 2, rank=0, uncorrected=uncorrected, syndrome=0x5A)
        guest.bridge.wait_until_taken()
        taken_s = time.monotonic()
        eventually(lambda: sum(counted(agent).values()) > number)  # noqa: B023
        assert time.monotonic() - taken_s < LATENCY_MAX_S
    assert counted(agent) == {
        ("mc0/csrow0/channel0", "corrected"): 1,
        ("mc0/csrow0/channel1", "corrected"): 1,
        ("mc0/csrow0/channel0", "uncorrected"): 1,
    }
    assert in_sysfs(guest) == 3


def test_what_happens_while_the_agent_is_dead_is_counted(guest: Guest, agent: GuestAgent) -> None:
    before = counted(agent)
    agent.kill()
    for _ in range(3):
        guest.bridge.inject(channel=1, rank=1)
    guest.bridge.wait_until_taken()
    agent.start()
    eventually(lambda: sum(counted(agent).values()) == sum(before.values()) + 3)
    (late,) = [fault for fault in faults(agent) if fault.device == "mc0/csrow1/channel1"]
    assert late.count == 3
    assert late.time_error_s > 1, "it happened at some time while nobody watched"
    assert in_sysfs(guest) == 6 and epochs(agent) == 1


def test_a_reloaded_driver_counts_anew(guest: Guest, agent: GuestAgent) -> None:
    before = counted(agent)
    guest.run("rmmod ie31200_edac")
    time.sleep(2.5)
    guest.load("ie31200_edac")
    guest.bridge.inject(channel=0, rank=0)
    guest.bridge.wait_until_taken()
    key = ("mc0/csrow0/channel0", "corrected")
    eventually(lambda: counted(agent)[key] == before[key] + 1)
    time.sleep(2.5)  # two more polls, in which nothing may be counted again
    assert counted(agent) == before | {key: before[key] + 1}
    assert in_sysfs(guest) == 1 and epochs(agent) == 2


def test_counters_that_are_reset_count_anew(guest: Guest, agent: GuestAgent) -> None:
    before = counted(agent)
    guest.run("echo 1 > /sys/devices/system/edac/mc/mc0/reset_counters")
    for _ in range(2):
        guest.bridge.inject(channel=1, rank=0)
    guest.bridge.wait_until_taken()
    key = ("mc0/csrow0/channel1", "corrected")
    eventually(lambda: counted(agent)[key] == before[key] + 2)
    time.sleep(2.5)
    assert counted(agent) == before | {key: before[key] + 2}
    assert in_sysfs(guest) == 2 and epochs(agent) == 3


def test_a_host_that_dies_and_starts_again_counts_anew(guest: Guest, agent: GuestAgent) -> None:
    before = counted(agent)
    guest.monitor(FATAL_CHECK)
    guest.await_boot()
    guest.load("ie31200_edac")
    agent.start()
    for uncorrected in (False, True):
        guest.bridge.inject(channel=1, rank=1, uncorrected=uncorrected)
    guest.bridge.wait_until_taken()
    of_rank = {("mc0/csrow1/channel1", "corrected"): 4, ("mc0/csrow1/channel1", "uncorrected"): 1}
    eventually(lambda: counted(agent) == before | of_rank | {("host", "fatal"): 1})
    time.sleep(2.5)
    assert counted(agent) == before | of_rank | {("host", "fatal"): 1}
    assert in_sysfs(guest) == 2 and epochs(agent) == 4
