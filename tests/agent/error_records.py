"""Error records in binary, laid out field by field from the specifications that agent/error_record.py names.

Enters: what a record shall say. Leaves: its bytes.
"""

import struct
import uuid

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
