"""Error records and machine checks as kernels print them."""

from hypothesis import given
from hypothesis import strategies as st

from agent.hardware_error import LoggedCheck, machine_checks, panic, sections
from agent.machine_check import AMD
from tests.agent.kernel_texts import BARE, MEMORY, PANIC, PROCESSOR


def test_a_memory_section() -> None:
    (section,) = sections(MEMORY.splitlines())
    assert (section.severity, section.stream, section.device) == ("corrected", "dram", "fru/CPU1_DIMM_B1")
    assert section.label == "NODE 1 DIMM_B1", "in the words of the table of modules"
    assert section.detail == {
        "fru_text": "CPU1_DIMM_B1",
        "error_status": "Storage error in DRAM memory (0x0000000000000400)",
        "address": "0x0000002b54e2d580",
        "node": "1",
        "card": "2",
        "module": "0",
        "rank": "1",
        "bank": "12",
        "device": "4",
        "row": "20411",
        "column": "248",
        "bit_position": "3",
        "error_type": "2, single-bit ECC",
        "dimm_location": "NODE 1 DIMM_B1",
    }


def test_sections_are_apart_and_only_errors_of_memory_count() -> None:
    first, second = sections(BARE.splitlines())
    assert (first.severity, first.device, first.detail["bank_group"]) == ("uncorrected", "node0/card1/module2", "1")
    assert (second.severity, second.device, second.detail) == ("corrected", "dmi/0x1103", {"dmi_handle": "0x1103"})


def test_processor_sections() -> None:
    cache, bus = sections(PROCESSOR.splitlines())
    assert (cache.severity, cache.stream, cache.device) == ("fatal", "sram", "cpu/0x0000000000000010")
    assert (bus.stream, bus.device) == ("core", "cpu/unknown")


def test_machine_checks_of_a_panic() -> None:
    (check,) = machine_checks(PANIC.splitlines())
    assert check == LoggedCheck(
        cpu=0,
        bank=9,
        status=0xBE00000000010090,
        is_exception=True,
        addr=0x1234000,
        misc=0x8C,
        vendor=AMD,
        time_s=1795473405,
        socket=0,
    )
    assert (check.decoded().severity, check.decoded().stream) == ("fatal", "dram")
    assert panic(PANIC.splitlines()) == "Fatal local machine check"


def test_several_banks_and_lines_that_are_cut_off() -> None:
    text = """mce: [Hardware Error]: TSC 0 ADDR 99
mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 5: be00000000800400
mce: [Hardware Error]: TSC 0 ADDR fef1ce40 MISC 86 PPIN 5 SYND 1 IPID 9600050f00
usb 1-1: new device
mce: [Hardware Error]: CPU 12: Machine Check: 0 Bank 7: 8c00004000010"""
    first, second = machine_checks(text.splitlines())
    assert (first.cpu, first.bank, first.is_exception, first.addr, first.ipid) == (
        3,
        5,
        False,
        0xFEF1CE40,
        0x9600050F00,
    )
    assert (second.cpu, second.bank, second.time_s) == (12, 7, 0)
    assert panic(text.splitlines()) is None


def test_an_address_that_is_none_is_left_out() -> None:
    for text in ("nowhere", "0x", "0x12 (invalid)", "-0x1000", "0x" + "f" * 17):
        (section,) = sections(MEMORY.replace("0x0000002b54e2d580", text).splitlines())
        assert "address" not in section.detail and section.detail["row"] == "20411", text


@given(st.lists(st.sampled_from(f"{MEMORY}\n{BARE}\n{PROCESSOR}\n{PANIC}".splitlines()) | st.text(max_size=80)))
def test_no_lines_are_an_exception(lines: list[str]) -> None:
    for section in sections(lines):
        assert section.severity in ("corrected", "uncorrected", "fatal") and section.device
    list(machine_checks(lines))
    panic(lines)
