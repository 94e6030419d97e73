"""Error records in binary, cut and spoilt at will."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.error_record import sections
from tests.agent.error_records import MEMORY, PCIE, PROCESSOR, entry, memory, processor, status_block


@pytest.mark.parametrize("revision", [0x201, 0x300])
def test_a_memory_section(revision: int) -> None:
    (section,) = sections(status_block(entry(MEMORY, memory(), severity=0, revision=revision)))
    assert (section.severity, section.stream, section.device) == ("uncorrected", "dram", "fru/DIMM_A2")
    assert section.detail == {
        "fru_text": "DIMM_A2",
        "address": "0x0000002b54e2d580",
        "error_status": "0x400",
        "error_type": "2",
        "node": "1",
        "card": "2",
        "module": "3",
        "bank": "12",
        "device": "4",
        "row": "20411",
        "column": "248",
        "rank": "1",
        "dmi_handle": "0x1103",
    }


def test_what_is_not_valid_is_not_shown() -> None:
    (section,) = sections(status_block(entry(MEMORY, memory(valid=0x38), fru_text=b"")))
    assert section.device == "node1/card2/module3" and set(section.detail) == {"node", "card", "module"}


def test_several_blocks_and_sections_of_other_hardware() -> None:
    first = status_block(entry(PCIE, b"x" * 208), entry(PROCESSOR, processor(), severity=1, fru_text=b""))
    second = status_block(entry(MEMORY, memory()[:73], severity=2), entry(MEMORY, memory(), severity=3))
    found = list(sections(first + second + bytes(40)))
    assert [(item.stream, item.device, item.severity) for item in found] == [
        ("sram", "cpu/0x0000000000000010", "fatal"),
        ("dram", "fru/DIMM_A2", "corrected"),
    ]


@given(st.data())
def test_no_bytes_are_an_exception(data: st.DataObject) -> None:
    region = bytearray(status_block(entry(MEMORY, memory()), entry(PROCESSOR, processor())))
    for at in data.draw(st.lists(st.integers(0, len(region) - 1), max_size=20)):
        region[at] = data.draw(st.integers(0, 255))
    for section in sections(bytes(region[: data.draw(st.integers(0, len(region)))])):
        assert section.device and section.severity in ("corrected", "uncorrected", "fatal")
