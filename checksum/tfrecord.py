"""TFRecord (tensorflow/core/lib/io/record_writer.h): write, read, and what is wrong with it.

Enters: the bytes of a file, cut anywhere into chunks. Leaves: intact records and findings that tile those bytes. A
damaged record is never returned as a record. Memory is bounded by a record of 64 MiB, or by twice that where damage
makes it search for the next record. The grammar and the rules at damage stand in checksum/README.md.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from checksum import chain
from checksum.crc32c import Buffer, crc32c, extension, locate_exponent, mask, unmask
from checksum.finding import Finding, Flip, Intact, Record, Unreadable, Verdict
from checksum.window import Window

NAME = "tfrecord"
HEADER_BYTES = 12  # length of the payload (8), its masked checksum (4); little-endian
FOOTER_BYTES = 4  # masked checksum of the payload
RECORD_BYTES_MAX = 64 * 2**20  # longer payloads are verified, but not kept, and no flip is located in them

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER = struct.Struct("<QI")
_LENGTH_BYTES, _CRC_BITS, _LENGTH_BITS = 8, 32, 64
_STEP_BYTES = 2**20  # of a record too long to be held
_START_BYTES = 2**18  # in which the first intact record is sought, to recognise a file
_SEARCH_WORK_BYTES = 16 * RECORD_BYTES_MAX  # a file can be made so that every byte begins a long false record
_HITS_MAX, _HEADERS_MAX = 16, 4096  # tried, and followed from each, to recognise a file with a damaged start
_RUN_MAX = 1024  # records at a time

# What the last five bytes of a length below 2**26 look like; a checksum of zero is left out, or zeros would match.
_PLAUSIBLE = re.compile(rb"(?=[\x00-\x04]\x00{4}(?!\x00{4}))", re.DOTALL)
_PLAUSIBLE_AT = 3


def encode(payload: bytes, offset: int) -> bytes:
    """The bytes to append to a file, `offset` bytes long, so that it also holds the record `payload`."""
    del offset  # the same anywhere; other formats have blocks
    length = _LENGTH.pack(len(payload))
    header, footer = _CHECKSUM.pack(mask(crc32c(length))), _CHECKSUM.pack(mask(crc32c(payload)))
    return length + header + payload + footer


def resume_offset(begin: int, is_unchanged: bool) -> int:
    """Where a scan can go on that ended at `begin`: only there, and if the file changed only from its start."""
    return begin if is_unchanged else 0


def read_end(end: int) -> int:
    """How far to read in order to judge what ends at `end`."""
    return end


def recognises(read_at: Callable[[int, int], bytes], size: int) -> bool:
    """Whether a file of `size` bytes holds TFRecords.

    It does if a header and what it points to fit; or, where the start is damaged, if one near the start begins a chain
    of headers that ends where the file does. A chain alone isn't enough: an archive may hold such a file uncompressed.
    """
    first = _parse(read_at(0, HEADER_BYTES))
    if first is not None:
        end = HEADER_BYTES + first.length + FOOTER_BYTES
        follower = _parse(read_at(end, HEADER_BYTES)) if end < size else None
        if end == size or (follower is not None and follower.flip is None) or (end > size and first.flip is None):
            return True
    start = read_at(0, _START_BYTES)
    hits = islice(_candidates(start, 0, len(start)), _HITS_MAX)
    return any(_chains_to_end(read_at, size, begin) for begin in hits)


def _chains_to_end(read_at: Callable[[int, int], bytes], size: int, begin: int) -> bool:
    def end_of(position: int) -> int | None:
        header = _parse(read_at(position, HEADER_BYTES))
        return None if header is None else position + HEADER_BYTES + header.length + FOOTER_BYTES

    return chain.reaches(size, begin, end_of, _HEADERS_MAX)


def scan(
    chunks: Iterable[Buffer | Unreadable],
    *,
    offset: int = 0,
    resumed: bool = False,
    with_data: bool = True,
    record_bytes_max: int = RECORD_BYTES_MAX,
) -> Iterator[Record | Finding]:
    """Intact records and findings, in file order; they tile the bytes of `chunks`, which begin at file offset `offset`.

    Args:
        chunks: consecutive pieces of a file, cut anywhere; a stretch that couldn't be read is an Unreadable.
        offset: where a record begins.
        resumed: has no meaning here, since no record is in parts.
        with_data: False keeps no payloads.
        record_bytes_max: a longer record, if its data is wanted, is a `skipped` finding.
    """
    del resumed
    kept_max = min(record_bytes_max, RECORD_BYTES_MAX) if with_data else -1
    run, item = partial(_intact_run, kept_max=kept_max), partial(_item_of_any_length, kept_max=kept_max)
    for one in chain.scan(Window(chunks, offset), run, item, _lost, RECORD_BYTES_MAX):
        is_unkept = with_data and isinstance(one, Record) and one.data is None
        yield Finding(one.begin, one.end, Verdict.skipped) if is_unkept else one


def verify(
    chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
) -> Iterator[Intact | Finding]:
    """What `scan` says, with intact records counted instead of returned; in C as long as nothing is wrong.

    Args:
        chunks, offset, resumed: as for `scan`.
        begin: records and findings that end at or before this offset in the file are passed over.
    """
    del resumed
    window = Window(chunks, offset, is_sparing=extension is not None)
    run, item = partial(_intact_run, kept_max=-1), partial(_item_of_any_length, kept_max=-1)
    walk = None if extension is None else extension.tfrecord_walk
    return chain.count(window, begin, walk, run, item, _lost)


def _intact_run(window: Window, position: int, kept_max: int) -> list[Record]:
    """The records from `position` on that are intact and lie in the window: the short way that most records take."""
    run: list[Record] = []
    if window.holes:
        return run
    with memoryview(window.data) as view:
        begin, size = position - window.begin, len(view)
        while begin + HEADER_BYTES <= size and len(run) < _RUN_MAX:
            length, masked = _HEADER.unpack_from(view, begin)
            payload = begin + HEADER_BYTES
            footer = payload + length
            end = footer + FOOTER_BYTES
            if end > size or masked != mask(crc32c(view[begin : begin + _LENGTH_BYTES])):
                break
            if _CHECKSUM.unpack_from(view, footer)[0] != mask(crc32c(view[payload:footer])):
                break
            data = bytes(view[payload:footer]) if length <= kept_max else None
            run.append(Record(window.begin + begin, window.begin + end, data))
            begin = end
    return run


def _crc(window: Window, begin: int, end: int, crc: int = 0) -> int:
    window.work_bytes += end - begin
    with memoryview(window.data) as view, view[begin - window.begin : end - window.begin] as part:
        return crc32c(part, crc)


@dataclass(frozen=True, slots=True)
class _Header:
    """A length that can be trusted: its checksum holds, or would without the one flip (byte of the header, bit)."""

    length: int
    flip: tuple[int, int] | None = None


def _exact(raw: bytes) -> bool:
    return len(raw) == HEADER_BYTES and _HEADER.unpack(raw)[1] == mask(crc32c(raw[:_LENGTH_BYTES]))


def _parse(raw: bytes) -> _Header | None:
    """The header, or None if more than one flipped bit would be needed to explain it."""
    if len(raw) < HEADER_BYTES:
        return None
    length, masked = _HEADER.unpack(raw)
    computed = crc32c(raw[:_LENGTH_BYTES])
    if masked == mask(computed):
        return _Header(length)
    changed = masked ^ mask(computed)
    if changed.bit_count() == 1:  # the flip is in the masked checksum; masking adds, so it must be sought there
        byte, bit = divmod(changed.bit_length() - 1, 8)
        return _Header(length, (_LENGTH_BYTES + byte, bit))
    place = _place(unmask(masked) ^ computed, _LENGTH_BYTES)
    return place and _Header(length ^ 1 << 8 * place[0] + place[1], place)


def _place(syndrome: int, length: int) -> tuple[int, int] | None:
    """Byte and bit among `length` bytes whose flip changes their checksum so; checksum/README.md has the formula."""
    exponent = locate_exponent(syndrome, _CRC_BITS + 8 * length)
    if exponent < _CRC_BITS:
        return None
    byte_from_end, bit_from_top = divmod(exponent - _CRC_BITS, 8)
    return length - 1 - byte_from_end, 7 - bit_from_top


def _header_at(window: Window, position: int) -> _Header | None:
    end = position + HEADER_BYTES
    if not window.reach(end) or (window.holes and window.has_hole(position, end)):
        return None
    return _parse(window.bytes(position, end))


def _item(window: Window, position: int, kept_max: int) -> Record | Finding | None:
    """What is at `position`, by the rules in their order; None if it can't be said where it ends, or it is long.

    A payload longer than `kept_max` is not kept.
    """
    if not window.reach(position + HEADER_BYTES):
        return Finding(position, window.end, Verdict.torn)
    header = _header_at(window, position)
    if header is None or header.length > RECORD_BYTES_MAX:
        return None
    begin = position + HEADER_BYTES
    footer = begin + header.length
    end = footer + FOOTER_BYTES
    if not window.reach(end):
        return Finding(position, window.end, Verdict.torn)
    if window.holes and window.has_hole(position, end):
        return Finding(position, end, Verdict.unreadable)
    (masked,) = _CHECKSUM.unpack(window.bytes(footer, end))
    stored, computed = unmask(masked), _crc(window, begin, footer)
    if stored != computed:
        return _mismatch(window, position, header, masked, computed)
    if header.flip is not None:
        return Finding(position, end, Verdict.flipped, stored, computed, _flip(window, position, *header.flip))
    return Record(position, end, window.bytes(begin, footer) if header.length <= kept_max else None)


def _mismatch(window: Window, position: int, header: _Header, masked: int, computed: int) -> Finding | None:
    """The finding about a record whose payload fails; None if bytes may be missing, so that its end is unknown."""
    stored = unmask(masked)
    footer = HEADER_BYTES + header.length
    changed = masked ^ mask(computed)
    place: tuple[int, int] | None = None
    if header.flip is None and changed.bit_count() == 1:
        byte, bit = divmod(changed.bit_length() - 1, 8)
        place = footer + byte, bit
    elif header.flip is None:
        inside = _place(stored ^ computed, header.length)
        place = inside and (HEADER_BYTES + inside[0], inside[1])
    end = position + footer + FOOTER_BYTES
    if place is not None:
        return Finding(position, end, Verdict.flipped, stored, computed, _flip(window, position, *place))
    if window.reach(end + 1) and _header_at(window, end) is None and not window.has_hole(end, end + HEADER_BYTES):
        return None
    return Finding(position, end, Verdict.skipped, stored, computed)


def _flip(window: Window, position: int, byte: int, bit: int) -> Flip:
    return Flip(position + byte, bit, window.data[position + byte - window.begin] >> bit & 1)


def _item_of_any_length(window: Window, position: int, kept_max: int) -> Record | Finding | None:
    return _item(window, position, kept_max) or _long(window, position, with_data=kept_max >= 0)


def _long(window: Window, position: int, with_data: bool) -> Record | Finding | None:
    """A record too long to be held, verified piece by piece; None if no header is at `position`."""
    header = _header_at(window, position)
    if header is None or header.length <= RECORD_BYTES_MAX or header.flip is not None:
        return None
    footer = position + HEADER_BYTES + header.length
    at, computed, has_hole = position + HEADER_BYTES, 0, False
    while at < footer:
        window.drop(at)
        if not window.reach(min(at + _STEP_BYTES, footer)):
            return Finding(position, window.end, Verdict.torn)
        end = min(window.end, footer)
        has_hole = has_hole or window.has_hole(at, end)
        computed = _crc(window, at, end, computed)
        at = end
    if not window.reach(footer + FOOTER_BYTES):
        return Finding(position, window.end, Verdict.torn)
    end = footer + FOOTER_BYTES
    if has_hole or window.has_hole(footer, end):
        return Finding(position, end, Verdict.unreadable)
    stored = unmask(_CHECKSUM.unpack(window.bytes(footer, end))[0])
    if stored != computed:
        return Finding(position, end, Verdict.skipped, stored, computed)
    return Finding(position, end, Verdict.skipped) if with_data else Record(position, end, None)


# --- for the search, where nothing says how long the damaged record is ---


def _lost(window: Window, position: int) -> Iterator[Finding]:
    clues = chain.Clues(
        _candidates,
        first=partial(_item, kept_max=-1),
        item=partial(_item, kept_max=-1),
        header_bytes=HEADER_BYTES,
        reach_bytes=RECORD_BYTES_MAX,
        work_bytes=_SEARCH_WORK_BYTES,
        record_bits=2 * _CRC_BITS,  # the length has a checksum of its own
        end_bits=_LENGTH_BITS,
    )
    return chain.lost(window, position, clues)


def _candidates(data: bytes, begin: int, end: int) -> Iterator[int]:
    """Positions in [begin, end) where a header is whose checksum holds; found by the zeros that lengths hold."""
    for match in _PLAUSIBLE.finditer(data, begin + _PLAUSIBLE_AT):
        position = match.start() - _PLAUSIBLE_AT
        if position >= end:
            return
        if _exact(data[position : position + HEADER_BYTES]):
            yield position
