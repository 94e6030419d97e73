"""SMBIOS structure tables, written as DMTF DSP0134 3.x lays them out."""

import struct
from pathlib import Path

MIB = 1 << 20


def structure(kind: int, body: bytes, *strings: str, handle: int | None = None) -> bytes:
    """`body` is what follows the header of four bytes."""
    text = b"".join(string.encode() + b"\0" for string in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), 0x1000 + kind if handle is None else handle) + body + text + b"\0"


def memory_array(correction: int = 6, use: int = 3, handle: int = 0x1010) -> bytes:
    return structure(16, struct.pack("<BBBIHHQ", 3, use, correction, 0x80000000, 0xFFFE, 8, 0), handle=handle)


def memory_device(
    locator: str = "DIMM_A1",
    bank: str = "",
    *,
    size_mib: int = 16384,
    serial: str = "",
    part: str = "",
    manufacturer: str = "",
    widths: tuple[int, int] = (72, 64),
    speed: int = 3200,
    array: int = 0x1010,
) -> bytes:
    """Type 17 of version 3.3 (0x5C bytes)."""
    strings = [text for text in (locator, bank, manufacturer, serial, part) if text]
    place = {text: number for number, text in enumerate(strings, 1)}
    numbers = [place.get(text, 0) for text in (locator, bank, manufacturer, serial, part)]
    size = size_mib if size_mib < 0x7FFF else 0x7FFF
    body = struct.pack(
        "<HHHHHBBBBBHHBBBBBIH",
        *(array, 0xFFFE, *widths, size, 9, 0, *numbers[:2], 26, 0x80),
        *(speed, *numbers[2:4], 0, numbers[4], 2, size_mib if size == 0x7FFF else 0, speed),
    )
    return structure(17, body.ljust(0x54 - 4, b"\0") + struct.pack("<II", 6400, 5600), *strings)


END = structure(127, b"")


def table(*structures: bytes) -> bytes:
    return b"".join((memory_array(), *structures, END))


def write(sysfs: Path, data: bytes) -> None:
    file = sysfs / "firmware/dmi/tables/DMI"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
