"""Error records in binary: laid out here field by field from the specifications, and cut and spoilt at will."""

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.error_record import sections

MEMORY = "a5bc1114-6f64-4ede-b863-3e83ed7c83b1"
PROCESSOR = "9876ccad-47b4-4bdb-b65e-16f193c4f3db"
PCIE = "d995e954-bbc1-430f-ad91-b44dcb3c6f35"
NODE_TO_COLUMN = 0x3F8
RANK_AND_HANDLE = 1 << 15 | 1 << 17


def memory(valid: int = 0b11 | NODE_TO_COLUMN | 1 << 14 | RANK_AND_HANDLE) -> bytes:
    numbers = struct.pack("<4Q", valid, 0x400, 0x2B54E2D580, 0xFFFFFFFFFFFFF000)
    place = struct.pack("<8H", 1, 2, 3, 12, 4, 20411, 248, 5)  # node card module bank device row column bit
    ids = struct.pack("<3Q", 0, 0, 0)  # requestor, responder, target
    return numbers + place + ids + struct.pack("<BBHHH", 2, 0, 1, 0, 0x1103)  # type, extended, rank, card, module


def processor() -> bytes:
    head = struct.pack("<QBBBBBBH", 0x124, 0, 2, 1, 0, 0, 2, 0)  # valid, type, isa, error, operation, flags, level
    return head + struct.pack("<Q128s5Q", 0, b"", 0x10, 0, 0, 0, 0)


def entry(
    kind: str, content: bytes, *, severity: int = 2, revision: int = 0x300, fru_text: bytes = b"DIMM_A2"
) -> bytes:
    validation = 2 if fru_text else 0
    head = struct.pack("<IHBBI16s20s", severity, revision, validation, 0, len(content), b"", fru_text)
    return uuid.UUID(kind).bytes_le + head + (b"\0" * 8 if revision >= 0x300 else b"") + content


def status_block(*entries: bytes, severity: int = 1) -> bytes:
    content = b"".join(entries)
    return struct.pack("<5I", 1, 0, 0, len(content), severity) + content


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
