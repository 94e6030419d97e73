"""gzip files (RFC 1952), whose members are the records: what is intact in them, and what is wrong with the rest.

Enters: the bytes of a file, cut anywhere into chunks. Leaves: intact members and findings that tile those bytes. A
member is intact if its body (RFC 1951) inflates to its end, and the CRC-32 and length in its trailer are those of what
came out. Memory is bounded by 16 MiB of the file, and by 64 MiB of a payload that is wanted; time is linear in the
inflated size. The grammar and the rules at damage stand in checksum/README.md.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from typing import Protocol

from checksum.chain import Clues, Search
from checksum.crc32c import Buffer
from checksum.finding import Finding, Flip, Intact, Record, Unreadable, Verdict, counted
from checksum.walk import Lost, walk
from checksum.window import Window

NAME = "gzip"
HEADER_BYTES = 10  # magic (2), method (1), flags (1), time (4), extra flags (1), system (1); more as the flags say
TRAILER_BYTES = 8  # CRC-32 and length modulo 2^32 of the payload, little-endian
PAYLOAD_BYTES_MAX = 64 * 2**20  # longer ones are verified, but not kept
STORED_BYTES_MAX = 2**16 - 1  # of a block of deflate that holds bytes as they are

encode: Callable[[bytes, int], bytes] | None = None  # intact members are copied as they stand

_MAGIC = b"\x1f\x8b\x08"  # the method 8 is deflate, the only one there is
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED = 0x02, 0x04, 0x08, 0x10, 0xE0
_FLAGS_AT, _MEANINGFUL_FLAG_BITS = 3, (1, 2, 3, 4)  # bit 0 (text) changes nothing
_EXTRA_FLAGS, _SYSTEMS = (0, 2, 4), (*range(14), 255)  # that compressors write
_NAME_BYTES_MAX = 2**16
_LENGTH, _TRAILER, _STORED = struct.Struct("<H"), struct.Struct("<Q"), struct.Struct("<HH")
_INPUT_BYTES_MIN, _INPUT_BYTES, _OUTPUT_BYTES = 2**10, 2**16, 2**20  # inflated at a time
_PROBE_BYTES, _PROBE_OUTPUT_BYTES = 2**20, 2**26  # what inflates so far without an error is taken for a member
_BACK_BYTES = 2**24  # of a member, kept to search them
_LOOK_BACK_BYTES = 2**20  # that a search surely keeps
_WORK_BYTES = 2**25  # inflated in a search, at most, for each 64 KiB that it goes through
_MEMBER_BITS = 64  # chance makes an intact member with one in two to this
_START_BYTES, _HITS_MAX = 2**18, 16  # where members are sought, and how many, to recognise a file
_CHAIN_BYTES_MAX = 2**26  # followed from each of them
_BEGINNING_BYTES = 64


class Contents(Protocol):
    """Looks into a member while it is inflated."""

    def feed(self, data: bytes) -> None:
        """The next bytes of the payload."""

    def is_sound(self) -> bool:
        """Whether all that was fed is as checksums of its own say."""


Inspect = Callable[[], Contents]


def resume_offset(begin: int, is_unchanged: bool) -> int:
    """Where a scan can go on that ended at `begin`: only there, and if the file changed only from its start."""
    return begin if is_unchanged else 0


def read_end(end: int) -> int:
    """How far to read in order to judge what ends at `end`."""
    return end


def recognises(read_at: Callable[[int, int], bytes], size: int) -> bool:
    """Whether a file of `size` bytes is a gzip file."""
    return beginning(read_at, size) is not None


def beginning(read_at: Callable[[int, int], bytes], size: int) -> bytes | None:
    """What the first members begin with; nothing if none inflates; None if a file of `size` bytes is no gzip file.

    It is one if a header stands at its start, but for one bit, and either something inflates behind it or its values
    are those that compressors write; or, where the start is damaged, if from a place near it intact members follow one
    another to the end of the file. One member isn't enough: an archive may hold such a file as it is.
    """
    start = read_at(0, _START_BYTES)
    heads = (start[:HEADER_BYTES], *(mended for _, mended in _neighbours(start[:HEADER_BYTES])))
    payloads = [_inflated(start, head) for head in heads if _is_plausible(head)]
    is_usual = any(_is_plausible(head) and head[8] in _EXTRA_FLAGS and head[9] in _SYSTEMS for head in heads)
    for begin in islice(candidates(start, 0, len(start)), _HITS_MAX):
        if any(payloads):
            break
        payload = _inflated(start[begin:], start[begin : begin + HEADER_BYTES])
        if payload and (is_usual or _chains_to_end(read_at, begin, size)):
            payloads.append(payload)
    return max(payloads, key=bool, default=b"") if is_usual or any(payloads) else None


def _inflated(data: bytes, head: bytes) -> bytes:
    """The first bytes of the payload of a member that begins with `data`; empty if nothing inflates."""
    inflater, payload = zlib.decompressobj(-zlib.MAX_WBITS), b""
    try:
        for at in range(_Members(Window([data], 0)).body(0, head), len(data), _BEGINNING_BYTES):
            payload += inflater.decompress(data[at : at + _BEGINNING_BYTES], _BEGINNING_BYTES)
            if inflater.eof or len(payload) >= _BEGINNING_BYTES:
                break
    except (zlib.error, _Stop):
        pass  # what came before counts
    return payload


def _chains_to_end(read_at: Callable[[int, int], bytes], begin: int, size: int) -> bool:
    if size - begin > _CHAIN_BYTES_MAX:
        return False
    chunks = (read_at(at, min(_INPUT_BYTES, size - at)) for at in range(begin, size, _INPUT_BYTES))
    return all(isinstance(item, Record) for item in scan(chunks, offset=begin, with_data=False))


def scan(
    chunks: Iterable[Buffer | Unreadable],
    *,
    offset: int = 0,
    resumed: bool = False,
    with_data: bool = True,
    record_bytes_max: int = PAYLOAD_BYTES_MAX,
) -> Iterator[Record | Finding]:
    """Intact members and findings, in file order; they tile the bytes of `chunks`, which begin at file offset `offset`.

    Args:
        chunks: consecutive pieces of a file, cut anywhere; a stretch that couldn't be read is an Unreadable.
        offset: where a member begins.
        resumed: has no meaning here, since no member is in parts.
        with_data: False keeps no payloads, which are what a member inflates to.
        record_bytes_max: a member with a longer payload, if it is wanted, is a `skipped` finding.
    """
    del resumed
    return items(Window(chunks, offset), min(record_bytes_max, PAYLOAD_BYTES_MAX) if with_data else -1)


def items(window: Window, kept_max: int, inspect: Inspect | None = None) -> Iterator[Record | Finding]:
    """What `scan` says about the window's file from where the window begins.

    Args:
        kept_max: a member with a longer payload is a `skipped` finding; -1: no payload is kept.
        inspect: makes what looks into each member; one whose contents aren't sound is a `skipped` finding.
    """
    members = _Members(window, kept_max, inspect)
    return walk(window, members.item, members.clues, members.doubtful_end)


def verify(
    chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
) -> Iterator[Intact | Finding]:
    """What `scan` says, with intact members counted instead of returned.

    Args:
        chunks, offset, resumed: as for `scan`.
        begin: members and findings that end at or before this offset in the file are passed over.
    """
    return counted(scan(chunks, offset=offset, resumed=resumed, with_data=False), offset, begin)


# --- one member ---


class _State(Enum):
    """What became of the attempt to read a member."""

    whole = auto()  # it came to its own end
    torn = auto()  # the file ended before it did
    broken = auto()  # it can't be one, or the disk would not give all of it
    running = auto()  # it didn't come to an end within the length of a probe


class _Stop(Exception):
    """A member can't be read any further."""

    def __init__(self, state: _State) -> None:
        super().__init__(state)
        self.state = state


@dataclass(frozen=True, slots=True)
class _Member:
    """A member that was read up to `end`; `stored` and `computed` are trailers, taken as one number."""

    state: _State
    end: int
    stored: int = 0
    computed: int = 0
    data: bytes | None = None
    is_sound: bool = True

    @property
    def is_intact(self) -> bool:
        return self.state is _State.whole and self.stored == self.computed


class _Members:
    """Judges what is at a place of the window. Of a member that is read, the last 16 MiB stay in the window."""

    def __init__(self, window: Window, kept_max: int = -1, inspect: Inspect | None = None) -> None:
        self._window, self._kept_max, self._inspect = window, kept_max, inspect
        self._input_bytes = _INPUT_BYTES  # to begin with, by what the last member needed
        self.clues = Clues(
            candidates,
            self._probed,
            self._probed,
            HEADER_BYTES,
            STORED_BYTES_MAX,
            _WORK_BYTES,
            _MEMBER_BITS,
            end_bits=0,
        )

    def item(self, begin: int) -> Record | Finding | Lost:
        """What is at `begin`, by the rules in their order."""
        head = self._head(begin)
        member = self._member(begin, head)
        if member.is_intact:
            is_wanted = member.is_sound and (self._kept_max < 0 or member.data is not None)
            return Record(begin, member.end, member.data) if is_wanted else Finding(begin, member.end, Verdict.skipped)
        if member.state is _State.whole:
            flip = self._trailer_flip(member)
            if flip is not None:
                return Finding(begin, member.end, Verdict.flipped, member.stored, member.computed, flip)
            if self._goes_on(member.end) and not self._hides_others(begin, member.end):
                return Finding(begin, member.end, Verdict.skipped, member.stored, member.computed)
        if member.end - begin <= _BACK_BYTES:  # else its begin is gone from the window
            mended = self._mended(begin, head)
            if mended is not None:
                return mended
        search_begin = max(begin + _is_plausible(head), member.end - _BACK_BYTES)
        if member.state is _State.torn and not self._hides_others(begin, self._window.end):
            return Finding(begin, self._window.end, Verdict.torn)
        return Lost(search_begin)

    def _trailer_flip(self, member: _Member) -> Flip | None:
        changed = member.stored ^ member.computed
        if changed.bit_count() != 1:
            return None
        byte, bit = divmod(changed.bit_length() - 1, 8)
        return Flip(member.end - TRAILER_BYTES + byte, bit, member.stored >> 8 * byte + bit & 1)

    def _mended(self, begin: int, head: bytes) -> Finding | None:
        """The finding about a member that would be intact, had not one bit of its first bytes flipped."""
        for (byte, bit), mended in _neighbours(head):
            member = self._member(begin, mended)
            if member.is_intact and not self._hides_others(begin, member.end):  # an extra field may reach anywhere
                flip = Flip(begin + byte, bit, head[byte] >> bit & 1)
                return Finding(begin, member.end, Verdict.flipped, member.stored, member.computed, flip)
        return None

    def _hides_others(self, begin: int, end: int) -> bool:
        """Whether others surely begin in what seems to be one damaged member: a flip can hide where it ended."""
        begin = max(begin + 1, end - _BACK_BYTES)
        hit = Search(self._window, begin, self.clues).first_in(begin, end)
        return hit is not None and not self._may_be_nested(begin, hit)

    def doubtful_end(self, begin: int, hit: int) -> int:
        """Before where members may be part of what was lost from `begin` to `hit`, where the search found them."""
        return hit + STORED_BYTES_MAX if self._may_be_nested(begin, hit) else hit

    def _may_be_nested(self, begin: int, hit: int) -> bool:
        """Whether the members from `hit` on may be part of the payload of one that was lost from `begin` on.

        The bytes of a payload stand in the file as they are only in a stored block, whose header tells its length
        twice. So such a block has to begin behind `begin`, and reach over all intact members that follow one another.
        """
        end = self._intact_end(hit)
        if end == hit or end - hit > STORED_BYTES_MAX:
            return False
        if hit - begin > _LOOK_BACK_BYTES:
            return True
        data = self._window.bytes(max(begin, hit - STORED_BYTES_MAX - _STORED.size), hit)
        for at in range(len(data) - _STORED.size + 1):
            length, inverted = _STORED.unpack_from(data, at)
            reach = at + _STORED.size + length
            if length ^ inverted == STORED_BYTES_MAX and reach >= len(data) + end - hit:
                return True
        return False

    def _intact_end(self, begin: int) -> int:
        """Where the intact members end that follow one another from `begin`, or further than a stored block reaches."""
        end = begin
        while end - begin <= STORED_BYTES_MAX:
            member = self._member(end, self._head(end), is_probe=True)
            if not member.is_intact and member.state is not _State.running:
                break
            end = member.end
        return end

    def _goes_on(self, end: int) -> bool:
        """Whether what follows a damaged member shows that it ended there: the file's end, zeros, or another member."""
        if not self._window.reach(end + 1):
            return True
        head = self._head(end)
        return head == bytes(HEADER_BYTES) or self._member(end, head, is_probe=True).state is not _State.broken

    def _probed(self, window: Window, begin: int) -> Record | Finding | None:
        """What a search makes of `begin`: a member that is long is believed after its first MiB."""
        head = self._head(begin)
        if head == bytes(HEADER_BYTES):
            return Finding(begin, begin + self._zeros(begin), Verdict.zeros)
        member = self._member(begin, head, is_probe=True)
        if member.is_intact or member.state is _State.running:
            return Record(begin, member.end, None)
        if member.state is _State.whole and self._goes_on(member.end):
            return Finding(begin, member.end, Verdict.skipped)
        return Finding(begin, window.end, Verdict.torn) if member.state is _State.torn else None

    def _zeros(self, begin: int) -> int:
        data = self._piece(begin, _PROBE_BYTES)
        return len(data) - len(data.lstrip(b"\0"))

    def _member(self, begin: int, head: bytes, *, is_probe: bool = False) -> _Member:
        """The member that begins with `head`, which are its first bytes or what they should be."""
        reading = _Reading(-1 if is_probe else self._kept_max, self._inspect if not is_probe else None)
        at = begin
        try:
            at = body = self.body(begin, head)
            length = self._input_bytes
            while not reading.is_done:
                piece = self._piece(at, length)
                at, length = at + len(piece), _INPUT_BYTES
                self._window.work_bytes += reading.feed(piece)
                if is_probe and not reading.is_done:
                    _stop_long_probe(at - body, reading.size)
                elif at - begin > _BACK_BYTES:
                    self._window.drop(at - _BACK_BYTES)
            end = at - reading.unused_bytes
            (stored,) = _TRAILER.unpack(self._exactly(end, TRAILER_BYTES))
        except _Stop as stop:
            return _Member(stop.state, at)
        except zlib.error:
            return _Member(_State.broken, at)
        end += TRAILER_BYTES
        self._input_bytes = min(max(_INPUT_BYTES_MIN, 2 * (end - begin)), _INPUT_BYTES)
        return _Member(_State.whole, end, stored, reading.trailer, reading.data, reading.is_sound)

    def body(self, begin: int, head: bytes) -> int:
        """Where the compressed body begins.

        Raises:
            _Stop: there is no such place.
        """
        if len(head) < HEADER_BYTES and _MAGIC.startswith(head[: len(_MAGIC)]):
            self._piece(begin + len(head), 1)  # which says why
        if not _is_plausible(head):
            raise _Stop(_State.broken)
        flags, at = head[_FLAGS_AT], begin + HEADER_BYTES
        if flags & _FEXTRA:
            at += _LENGTH.size + _LENGTH.unpack(self._exactly(at, _LENGTH.size))[0]
        for flag in (_FNAME, _FCOMMENT):
            if flags & flag:
                at = self._string_end(at)
        if flags & _FHCRC:
            header = head + self._exactly(begin + HEADER_BYTES, at - begin - HEADER_BYTES)
            if _LENGTH.unpack(self._exactly(at, _LENGTH.size))[0] != zlib.crc32(header) & 0xFFFF:
                raise _Stop(_State.broken)
            at += _LENGTH.size
        return at

    def _string_end(self, at: int) -> int:
        for length in (2**8, _NAME_BYTES_MAX):
            data = self._piece(at, length)
            end = data.find(0) + 1
            if end:
                return at + end
        self._piece(at + len(data), 1)  # the file or a hole ends it
        raise _Stop(_State.broken)

    def _head(self, begin: int) -> bytes:
        """The first bytes of the header, fewer at the end of the file; none where the disk would not give them."""
        try:
            return self._piece(begin, HEADER_BYTES)
        except _Stop:
            return b""

    def _exactly(self, begin: int, length: int) -> bytes:
        data = self._piece(begin, length) if length else b""
        if len(data) < length:
            self._piece(begin + len(data), 1)  # which says why
        return data

    def _piece(self, begin: int, length: int) -> bytes:
        """The bytes of the file there, fewer before its end or what the disk would not give.

        Raises:
            _Stop: there are none.
        """
        window = self._window
        is_there = window.reach(begin + length)
        end = begin + length if is_there else window.end
        if window.holes:
            if window.has_hole(begin, begin + 1):
                raise _Stop(_State.broken)
            end = min(end, end, *(hole for hole, _ in window.holes if hole > begin))
        if end <= begin:
            raise _Stop(_State.torn)
        return window.bytes(begin, end)


class _Reading:
    """A member's body while it is inflated, piece by piece."""

    def __init__(self, kept_max: int, inspect: Inspect | None) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._kept_max = kept_max
        self._kept: list[bytes] = []
        self._contents = inspect() if inspect else None
        self._checksum = self.size = 0

    def feed(self, piece: bytes) -> int:
        """Inflates the next piece; returns how many bytes came out.

        Raises:
            zlib.error: it is not deflated data.
        """
        before = self.size
        while True:
            payload = self._inflater.decompress(piece, _OUTPUT_BYTES)
            self._checksum = zlib.crc32(payload, self._checksum)
            self.size += len(payload)
            if self.size <= self._kept_max:
                self._kept.append(payload)
            else:
                self._kept.clear()
            if self._contents is not None:
                self._contents.feed(payload)
            piece = self._inflater.unconsumed_tail
            if self._inflater.eof or (not piece and len(payload) < _OUTPUT_BYTES):
                return self.size - before

    @property
    def is_done(self) -> bool:
        return self._inflater.eof

    @property
    def unused_bytes(self) -> int:
        return len(self._inflater.unused_data)

    @property
    def trailer(self) -> int:
        """What the trailer should hold, as one number."""
        return self._checksum | (self.size & 0xFFFFFFFF) << 32

    @property
    def data(self) -> bytes | None:
        return b"".join(self._kept) if self.size <= self._kept_max else None

    @property
    def is_sound(self) -> bool:
        return self._contents is None or self._contents.is_sound()


def _stop_long_probe(used_bytes: int, inflated_bytes: int) -> None:
    if used_bytes >= _PROBE_BYTES:
        raise _Stop(_State.running)
    if inflated_bytes >= _PROBE_OUTPUT_BYTES:  # a search could be made to inflate the same for ever
        raise _Stop(_State.broken)


# --- headers ---


def _is_plausible(head: bytes) -> bool:
    return len(head) == HEADER_BYTES and head.startswith(_MAGIC) and not head[_FLAGS_AT] & _RESERVED


def _neighbours(head: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Headers that differ from `head` in one (byte, bit) that matters, and are plausible."""
    if len(head) < HEADER_BYTES:
        return
    if _is_plausible(head):
        places = [(_FLAGS_AT, bit) for bit in _MEANINGFUL_FLAG_BITS]
    else:
        places = [(byte, bit) for byte in range(_FLAGS_AT + 1) for bit in range(8)]
    for byte, bit in places:
        mended = head[:byte] + bytes([head[byte] ^ 1 << bit]) + head[byte + 1 :]
        if _is_plausible(mended):
            yield (byte, bit), mended


def may_begin(head: bytes) -> bool:
    """Whether `head` is the header of a member, but for one bit."""
    return _is_plausible(head) or next(_neighbours(head), None) is not None


def candidates(data: bytes, begin: int, end: int) -> Iterator[int]:
    """Positions from `begin` to below `end` where a header may be."""
    at = data.find(_MAGIC, begin)
    while 0 <= at < end:
        if _is_plausible(data[at : at + HEADER_BYTES]):
            yield at
        at = data.find(_MAGIC, at + 1)
