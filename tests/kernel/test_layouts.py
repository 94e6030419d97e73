"""Trees, counters and events of the drivers that most servers have, made by the kernel's EDAC core: see pretended.c.

All layouts share a guest; each has an agent with a state of its own, as the host that it stands for would.
"""

import uuid
from collections.abc import Iterator

import pytest

from agent.report import MemoryFault
from tests.agent.edac_tree import FIXTURES
from tests.agent.processes import eventually
from tests.kernel.edac_trees import ERRORS, PARAMETERS, inject, registered, tree
from tests.kernel.guest import STATE, Guest
from tests.kernel.guest_agent import GuestAgent

CONTROLLERS = {"skx": 2, "sb": 1, "amd64": 1}
# Device and severity -> how many errors, and what a fault says of the place.
EXPECTED = {
    "skx": {
        ("mc0/channel0/slot1", "corrected"): (3, {"label": "CPU_SrcID#0_MC#0_Chan#0_DIMM#1", "rank": 1, "bank": 3}),
        ("mc1/channel2/slot0", "uncorrected"): (1, {"label": "CPU_SrcID#0_MC#1_Chan#2_DIMM#0", "row": 0x77}),
        ("mc0/channel0/unknown", "corrected"): (1, {"message": "memory read error"}),
        ("mc1/unknown", "corrected"): (4, {"message": "Can't parse: it is not a mem"}),
    },
    "sb": {
        ("mc0/channel3/slot2", "corrected"): (1, {"label": "CPU_SrcID#0_Ha#0_Chan#3_DIMM#2", "address": "0x12345040"}),
        ("mc0/channel1/slot0", "uncorrected"): (1, {"label": "CPU_SrcID#0_Ha#0_Chan#1_DIMM#0"}),
        ("mc0/unknown", "corrected"): (1, {"message": "memory read error"}),
    },
    "amd64": {
        ("mc0/csrow2/channel3", "corrected"): (1, {"syndrome": "0x5a", "address": "0x12345040"}),
        ("mc0/csrow3/channel3", "corrected"): (1, {"syndrome": "0x5a", "address": "0x12346040"}),
        ("mc0/csrow1/channel7", "uncorrected"): (1, {"address": "0x23456000"}),
        ("mc0/csrow0/unknown", "corrected"): (1, {"message": "Cannot decode normalized address"}),
    },
}


@pytest.fixture(scope="module", params=sorted(ERRORS))
def layout(guest: Guest, request: pytest.FixtureRequest) -> Iterator[str]:
    with registered(guest, request.param):
        yield request.param


@pytest.fixture(scope="module")
def agent(guest: Guest, layout: str) -> Iterator[GuestAgent]:
    agent = GuestAgent(guest).start(state_dir=f"{STATE}/agent-{layout}")
    yield agent
    agent.kill()


def faults(agent: GuestAgent) -> list[MemoryFault]:
    return [fault for fault in agent.faults()[1] if isinstance(fault, MemoryFault)]


def next_fault(agent: GuestAgent, number: int) -> MemoryFault:
    eventually(lambda: len(faults(agent)) > number)
    return faults(agent)[number]


def test_each_error_is_one_fault_at_its_place(guest: Guest, layout: str, agent: GuestAgent) -> None:
    for number, error in enumerate(ERRORS[layout]):
        inject(guest, error)
        fault = next_fault(agent, number)
        expected, said = EXPECTED[layout][fault.device, fault.severity]
        assert fault.witnesses == ("edac", "mc_event") and fault.count <= expected
        assert said.items() <= fault.detail.items()
    totals: dict[tuple[str, str], int] = {}
    for fault in faults(agent):
        totals[fault.device, fault.severity] = totals.get((fault.device, fault.severity), 0) + fault.count
    assert totals == {key: count for key, (count, _) in EXPECTED[layout].items()}
    in_sysfs = guest.run("cat /sys/devices/system/edac/mc/mc*/[cu]e_count").split()
    assert len(in_sysfs) == 2 * CONTROLLERS[layout] and sum(map(int, in_sysfs)) == sum(totals.values())


def test_the_tree_is_the_fixture_that_other_tests_read(guest: Guest, layout: str, agent: GuestAgent) -> None:
    assert tree(guest) == (FIXTURES / f"{layout}.tree").read_text()
    assert agent.metrics()['flipwatch_source_up{source="edac"}'] == 1


@pytest.mark.parametrize("layout", ["skx"], indirect=True)
def test_what_firmware_reports_by_events_alone(guest: Guest, layout: str, agent: GuestAgent) -> None:
    before = len(faults(agent))
    guest.run(f"echo 'extlog 2 abcde000 1 3 77 9' > {PARAMETERS}/report")
    memory = next_fault(agent, before)
    assert (memory.device, memory.severity) == ("node0/card1/module0", "corrected")
    assert memory.witnesses == ("extlog_mem_event",) and memory.detail["fru_text"] == "DIMM_C1"
    assert {"rank": 1, "bank": 3, "row": 77, "column": 9, "address": "0xabcde000"}.items() <= memory.detail.items()
    guest.run(f"echo 'arm 2 80000100 0' > {PARAMETERS}/report")
    core = next_fault(agent, before + 1)
    tells_more = not guest.kernel.release.startswith("6.1.")
    assert core.device == "cpu-80000100" and core.witnesses == ("arm_event",)
    assert (core.stream, core.severity) == (("sram", "uncorrected") if tells_more else ("core", "corrected"))
    for severity, name in enumerate(("corrected", "uncorrected", "fatal"), 1):
        guest.run(f"echo 'non_standard {severity}' > {PARAMETERS}/report")
        other = next_fault(agent, before + 1 + severity)
        assert other.device == f"firmware/{uuid.UUID(int=0)}" and other.severity == name
