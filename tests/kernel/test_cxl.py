"""Memory behind CXL, and records of firmware's own kinds: the kernel's drivers make events of what firmware reports.

QEMU emulates the memory; the event records are those that firmware passes on when it keeps the reporting of CXL errors
to itself, which pcie_ports=compat lets it. Linux traces such events since 6.8, so 6.12 alone is booted. Layouts: UEFI
specification 2.10, appendix N.2.14; Compute Express Link specification 3.1, 8.2.9.2.1. The tests share one machine.
"""

import struct
import time
import uuid
from collections.abc import Iterator

import pytest

from agent.report import MemoryFault
from tests.agent.error_records import MEMORY, entry, memory, status_block
from tests.agent.processes import eventually
from tests.kernel import firmware
from tests.kernel.debian_kernel import unpacked
from tests.kernel.guest import Guest, started
from tests.kernel.guest_agent import GuestAgent

DRAM, GENERAL_MEDIA = "601dcbb3-9c06-4eab-b8af-4e9bfb5c9624", "fbcd0a77-c260-417f-85a9-088b1621eba6"
OF_A_VENDOR = "6d5244f2-2712-11ec-bea7-cb3fdb95c786"
CORRECTED, RECOVERABLE = 2, 0  # severities of a section
WARNING, FAILURE, FATAL = 1, 2, 3  # logs of the device
UNCORRECTABLE = 1  # in an event's descriptor
MEMORY_DEVICE = (
    *("-machine", "cxl=on", "-device", "pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl.1"),
    *("-device", "cxl-rp,port=0,bus=cxl.1,id=root-port,chassis=0,slot=2"),
    *("-object", "memory-backend-ram,id=cxl-memory,size=256M", "-object", "memory-backend-ram,id=labels,size=256M"),
    *("-device", "cxl-type3,bus=root-port,memdev=cxl-memory,lsa=labels"),
)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    directory, state = tmp_path_factory.mktemp("guest"), tmp_path_factory.mktemp("state")
    tables = firmware.options(directory, status_block(entry(MEMORY, memory(), severity=1)))
    kernel, append = unpacked("linux-image-6.12-amd64"), f"{firmware.COMMAND_LINE} pcie_ports=compat"
    with started(kernel, directory, state, append=append, options=("-no-reboot", *tables, *MEMORY_DEVICE)) as guest:
        for module in ("cxl_acpi", "cxl_pci", "cxl_mem"):
            guest.load(module)
        yield guest


@pytest.fixture(scope="module")
def agent(guest: Guest) -> GuestAgent:
    return GuestAgent(guest).start()


@pytest.fixture(scope="module")
def pci_address(guest: Guest) -> tuple[int, int, int]:
    """Bus, device and function of the memory device, which its driver has taken."""
    address = guest.run("cd /sys/bus/pci/drivers/cxl_pci; echo 0000:*").strip()
    _, bus, rest = address.split(":")
    device, function = rest.split(".")
    return int(bus, 16), int(device, 16), int(function, 16)


def record(pci_address: tuple[int, int, int], event: bytes) -> bytes:
    """What firmware says of a device's event: whose it is, and the event."""
    bus, device, function = pci_address
    head = struct.pack("<QHHBBBHHBII", 0b111, 0x8086, 0xD93, function, device, bus, 0, 0, 0, 0xABC, 0)
    return struct.pack("<I", 4 + len(head) + len(event)) + head + event


def media_event(log: int, descriptor: int, valid: int, rest: bytes) -> bytes:
    head = struct.pack("<B3sHHQB15s", 0x80, bytes([log, 0, 0]), 1, 0, time.time_ns(), 0, b"")
    return (head + struct.pack("<QBBBHBB", 0x1000, descriptor, 0, 0, valid, 2, 1) + rest).ljust(112, b"\0")


def dram_event(log: int, descriptor: int, row: int) -> bytes:
    place = struct.pack("<3sBB3sH", b"\1\0\0", 3, 2, row.to_bytes(3, "little"), 9)
    return media_event(log, descriptor, 0x7F, place)


def faults(agent: GuestAgent) -> list[MemoryFault]:
    found = [fault for fault in agent.faults()[1] if isinstance(fault, MemoryFault)]
    return [fault for fault in found if fault.witnesses != ("lastwords",)]


def reported(guest: Guest, agent: GuestAgent, kind: str, content: bytes, severity: int) -> MemoryFault:
    """The fault that comes of a section."""
    before = len(faults(agent))
    firmware.report(guest, status_block(entry(kind, content, severity=severity), severity=severity))
    eventually(lambda: len(faults(agent)) > before)
    return faults(agent)[before]


def test_events_of_dram_name_row_and_column(guest: Guest, agent: GuestAgent, pci_address: tuple[int, int, int]) -> None:
    for number, row in enumerate((0x15DA, 0x15DB)):
        event = record(pci_address, dram_event(WARNING, 0, row))
        fault = reported(guest, agent, DRAM, event, CORRECTED)
        assert fault.witnesses == ("cxl_dram",) and len(faults(agent)) == number + 1
        assert (fault.device, fault.stream, fault.severity) == ("mem0/channel2/rank1", "dram", "corrected")
        assert {"bank_group": 3, "bank": 2, "row": row, "column": 9}.items() <= fault.detail.items()
        assert fault.detail["device_address"] == "0x1000"
    mode = 'flipwatch_device_mode{device="mem0/channel2/rank1",mode="column",stream="dram"}'
    assert agent.metrics()[mode] == 1


def test_severities_of_media_events(guest: Guest, agent: GuestAgent, pci_address: tuple[int, int, int]) -> None:
    failed = record(pci_address, dram_event(FAILURE, UNCORRECTABLE, 7))
    assert reported(guest, agent, DRAM, failed, RECOVERABLE).severity == "uncorrected"
    fatal = record(pci_address, media_event(FATAL, UNCORRECTABLE, 0, b""))
    fault = reported(guest, agent, GENERAL_MEDIA, fatal, RECOVERABLE)
    assert (fault.device, fault.severity, fault.witnesses) == ("mem0/unknown", "fatal", ("cxl_general_media",))


def test_a_section_of_a_vendors_own_kind(guest: Guest, agent: GuestAgent) -> None:
    for severity, name in ((CORRECTED, "corrected"), (RECOVERABLE, "uncorrected")):
        fault = reported(guest, agent, OF_A_VENDOR, b"\1\2\3", severity)
        assert (fault.device, fault.severity) == (f"firmware/{uuid.UUID(OF_A_VENDOR)}", name)
        assert fault.witnesses == ("non_standard_event",) and fault.detail["data"] == "010203"
    log = guest.run("dmesg")
    assert "section_type: CXL DRAM Event" in log, "the kernel log has it too, and nothing was counted twice"
