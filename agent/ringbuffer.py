"""The kernel's trace ring buffer in binary: pages and events, read by what the kernel says of their layout.

Enters: the text of `events/header_page` and of each event's `format` file, and pages as `trace_pipe_raw` gives them.
Leaves: events as dictionaries of fields, with the time on the buffer's own clock. Nothing is taken for granted but the
compressed entry header (events/header_event), which has been the same since the ring buffer exists. Format:
Documentation/trace/ring-buffer-design.rst, include/linux/ring_buffer.h and Documentation/trace/events.rst of the Linux
kernel. Numbers are little-endian, as on every machine with these events.

    page     u64 timestamp, local_t commit, data; of the lower 32 bits of commit the highest says that events were lost
             before this page, the next that their number stands behind the data
    entry    5 bits type_len, 27 bits time_delta; then, by type_len, payload, padding or more bits of time
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from checksum.printable import printable

PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
DELTA_BITS = 27
ABSOLUTE_BITS = 59  # of a time stamp that isn't a difference; the rest is that of the page
MISSED_EVENTS, MISSED_STORED = 1 << 31, 1 << 30
COMMIT_MASK = MISSED_STORED - 1
PAGE_BYTES_MAX = 1 << 20
STRING_BYTES_MAX = 512  # of one text field: the kernel's own are shorter

Value = int | str | bytes

_WORD = struct.Struct("<I")
_FIELD = re.compile(r"^\s*field:(.+?);\s*offset:(\d{1,9});\s*size:(\d{1,9});(?:\s*signed:([01]);)?", re.M)


class LayoutError(ValueError):
    """A layout file, or a page, that can't be understood."""


@dataclass(frozen=True, slots=True)
class Field:
    offset_bytes: int
    size_bytes: int
    is_signed: bool
    is_dynamic: bool  # holds where the content lies and how long it is: length << 16 | offset
    is_text: bool
    is_array: bool


@dataclass(frozen=True, slots=True)
class EventFormat:
    id: int
    fields: Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class PageLayout:
    commit_offset_bytes: int
    commit_size_bytes: int
    data_offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """The payloads of one page with their times."""

    entries: tuple[tuple[int, bytes], ...]
    is_lossy: bool  # events between the page before it and this one were overwritten


def page_layout(text: str) -> PageLayout:
    """The layout in `header_page`.

    Raises:
        LayoutError: commit or data is missing, or the sizes make no sense.
    """
    fields = _fields(text)
    if "commit" not in fields or "data" not in fields:
        raise LayoutError("header_page lacks commit or data")
    commit, data = fields["commit"], fields["data"]
    size_bytes = data.offset_bytes + data.size_bytes
    if commit.size_bytes not in (4, 8) or size_bytes > PAGE_BYTES_MAX:
        raise LayoutError(f"header_page tells of commits of {commit.size_bytes} and pages of {size_bytes} bytes")
    return PageLayout(commit.offset_bytes, commit.size_bytes, data.offset_bytes, size_bytes)


def event_format(text: str) -> EventFormat:
    """An event's fields by name, from its `format` file.

    Raises:
        LayoutError: it has no ID or no field.
    """
    found = re.search(r"^ID: (\d{1,9})$", text, re.M)
    fields = _fields(text)
    if found is None or "common_type" not in fields:
        raise LayoutError("the format has no ID or no common_type")
    return EventFormat(int(found.group(1)), fields)


def _fields(text: str) -> dict[str, Field]:
    fields = {}
    for declaration, offset, size, signed in _FIELD.findall(text):
        words = declaration.replace("[", " [").split()
        names = [word for word in words if not word.startswith("[")]
        if not names:
            raise LayoutError(f"a field without a name at offset {offset}")
        is_array = any(word.startswith("[") for word in words) or "guid_t" in names or "uuid_t" in names
        fields[names[-1]] = Field(
            int(offset),
            int(size),
            signed == "1",
            "__data_loc" in names,
            "char" in names and "unsigned" not in names,
            is_array or names[0] == "struct",
        )
    return fields


def read_page(data: bytes, layout: PageLayout) -> Page:
    """What stands on a page.

    Raises:
        LayoutError: its lengths lead out of it. Nothing of it can be trusted then.
    """
    if len(data) < layout.data_offset_bytes:
        raise LayoutError(f"a page of {len(data)} bytes")
    begin_ns = int.from_bytes(data[:8], "little")
    commit = int.from_bytes(data[layout.commit_offset_bytes :][: layout.commit_size_bytes], "little")
    end = layout.data_offset_bytes + (commit & COMMIT_MASK)
    if end > len(data):
        raise LayoutError(f"a page of {len(data)} bytes that claims {end}")
    return Page(tuple(_entries(data[:end], layout.data_offset_bytes, begin_ns)), bool(commit & MISSED_EVENTS))


def _entries(data: bytes, at: int, time: int) -> Iterator[tuple[int, bytes]]:
    while at < len(data):
        header = _word(data, at)
        kind, delta = header & 31, header >> 5
        if kind == TIME_STAMP:
            time = time >> ABSOLUTE_BITS << ABSOLUTE_BITS | _word(data, at + 4) << DELTA_BITS | delta
            at += 8
            continue
        time += delta
        if kind == TIME_EXTEND:
            time += _word(data, at + 4) << DELTA_BITS
            at += 8
        elif kind == PADDING:
            if not delta:  # the rest of the page
                return
            at += 4 + _word(data, at + 4)
        else:
            begin, length = (at + 4, 4 * kind) if kind else (at + 8, _word(data, at + 4) - 4)
            if length < 0 or begin + length > len(data):
                raise LayoutError(f"an entry of {length} bytes at {begin} of {len(data)}")
            yield time, data[begin : begin + length]
            at = begin + length


def _word(data: bytes, at: int) -> int:
    if at + 4 > len(data):
        raise LayoutError(f"an entry that ends at {at}")
    return int(_WORD.unpack_from(data, at)[0])


def event_id(payload: bytes) -> int:
    """Which event it is: common_type stands first in every one."""
    return int.from_bytes(payload[:2], "little")


def decode(payload: bytes, form: EventFormat) -> dict[str, Value]:
    """The event's fields; one that lies outside of the payload is left out."""
    values = ((name, _value(payload, field)) for name, field in form.fields.items())
    return {name: value for name, value in values if value is not None}


def _value(payload: bytes, field: Field) -> Value | None:
    content = payload[field.offset_bytes : field.offset_bytes + field.size_bytes]
    if len(content) < field.size_bytes:
        return None
    if field.is_dynamic:
        place = int.from_bytes(content, "little")
        begin, length = place & 0xFFFF, place >> 16
        content = payload[begin : begin + length]
        if len(content) < length:
            return None
    elif not field.is_array:
        return int.from_bytes(content, "little", signed=field.is_signed)
    return _text(content) if field.is_text and field.is_dynamic else content


def _text(content: bytes) -> str:
    return printable(content[:STRING_BYTES_MAX].partition(b"\0")[0].decode("utf-8", "replace").strip())
