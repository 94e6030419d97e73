"""A firmware-first host, and one that dies of a machine check, is stopped, and is reset: what is told, and when.

All of it is the kernels' own. ramoops keeps the panic in a piece of memory that QEMU, like most hardware, leaves alone
at a warm reset; the firmware's tables and error records are made here, and the kernels find, check and print them. The
tests of this module share one machine and run in order.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.report import MemoryFault
from tests.agent.error_records import MEMORY, entry, memory, status_block
from tests.agent.processes import eventually
from tests.kernel import firmware
from tests.kernel.debian_kernel import Kernel
from tests.kernel.guest import FATAL_CHECK, Guest, started
from tests.kernel.guest_agent import GuestAgent

HEARTBEAT_S = 5
SECOND_NS = 10**9
RAMOOPS = "mem_address=0x28000000 mem_size=0x100000 record_size=0x10000 ecc=1"
# QEMU's processor looks like an AMD one so old that the kernel doesn't trust banks left full by a reset, unless told to
COMMAND_LINE = f"{firmware.COMMAND_LINE} memmap=1M$0x28000000 mce=bootlog"


@pytest.fixture(scope="module")
def machine(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Guest]:
    """Its firmware says at every start that DIMM_A2 had killed the host before."""
    directory = tmp_path_factory.mktemp("guest")
    boot_error = status_block(entry(MEMORY, memory(), severity=1))
    options = firmware.options(directory, boot_error)
    with started(kernel, directory, state, append=COMMAND_LINE, options=options) as guest:
        yield guest


@pytest.fixture(scope="module")
def agent(machine: Guest) -> GuestAgent:
    return GuestAgent(machine)


def start_after_boot(agent: GuestAgent) -> None:
    agent.guest.load("ramoops", RAMOOPS)
    agent.guest.run("mount -t pstore pstore /root/sys/fs/pstore")
    agent.start(heartbeat_s=HEARTBEAT_S)


def faults(agent: GuestAgent, stream: str) -> list[MemoryFault]:
    return [fault for fault in agent.faults()[1] if isinstance(fault, MemoryFault) and fault.stream == stream]


def test_what_firmware_reports_is_a_fault_on_the_device_it_names(machine: Guest, agent: GuestAgent) -> None:
    start_after_boot(agent)
    (killer,) = faults(agent, "dram")
    assert (killer.device, killer.severity, killer.witnesses) == ("fru/DIMM_A2", "fatal", ("lastwords",))
    firmware.report(machine, status_block(entry(MEMORY, memory(), severity=2, fru_text=b"DIMM 0"), severity=2))
    _, fault = eventually(lambda: found if len(found := faults(agent, "dram")) > 1 else None)
    assert (fault.device, fault.severity, fault.count) == ("fru/DIMM 0", "corrected", 1)
    assert (fault.detail["slot"], fault.detail["serial"]) == ("DIMM 0", "0A1B2C3D"), "QEMU's name for it"
    assert fault.witnesses == ("kmsg", "mce_record") and fault.time_error_s < 60, "the kernel passes it on as both"
    assert {key: fault.detail[key] for key in ("row", "column", "dmi_handle", "error_type")} == {
        "row": "20411",
        "column": "248",
        "dmi_handle": "0x1103",
        "error_type": "2, single-bit ECC",
    }
    agent.kill()
    agent.start(heartbeat_s=HEARTBEAT_S)
    time.sleep(2.5)  # two more polls, in which nothing may be counted again
    assert faults(agent, "dram") == [killer, fault] and not faults(agent, "host")


def test_a_fatal_machine_check_is_told_by_the_next_boot(machine: Guest, agent: GuestAgent) -> None:
    seen_ns = agent.faults()[0].complete_until_ns
    machine.monitor(FATAL_CHECK)
    machine.await_boot()
    start_after_boot(agent)
    (death,) = faults(agent, "host")
    assert (death.device, death.severity, death.witnesses) == ("host", "fatal", ("lastwords",))
    assert seen_ns - (HEARTBEAT_S + 2) * SECOND_NS <= death.time_ns < death.detail["next_boot_ns"]
    assert death.detail["evidence"] == [
        "dmesg-ramoops-0: Kernel panic: Fatal local machine check",
        "machine check of cpu0, bank 9: 0xbe00000000010090 (memory)",
    ]
    check = faults(agent, "dram")[-1]
    assert len(faults(agent, "dram")) == 3, "what firmware shows again was told already"
    assert (check.device, check.severity, check.count) == ("socket0/bank9", "fatal", 1)
    assert check.detail["address"] == "0x1234000"
    assert death.time_ns - SECOND_NS <= check.time_ns < death.detail["next_boot_ns"]
    assert "Machine Check: 0 Bank 9: be00000000010090" in machine.run("dmesg"), "the bank was still full"


def test_a_clean_stop_is_no_death(machine: Guest, agent: GuestAgent) -> None:
    before = faults(agent, "host")
    agent.kill("TERM")
    machine.monitor("system_reset")
    machine.await_boot()
    start_after_boot(agent)
    assert faults(agent, "host") == before


def test_a_reset_without_a_word_is_a_death_without_evidence(machine: Guest, agent: GuestAgent) -> None:
    machine.monitor("system_reset")
    machine.await_boot()
    start_after_boot(agent)
    _, death = faults(agent, "host")
    assert death.detail["evidence"] == ["none"], "the panic that pstore still holds was another boot's"
