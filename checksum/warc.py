"""WARC files (ISO 28500: WARC/1.0, WARC/1.1), plain or compressed: what is intact, and what is wrong with the rest.

Enters: the bytes of a file, cut anywhere into chunks. Leaves: intact records and findings that tile those bytes. In a
compressed file a record is a gzip member; else it is a WARC record, whose block must have the digest that its header
states. A record without a digest is intact if its framing is, and says that it wasn't checked. Memory is bounded by a
record of 64 MiB, or by twice that in a search. The grammar and the rules at damage stand in checksum/README.md.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from checksum import gzip_members
from checksum.chain import Clues, Search, reaches
from checksum.crc32c import Buffer
from checksum.finding import Finding, Flip, Intact, Record, Unreadable, Verdict, counted
from checksum.walk import Lost, walk
from checksum.window import Window

NAME = "warc"
RECORD_BYTES_MAX = 64 * 2**20  # longer records are verified, but not kept

encode: Callable[[bytes, int], bytes] | None = None  # intact records are copied as they stand

_MAGIC = b"WARC/1."
_VERSION = re.compile(rb"WARC/1\.\d\r\n")
_VERSION_BYTES = 10
_BLANK = b"\r\n\r\n"  # ends the header, and the record
_HTTP_BLANK = re.compile(rb"\r?\n\r?\n")
_HEADER_BYTES, _HEADER_BYTES_MAX = 2**10, 2**16
_MENDED_BYTES_MAX = 2**11  # of a header, in which a flipped bit is sought
_DIGITS_MAX = 18
_ONCE = (b"content-length", b"warc-type", b"warc-block-digest", b"warc-payload-digest")
_STEP_BYTES = 2**20  # of a record that is too long to be held
_WORK_BYTES = 2**26  # of headers in a search, at most, for each 64 MiB that it goes through
_START_BYTES, _HITS_MAX, _RECORDS_MAX = 2**18, 16, 4096  # to recognise a file with a damaged start
# Names are tokens, values hold no control characters, and a line that begins with a blank continues the one before.
_FIELDS = re.compile(rb"(?:(?:[!#-'*+\-.0-9A-Z^-z|~]+:|[ \t])[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+")
_CONTENT_LENGTH = re.compile(rb"^content-length:[ \t]*(\d+)", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding:[^\r\n]*chunked", re.IGNORECASE | re.MULTILINE)
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]{1,15}")
_HASHES = {"md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}  # bytes of a digest
# As texts they are in base 16, in base 32, or in base 32 with padding.
_TEXT_BYTES = {name: (2 * size, -(-8 * size // 5), 8 * -(-size // 5)) for name, size in _HASHES.items()}


def resume_offset(begin: int, is_unchanged: bool) -> int:
    """Where a scan can go on that ended at `begin`: only there, and if the file changed only from its start."""
    return begin if is_unchanged else 0


def read_end(end: int) -> int:
    """How far to read in order to judge what ends at `end`."""
    return end


def recognises(read_at: Callable[[int, int], bytes], size: int) -> bool:
    """Whether a file of `size` bytes holds WARC records: by its start or, damaged there, by a chain to its end."""
    payload = gzip_members.beginning(read_at, size)
    if payload is not None:
        return payload.startswith(_MAGIC)
    start = read_at(0, _START_BYTES)
    hits = islice(_candidates(start, 0, len(start)), _HITS_MAX)
    return _is_version(start[:_VERSION_BYTES]) or any(_chains_to_end(read_at, size, begin) for begin in hits)


def _chains_to_end(read_at: Callable[[int, int], bytes], size: int, begin: int) -> bool:
    def end_of(position: int) -> int | None:
        header = _parse(read_at(position, _HEADER_BYTES_MAX))
        return None if header is None else position + header.record_bytes

    return reaches(size, begin, end_of, _RECORDS_MAX)


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
        with_data: False keeps no records; else `data` is the record with header and end, not compressed.
        record_bytes_max: a longer record, if its data is wanted, is a `skipped` finding.
    """
    del resumed
    window = Window(chunks, offset)
    kept_max = min(record_bytes_max, RECORD_BYTES_MAX) if with_data else -1
    window.reach(offset + _START_BYTES)
    if _is_compressed(window.bytes(offset, min(offset + _START_BYTES, window.end))):
        return gzip_members.items(window, kept_max, _Contents)
    return _items(window, kept_max)


def verify(
    chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
) -> Iterator[Intact | Finding]:
    """What `scan` says, with intact records counted instead of returned.

    Args:
        chunks, offset, resumed: as for `scan`.
        begin: records and findings that end at or before this offset in the file are passed over.
    """
    return counted(scan(chunks, offset=offset, resumed=resumed, with_data=False), offset, begin)


def _is_compressed(start: bytes) -> bool:
    """Whether gzip members stand there rather than records, which may hold such members."""
    if _is_version(start[:_VERSION_BYTES]):
        return False
    if gzip_members.may_begin(start[: gzip_members.HEADER_BYTES]):
        return True
    is_plain = next(_candidates(start, 0, len(start)), None) is not None
    return not is_plain and next(gzip_members.candidates(start, 0, len(start)), None) is not None


def _items(window: Window, kept_max: int) -> Iterator[Record | Finding]:
    records = _Records(window, kept_max)
    return walk(window, records.item, records.clues, lambda _begin, hit: hit + RECORD_BYTES_MAX)


# --- headers and digests ---


@dataclass(frozen=True, slots=True)
class _Digest:
    """What a header states: the `hash` of the block, or of what stands behind its HTTP header, as `text`.

    `is_binding`: that it doesn't hold shows damage. There are records of which nobody can say how it was computed.
    """

    hash: str
    text: bytes
    skips_http: bool
    is_binding: bool


@dataclass(frozen=True, slots=True)
class _Header:
    """The header of a record: its length with the blank line, that of the block, and the digest if it states one."""

    bytes: int
    length: int
    digest: _Digest | None

    @property
    def record_bytes(self) -> int:
        return self.bytes + self.length + len(_BLANK)


def _parse(data: bytes) -> _Header | None:
    """The header that `data` begins with; None if there is none, or it doesn't tell where the record ends."""
    end = data.find(_BLANK)
    if end < 0 or not _VERSION.match(data) or not _FIELDS.fullmatch(data, _VERSION_BYTES, end + len(b"\r\n")):
        return None
    fields: dict[bytes, bytes] = {}
    for line in data[_VERSION_BYTES:end].split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in fields and name in _ONCE:  # two headers, whose blank line between them is gone
            return None
        fields[name] = value.strip()
    length = fields.get(b"content-length", b"")
    if not length.isdigit() or len(length) > _DIGITS_MAX:
        return None
    return _Header(end + len(_BLANK), int(length), _digest(fields))


def _digest(fields: dict[bytes, bytes]) -> _Digest | None:
    """The digest of the block, else that of the payload, where it is one that can be computed.

    The payload is what follows the HTTP header in a block of type application/http. Block digests of revisits were
    often computed over what the record leaves out.
    """
    kind = fields.get(b"warc-type", b"").lower()
    block = _known(fields.get(b"warc-block-digest", b""))
    if block is not None:
        return _Digest(*block, skips_http=False, is_binding=kind != b"revisit")
    payload = _known(fields.get(b"warc-payload-digest", b""))
    if payload is None or kind in (b"revisit", b"continuation") or b"warc-segment-number" in fields:
        return None  # it is that of another record, or of several
    is_http = fields.get(b"content-type", b"").lower().startswith(b"application/http")
    return _Digest(*payload, skips_http=is_http, is_binding=b"warc-truncated" not in fields)


def _known(field: bytes) -> tuple[str, bytes] | None:
    """The hash and the text of a field like `sha1:AAAA...`; None if it isn't one of ours."""
    label, _, text = field.partition(b":")
    name = label.decode("latin-1").lower().replace("-", "")
    return (name, text) if len(text) in _TEXT_BYTES.get(name, ()) else None


class _Hashing:
    """The digest of a block while it is read, piece by piece."""

    def __init__(self, digest: _Digest) -> None:
        self._digest = digest
        self._hash = hashlib.new(digest.hash, usedforsecurity=False)
        self._dechunking: _Dechunking | None = None
        self._http: bytearray | None = bytearray() if digest.skips_http else None

    def feed(self, data: bytes) -> None:
        if self._http is not None:
            data = self._behind_http(self._http, data)
        self._hash.update(data)
        if self._dechunking is not None:
            self._dechunking.feed(data)

    def _behind_http(self, header: bytearray, data: bytes) -> bytes:
        seen = max(0, len(header) - 3)  # a blank line may have begun there
        header += data
        blank = _HTTP_BLANK.search(header, seen)
        if blank is None:
            return b""
        self._http = None
        if _CHUNKED.search(header, 0, blank.end()):
            self._dechunking = _Dechunking(self._digest.hash)
        return bytes(header[blank.end() :])

    def expected(self) -> list[bytes]:
        """The texts, in upper case, of which the header should state one: writers differ in what chunks belong to."""
        digests = [self._hash.digest()]
        if self._dechunking is not None:
            digests.append(self._dechunking.digest())
        return [_text(digest, self._digest.text) for digest in digests]

    def holds(self) -> bool:
        return self._digest.text.upper() in self.expected()


class _Dechunking:
    """The digest of a chunked HTTP body without what is around the chunks (RFC 9112, section 7.1)."""

    def __init__(self, name: str) -> None:
        self._hash = hashlib.new(name, usedforsecurity=False)
        self._line = b""
        self._left_bytes = 0  # of the present chunk
        self._is_done = False

    def feed(self, data: bytes) -> None:
        while data and not self._is_done:
            if self._left_bytes:
                chunk, data = data[: self._left_bytes], data[self._left_bytes :]
                self._hash.update(chunk)
                self._left_bytes -= len(chunk)
            else:
                line, newline, data = data.partition(b"\n")
                self._line += line
                if newline:
                    self._begin_chunk(self._line.strip())
                    self._line = b""

    def _begin_chunk(self, line: bytes) -> None:
        size = line.partition(b";")[0].strip()
        if line:  # else it is the end of the chunk before
            self._is_done = not _HEXADECIMAL.fullmatch(size) or int(size, 16) == 0
            self._left_bytes = 0 if self._is_done else int(size, 16)

    def digest(self) -> bytes:
        return self._hash.digest()


def _text(digest: bytes, like: bytes) -> bytes:
    """The digest in base 16 or base 32, with or without padding, whichever `like` is; in upper case."""
    if len(like) == 2 * len(digest) and b"=" not in like:
        return digest.hex().upper().encode()
    return base64.b32encode(digest)[: len(like)]


# --- one record ---


class _Records:
    """Judges what is at a place of the window."""

    def __init__(self, window: Window, kept_max: int) -> None:
        self._window, self._kept_max = window, kept_max
        self.clues = Clues(
            _candidates,
            self._probed,
            self._probed,
            _VERSION_BYTES,
            RECORD_BYTES_MAX,
            _WORK_BYTES,
            8 * _VERSION_BYTES,
            end_bits=0,
        )

    def item(self, begin: int) -> Record | Finding | Lost:
        """What is at `begin`, by the rules in their order."""
        window = self._window
        header = self._header(begin)
        if header is None:
            return self._without_header(begin)
        end = begin + header.record_bytes
        if header.length > RECORD_BYTES_MAX:
            return self._mended(begin, _length_bits(self._start(begin))) or self._long(begin, header)
        if not window.reach(end):
            return self._mended(begin) or self._torn(begin)
        if window.has_hole(begin, end):
            is_over = self._is_blank(end - len(_BLANK), end) and self._goes_on(end)
            return Finding(begin, end, Verdict.unreadable) if is_over else Lost(begin + 1)
        return self._judged(begin, end, header)

    def _judged(self, begin: int, end: int, header: _Header) -> Record | Finding | Lost:
        """The record in [begin, end) of the window, if that is where it ends."""
        is_closed = self._is_blank(end - len(_BLANK), end)
        hashing = self._hashed(begin, header)
        holds = hashing is not None and hashing.holds()
        if is_closed and holds:
            return self._record(begin, end)
        is_checked = header.digest is not None and header.digest.is_binding
        if is_closed and not is_checked and self._goes_on(end):
            return self._record(begin, end, is_checked=False)
        if hashing is not None:
            flip = self._blank_flip(end) if holds else self._digest_flip(begin, header, hashing)
            if flip is not None:
                return _flipped(begin, end, flip, hashing)
        is_over = is_closed and self._goes_on(end)
        mended = self._mended(begin, _length_bits(self._start(begin)) if is_over else None)
        if mended is not None:
            return mended
        return Finding(begin, end, Verdict.skipped) if is_over else Lost(begin + 1)

    def _record(self, begin: int, end: int, *, is_checked: bool = True) -> Record | Finding:
        if self._kept_max < 0:
            return Record(begin, end, None, is_checked=is_checked)
        if end - begin > self._kept_max:
            return Finding(begin, end, Verdict.skipped)
        return Record(begin, end, self._window.bytes(begin, end), is_checked=is_checked)

    def _without_header(self, begin: int) -> Finding | Lost:
        """What is said where no header can be read."""
        mended = self._mended(begin)
        if mended is not None:
            return mended
        start = self._start(begin)
        is_begun = start.startswith(_MAGIC[: len(start)])
        if is_begun and _BLANK not in start and len(start) < _HEADER_BYTES_MAX and not self._has_hole_behind(begin):
            return self._torn(begin)
        return Lost(begin + is_begun)

    def _torn(self, begin: int) -> Finding | Lost:
        """The rest of the file, unless other records follow in it."""
        hit = Search(self._window, begin + 1, self.clues).first_in(begin + 1, self._window.end)
        return Finding(begin, self._window.end, Verdict.torn) if hit is None else Lost(begin + 1)

    def _long(self, begin: int, header: _Header) -> Record | Finding:
        """A record too long to be held, verified piece by piece."""
        window, at, end = self._window, begin + header.bytes, begin + header.record_bytes
        hashing = _Hashing(header.digest) if header.digest else None
        has_hole = window.has_hole(begin, at)
        while at < end - len(_BLANK):
            window.drop(at)
            piece_end = min(at + _STEP_BYTES, end - len(_BLANK))
            if not window.reach(piece_end):
                return Finding(begin, window.end, Verdict.torn)
            has_hole = has_hole or window.has_hole(at, piece_end)
            if hashing is not None:
                hashing.feed(window.bytes(at, piece_end))
            at = piece_end
        if not window.reach(end):
            return Finding(begin, window.end, Verdict.torn)
        if has_hole or window.has_hole(at, end):
            return Finding(begin, end, Verdict.unreadable)
        holds = hashing is not None and hashing.holds()
        is_free = header.digest is None or not header.digest.is_binding
        is_intact = self._is_blank(at, end) and (holds or is_free) and self._kept_max < 0
        return Record(begin, end, None, is_checked=holds) if is_intact else Finding(begin, end, Verdict.skipped)

    # --- which bit flipped ---

    def _blank_flip(self, end: int) -> Flip | None:
        """The flipped bit in the two line ends behind the block."""
        return _difference(self._window.bytes(end - len(_BLANK), end), _BLANK, end - len(_BLANK))

    def _digest_flip(self, begin: int, header: _Header, hashing: _Hashing) -> Flip | None:
        """The flipped bit in the text of the digest."""
        if header.digest is None or not header.digest.is_binding:
            return None
        text = header.digest.text
        at = begin + self._window.bytes(begin, begin + header.bytes).find(b":" + text) + 1
        expected = [form for upper in hashing.expected() for form in (upper, upper.lower())]
        return next(filter(None, (_difference(text, form, at) for form in expected)), None)

    def _mended(self, begin: int, bits: Iterable[int] | None = None) -> Finding | None:
        """The finding about a record that its digest confirms if one bit of the header is put right.

        Args:
            bits: those to try, counted from the first of the header; otherwise all of it.
        """
        start = self._start(begin)[:_MENDED_BYTES_MAX]
        before, blank, _ = start.partition(_BLANK)
        as_it_is, headers = _parse(start), dict[_Header, list[int]]()
        for bit in range(8 * len(before + blank)) if bits is None else bits:
            if bit >= 8 * len(start):
                break
            mended = bytearray(start)
            mended[bit // 8] ^= 1 << bit % 8
            header = _parse(bytes(mended))
            if header is not None and header != as_it_is:
                headers.setdefault(header, []).append(bit)
        for header, places in headers.items():
            hashing = self._confirmed(begin, header)
            if hashing is not None:
                byte, bit = divmod(places[0], 8)
                flip = Flip(begin + byte, bit, start[byte] >> bit & 1)
                is_clear = len(places) == 1  # else it is one of several that make the same of it
                end = begin + header.record_bytes
                return _flipped(begin, end, flip, hashing) if is_clear else Finding(begin, end, Verdict.skipped)
        return None

    def _confirmed(self, begin: int, header: _Header) -> _Hashing | None:
        """The digest of a record in the window with this header, if everything fits."""
        end = begin + header.record_bytes
        if header.digest is None or header.length > RECORD_BYTES_MAX or not self._window.reach(end):
            return None
        if self._window.has_hole(begin, end) or not self._is_blank(end - len(_BLANK), end):
            return None
        hashing = self._hashed(begin, header)
        return hashing if hashing is not None and hashing.holds() else None

    # --- what stands in the window ---

    def _start(self, begin: int) -> bytes:
        """What may be the header of a record there, up to 64 KiB of it."""
        for length in (_HEADER_BYTES, _HEADER_BYTES_MAX):
            self._window.reach(begin + length)
            data = self._window.bytes(begin, begin + length)
            if _BLANK in data:
                break
        return data

    def _header(self, begin: int) -> _Header | None:
        header = _parse(self._start(begin))
        has_hole = header is not None and self._window.has_hole(begin, begin + header.bytes)
        return None if has_hole else header

    def _has_hole_behind(self, begin: int) -> bool:
        return self._window.has_hole(begin, begin + _HEADER_BYTES_MAX)

    def _hashed(self, begin: int, header: _Header) -> _Hashing | None:
        if header.digest is None:
            return None
        hashing = _Hashing(header.digest)
        hashing.feed(self._window.bytes(begin + header.bytes, begin + header.bytes + header.length))
        self._window.work_bytes += header.length
        return hashing

    def _is_blank(self, begin: int, end: int) -> bool:
        return self._window.bytes(begin, end) == _BLANK

    def _goes_on(self, end: int) -> bool:
        """Whether the file ends here, or zeros or another record follow."""
        if not self._window.reach(end + 1):
            return True
        self._window.reach(end + _VERSION_BYTES)
        following = self._window.bytes(end, end + _VERSION_BYTES)
        is_readable = not self._window.has_hole(end, end + _VERSION_BYTES)
        return is_readable and (_is_version(following) or following == bytes(_VERSION_BYTES))

    def _probed(self, window: Window, begin: int) -> Record | Finding | None:
        """What a search makes of `begin`: only the framing counts."""
        window.work_bytes += _HEADER_BYTES
        start = self._start(begin)
        if start and not start.lstrip(b"\0"):
            return None if self._has_hole_behind(begin) else Finding(begin, begin + len(start), Verdict.zeros)
        header = self._header(begin)
        if header is None or header.length > RECORD_BYTES_MAX:
            return None
        end = begin + header.record_bytes
        if not window.reach(end):
            return Finding(begin, window.end, Verdict.torn)
        return Record(begin, end, None) if self._is_blank(end - len(_BLANK), end) else None


def _flipped(begin: int, end: int, flip: Flip, hashing: _Hashing) -> Finding:
    """A record whose damage is one bit outside the block, whose digest is the checksum that tells it."""
    computed = int.from_bytes(hashing.expected()[0])
    return Finding(begin, end, Verdict.flipped, computed, computed, flip)


def _difference(stored: bytes, expected: bytes, offset: int) -> Flip | None:
    """The one bit in which bytes that begin at `offset` differ from what they should be."""
    changed = int.from_bytes(stored, "little") ^ int.from_bytes(expected, "little")
    if changed.bit_count() != 1:
        return None
    byte, bit = divmod(changed.bit_length() - 1, 8)
    return Flip(offset + byte, bit, stored[byte] >> bit & 1)


def _length_bits(start: bytes) -> range:
    """The bits of the digits of Content-Length, counted from the first of the header."""
    field = _CONTENT_LENGTH.search(start)
    return range(8 * field.start(1), 8 * field.end(1)) if field else range(0)


def _is_version(data: bytes) -> bool:
    """Whether a record begins so, but for one bit."""
    versions = (b"WARC/1.%d\r\n" % minor for minor in range(10))
    return bool(_VERSION.match(data)) or (
        len(data) == _VERSION_BYTES and any(_difference(data, version, 0) for version in versions)
    )


def _candidates(data: bytes, begin: int, end: int) -> Iterator[int]:
    """Positions from `begin` to below `end` where a record may begin."""
    for match in _VERSION.finditer(data, begin):
        if match.start() >= end:
            return
        yield match.start()


# --- compressed records ---


class _Contents:
    """Compares the digests of the records in a gzip member; what isn't a record is passed over."""

    def __init__(self) -> None:
        self._start = b""  # of the next record
        self._header: _Header | None = None  # of the present one
        self._hashing: _Hashing | None = None
        self._left_bytes = 0
        self._is_over = self._has_failed = False

    def feed(self, data: bytes) -> None:
        while data and not self._is_over:
            data = self._feed_header(data) if self._header is None else self._feed_block(self._header, data)

    def _feed_header(self, data: bytes) -> bytes:
        """Takes up to the end of the header, and returns what follows."""
        self._start = (self._start + data).lstrip(b"\r\n")  # the line ends behind the record before
        header = _parse(self._start)
        if header is None:
            self._is_over = _BLANK in self._start or len(self._start) > _HEADER_BYTES_MAX
            return b""
        rest, self._start = self._start[header.bytes :], b""
        self._header, self._left_bytes = header, header.length
        self._hashing = _Hashing(header.digest) if header.digest and header.digest.is_binding else None
        return rest if header.length else self._feed_block(header, rest)

    def _feed_block(self, header: _Header, data: bytes) -> bytes:
        """Takes up to the end of the block, and returns what follows."""
        block, rest = data[: self._left_bytes], data[self._left_bytes :]
        self._left_bytes -= len(block)
        if self._hashing is not None:
            self._hashing.feed(block)
        if not self._left_bytes:
            self._has_failed |= self._hashing is not None and not self._hashing.holds()
            self._header = self._hashing = None
        return rest

    def is_sound(self) -> bool:
        """Whether all digests held, and no block that has one was cut short."""
        return not self._has_failed and self._hashing is None
