"""The reader of a format that a user declared: fields before and after a payload, and what its checksum covers.

Enters: a declaration (checksum/declaration.py reads one from TOML) and the bytes of a file, cut anywhere into chunks.
Leaves: intact records and findings that tile those bytes. A damaged record is never returned as a record, as far as the
declared checksum can tell. Memory is bounded by two records. The rules at damage stand in checksum/README.md.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, Literal

from checksum import chain
from checksum.crc import CRC_32C, Crc
from checksum.crc32c import Buffer, extension
from checksum.finding import Finding, Flip, Intact, Record, Unreadable, Verdict
from checksum.window import Walk, Window

PAYLOAD = "payload"  # its name among the fields
RECORD_BYTES_MAX = 64 * 2**20
_WORD = 2**64 - 1
_START_BYTES = 2**16  # in which the first intact record is sought, to recognise a file
_PIECE_BYTES = 2**18
_RUN_MAX = 1024  # records at a time
_PROBE_BYTES = 2000  # enough for every path that a checksum takes in C
_CHECK_BYTES = 256  # what it costs to look at a record at all, as if so much had gone through a checksum
_WORK_RECORDS, _WORK_BYTES_MIN = 16, 2**24  # spent on a search, for each longest record that it goes through
_TRUST_BITS = 32  # of checksums that hold from where a length points to on, so that the length is believed
_SURE_BITS = 32  # narrower checksums need other records to confirm what they say


@dataclass(frozen=True, slots=True)
class Field:
    """A field of fixed size; `constant` is what it always holds, if that is known."""

    name: str
    size_bytes: int
    constant: bytes | None = None


@dataclass(frozen=True, slots=True)
class Mask:
    """How a checksum is changed before it is stored: rotated to the right, then added to."""

    rotate_right: int = 0
    add: int = 0

    def apply(self, crc: int, width: int) -> int:
        return (_rotated(crc, self.rotate_right, width) + self.add) & ((1 << width) - 1)

    def remove(self, masked: int, width: int) -> int:
        return _rotated((masked - self.add) & ((1 << width) - 1), width - self.rotate_right, width)


@dataclass(frozen=True)
class Declaration:
    """header payload trailer padding; what holds between the fields is asserted by whoever makes one."""

    name: str
    byte_order: Literal["little", "big"]
    header: tuple[Field, ...]
    trailer: tuple[Field, ...]
    length: str  # the field of the header that tells the length
    length_counts: tuple[str, ...]  # of these parts together, `payload` among them
    length_add: int  # to be added to what is stored
    length_max_bytes: int  # of the payload
    sum: str  # the field that holds the checksum
    covers: tuple[str, ...]  # parts, in the order in which they are summed; `payload` among them
    crc: Crc
    mask: Mask
    align_bytes: int  # records are padded to a multiple

    @cached_property
    def header_bytes(self) -> int:
        return sum(field.size_bytes for field in self.header)

    @cached_property
    def trailer_bytes(self) -> int:
        return sum(field.size_bytes for field in self.trailer)

    @cached_property
    def payload_bytes_max(self) -> int:
        """Of what is allowed and can be stored; negative if nothing can."""
        largest = (1 << 8 * _size(self.places[self.length])) - 1
        return min(self.length_max_bytes, largest + self.uncounted_bytes)

    @cached_property
    def record_bytes_max(self) -> int:
        return self.header_bytes + self.payload_bytes_max + self.trailer_bytes + self.align_bytes

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where each field lies in a record without payload."""
        places, begin = {}, 0
        for field in self.header + self.trailer:
            places[field.name] = slice(begin, begin + field.size_bytes)
            begin += field.size_bytes
        return places

    @cached_property
    def uncounted_bytes(self) -> int:
        """What to add to the stored length for the length of the payload."""
        fixed = [field.size_bytes for field in self.header + self.trailer if field.name in self.length_counts]
        return self.length_add - sum(fixed)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A record as its header has it; the header may have been put right. Positions lie in the file."""

    begin: int
    payload: int
    trailer: int
    end: int  # behind the padding
    header: bytes
    around: bytes  # header and trailer


class Framing:
    """A `Format` of checksum/formats.py, by declaration."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self._length = declaration.places[declaration.length]
        self._sum = declaration.places[declaration.sum]
        self._constants = [
            (declaration.places[field.name], field.constant)
            for field in declaration.header + declaration.trailer
            if field.constant is not None
        ]
        self._constant_bits = sum(8 * len(constant) for _, constant in self._constants)
        self._nothing = declaration.crc.compute(b"")
        self._plausible = re.compile(self._header_pattern(), re.DOTALL)

    @property
    def NAME(self) -> str:
        return self.declaration.name

    @property
    def encode(self) -> Callable[[bytes, int], bytes] | None:
        """None if there are fields that the payload doesn't determine."""
        known = {self.declaration.length, self.declaration.sum}
        fields = self.declaration.header + self.declaration.trailer
        return self._encode if all(field.constant is not None or field.name in known for field in fields) else None

    def _encode(self, payload: bytes, offset: int) -> bytes:
        del offset  # the same anywhere, since records before it were padded as well
        declared, order = self.declaration, self.declaration.byte_order
        around = bytearray(declared.header_bytes + declared.trailer_bytes)
        for place, constant in self._constants:
            around[place] = constant
        around[self._length] = (len(payload) - declared.uncounted_bytes).to_bytes(_size(self._length), order)
        stored = declared.mask.apply(self._crc(bytes(around), memoryview(payload)), declared.crc.width)
        around[self._sum] = stored.to_bytes(_size(self._sum), order)
        record = around[: declared.header_bytes] + payload + around[declared.header_bytes :]
        return bytes(record) + bytes(-len(record) % declared.align_bytes)

    def resume_offset(self, begin: int, is_unchanged: bool) -> int:
        """Where a scan can go on that ended at `begin`: only there, and if the file didn't change."""
        return begin if is_unchanged else 0

    def read_end(self, end: int) -> int:
        """How far to read in order to judge what ends at `end`."""
        return end

    def recognises(self, read_at: Callable[[int, int], bytes], size: int) -> bool:
        """Whether a record at the start, or one near it, is intact, and the next ones confirm it."""
        window = Window(_pieces(read_at, size), 0)
        first = self._item(window, 0, -1)
        if isinstance(first, Record) and self._evidence_bits(window, 0) >= _TRUST_BITS:
            return True
        window.reach(_START_BYTES + self._around_bytes)
        return chain.Search(window, 0, self._clues).first_in(0, min(_START_BYTES, window.end)) is not None

    def scan(
        self,
        chunks: Iterable[Buffer | Unreadable],
        *,
        offset: int = 0,
        resumed: bool = False,
        with_data: bool = True,
        record_bytes_max: int = RECORD_BYTES_MAX,
    ) -> Iterator[Record | Finding]:
        """Intact records and findings that tile the bytes of `chunks`, which begin at file offset `offset`.

        Args:
            chunks: consecutive pieces of a file, cut anywhere; a stretch that couldn't be read is an Unreadable.
            offset: where a record begins.
            resumed: has no meaning here, since no record is in parts.
            with_data: False keeps no payloads; else `data` is the payload alone.
            record_bytes_max: a longer record, if its data is wanted, is a `skipped` finding.
        """
        del resumed
        kept_max = record_bytes_max if with_data else -1
        run, item = partial(self._run, kept_max=kept_max), partial(self._item, kept_max=kept_max)
        for one in chain.scan(Window(chunks, offset), run, item, self._lost, self.declaration.record_bytes_max):
            is_unkept = with_data and isinstance(one, Record) and one.data is None
            yield Finding(one.begin, one.end, Verdict.skipped) if is_unkept else one

    def verify(
        self, chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
    ) -> Iterator[Intact | Finding]:
        """What `scan` says, with intact records counted instead of returned; in C as long as nothing is wrong."""
        del resumed
        run, item = partial(self._run, kept_max=-1), partial(self._item, kept_max=-1)
        walk: Walk | None = None if self._plan is None else partial(extension.framing_walk, self._plan)
        window = Window(chunks, offset, is_sparing=walk is not None)
        return chain.count(window, begin, walk, run, item, self._lost)

    @cached_property
    def _plan(self) -> Any:
        """What the extension needs to go over intact records, if it is there and does that as it should; else None."""
        if extension is None:
            return None
        plan = extension.framing_plan(self._plan_numbers())
        payload = bytes(at * at % 251 for at in range(min(_PROBE_BYTES, self.declaration.payload_bytes_max)))
        record = self._encode(payload, 0)
        return plan if extension.framing_walk(plan, record, 0, 0) == (len(record), 1) else None

    def _plan_numbers(self) -> bytes:
        """The numbers of framing_t in checksum/_native.h."""
        declared, crc = self.declaration, self.declaration.crc
        to_left = 0 if crc.reflected else 64 - crc.width
        polynomial = crc.reflected_polynomial if crc.reflected else crc.polynomial & ~(1 << crc.width)
        parts = [
            (_WORD, 0) if name == PAYLOAD else (declared.places[name].start, _size(declared.places[name]))
            for name in declared.covers
        ]
        constants = [
            (place.start + at, byte) for place, constant in self._constants for at, byte in enumerate(constant)
        ]
        numbers = [
            *(declared.header_bytes, declared.trailer_bytes, declared.align_bytes),
            *(self._length.start, _size(self._length), declared.uncounted_bytes, declared.payload_bytes_max),
            *(self._sum.start, _size(self._sum)),
            *(declared.byte_order == "big", crc == CRC_32C, crc.reflected),
            *(polynomial << to_left, crc.register << to_left, crc.xor_out),
            *(declared.mask.rotate_right, declared.mask.add),
            *(len(parts), len(constants)),
            *(number for pair in parts + constants for number in pair),
        ]
        return array("Q", [number & _WORD for number in numbers]).tobytes()

    # --- what is intact ---

    def _run(self, window: Window, position: int, kept_max: int) -> list[Record]:
        """The intact records that begin in the window from `position` on; in C those that lie whole in it."""
        if self._plan is not None and not window.holes:
            begin = position - window.begin
            found = extension.framing_run(self._plan, window.data, begin, window.begin, kept_max, _RUN_MAX)
            if found:
                return [Record(*each) for each in found]
        run: list[Record] = []
        end = window.end
        while position < end and len(run) < _RUN_MAX:
            record = self._intact(window, position, kept_max)
            if record is None:
                break
            run.append(record)
            position = record.end
        return run

    def _intact(self, window: Window, position: int, kept_max: int) -> Record | None:
        frame = self._frame(window, position)
        if frame is None or window.has_hole(position, frame.end) or not self._holds(window, frame):
            return None
        length = frame.trailer - frame.payload
        data = window.bytes(frame.payload, frame.trailer) if length <= kept_max else None
        return Record(position, frame.end, data)

    def _frame(self, window: Window, position: int, header: bytes | None = None) -> _Frame | None:
        """The record at `position`, or with that header instead; None if it can't be one, or reaches beyond the end."""
        declared = self.declaration
        payload = position + declared.header_bytes
        if not window.reach(payload):
            return None
        header = window.bytes(position, payload) if header is None else header
        length = self._payload_bytes(header)
        if length is None:
            return None
        trailer = payload + length
        end = trailer + declared.trailer_bytes
        if not window.reach(end):
            return None
        around = header + window.bytes(trailer, end)
        padded = end + (position - end) % declared.align_bytes
        if padded > end:
            window.reach(padded)
            end = min(padded, window.end)  # nobody pads the last record
        return _Frame(position, payload, trailer, end, header, around)

    def _payload_bytes(self, header: bytes) -> int | None:
        stored = int.from_bytes(header[self._length], self.declaration.byte_order)
        length = stored + self.declaration.uncounted_bytes
        return length if 0 <= length <= self.declaration.payload_bytes_max else None

    def _holds(self, window: Window, frame: _Frame) -> bool:
        """Whether the constants stand where they should and the checksum holds. Zeros are no record."""
        return (
            not self._wrong_bits(frame.around)
            and self._stored(frame) == self._expected(window, frame)
            and (any(frame.around) or any(window.bytes(frame.payload, frame.trailer)))
        )

    def _stored(self, frame: _Frame) -> int:
        return int.from_bytes(frame.around[self._sum], self.declaration.byte_order)

    def _expected(self, window: Window, frame: _Frame) -> int:
        """What should be stored."""
        return self.declaration.mask.apply(self._computed(window, frame), self.declaration.crc.width)

    def _computed(self, window: Window, frame: _Frame) -> int:
        window.work_bytes += _CHECK_BYTES + frame.end - frame.begin
        begin, end = frame.payload - window.begin, frame.trailer - window.begin
        with memoryview(window.data) as view, view[begin:end] as payload:
            return self._crc(frame.around, payload)

    def _crc(self, around: bytes, payload: memoryview) -> int:
        crc, compute = self._nothing, self.declaration.crc.compute
        for name in self.declaration.covers:
            crc = compute(payload if name == PAYLOAD else around[self.declaration.places[name]], crc)
        return crc

    def _wrong_bits(self, around: bytes) -> list[tuple[int, int]]:
        """Byte and bit of whatever differs from the constants; `around` may be a header alone."""
        wrong = []
        for place, constant in self._constants:
            if place.stop <= len(around) and around[place] != constant:
                pairs = enumerate(zip(around[place], constant, strict=True), place.start)
                wrong += [(at, bit) for at, (is_, was) in pairs for bit in range(8) if (is_ ^ was) >> bit & 1]
        return wrong

    def _evidence_bits(self, window: Window, position: int) -> int:
        """How improbable the intact records from `position` on are among garbage; no more than is needed for trust."""
        bits = 0
        while bits < _TRUST_BITS:
            if not window.reach(position + 1):
                return bits + 8 * _size(self._length)
            record = self._intact(window, position, -1)
            if record is None:
                break
            bits += self._record_bits
            position = record.end
        return bits

    @property
    def _record_bits(self) -> int:
        return self.declaration.crc.width + self._constant_bits

    # --- what isn't; the rules in their order: checksum/README.md ---

    def _item(self, window: Window, position: int, kept_max: int) -> Record | Finding | None:
        """What is at `position`; None if it can't be said where it ends."""
        header_end = position + self.declaration.header_bytes
        if not window.reach(header_end) or window.has_hole(position, header_end):
            return None
        record = self._intact(window, position, kept_max)
        if record is not None:
            return record
        header, frame = window.bytes(position, header_end), self._frame(window, position)
        if not any(header if frame is None else frame.around):
            return None  # of unwritten space anything could be said
        if frame is not None and window.has_hole(position, frame.end):
            is_trusted = self._is_trusted(window, frame.end)
            return Finding(position, frame.end, Verdict.unreadable) if is_trusted else None
        found = self._flipped_header(window, position, header)
        if found is not None or frame is None:
            return found
        return self._flipped_inside(window, frame) or self._skipped(window, frame)

    def _flipped_header(self, window: Window, position: int, header: bytes) -> Finding | None:
        """The finding if everything holds with one bit of the length, or of a constant, flipped back."""
        wrong = self._wrong_bits(header)
        length_bits = [(at, bit) for at in range(self._length.start, self._length.stop) for bit in range(8)]
        for at, bit in wrong[:1] or length_bits:  # with more than one wrong bit in the constants, this doesn't hold
            frame = self._frame(window, position, _with_flip(header, at, bit))
            if frame is None or window.has_hole(position, frame.end) or not self._holds(window, frame):
                continue
            if self._is_sure(window, frame.end):
                return self._finding(window, frame, (at, bit))
        return None

    def _flipped_inside(self, window: Window, frame: _Frame) -> Finding | None:
        """The finding if one flipped bit explains all: of the checksum, what it covers, or the trailer's constants."""
        place = self._place(window, frame)
        if place is None or not self._is_sure(window, frame.end):
            return None
        at, bit = place
        around_at = self._around_at(frame, at)
        around = frame.around if around_at is None else _with_flip(frame.around, around_at, bit)
        if self._wrong_bits(around) or around[self._length] != frame.around[self._length]:
            return None
        return self._finding(window, frame, place)

    def _place(self, window: Window, frame: _Frame) -> tuple[int, int] | None:
        """Byte of the record and bit whose flip explains why the checksum, or a constant, doesn't hold."""
        crc, mask = self.declaration.crc, self.declaration.mask
        computed, stored = self._computed(window, frame), self._stored(frame)
        changed = stored ^ mask.apply(computed, crc.width)
        if not changed:
            wrong = self._wrong_bits(frame.around)
            return (self._record_at(frame, wrong[0][0]), wrong[0][1]) if len(wrong) == 1 else None
        if changed.bit_count() == 1 and crc.is_telling(crc.width):
            byte, bit = divmod(changed.bit_length() - 1, 8)
            at = byte if self.declaration.byte_order == "little" else _size(self._sum) - 1 - byte
            return self._record_at(frame, self._sum.start + at), bit
        parts = [self._part(frame, name) for name in self.declaration.covers]
        inside = crc.place(computed ^ mask.remove(stored, crc.width), sum(map(len, parts)))
        return inside and (next(islice((at for part in parts for at in part), inside[0], None)), inside[1])

    def _part(self, frame: _Frame, name: str) -> range:
        """The bytes of the record that are the part of that name."""
        if name == PAYLOAD:
            return range(frame.payload - frame.begin, frame.trailer - frame.begin)
        place = self.declaration.places[name]
        begin = self._record_at(frame, place.start)
        return range(begin, begin + _size(place))

    def _record_at(self, frame: _Frame, around_at: int) -> int:
        """Where a byte of header or trailer lies in the record."""
        return around_at + (frame.trailer - frame.payload if around_at >= len(frame.header) else 0)

    def _around_at(self, frame: _Frame, record_at: int) -> int | None:
        """The way back; None for a byte of the payload."""
        if record_at < len(frame.header):
            return record_at
        around_at = record_at - (frame.trailer - frame.payload)
        return around_at if around_at >= len(frame.header) else None

    def _finding(self, window: Window, frame: _Frame, place: tuple[int, int] | None) -> Finding:
        """About the record of that frame; `place` is byte and bit of the flip."""
        stored = self.declaration.mask.remove(self._stored(frame), self.declaration.crc.width)
        computed = self._computed(window, frame)
        if place is None:
            return Finding(frame.begin, frame.end, Verdict.skipped, stored, computed)
        at = frame.begin + place[0]
        flip = Flip(at, place[1], window.bytes(at, at + 1)[0] >> place[1] & 1)
        return Finding(frame.begin, frame.end, Verdict.flipped, stored, computed, flip)

    def _skipped(self, window: Window, frame: _Frame) -> Finding | None:
        """The finding about this record alone, if its length can be trusted."""
        if self._wrong_bits(frame.header) or not self._is_trusted(window, frame.end):
            return None
        return self._finding(window, frame, None)

    def _is_sure(self, window: Window, end: int) -> bool:
        """Whether a checksum that holds for something put right, up to `end`, proves that it was so."""
        width = self.declaration.crc.width
        return width >= _SURE_BITS or width + self._evidence_bits(window, end) >= _SURE_BITS

    def _is_trusted(self, window: Window, end: int) -> bool:
        """Whether a record may well end there: the file does, what was written of it does, or intact records follow."""
        if not window.reach(end + 1):
            return True
        blank_end = end + self._around_bytes
        if window.reach(blank_end) and not window.has_hole(end, blank_end) and not any(window.bytes(end, blank_end)):
            return True
        return self._evidence_bits(window, end) >= _TRUST_BITS

    @property
    def _around_bytes(self) -> int:
        return self.declaration.header_bytes + self.declaration.trailer_bytes

    # --- the search, where nothing says how long the damaged record is ---

    def _lost(self, window: Window, position: int) -> Iterator[Finding]:
        """Findings up to the next record, or `torn` ones if there is none and the record reaches beyond the file."""
        if not self._is_cut(window, position):
            yield from chain.lost(window, position, self._clues)
            return
        found = list(chain.lost(window, position, self._clues))
        is_torn = not window.reach(found[-1].end + 1)
        for finding in found:
            yield replace(finding, verdict=Verdict.torn) if is_torn and finding.verdict is Verdict.skipped else finding

    def _is_cut(self, window: Window, position: int) -> bool:
        """Whether what begins there looks like a record but for its end, which lies beyond the end of the file."""
        payload = position + self.declaration.header_bytes
        if not window.reach(payload):
            return True
        header = window.bytes(position, payload)
        length = self._payload_bytes(header)
        return (
            length is not None
            and not self._wrong_bits(header)
            and not window.has_hole(position, payload)
            and not window.reach(payload + length + self.declaration.trailer_bytes)
        )

    @cached_property
    def _clues(self) -> chain.Clues:
        reach_bytes = self.declaration.record_bytes_max
        return chain.Clues(
            self._candidates,
            first=partial(self._intact, kept_max=-1),
            item=partial(self._item, kept_max=-1),
            header_bytes=self._around_bytes,
            reach_bytes=reach_bytes,
            work_bytes=max(_WORK_RECORDS * reach_bytes, _WORK_BYTES_MIN),
            record_bits=self._record_bits,
            end_bits=8 * _size(self._length),
        )

    def _candidates(self, data: bytes, begin: int, end: int) -> Iterator[int]:
        """Positions in [begin, end) where constants and length look like a record's."""
        for match in self._plausible.finditer(data, begin):
            if match.start() >= end:
                return
            yield match.start()

    def _header_pattern(self) -> bytes:
        """A header that may be one, at any position but among zeros."""
        pattern = b"(?!\0{%d})(?=" % self._around_bytes
        for field in self.declaration.header:
            if field.constant is not None:
                pattern += re.escape(field.constant)
            elif field.name == self.declaration.length:
                pattern += self._length_pattern()
            else:
                pattern += b".{%d}" % field.size_bytes
        return pattern + b")"

    def _length_pattern(self) -> bytes:
        """The high bytes of a stored length are at most those of the longest one."""
        longest = self.declaration.payload_bytes_max - self.declaration.uncounted_bytes
        size = _size(self._length)
        largest = longest.to_bytes(size, "big")
        zeros = size - len(largest.lstrip(b"\0"))
        parts = [b"\\0"] * zeros + [b"[\\0-\\x%02x]" % byte for byte in largest[zeros : zeros + 1]]
        parts += [b"."] * (size - len(parts))
        return b"".join(parts if self.declaration.byte_order == "big" else reversed(parts))


def _rotated(word: int, right: int, width: int) -> int:
    return (word >> right | word << (width - right)) & ((1 << width) - 1)


def _size(place: slice) -> int:
    size: int = place.stop - place.start
    return size


def _with_flip(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _pieces(read_at: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
    """The file, as far as it is read on."""
    for begin in range(0, size, _PIECE_BYTES):
        piece = read_at(begin, min(_PIECE_BYTES, size - begin))
        yield piece
        if len(piece) < min(_PIECE_BYTES, size - begin):
            return
