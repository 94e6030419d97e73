"""Machine-check banks: the error codes of both makers, and what their other bits mean."""

import pytest

from agent.machine_check import AMD, INTEL, decode

CE = 0x8C00004000010090  # valid, MISC and ADDR valid, one corrected memory read error of channel 0
UMC_IPID = 0x9600050F00


@pytest.mark.parametrize(
    ("code", "kind", "stream"),
    [
        (0x0000, "unknown", "core"),
        (0x0001, "internal", "core"),
        (0x0005, "internal", "core"),
        (0x0400, "internal", "core"),
        (0x000C, "cache", "sram"),
        (0x000F, "cache", "sram"),
        (0x0010, "tlb", "sram"),
        (0x001A, "tlb", "sram"),
        (0x0080, "memory", "dram"),
        (0x009F, "memory", "dram"),
        (0x00C0, "memory", "dram"),
        (0x1090, "memory", "dram"),  # filtered
        (0x0290, "memory", "dram"),
        (0x0135, "cache", "sram"),
        (0x0E0B, "bus", "core"),
        (0x0800, "bus", "core"),
        (0x2090, "unknown", "core"),
    ],
)
def test_error_codes(code: int, kind: str, stream: str) -> None:
    check = decode(1 << 63 | code)
    assert (check.kind, check.stream, check.error_code) == (kind, stream, code)


@pytest.mark.parametrize(
    ("status", "vendor", "severity"),
    [
        (CE, INTEL, "corrected"),
        (0x9C00100000010090, AMD, "deferred"),
        (0x9C00100000010090, INTEL, "corrected"),  # there the bit belongs to the count
        (0x9C00100000010090, "", "corrected"),
        (0xBD000000000000C0, INTEL, "uncorrected"),
        (0xBE00000000010090, INTEL, "fatal"),
        (0xBE00000000010090, AMD, "fatal"),
    ],
)
def test_severity(status: int, vendor: str, severity: str) -> None:
    assert decode(status, vendor=vendor).severity == severity


def test_a_bank_of_intel_counts_and_says_when_it_counted_too_few() -> None:
    assert (decode(CE, vendor=INTEL).count, decode(CE, vendor=INTEL).is_floor) == (1, False)
    many = 0x8C00000000000090 | 1234 << 38
    assert (decode(many, vendor=INTEL).count, decode(many, vendor=AMD).count, decode(many).count) == (1234, 1, 1)
    overflown = many | 1 << 52
    assert (decode(overflown, vendor=INTEL).count, decode(overflown, vendor=INTEL).is_floor) == (1234, True)
    assert decode(CE | 1 << 62, vendor=AMD).is_floor
    assert decode(0xBD1F000000000090, vendor=INTEL).count == 1, "of an uncorrected error the field counts nothing"


def test_what_a_processor_cannot_do_is_not_read_into_its_bits() -> None:
    count = 0x8C00000000000090 | 1234 << 38
    assert [decode(count, vendor=INTEL, mcgcap=cap).count for cap in (None, 1 << 10, 0)] == [1234, 1234, 1]
    unsignalled = 0xBC00000000000090
    severities = [decode(unsignalled, vendor=INTEL, mcgcap=cap).severity for cap in (None, 1 << 24, 0)]
    assert severities == ["uncorrected", "deferred", "uncorrected"]
    assert decode(unsignalled | 1 << 56, vendor=INTEL, mcgcap=1 << 24).severity == "uncorrected"


def test_poison_that_a_core_came_upon_is_an_error_of_memory() -> None:
    load, fetch = 0xBD80000000100134, 0xBD80000000100150
    for status in (load, fetch):
        check = decode(status, addr=0x5456040, misc=0x86, vendor=INTEL)
        assert (check.kind, check.stream, check.severity) == ("poison", "dram", "uncorrected")
        assert check.address == 0x5456040
        assert decode(status).stream == "sram", "the bits are Intel's"
        assert decode(status | 1 << 57, vendor=INTEL).stream == "sram", "the core is corrupt itself"
        assert decode(status & ~(1 << 55), vendor=INTEL).stream == "sram"
    consumed = 0xBC00080001010135
    assert (decode(consumed, vendor=AMD).kind, decode(consumed, vendor=AMD).stream) == ("poison", "dram")
    assert decode(consumed & ~(1 << 43), vendor=AMD).stream == "sram"


def test_dram_errors_of_amd_are_told_by_bank_or_hardware_id() -> None:
    northbridge = 0x9C00400000080813
    assert decode(northbridge, vendor=AMD, bank=4).stream == "dram"
    assert decode(northbridge, vendor=AMD, bank=2).kind == "bus"
    assert decode(northbridge, vendor=INTEL, bank=4).kind == "bus"
    umc = 0x9C2040000000011B
    assert decode(umc, vendor=AMD, ipid=UMC_IPID).kind == "memory"
    assert decode(umc | 2 << 16, vendor=AMD, ipid=UMC_IPID).stream == "core"
    assert decode(umc, vendor=AMD).kind == "cache", "without its IPID the bank is any bank"


def test_an_address_is_valid_where_it_is_one_of_physical_memory() -> None:
    check = decode(CE, addr=0x1234567, misc=0x8C, vendor=INTEL)
    assert check.is_address_valid and check.address == 0x1234000
    assert not decode(CE, addr=0x1234000, misc=0x0C, vendor=INTEL).is_address_valid, "an offset in a segment"
    assert not decode(CE & ~(1 << 58), addr=0x1234000, misc=0x8C, vendor=INTEL).is_address_valid
    assert decode(CE, addr=0x1234040, misc=0x8C, vendor=AMD).address == 0x1234040
    umc = decode(CE, addr=0x1234000, vendor=AMD, ipid=UMC_IPID)
    assert not umc.is_address_valid and umc.address is None
