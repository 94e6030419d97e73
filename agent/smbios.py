"""The firmware's table of memory modules: SMBIOS structures 16 (memory array) and 17 (memory device).

Enters: the bytes of the structure table, as /sys/firmware/dmi/tables/DMI gives them. Leaves: the modules in the table's
order, empty slots among them, and what error correction the firmware claims. Format: DMTF DSP0134 (SMBIOS reference
specification) 3.x, sections 6.1, 7.17 and 7.18. Pure; a table that is cut short or lies about its lengths ends the
reading there and is said to be damaged.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from checksum.printable import printable

MEMORY_ARRAY, MEMORY_DEVICE, END_OF_TABLE = 16, 17, 127
LENGTH_MIN = {MEMORY_ARRAY: 0x0F, MEMORY_DEVICE: 0x15}  # of version 2.1, the first that has them; of others: the header
KIB, MIB = 1 << 10, 1 << 20
TEXT_CHARACTERS_MAX = 64  # as long as the specification allows

# Sections 7.17.3, 7.18.2 and 7.18.3; numbers that no table here names are shown as they are.
ERROR_CORRECTION = {3: "none", 4: "parity", 5: "single-bit ECC", 6: "multi-bit ECC", 7: "CRC"}
FORMS = {9: "DIMM", 11: "row of chips", 13: "SODIMM", 15: "FB-DIMM", 16: "die", 17: "CAMM"}
TYPES = {7: "RAM", 24: "DDR3", 26: "DDR4", 27: "LPDDR", 28: "LPDDR2", 29: "LPDDR3", 30: "LPDDR4"} | {
    32: "HBM",
    33: "HBM2",
    34: "DDR5",
    35: "LPDDR5",
    36: "HBM3",
}
SYSTEM_MEMORY = 3
# What firmware writes where it knows nothing.
NOTHING = {
    *("", "none", "n/a", "unknown", "undefined", "empty", "no dimm"),
    *("default string", "not specified", "not provided", "to be filled by o.e.m."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One memory slot of the board, and what sits in it; `size_bytes` 0: nothing does; None: it can't be told."""

    locator: str
    bank: str
    size_bytes: int | None
    manufacturer: str = ""
    serial: str = ""
    part: str = ""
    type: str = ""
    form: str = ""
    speed_mts: int | None = None  # megatransfers per second that it is run at, else that it is made for
    ranks: int | None = None
    has_ecc_bits: bool | None = None  # it is wider than its data


@dataclass(frozen=True, slots=True)
class Table:
    modules: tuple[Module, ...] = ()
    error_correction: str | None = None  # of the system memory, as the firmware says
    is_damaged: bool = False


def parse(data: bytes) -> Table:
    """The memory of a structure table."""
    devices: list[_Fields] = []
    arrays: list[_Fields] = []
    is_damaged = True  # until the table's end has been seen
    for kind, body, strings in _structures(data):
        if kind == MEMORY_DEVICE:
            devices.append(_Fields(body, strings))
        elif kind == MEMORY_ARRAY:
            arrays.append(_Fields(body, strings))
        elif kind == END_OF_TABLE:
            is_damaged = False
    others = {array.number("H", 0x02) for array in arrays if array.number("B", 0x05) != SYSTEM_MEMORY}
    modules = tuple(_module(device) for device in devices if device.number("H", 0x04) not in others)
    return Table(modules, _error_correction(arrays), is_damaged)


def _error_correction(arrays: "list[_Fields]") -> str | None:
    """What all arrays of system memory agree on; other arrays are those of flash and cache."""
    codes = {array.number("B", 0x06) for array in arrays if array.number("B", 0x05) == SYSTEM_MEMORY}
    return ERROR_CORRECTION.get(codes.pop() or 0, "unknown") if len(codes) == 1 else None


def _structures(data: bytes) -> Iterator[tuple[int, bytes, list[bytes]]]:
    """(type, formatted area, strings) of each structure up to the end of the table, or of what is intact of it."""
    start = 0
    while start + 4 <= len(data):
        kind, length = data[start], data[start + 1]
        end = data.find(b"\0\0", start + length)
        if length < LENGTH_MIN.get(kind, 4) or end < 0:
            return
        yield kind, data[start : start + length], data[start + length : end].split(b"\0")
        if kind == END_OF_TABLE:
            return
        start = end + 2
    if start == len(data) > 0:  # before version 2.2 nothing marked the end
        yield END_OF_TABLE, b"", []


@dataclass(frozen=True, slots=True)
class _Fields:
    """Fields by offset; older versions of the specification end earlier, what lies beyond the end is None."""

    body: bytes
    strings: list[bytes]

    def number(self, form: str, offset: int) -> int | None:
        if offset + struct.calcsize(form) > len(self.body):
            return None
        (value,) = struct.unpack_from(f"<{form}", self.body, offset)
        return int(value)

    def text(self, offset: int) -> str:
        number = self.number("B", offset)
        if not number or number > len(self.strings):
            return ""
        return printable(self.strings[number - 1].decode("utf-8", "replace").strip())[:TEXT_CHARACTERS_MAX]

    def known_text(self, offset: int) -> str:
        text = self.text(offset)
        is_blank = set(text.casefold()) in ({"0"}, {"f"})
        return "" if is_blank or text.casefold() in NOTHING else text


def _module(fields: _Fields) -> Module:
    rank_bits = fields.number("B", 0x1B)
    return Module(
        locator=fields.text(0x10),
        bank=fields.known_text(0x11),
        size_bytes=_size_bytes(fields),
        manufacturer=fields.known_text(0x17),
        serial=fields.known_text(0x18),
        part=fields.known_text(0x1A),
        type=_named(TYPES, fields.number("B", 0x12)),
        form=_named(FORMS, fields.number("B", 0x0E)),
        speed_mts=_speed_mts(fields, 0x20, 0x58) or _speed_mts(fields, 0x15, 0x54),
        ranks=rank_bits & 0xF or None if rank_bits is not None else None,
        has_ecc_bits=_has_ecc_bits(fields),
    )


def _size_bytes(fields: _Fields) -> int | None:
    size = fields.number("H", 0x0C)
    if size is None or size == 0xFFFF:
        return None
    if size == 0x7FFF:
        extended_mib = fields.number("I", 0x1C)
        return None if extended_mib is None else (extended_mib & 0x7FFFFFFF) * MIB
    return (size & 0x7FFF) * (KIB if size & 0x8000 else MIB)


def _speed_mts(fields: _Fields, offset: int, extended_offset: int) -> int | None:
    speed = fields.number("H", offset)
    return (fields.number("I", extended_offset) if speed == 0xFFFF else speed) or None


def _has_ecc_bits(fields: _Fields) -> bool | None:
    total, data = fields.number("H", 0x08), fields.number("H", 0x0A)
    if not total or not data or 0xFFFF in (total, data):
        return None
    return total > data


def _named(names: dict[int, str], number: int | None) -> str:
    if number is None or number in (1, 2):  # "other" and "unknown"
        return ""
    return names.get(number, f"type {number}")
