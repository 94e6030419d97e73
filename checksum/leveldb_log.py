"""The log format of LevelDB (doc/log_format.md) and RocksDB (db/log_format.h): write, read, and what is wrong with it.

Enters: the bytes of a file, cut anywhere into chunks. Leaves: intact records (or how many there are) and findings that
tile those bytes. Memory is bounded by one chunk, one block and one record. A damaged record is never returned as a
record: every fragment of a Record passed its checksum, and no hole lies between them. The grammar and the rules at
damage stand in checksum/README.md.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from checksum.crc32c import Buffer, crc32c, extension, locate_exponent, mask, unmask, zeros_end
from checksum.finding import Finding, Flip, Intact, Record, Tally, Unreadable, Verdict

NAME = "leveldb-log"
BLOCK_BYTES = 32768
HEADER_BYTES = 7  # masked checksum of type and payload (4), length of the payload (2), type (1); little-endian
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
RECYCLABLE = 4  # added to these types by RocksDB, where the number of the log (4) follows the type
NUMBERED_HEADER_BYTES = 11
RECORD_BYTES_MAX = 64 * 2**20

_HEADER = struct.Struct("<IHB")
_NUMBER = struct.Struct("<I")
_TYPES = (FULL, FIRST, MIDDLE, LAST)
_NUMBERED_TYPES = tuple(kind + RECYCLABLE for kind in _TYPES)
_NUMBERED_TYPE = re.compile(rb"[\x05-\x08]")
_LENGTH_AT, _TYPE_AT = 4, 6  # in the header
_CRC_BITS, _LENGTH_BITS = 32, 16
_SAMPLES_FIRST, _SAMPLES_SPREAD = 4, 12  # blocks from the start, and spread over the rest, to recognise a file by
# A record that ends in such a stretch was never written to its end.
_UNWRITTEN = (Verdict.torn, Verdict.zeros, Verdict.stale)


def encode(payload: bytes, offset: int, log_number: int | None = None) -> bytes:
    """The bytes to append to a log that is `offset` bytes long, so that it also holds the record `payload`.

    With a `log_number`, 0 to 2**32 - 1, it is of RocksDB's recyclable types: the log may overwrite one of another
    number.
    """
    header_bytes = HEADER_BYTES if log_number is None else NUMBERED_HEADER_BYTES
    room = BLOCK_BYTES - offset % BLOCK_BYTES
    pieces = [bytes(room)] if room < header_bytes else []  # the trailer of a block too full for one more header
    if pieces:
        room = BLOCK_BYTES
    taken, begun, ended = 0, False, False
    while not ended:  # an empty payload is a record too
        data = payload[taken : taken + room - header_bytes]
        taken += len(data)
        ended = taken == len(payload)
        pieces.append(_fragment(_kind(begun, ended), data, log_number))
        begun, room = True, BLOCK_BYTES
    return b"".join(pieces)


def _kind(begun: bool, ended: bool) -> int:
    if begun:
        return LAST if ended else MIDDLE
    return FULL if ended else FIRST


def _fragment(kind: int, data: bytes, log_number: int | None) -> bytes:
    if log_number is None:
        return _HEADER.pack(mask(crc32c(data, crc32c(bytes((kind,))))), len(data), kind) + data
    number = _NUMBER.pack(log_number)
    crc = crc32c(data, crc32c(number, crc32c(bytes((kind + RECYCLABLE,)))))
    return _HEADER.pack(mask(crc), len(data), kind + RECYCLABLE) + number + data


def resume_offset(begin: int, is_unchanged: bool) -> int:
    """Where a scan can go on that ended at `begin`: at the block, wherever records begin by now."""
    del is_unchanged
    return begin - begin % BLOCK_BYTES


def read_end(end: int) -> int:
    """How far to read in order to judge what ends at `end`: its whole block."""
    return -(-end // BLOCK_BYTES) * BLOCK_BYTES


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
    yield from assembly.end()


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
    for finding in assembly.end():
        yield from tally.add(finding)


# An intact fragment: type, begin and end in the file (with header and trailer), payload if it is wanted.
_Fragment = tuple[int, int, int, bytes | None]


def recognises(read_at: Callable[[int, int], bytes], size: int) -> bool:
    """Whether a file of `size` bytes holds this format.

    Looks at several blocks, so that damage at the start of a file doesn't hide the rest of it from the scrubber.
    """
    blocks = (read_at(number * BLOCK_BYTES, BLOCK_BYTES) for number in _sample(-(-size // BLOCK_BYTES)))
    return any(_holds_fragment(block) for block in blocks)


def _sample(count: int) -> list[int]:
    """Which of `count` blocks to look at."""
    spread = {_SAMPLES_FIRST + (count - _SAMPLES_FIRST) * i // _SAMPLES_SPREAD for i in range(_SAMPLES_SPREAD)}
    return sorted(number for number in {*range(_SAMPLES_FIRST), *spread} if number < count)


def _holds_fragment(block: bytes) -> bool:
    """Whether one block of a file holds a fragment of this format: an intact one, or one whose flipped bit is known."""
    return any(
        fragments or any(finding.verdict is Verdict.flipped and finding.stored is not None for finding in findings)
        for fragments, findings in _runs(_Block(0, memoryview(block), []), 0, False, _Log())
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


class _Log:
    """What is known of a file that RocksDB uses again: the number of its present log, and whether that has ended.

    Where the present log ends, mostly in the middle of an older fragment, bytes don't verify. Whether they are damage
    or leavings shows in what follows them, so that a finding about them is held until then.
    """

    def __init__(self) -> None:
        self.number: int | None = None  # as the first intact recyclable fragment says
        self.has_ended = False  # a fragment of another number followed
        self.has_leavings = False  # there is one of another number among the bytes held
        self._held: Finding | None = None

    @property
    def is_plain(self) -> bool:
        """Whether what follows needn't be judged in the light of what came before."""
        return not (self.is_held or self.has_ended)

    @property
    def is_held(self) -> bool:
        return self._held is not None

    def may_end_in(self, finding: Finding) -> bool:
        """Whether the finding is of the kind that the end of the present log looks like."""
        return self.number is not None and finding.verdict is Verdict.skipped

    def hold(self, finding: Finding) -> None:
        self._held = Finding(self._held.begin, finding.end, Verdict.skipped) if self._held else finding

    def release(self, verdict: Verdict) -> Finding:
        assert self._held is not None
        held, self._held, self.has_leavings = self._held, None, False
        return replace(held, verdict=verdict)


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
        self.log = _Log()

    @property
    def state(self) -> tuple[int, bool, int]:
        """Where the open record begins, whether only the rest of an earlier one was seen, the log's number; or -1."""
        number = -1 if self.log.number is None else self.log.number
        return self._begin if self._open else -1, self._leading and not self._open, number

    def go_on(self, end: int, open_begin: int, is_leading: bool, number: int) -> None:
        """Takes over the state of a walk, without data, that came to the offset `end`."""
        self._open, self._leading, self._begin, self._end = open_begin >= 0, is_leading, open_begin, end
        self.log.number = None if number < 0 else number

    def read(self, block: _Block, position: int) -> Iterator[Record | Finding]:
        """The block from `position` on, as records and findings."""
        for fragments, findings in _runs(block, position, self._with_data, self.log):
            if fragments and self.log.is_held:
                yield from self.drop(Verdict.skipped)
                yield self.log.release(Verdict.skipped)
            for fragment in fragments:
                if fragment[0] == FULL and not (self._open or self._leading):  # the short way that most records take
                    yield Record(*fragment[1:])
                else:
                    yield from self.add(fragment)
            yield from self.lose(findings)

    def lose(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """The findings, each after what it made of the record whose fragments were being collected."""
        for finding in findings:
            if self.log.may_end_in(finding):
                self.log.hold(finding)
                continue
            yield from self.drop(Verdict.torn if finding.verdict in _UNWRITTEN else Verdict.skipped)
            if self.log.is_held:
                yield self.log.release(Verdict.stale if finding.verdict is Verdict.stale else Verdict.skipped)
            yield finding

    def end(self) -> Iterator[Finding]:
        """What is left to say at the end of the file."""
        verdict = Verdict.stale if self.log.has_leavings else Verdict.skipped
        yield from self.drop(Verdict.torn if verdict is Verdict.stale or not self.log.is_held else Verdict.skipped)
        if self.log.is_held:
            yield self.log.release(verdict)

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
    if not assembly.log.is_plain or extension is None or stretch.holes:
        return position
    walked: tuple[int, int, int, int, bool, int] = extension.leveldb_walk(
        stretch.data, BLOCK_BYTES, position, stretch.begin, begin, *assembly.state
    )
    end, intact_end, records, open_begin, is_leading, number = walked
    tally.add_intact(intact_end, records)
    assembly.go_on(stretch.begin + end, open_begin, is_leading, number)
    return end


def _past_damage(stretch: _Stretch, position: int, assembly: _Assembly) -> tuple[Iterator[Record | Finding], int]:
    """What is to be said from a place on where something isn't intact, and where that ends."""
    blank_end = position
    if assembly.log.is_plain and not stretch.holes:
        blank_end = zeros_end(stretch.data, position) // BLOCK_BYTES * BLOCK_BYTES
    if blank_end > position:  # a sparse file may hold a million blocks of them
        zeros = Finding(stretch.begin + position, stretch.begin + blank_end, Verdict.zeros)
        return assembly.lose([zeros]), blank_end
    block = stretch.block_at(position - position % BLOCK_BYTES)
    return assembly.read(block, position % BLOCK_BYTES), block.begin - stretch.begin + len(block.data)


def _runs(block: _Block, position: int, with_data: bool, log: _Log) -> Iterator[tuple[list[_Fragment], list[Finding]]]:
    """Runs of intact fragments in turn with the findings between them; they tile the block from `position` on."""
    while position < len(block.data):
        fragments = [] if log.has_ended else _intact_run(block, position, with_data, log)
        if fragments:
            yield fragments, []
            position = fragments[-1][2] - block.begin
        elif log.has_ended:
            verdict = Verdict.unreadable if block.has_hole(position, len(block.data)) else Verdict.stale
            yield [], [Finding(block.begin + position, block.begin + len(block.data), verdict)]
            return
        else:
            findings = list(_damage(block, position))
            log.has_leavings |= log.may_end_in(findings[-1]) and _holds_other_log(block, position, log)
            yield [], findings
            position = findings[-1].end - block.begin


def _intact_run(block: _Block, position: int, with_data: bool, log: _Log) -> list[_Fragment]:
    """The fragments from `position` on, up to the first whose checksum doesn't hold; in C if nothing is missing.

    An intact fragment of another log's number also ends the run, and the log.
    """
    if extension is None or block.holes:
        return _python_run(block, position, with_data, log)
    run: list[_Fragment] = extension.leveldb_run(block.data, position, block.begin, block.is_full, with_data)
    return run or _python_run(block, position, with_data, log)  # recyclable types are none of the extension's


def _python_run(block: _Block, position: int, with_data: bool, log: _Log) -> list[_Fragment]:
    """The twin of the extension's leveldb_run, which also minds holes and the numbers of logs."""
    run: list[_Fragment] = []
    while end := _intact_end(block, position):
        kind = block.data[position + _TYPE_AT]
        header_bytes = _header_bytes(kind)
        if kind in _NUMBERED_TYPES:
            number = _number_at(block, position)
            log.number = number if log.number is None else log.number
            log.has_ended = number != log.number
            if log.has_ended:
                break
            kind -= RECYCLABLE
        past = _past_trailer(block, end, header_bytes)
        payload = bytes(block.data[position + header_bytes : end]) if with_data else None
        run.append((kind, block.begin + position, block.begin + past, payload))
        position = past
    return run


def _header_bytes(kind: int) -> int:
    return NUMBERED_HEADER_BYTES if kind in _NUMBERED_TYPES else HEADER_BYTES


def _number_at(block: _Block, position: int) -> int:
    number: int = _NUMBER.unpack_from(block.data, position + HEADER_BYTES)[0]
    return number


def _intact_end(block: _Block, position: int) -> int:
    """The end of the fragment at `position` if it is of a known type and its checksum holds, else 0."""
    data = block.data
    if position + HEADER_BYTES > len(data):
        return 0
    masked, length, kind = _HEADER.unpack_from(data, position)
    end: int = position + _header_bytes(kind) + length
    is_known = kind in _TYPES or kind in _NUMBERED_TYPES
    if end > len(data) or not is_known or (block.holes and block.has_hole(position, end)):
        return 0
    return end if crc32c(data[position + _TYPE_AT : end]) == unmask(masked) else 0


def _holds_other_log(block: _Block, position: int, log: _Log) -> bool:
    """Whether an intact fragment of another log stands anywhere in the block after `position`.

    Such a search may hit upon a payload; what it finds is never returned as a record.
    """
    data = bytes(block.data[position:])
    return any(
        (begin := position + match.start() - _TYPE_AT) > position
        and _intact_end(block, begin)
        and _number_at(block, begin) != log.number
        for match in _NUMBERED_TYPE.finditer(data)
    )


def _past_trailer(block: _Block, end: int, header_bytes: int = HEADER_BYTES) -> int:
    """Where the next fragment may begin: `end`, or the end of the block if only its clean trailer follows."""
    return len(block.data) if _is_clean_trailer(block, end, header_bytes) else end


def _is_clean_trailer(block: _Block, begin: int, header_bytes: int) -> bool:
    """Whether the block is full but for fewer zeros than the header would take that follows one of `header_bytes`."""
    return block.is_full and len(block.data) - begin < header_bytes and _is_zero(block, begin)


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
    yield (
        _flipped_length(block, position)
        or _flipped_inside(block, position, HEADER_BYTES)
        or _flipped_inside(block, position, NUMBERED_HEADER_BYTES)
        or _chained(block, position)
        or _rest(block, position)
    )


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
    is_known = kind in _TYPES or kind in _NUMBERED_TYPES
    return is_known and len(block.data) < position + _header_bytes(kind) + length <= BLOCK_BYTES


def _flipped_length(block: _Block, position: int) -> Finding | None:
    """The finding if the fragment's own checksum holds with one bit of its length flipped back."""
    masked, length, kind = _HEADER.unpack_from(block.data, position)
    stored = unmask(masked)
    for bit in range(_LENGTH_BITS):
        end = position + _header_bytes(kind) + (length ^ 1 << bit)
        if end > len(block.data) or block.has_hole(position, end):
            continue
        if crc32c(block.data[position + _TYPE_AT : end]) == stored:
            at = block.begin + position + _LENGTH_AT + bit // 8
            flip = Flip(at, bit % 8, length >> bit & 1)
            return _finding(block, position, end, _header_bytes(kind), Verdict.flipped, stored, stored, flip)
    return None


def _flipped_inside(block: _Block, position: int, header_bytes: int) -> Finding | None:
    """The finding if one flipped bit of the stored checksum, the type or the payload explains the mismatch.

    `header_bytes` is what the header was before the flip: a flipped type may be of the other family.
    """
    masked, length, _ = _HEADER.unpack_from(block.data, position)
    end = position + header_bytes + length
    if end > len(block.data) or block.has_hole(position, end):
        return None
    covered = block.data[position + _TYPE_AT : end]
    stored, computed = unmask(masked), crc32c(covered)
    place = _place_in_stored(masked, computed) or _place_in_covered(covered, stored ^ computed)
    if place is None or header_bytes != _header_bytes(covered[0] ^ (1 << place[1] if place[0] == _TYPE_AT else 0)):
        return None
    at, bit = position + place[0], place[1]
    flip = Flip(block.begin + at, bit, block.data[at] >> bit & 1)
    return _finding(block, position, end, header_bytes, Verdict.flipped, stored, computed, flip)


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
    return (_TYPE_AT + byte, bit) if kind in _TYPES or kind in _NUMBERED_TYPES else None


def _chained(block: _Block, position: int) -> Finding | None:
    """The finding for this one fragment, if its length can be trusted.

    It can if something sensible begins at its end, or if its checksum holds and only its type is unknown.
    """
    masked, length, kind = _HEADER.unpack_from(block.data, position)
    header_bytes = _header_bytes(kind)
    end = position + header_bytes + length
    if end > len(block.data):
        return None
    is_boundary = _is_boundary(block, end, header_bytes)
    if block.has_hole(position, end):
        return _finding(block, position, end, header_bytes, Verdict.unreadable) if is_boundary else None
    stored, computed = unmask(masked), crc32c(block.data[position + _TYPE_AT : end])
    if stored != computed and not is_boundary:
        return None
    return _finding(block, position, end, header_bytes, Verdict.skipped, stored, computed)


def _is_boundary(block: _Block, position: int, header_bytes: int) -> bool:
    """Whether a fragment may well end at `position`: another begins, or the block or what was written of it ends."""
    size = len(block.data)
    if position == size or _is_clean_trailer(block, position, header_bytes) or _intact_end(block, position):
        return True
    return size - position >= HEADER_BYTES and _is_zero(block, position)


def _finding(
    block: _Block,
    position: int,
    end: int,
    header_bytes: int,
    verdict: Verdict,
    stored: int | None = None,
    computed: int | None = None,
    flip: Flip | None = None,
) -> Finding:
    """A finding about the fragment [position, end) of the block, with the clean trailer that may follow it."""
    past = _past_trailer(block, end, header_bytes)
    return Finding(block.begin + position, block.begin + past, verdict, stored, computed, flip)
