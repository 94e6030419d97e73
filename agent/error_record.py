"""Common platform error records in binary: firmware leaves them in a boot error region (BERT), trace events hold some.

Enters: the bytes of generic error status blocks, or of one section. Leaves: Sections, the same as the kernel's text
gives. Sources: ACPI specification 6.5, 18.3.2.7 (blocks and entries); UEFI specification 2.10, appendix N.2.4 and N.2.5
(sections).

    block   status, raw offset, raw length, data length, severity (u32 each), then entries of data length bytes
    entry   section type, severity, revision, validation, flags, length, FRU id, FRU text; from 0x300 on a time; content
"""

import struct
import uuid
from collections.abc import Iterator

from agent.hardware_error import Section, section

BLOCK = struct.Struct("<4xIIII")
ENTRY = struct.Struct("<16sIHBBI16s20s")
TIMESTAMP_BYTES, WITH_TIMESTAMP = 8, 0x300
HAS_FRU_TEXT = 2
SEVERITIES = ("recoverable", "fatal", "corrected", "info")
MEMORY = uuid.UUID("a5bc1114-6f64-4ede-b863-3e83ed7c83b1")
PROCESSOR = uuid.UUID("9876ccad-47b4-4bdb-b65e-16f193c4f3db")
# Each field's validation bit, and how it is written in the kernel's text.
MEMORY_SECTION = struct.Struct("<QQQ8xHHHHHHHH24xBxHxxH")
MEMORY_FIELDS = (
    ("error_status", 0, "{:#x}"),
    ("physical_address", 1, "{:#018x}"),
    ("node", 3, "{}"),
    ("card", 4, "{}"),
    ("module", 5, "{}"),
    ("bank", 6, "{}"),
    ("device", 7, "{}"),
    ("row", 8, "{}"),
    ("column", 9, "{}"),
    ("bit_position", 10, "{}"),
    ("error_type", 14, "{}"),
    ("rank", 15, "{}"),
    ("DIMM location", 17, "not present. DMI handle: {:#06x}"),
)
PROCESSOR_SECTION = struct.Struct("<QxxBxxB2x8x128xQ")
PROCESSOR_FIELDS = (("error_type", 2, "{:#04x}"), ("level", 5, "{}"), ("processor_id", 8, "{:#018x}"))
KINDS = {
    MEMORY: ("memory error", MEMORY_SECTION, MEMORY_FIELDS),
    PROCESSOR: ("general processor error", PROCESSOR_SECTION, PROCESSOR_FIELDS),
}


def sections(data: bytes) -> Iterator[Section]:
    """The errors of memory and processors in all blocks; what is cut short or of another kind is left out.

    The status of a block isn't looked at: the kernel sets it to zero when it has seen the block.
    """
    at = 0
    while at + BLOCK.size <= len(data):
        raw_at, raw_bytes, data_bytes, _ = BLOCK.unpack_from(data, at)
        if not data_bytes:
            return
        begin = at + BLOCK.size
        yield from _entries(data[begin : begin + data_bytes])
        at = max(begin + data_bytes, at + raw_at + raw_bytes)


def _entries(data: bytes) -> Iterator[Section]:
    at = 0
    while at + ENTRY.size <= len(data):
        kind, severity, revision, validation, _, content_bytes, _, fru_text = ENTRY.unpack_from(data, at)
        at += ENTRY.size + (TIMESTAMP_BYTES if revision >= WITH_TIMESTAMP else 0)
        content = data[at : at + content_bytes]
        at += content_bytes
        text = fru_text.partition(b"\0")[0].decode("ascii", "replace") if validation & HAS_FRU_TEXT else ""
        if severity < len(SEVERITIES):
            yield from section_of(uuid.UUID(bytes_le=kind), SEVERITIES[severity], content, text)


def section_of(kind: uuid.UUID, severity: str, content: bytes, fru_text: str) -> Iterator[Section]:
    """What the content of one section says; nothing if it's no error of memory or a processor."""
    return section(severity, {**_fields(kind, content), "fru_text": fru_text})


def _fields(kind: uuid.UUID, content: bytes) -> dict[str, str]:
    if kind not in KINDS:
        return {}
    name, layout, fields = KINDS[kind]
    valid, *values = layout.unpack_from(content.ljust(layout.size, b"\0"))  # older revisions end sooner
    shown = {key: form.format(v) for (key, bit, form), v in zip(fields, values, strict=True) if valid >> bit & 1}
    return {"section_type": name, **shown}
