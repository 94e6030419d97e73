"""TFRecord (tensorflow/core/lib/io/record_writer.h): write, read, and what is wrong with it.

Enters: the bytes of a file, cut anywhere into chunks. Leaves: intact records and findings that tile those bytes. A
damaged record is never returned as a record. Memory is bounded by a record of 64 MiB, or by twice that where damage
makes it search for the next record. The grammar and the rules at damage stand in checksum/README.md.
"""

import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise

from checksum.crc32c import Buffer, crc32c, extension, locate_exponent, mask, unmask, zeros_end
from checksum.finding import Finding, Flip, Intact, Record, Tally, Unreadable, Verdict

NAME = "tfrecord"
HEADER_BYTES = 12  # length of the payload (8), its masked checksum (4); little-endian
FOOTER_BYTES = 4  # masked checksum of the payload
RECORD_BYTES_MAX = 64 * 2**20  # longer payloads are verified, but not kept, and no flip is located in them

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER = struct.Struct("<QI")
_LENGTH_BYTES, _CRC_BITS, _LENGTH_BITS = 8, 32, 64
_STEP_BYTES = 2**20  # of a search
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
    hits = (begin for begin in _plausible(start, len(start)) if _exact(start[begin : begin + HEADER_BYTES]))
    return any(_chains_to_end(read_at, size, begin) for begin in islice(hits, _HITS_MAX))


def _chains_to_end(read_at: Callable[[int, int], bytes], size: int, begin: int) -> bool:
    for _ in range(_HEADERS_MAX):
        header = _parse(read_at(begin, HEADER_BYTES))
        if header is None:
            return False
        begin += HEADER_BYTES + header.length + FOOTER_BYTES
        if begin >= size:
            return begin == size
    return False


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
    window = _Window(chunks, offset)
    kept_max = min(record_bytes_max, RECORD_BYTES_MAX) if with_data else -1
    position = searched_until = offset  # records that begin before `searched_until` were only found by a search
    while window.reach(position + 1):
        items: Iterable[Record | Finding] = _intact_run(window, position, kept_max)
        if not items:
            item = _item(window, position, kept_max) or _long(window, position, with_data)
            items = _lost(window, position) if item is None else [item]
            if item is None:
                searched_until = sys.maxsize  # until it is known where the search ends
        for item in items:
            position = item.end
            if isinstance(item, Finding):
                yield item
            elif with_data and item.data is None:
                yield Finding(item.begin, item.end, Verdict.skipped)
            else:
                yield replace(item, by_search=True) if item.begin < searched_until else item
        if searched_until == sys.maxsize:
            searched_until = position + RECORD_BYTES_MAX
        window.drop(position)


def verify(
    chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
) -> Iterator[Intact | Finding]:
    """What `scan` says, with intact records counted instead of returned; in C as long as nothing is wrong.

    Args:
        chunks, offset, resumed: as for `scan`.
        begin: records and findings that end at or before this offset in the file are passed over.
    """
    del resumed
    window, position, tally = (
        _Window(chunks, offset, is_sparing=extension is not None),
        offset,
        Tally(max(offset, begin)),
    )
    while True:
        if position == window.end and extension is not None:
            position, records = window.pass_over(begin)
            tally.add_intact(position, records)
            yield from tally.told()
        if not window.reach(position + 1):
            break
        end, records = _counted_run(window, position, begin)
        if end > position:
            position = end
            tally.add_intact(end, records)
        else:
            one = _item(window, position, -1) or _long(window, position, with_data=False)
            for item in _lost(window, position) if one is None else [one]:
                position = item.end
                yield from tally.add(item)
        window.drop(position)
    yield from tally.told()


def _counted_run(window: "_Window", position: int, begin: int) -> tuple[int, int]:
    """The end of the intact records from `position` on that lie in the window, and how many end behind `begin`."""
    if extension is None or window.holes:
        run = _intact_run(window, position, -1)
        return run[-1].end if run else position, sum(record.end > begin for record in run)
    walked: tuple[int, int] = extension.tfrecord_walk(window.data, position - window.begin, begin - window.begin)
    return window.begin + walked[0], walked[1]


def _intact_run(window: "_Window", position: int, kept_max: int) -> list[Record]:
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


class _Window:
    """The part of the file that is in memory: bytes [begin, end) of it. Bytes in a hole are unknown (here zero)."""

    def __init__(self, chunks: Iterable[Buffer | Unreadable], offset: int, is_sparing: bool = False) -> None:
        self._chunks = iter(chunks)
        self._is_sparing = is_sparing  # takes in no more than was asked for
        self._rest = memoryview(b"")  # of the present chunk, what isn't in the window yet
        self._dropped = 0  # bytes at the front of `data` that are no longer wanted
        self.data = bytearray()
        self.begin = self.end = offset
        self.holes: list[tuple[int, int]] = []
        self.work_bytes = 0  # that went through a checksum

    def reach(self, end: int) -> bool:
        """Reads on until the window ends at `end` or later; False if the file ends before."""
        while self.end < end:
            if not self._rest and not self._fetch():
                return False
            self._forget()
            taken = self._rest[: end - self.end] if self._is_sparing else self._rest
            self.data += taken
            self.end += len(taken)
            self._rest = self._rest[len(taken) :]
        return True

    def pass_over(self, begin: int) -> tuple[int, int]:
        """Moves an empty window behind the intact records that follow, without taking them in.

        Returns where the last of them ends, and how many end behind `begin`.
        """
        start = self.end
        if (not self._rest and not self._fetch()) or not self._rest:  # the file ends, or a hole is in the window now
            return start, 0
        length, records = extension.tfrecord_walk(self._rest, 0, begin - self.end)
        if length:
            self.drop(self.end)
            self._forget()
            self.begin = self.end = start + length
            self._rest = self._rest[length:]
        return start + length, records

    def pass_zeros(self, position: int) -> int:
        """Moves over as many whole steps of a search as no header can begin in, because they and the bytes behind them
        are zeros; returns where the first other step begins. A sparse file may hold terabytes of them.
        """
        if self.holes or zeros_end(self.data, position - self.begin) < len(self.data):
            return position
        self.drop(position)
        self._forget()
        end = self.end
        while (self._rest or self._fetch()) and not self.holes:
            blank = zeros_end(self._rest, 0)
            end, self._rest = end + blank, self._rest[blank:]
            begin = position + max(0, end - position - HEADER_BYTES) // _STEP_BYTES * _STEP_BYTES
            self._keep_zeros(begin, end)
            if self._rest:
                break
        return max(position, self.begin)

    def _keep_zeros(self, begin: int, end: int) -> None:
        """Makes the window [begin, end), where it held nothing but zeros before and shall again."""
        del self.data[end - begin :]
        self.data += bytes(end - begin - len(self.data))
        self.begin, self.end, self._dropped = begin, end, 0

    def _fetch(self) -> bool:
        """Takes the next chunk; what the disk would not give is in the window at once. False at the end of the file."""
        for chunk in self._chunks:
            if not isinstance(chunk, Unreadable):
                self._rest = memoryview(chunk)
                return True
            self._forget()
            self.holes.append((self.end, self.end + chunk.length))
            self.data += bytes(chunk.length)
            self.end += chunk.length
            return True
        return False

    def drop(self, begin: int) -> None:
        """Nothing before `begin` will be asked for again."""
        self._dropped = begin - self.begin

    def _forget(self) -> None:
        del self.data[: self._dropped]
        self.begin += self._dropped
        self._dropped = 0
        if self.holes:
            self.holes = [hole for hole in self.holes if hole[1] > self.begin]

    def has_hole(self, begin: int, end: int) -> bool:
        return any(hole_begin < end and begin < hole_end for hole_begin, hole_end in self.holes)

    def bytes(self, begin: int, end: int) -> bytes:
        with memoryview(self.data) as view:
            return bytes(view[begin - self.begin : end - self.begin])

    def crc(self, begin: int, end: int, crc: int = 0) -> int:
        self.work_bytes += end - begin
        with memoryview(self.data) as view, view[begin - self.begin : end - self.begin] as part:
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


def _header_at(window: _Window, position: int) -> _Header | None:
    end = position + HEADER_BYTES
    if not window.reach(end) or (window.holes and window.has_hole(position, end)):
        return None
    return _parse(window.bytes(position, end))


def _item(window: _Window, position: int, kept_max: int) -> Record | Finding | None:
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
    stored, computed = unmask(masked), window.crc(begin, footer)
    if stored != computed:
        return _mismatch(window, position, header, masked, computed)
    if header.flip is not None:
        return Finding(position, end, Verdict.flipped, stored, computed, _flip(window, position, *header.flip))
    return Record(position, end, window.bytes(begin, footer) if header.length <= kept_max else None)


def _mismatch(window: _Window, position: int, header: _Header, masked: int, computed: int) -> Finding | None:
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


def _flip(window: _Window, position: int, byte: int, bit: int) -> Flip:
    return Flip(position + byte, bit, window.data[position + byte - window.begin] >> bit & 1)


def _long(window: _Window, position: int, with_data: bool) -> Record | Finding | None:
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
        computed = window.crc(at, end, computed)
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


# --- the search, where nothing says how long the damaged record is ---


def _lost(window: _Window, position: int) -> Iterator[Finding]:
    """Findings from `position` up to the next record that a search finds, or to the end of the file."""
    search = _Search(window, position)
    while True:
        for begin in range(position, window.pass_zeros(position), _STEP_BYTES):
            position = begin + _STEP_BYTES
            yield Finding(begin, position, Verdict.zeros)
        end = position + _STEP_BYTES  # the same wherever the chunks were cut
        is_last = not window.reach(end + HEADER_BYTES)
        hit = search.first_in(position, end)
        if hit is not None:
            end = hit
        elif is_last:
            end = window.end
        yield from _named(window, position, end)
        if is_last or hit is not None:
            return
        window.drop(end)
        position = end


class _Search:
    """Finds intact records whose chain closes, with a bound on what a hostile file can make it do."""

    def __init__(self, window: _Window, begin: int) -> None:
        self._window = window
        self._slice_begin = begin
        self._work_bytes_max = window.work_bytes + _SEARCH_WORK_BYTES
        self._dead_ends: set[int] = set()  # milestones from which no chain closes

    def first_in(self, begin: int, end: int) -> int | None:
        """The first record in [begin, end) of the window that a chain confirms."""
        window = self._window
        base = window.begin  # of the snapshot, which reading on would change
        data = bytes(window.data[begin - base : end + HEADER_BYTES - base])
        for at in _plausible(data, end - begin):
            candidate = begin + at
            if _exact(data[at : at + HEADER_BYTES]) and self._closes(candidate):
                return candidate
        return None

    def _closes(self, candidate: int) -> bool:
        """Whether records follow one another from an intact one to the end of the file, or far enough.

        Far enough is further than any record that began before `candidate` could reach: what is nested in the payload
        of a record ends before its footer, where no header is.
        """
        position, milestones = candidate, []
        while position <= candidate + RECORD_BYTES_MAX:
            if position in self._dead_ends or not self._may_work(candidate):
                break
            if position > candidate and not self._window.reach(position + 1):
                return True
            if _is_milestone(position):
                milestones.append(position)
            item = _item(self._window, position, -1)
            if item is None or not _is_link(item, is_first=position == candidate):
                break
            position = item.end
        else:
            return True
        self._dead_ends.update(milestones)
        return False

    def _may_work(self, candidate: int) -> bool:
        if candidate - self._slice_begin > RECORD_BYTES_MAX:
            self._slice_begin, self._work_bytes_max = candidate, self._window.work_bytes + _SEARCH_WORK_BYTES
            self._dead_ends = {position for position in self._dead_ends if position > candidate}
        return self._window.work_bytes < self._work_bytes_max


def _is_link(item: Record | Finding, *, is_first: bool) -> bool:
    """Whether a chain goes on after the item: its end is known, and at the first one everything fits."""
    return isinstance(item, Record) or (not is_first and item.verdict is not Verdict.torn)


def _is_milestone(position: int) -> bool:
    """One position in sixteen, so that what a search remembers stays small; chains that join meet one soon."""
    return (position * 0x9E3779B1 >> 16) % 16 == 0


def _plausible(data: bytes, end: int) -> Iterator[int]:
    """Positions below `end` where a header may be, by the zeros that lengths hold."""
    for match in _PLAUSIBLE.finditer(data, _PLAUSIBLE_AT):
        position = match.start() - _PLAUSIBLE_AT
        if position >= end:
            return
        yield position


def _named(window: _Window, begin: int, end: int) -> Iterator[Finding]:
    """The findings about lost bytes [begin, end): what the disk would not give, zeros, and the rest."""
    edges = sorted({begin, end, *(min(max(edge, begin), end) for hole in window.holes for edge in hole)})
    for part_begin, part_end in pairwise(edges):
        if window.has_hole(part_begin, part_end):
            yield Finding(part_begin, part_end, Verdict.unreadable)
            continue
        data = window.bytes(part_begin, part_end)
        zeros = len(data) - len(data.lstrip(b"\0"))
        blank_end = part_begin + (zeros if zeros >= HEADER_BYTES or zeros == len(data) else 0)
        if blank_end > part_begin:
            yield Finding(part_begin, blank_end, Verdict.zeros)
        if blank_end < part_end:
            yield Finding(blank_end, part_end, Verdict.skipped)
