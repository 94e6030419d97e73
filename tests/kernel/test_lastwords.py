"""A host that dies of a machine check, one that is stopped, and one that loses its power: what the next boot tells.

pstore is real: ramoops keeps the panic in a piece of memory that QEMU, like most hardware, leaves alone at a warm
reset. BERT is a table made here and put where firmware would put it; the kernel finds, checks and prints it. What
firmware reports while a system runs is not: no firmware here reports anything, so that text, in the format of
drivers/firmware/efi/cper.c, is written into the real kernel log. The tests of this module share one machine and run in
order.
"""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.report import MemoryFault
from tests.agent.processes import eventually
from tests.agent.test_error_record import MEMORY, entry, memory, status_block
from tests.kernel.debian_kernel import Kernel
from tests.kernel.guest import Guest, started
from tests.kernel.guest_agent import GuestAgent

HEARTBEAT_S = 5
SECOND_NS = 10**9
RAMOOPS = "mem_address=0x28000000 mem_size=0x100000 record_size=0x10000 ecc=1"
# QEMU's processor looks like an AMD one so old that the kernel doesn't trust banks left full by a reset, unless told to
COMMAND_LINE = "memmap=1M$0x28000000 memmap=1M$0x28100000 mce=bootlog"
BERT_AT, BERT_BYTES = 0x28100000, 1024
FATAL = "mce 0 9 0xbe00000000010090 0x5 0x1234500 0x8c"  # uncorrected, the processor's context corrupt
CPER = (
    "{9}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 4",
    "{9}[Hardware Error]: It has been corrected by h/w and requires no further action",
    "{9}[Hardware Error]: event severity: corrected",
    "{9}[Hardware Error]:  Error 0, type: corrected",
    "{9}[Hardware Error]:  fru_text: DIMM_B1",
    "{9}[Hardware Error]:   section_type: memory error",
    "{9}[Hardware Error]:   physical_address: 0x0000000012345680",
    "{9}[Hardware Error]:   node:0 card:1 module:0 rank:0 bank:3 row:77 column:8 bit_position:5 ",
    "{9}[Hardware Error]:   error_type: 2, single-bit ECC",
)


@pytest.fixture(scope="module")
def machine(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Guest]:
    directory = tmp_path_factory.mktemp("guest")
    options = bert(directory)
    with started(kernel, directory, state, append=COMMAND_LINE, options=options) as guest:
        yield guest


def bert(directory: Path) -> tuple[str, ...]:
    """QEMU's options for a firmware that at every start says that DIMM_A2 had killed the host before."""
    table, region = directory / "bert-table", directory / "bert-region"
    table.write_bytes(struct.pack("<IQ", BERT_BYTES, BERT_AT))
    region.write_bytes(status_block(entry(MEMORY, memory(), severity=1)).ljust(BERT_BYTES, b"\0"))
    return (
        "-acpitable",
        f"sig=BERT,rev=1,data={table}",
        "-device",
        f"loader,file={region},addr={BERT_AT},force-raw=on",
    )


@pytest.fixture(scope="module")
def agent(machine: Guest) -> GuestAgent:
    return GuestAgent(machine)


def start_after_boot(agent: GuestAgent) -> None:
    agent.guest.run(f"date -s @{int(time.time())}")
    agent.guest.load("ramoops", RAMOOPS)
    agent.guest.run("mount -t pstore pstore /root/sys/fs/pstore")
    agent.start(heartbeat_s=HEARTBEAT_S)


def faults(agent: GuestAgent, stream: str) -> list[MemoryFault]:
    return [fault for fault in agent.faults()[1] if isinstance(fault, MemoryFault) and fault.stream == stream]


def test_an_error_record_of_firmware_is_a_fault(machine: Guest, agent: GuestAgent) -> None:
    start_after_boot(agent)
    for line in CPER:
        machine.run(f"echo '{line}' > /dev/kmsg")
    (fault,) = eventually(lambda: faults(agent, "dram"))
    assert (fault.device, fault.severity, fault.count) == ("fru/DIMM_B1", "corrected", 1)
    assert fault.witnesses == ("kmsg",) and fault.time_error_s < 60
    assert (fault.detail["row"], fault.detail["bit_position"]) == ("77", "5")
    agent.kill()
    agent.start(heartbeat_s=HEARTBEAT_S)
    time.sleep(2.5)  # two more polls, in which nothing may be counted again
    assert faults(agent, "dram") == [fault] and not faults(agent, "host")


def test_a_fatal_machine_check_is_told_by_the_next_boot(machine: Guest, agent: GuestAgent) -> None:
    seen_ns = agent.faults()[0].complete_until_ns
    machine.monitor(FATAL)
    machine.await_boot()
    start_after_boot(agent)
    (death,) = faults(agent, "host")
    assert (death.device, death.severity, death.witnesses) == ("host", "fatal", ("lastwords",))
    assert seen_ns - (HEARTBEAT_S + 2) * SECOND_NS <= death.time_ns < death.detail["next_boot_ns"]
    assert death.detail["evidence"] == [
        "dmesg-ramoops-0: Kernel panic: Fatal local machine check",
        "machine check of cpu0, bank 9: 0xbe00000000010090 (memory)",
    ]
    (check,) = [fault for fault in faults(agent, "dram") if fault.severity == "fatal"]
    assert (check.device, check.count, check.detail["address"]) == ("socket0/bank9", 1, "0x1234000")
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
