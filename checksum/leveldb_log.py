"""The LevelDB log format (leveldb doc/log_format.md): write, read, and what is wrong with it.

Enters: the bytes of a file, cut anywhere into chunks. Leaves: intact records (or how many there are) and findings that
tile those bytes. Memory is bounded by one chunk, one block and one record. A damaged record is never returned as a
record: every fragment of a Record passed its checksum, and no hole lies between them. The grammar and the rules at
damage stand in checksum/README.md.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from checksum.crc32c import Buffer, crc32c, extension, locate_exponent, mask, unmask
from checksum.finding import Finding, Flip, Intact, Record, Tally, Unreadable, Verdict

BLOCK_BYTES = 32768
HEADER_BYTES = 7  # masked checksum of type and payload (4), length of the payload (2), type (1); little-endian
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
RECORD_BYTES_MAX = 64 * 2**20

_HEADER = struct.Struct("<IHB")
_TYPES = (FULL, FIRST, MIDDLE, LAST)
_LENGTH_AT, _TYPE_AT = 4, 6  # in the header
_CRC_BITS, _LENGTH_BITS = 32, 16
_UNWRITTEN = (Verdict.torn, Verdict.zeros)  # a record that ends in such a stretch was never written to its end


def encode(payload: bytes, offset: int) -> bytes:
    """The bytes to append to a log that is `offset` bytes long, so that it also holds the record `payload`."""
    room = BLOCK_BYTES - offset % BLOCK_BYTES
    pieces = [bytes(room)] if room < HEADER_BYTES else []  # the trailer of a block too full for one more header
    if pieces:
        room = BLOCK_BYTES
    taken, begun, ended = 0, False, False
    while not ended:  # an empty payload is a record too
        data = payload[taken : taken + room - HEADER_BYTES]
        taken += len(data)
        ended = taken == len(payload)
        pieces.append(_fragment(_kind(begun, ended), data))
        begun, room = True, BLOCK_BYTES
    return b"".join(pieces)


def _kind(begun: bool, ended: bool) -> int:
    if begun:
        return LAST if ended else MIDDLE
    return FULL if ended else FIRST


def _fragment(kind: int, data: bytes) -> bytes:
    crc = crc32c(data, crc32c(bytes((kind,))))
    return _HEADER.pack(mask(crc), len(data), kind) + data


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
        chunks: consecutive pieces of a file, cut anywhere; a stretch that couldn't be read is an Unreadable. Each is
            done with when the next is asked for, so that all may lie in one buffer.
        offset: a multiple of BLOCK_BYTES.
        resumed: the scan goes on in the middle of a file, so that leading fragments may belong to a record begun before
            `offset`. What is here of such a record is one Record without data.
        with_data: False keeps no payloads; memory is then bounded whatever the size of a record.
        record_bytes_max: a longer record, if its data is wanted, is a `skipped` finding; at least BLOCK_BYTES.
    """
    assert offset % BLOCK_BYTES == 0, "a scan begins at a block"
    assert record_bytes_max >= BLOCK_BYTES, "a record within one block is never too long"
    assembly = _Assembly(with_data, record_bytes_max, resumed)
    for stretch in _stretches(chunks, offset):
        for begin in range(0, len(stretch.data), BLOCK_BYTES):
            yield from assembly.read(stretch.block_at(begin), 0)
    yield from assembly.drop(Verdict.torn)


def verify(
    chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
) -> Iterator[Intact | Finding]:
    """What `scan` says, with intact records counted instead of returned; in C as long as nothing is wrong.

    Args:
        chunks, offset, resumed: as for `scan`; chunks of many blocks that begin at a block are the fastest.
        begin: records and findings that end at or before this offset in the file are passed over.
    """
    assert offset % BLOCK_BYTES == 0, "a scan begins at a block"
    assembly = _Assembly(with_data=False, record_bytes_max=RECORD_BYTES_MAX, resumed=resumed)
    tally = Tally(max(offset, begin))
    for stretch in _stretches(chunks, offset):
        position = _walk(stretch, 0, begin, assembly, tally)
        while position < len(stretch.data):
            items, position = _past_damage(stretch, position, assembly)
            for item in items:
                yield from tally.add(item)
            position = _walk(stretch, position, begin, assembly, tally)
        yield from tally.told()
    for finding in assembly.drop(Verdict.torn):
        yield from tally.add(finding)


# An intact fragment: type, begin and end in the file (with header and trailer), payload if it is wanted.
_Fragment = tuple[int, int, int, bytes | None]


def recognises(block: bytes) -> bool:
    """Whether one block of a file holds a fragment of this format: an intact one, or one whose flipped bit is known."""
    return any(
        fragments or any(finding.verdict is Verdict.flipped and finding.stored is not None for finding in findings)
        for fragments, findings in _runs(_Block(0, memoryview(block), []), 0, with_data=False)
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """One block of the file; only the last may be shorter than BLOCK_BYTES. Bytes in a hole are unknown (here zero)."""

    begin: int
    data: memoryview
    holes: list[tuple[int, int]]  # positions in data

    @property
    def is_full(self) -> bool:
        return len(self.data) == BLOCK_BYTES

    def has_hole(self, begin: int, end: int) -> bool:
        return any(hole_begin < end and begin < hole_end for hole_begin, hole_end in self.holes)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Whole blocks of the file, of which the last of all may be shorter; only one that is alone has holes."""

    begin: int
    data: memoryview
    holes: list[tuple[int, int]]

    def block_at(self, position: int) -> _Block:
        return _Block(self.begin + position, self.data[position : position + BLOCK_BYTES], self.holes)


class _Assembly:
    """The record whose fragments are being collected; fragments are only ever joined if nothing lies between them."""

    def __init__(self, with_data: bool, record_bytes_max: int, resumed: bool) -> None:
        self._with_data = with_data
        self._record_bytes_max = record_bytes_max
        self._leading = resumed  # so far nothing but fragments of a record begun before the scan
        self._open = False
        self._keeps = False  # whether the payload of the open record is kept
        self._begin = self._end = self._length_bytes = 0
        self._pieces: list[bytes] = []

    @property
    def state(self) -> tuple[int, bool]:
        """Where the open record begins (-1: there is none), and whether only the rest of an earlier one was seen."""
        return self._begin if self._open else -1, self._leading and not self._open

    def go_on(self, end: int, open_begin: int, is_leading: bool) -> None:
        """Takes over the state of a walk, without data, that came to the offset `end`."""
        self._open, self._leading, self._begin, self._end = open_begin >= 0, is_leading, open_begin, end

    def read(self, block: _Block, position: int) -> Iterator[Record | Finding]:
        """The block from `position` on, as records and findings."""
        for fragments, findings in _runs(block, position, self._with_data):
            for fragment in fragments:
                if fragment[0] == FULL and not (self._open or self._leading):  # the short way that most records take
                    yield Record(*fragment[1:])
                else:
                    yield from self.add(fragment)
            yield from self.lose(findings)

    def lose(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """The findings, each after what it made of the record whose fragments were being collected."""
        for finding in findings:
            yield from self.drop(Verdict.torn if finding.verdict in _UNWRITTEN else Verdict.skipped)
            yield finding

    def add(self, fragment: _Fragment) -> Iterator[Record | Finding]:
        kind, begin, end, payload = fragment
        if kind in (FULL, FIRST):
            yield from self.drop(Verdict.skipped)
            self._start(begin, keeps=self._with_data)
        elif self._leading and not self._open:
            self._start(begin, keeps=False)
        if not self._open:  # MIDDLE or LAST without a FIRST
            yield Finding(begin, end, Verdict.skipped)
            return
        self._extend(end, payload)
        if kind in (FULL, LAST):
            yield self._finish()

    def drop(self, verdict: Verdict) -> Iterator[Finding]:
        """What becomes of the fragments collected so far when the rest of their record doesn't follow."""
        if self._open:
            yield Finding(self._begin, self._end, verdict)
        self._open = self._leading = False
        self._pieces = []

    def _start(self, begin: int, *, keeps: bool) -> None:
        self._open, self._keeps, self._begin, self._length_bytes, self._pieces = True, keeps, begin, 0, []

    def _extend(self, end: int, payload: bytes | None) -> None:
        self._end = end
        if not self._keeps or payload is None:
            return
        self._length_bytes += len(payload)
        if self._is_too_long():
            self._pieces = []
        else:
            self._pieces.append(payload)

    def _finish(self) -> Record | Finding:
        self._open = self._leading = False
        if self._keeps and self._is_too_long():
            return Finding(self._begin, self._end, Verdict.skipped)
        return Record(self._begin, self._end, b"".join(self._pieces) if self._keeps else None)

    def _is_too_long(self) -> bool:
        return self._length_bytes > self._record_bytes_max


def _stretches(chunks: Iterable[Buffer | Unreadable], offset: int) -> Iterator[_Stretch]:
    """The chunks as whole blocks, without a copy of those that lie in one chunk."""
    data = bytearray()
    holes: list[tuple[int, int]] = []
    for chunk in chunks:
        is_hole = isinstance(chunk, Unreadable)
        view = memoryview(b"" if isinstance(chunk, Unreadable) else chunk)
        length = chunk.length if isinstance(chunk, Unreadable) else len(chunk)
        taken = 0
        while taken < length:
            whole = 0 if data or is_hole else (length - taken) // BLOCK_BYTES * BLOCK_BYTES
            if whole:
                yield _Stretch(offset, view[taken : taken + whole], [])
                offset, taken = offset + whole, taken + whole
                continue
            step = min(BLOCK_BYTES - len(data), length - taken)
            if is_hole:
                holes.append((len(data), len(data) + step))
            data += bytes(step) if is_hole else view[taken : taken + step]
            taken += step
            if len(data) == BLOCK_BYTES:
                yield _Stretch(offset, memoryview(data), holes)
                offset += BLOCK_BYTES
                data, holes = bytearray(), []
    if data:
        yield _Stretch(offset, memoryview(data), holes)


def _walk(stretch: _Stretch, position: int, begin: int, assembly: _Assembly, tally: Tally) -> int:
    """The end of the intact fragments from `position` on, which it counts; `position` where C can't look."""
    if extension is None or stretch.holes:
        return position
    walked: tuple[int, int, int, int, bool] = extension.leveldb_walk(
        stretch.data, BLOCK_BYTES, position, stretch.begin, begin, *assembly.state
    )
    end, intact_end, records, open_begin, is_leading = walked
    tally.add_intact(intact_end, records)
    assembly.go_on(stretch.begin + end, open_begin, is_leading)
    return end


def _past_damage(stretch: _Stretch, position: int, assembly: _Assembly) -> tuple[Iterator[Record | Finding], int]:
    """What is to be said from a place on where something isn't intact, and where that ends."""
    zeros_end = position
    if extension is not None and not stretch.holes:
        zeros_end = extension.zeros_end(stretch.data, position) // BLOCK_BYTES * BLOCK_BYTES
    if zeros_end > position:  # a sparse file may hold a million blocks of them
        zeros = Finding(stretch.begin + position, stretch.begin + zeros_end, Verdict.zeros)
        return assembly.lose([zeros]), zeros_end
    block = stretch.block_at(position - position % BLOCK_BYTES)
    return assembly.read(block, position % BLOCK_BYTES), block.begin - stretch.begin + len(block.data)


def _runs(block: _Block, position: int, with_data: bool) -> Iterator[tuple[list[_Fragment], list[Finding]]]:
    """Runs of intact fragments in turn with the findings between them; they tile the block from `position` on."""
    while position < len(block.data):
        fragments = _intact_run(block, position, with_data)
        if fragments:
            yield fragments, []
            position = fragments[-1][2] - block.begin
        else:
            findings = list(_damage(block, position))
            yield [], findings
            position = findings[-1].end - block.begin


def _intact_run(block: _Block, position: int, with_data: bool) -> list[_Fragment]:
    """The fragments from `position` on, up to the first whose checksum doesn't hold; in C if nothing is missing."""
    if extension is None or block.holes:
        return _python_run(block, position, with_data)
    run: list[_Fragment] = extension.leveldb_run(block.data, position, block.begin, block.is_full, with_data)
    return run


def _python_run(block: _Block, position: int, with_data: bool) -> list[_Fragment]:
    """The twin of the extension's leveldb_run, which also minds holes."""
    run: list[_Fragment] = []
    while end := _intact_end(block, position):
        past = _past_trailer(block, end)
        payload = bytes(block.data[position + HEADER_BYTES : end]) if with_data else None
        run.append((block.data[position + _TYPE_AT], block.begin + position, block.begin + past, payload))
        position = past
    return run


def _intact_end(block: _Block, position: int) -> int:
    """The end of the fragment at `position` if it is of a known type and its checksum holds, else 0."""
    data = block.data
    if position + HEADER_BYTES > len(data):
        return 0
    masked, length, kind = _HEADER.unpack_from(data, position)
    end: int = position + HEADER_BYTES + length
    if end > len(data) or kind not in _TYPES or (block.holes and block.has_hole(position, end)):
        return 0
    return end if crc32c(data[position + _TYPE_AT : end]) == unmask(masked) else 0


def _past_trailer(block: _Block, end: int) -> int:
    """Where the next fragment may begin: `end`, or the end of the block if only its clean trailer follows."""
    return len(block.data) if _is_clean_trailer(block, end) else end


def _is_clean_trailer(block: _Block, begin: int) -> bool:
    return block.is_full and len(block.data) - begin < HEADER_BYTES and _is_zero(block, begin)


def _is_zero(block: _Block, begin: int) -> bool:
    """Whether the block is known to hold nothing but zeros from `begin` on."""
    return not block.has_hole(begin, len(block.data)) and not any(block.data[begin:])


def _damage(block: _Block, position: int) -> Iterator[Finding]:
    """What is wrong at `position`, where no intact fragment begins. The rules in their order: checksum/README.md."""
    size = len(block.data)
    if not block.has_hole(position, size):
        blank = _blank(block, position)
        if blank:
            yield from blank
            return
    if size - position < HEADER_BYTES or block.has_hole(position, position + HEADER_BYTES):
        yield _rest(block, position)
        return
    finding = _flipped_length(block, position) or _flipped_inside(block, position) or _chained(block, position)
    yield finding or _rest(block, position)


def _blank(block: _Block, position: int) -> list[Finding]:
    """Findings if the rest of the block is zero, or was before one bit of it flipped; else none."""
    rest = bytes(block.data[position:])
    if len(rest) < HEADER_BYTES and not block.is_full:
        return []  # too short to tell unwritten space from the beginning of a header
    begin, end = block.begin + position, block.begin + len(block.data)
    marks = rest.strip(b"\0")
    if not marks:
        return [Finding(begin, end, Verdict.zeros)]
    if len(marks) > 1 or marks[0].bit_count() != 1:
        return []
    at = begin + rest.index(marks)
    flip = Flip(at, marks[0].bit_length() - 1, 1)
    if len(rest) < HEADER_BYTES:
        return [Finding(begin, end, Verdict.flipped, flip=flip)]
    around = [Finding(begin, at, Verdict.zeros), Finding(at + 1, end, Verdict.zeros)]
    parts = [around[0], Finding(at, at + 1, Verdict.flipped, flip=flip), around[1]]
    return [part for part in parts if part.begin < part.end]


def _rest(block: _Block, position: int) -> Finding:
    """The rest of the block: nothing in it can be trusted to be the beginning of a fragment."""
    size = len(block.data)
    if block.has_hole(position, size):
        verdict = Verdict.unreadable
    elif not block.is_full and _is_cut(block, position):
        verdict = Verdict.torn
    else:
        verdict = Verdict.skipped
    return Finding(block.begin + position, block.begin + size, verdict)


def _is_cut(block: _Block, position: int) -> bool:
    """Whether the fragment at `position` looks whole but for its end, which lies beyond the end of the file."""
    if position + HEADER_BYTES > len(block.data):
        return True
    _, length, kind = _HEADER.unpack_from(block.data, position)
    return kind in _TYPES and len(block.data) < position + HEADER_BYTES + length <= BLOCK_BYTES


def _flipped_length(block: _Block, position: int) -> Finding | None:
    """The finding if the fragment's own checksum holds with one bit of its length flipped back."""
    masked, length, _ = _HEADER.unpack_from(block.data, position)
    stored = unmask(masked)
    for bit in range(_LENGTH_BITS):
        end = position + HEADER_BYTES + (length ^ 1 << bit)
        if end > len(block.data) or block.has_hole(position, end):
            continue
        if crc32c(block.data[position + _TYPE_AT : end]) == stored:
            at = block.begin + position + _LENGTH_AT + bit // 8
            flip = Flip(at, bit % 8, length >> bit & 1)
            return _finding(block, position, end, Verdict.flipped, stored, stored, flip)
    return None


def _flipped_inside(block: _Block, position: int) -> Finding | None:
    """The finding if one flipped bit of the stored checksum, the type or the payload explains the mismatch."""
    masked, length, _ = _HEADER.unpack_from(block.data, position)
    end = position + HEADER_BYTES + length
    if end > len(block.data) or block.has_hole(position, end):
        return None
    covered = block.data[position + _TYPE_AT : end]
    stored, computed = unmask(masked), crc32c(covered)
    place = _place_in_stored(masked, computed) or _place_in_covered(covered, stored ^ computed)
    if place is None:
        return None
    at, bit = position + place[0], place[1]
    flip = Flip(block.begin + at, bit, block.data[at] >> bit & 1)
    return _finding(block, position, end, Verdict.flipped, stored, computed, flip)


def _place_in_stored(masked: int, computed: int) -> tuple[int, int] | None:
    """Byte of the fragment and bit, if one flipped bit of the stored checksum explains the mismatch.

    Masking adds, so that the flip has to be sought in the masked form, where it still is one bit.
    """
    changed = masked ^ mask(computed)
    return divmod(changed.bit_length() - 1, 8) if changed.bit_count() == 1 else None


def _place_in_covered(covered: memoryview, syndrome: int) -> tuple[int, int] | None:
    """Byte of the fragment and bit, if one flipped bit of type or payload explains the mismatch.

    A flip of bit b in byte i of n changes the checksum by x^d with d = 32 + 8 (n - 1 - i) + (7 - b).
    """
    exponent = locate_exponent(syndrome, _CRC_BITS + 8 * len(covered))
    if exponent < _CRC_BITS:
        return None
    byte_from_end, bit_from_top = divmod(exponent - _CRC_BITS, 8)
    byte, bit = len(covered) - 1 - byte_from_end, 7 - bit_from_top
    kind = covered[0] ^ (1 << bit if byte == 0 else 0)
    return (_TYPE_AT + byte, bit) if kind in _TYPES else None


def _chained(block: _Block, position: int) -> Finding | None:
    """The finding for this one fragment, if its length can be trusted.

    It can if something sensible begins at its end, or if its checksum holds and only its type is unknown.
    """
    masked, length, _ = _HEADER.unpack_from(block.data, position)
    end = position + HEADER_BYTES + length
    if end > len(block.data):
        return None
    if block.has_hole(position, end):
        return _finding(block, position, end, Verdict.unreadable) if _is_boundary(block, end) else None
    stored, computed = unmask(masked), crc32c(block.data[position + _TYPE_AT : end])
    if stored != computed and not _is_boundary(block, end):
        return None
    return _finding(block, position, end, Verdict.skipped, stored, computed)


def _is_boundary(block: _Block, position: int) -> bool:
    """Whether a fragment may well end at `position`: another begins, or the block or what was written of it ends."""
    if position == len(block.data) or _is_clean_trailer(block, position) or _intact_end(block, position):
        return True
    return len(block.data) - position >= HEADER_BYTES and _is_zero(block, position)


def _finding(
    block: _Block,
    position: int,
    end: int,
    verdict: Verdict,
    stored: int | None = None,
    computed: int | None = None,
    flip: Flip | None = None,
) -> Finding:
    """A finding about the fragment [position, end) of the block, with the clean trailer that may follow it."""
    return Finding(block.begin + position, block.begin + _past_trailer(block, end), verdict, stored, computed, flip)
