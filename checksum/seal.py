"""Seals: checksums beside a file whose format has none, and what they say about it later.

Enters: an open file. Leaves: a Seal (CRC-32C of every 64 KiB, SHA-256 of the whole, and what the file system said of
the file); or, from the bytes of a file, findings against one, by which a sealed file is scanned like one of any format.
A seal is stored as a LevelDB log, so that it tells damage to itself; the grammar
stands in checksum/README.md. A file that somebody may have changed since is never called damaged, and never sealed anew
by itself.
"""

import hashlib
import json
import os
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from checksum import leveldb_log
from checksum.crc32c import Buffer, crc32c, locate_exponent
from checksum.durable import replace_file
from checksum.files import content, open_regular, read_chunks
from checksum.finding import Finding, Flip, Intact, Record, Tally, Unreadable, Verdict

SUFFIX = ".flipwatch-seal"
PART_BYTES = 65536
_VERSION = 1
_PARTS_PER_RECORD = 8192
_CRC_BITS = 32


class ChangedMeanwhile(Exception):
    """Somebody wrote the file while it was being read."""


class SealDamaged(Exception):
    """The seal itself isn't what was written."""


class State(StrEnum):
    """What a seal says about its file."""

    intact = "intact"
    rotted = "rotted"  # it differs, though the file system knows of no change since it was sealed
    suspect = "suspect"  # it differs, and only its inode or the time of its last status change is another
    changed = "changed"  # its size or modification time is another: somebody wrote it, nothing can be said


@dataclass(frozen=True, slots=True)
class Seal:
    """What a file was when it was sealed; `crcs` holds at least one part, also of an empty file."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    append_only: bool  # the user promised: only the sealed beginning is compared, however the file grew
    sha256: str
    crcs: "array[int]"

    def state_of(self, status: os.stat_result) -> State:
        """How a difference in content is to be taken."""
        if self.append_only:
            return State.rotted
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            return State.changed
        same = (status.st_ctime_ns, status.st_ino) == (self.ctime_ns, self.inode)
        return State.rotted if same else State.suspect


def path_for(path: Path) -> Path:
    """Where the seal of `path` is."""
    return Path(f"{path}{SUFFIX}")


def make(fd: int, *, append_only: bool = False) -> Seal:
    """The seal of a file as it is now.

    Raises:
        ChangedMeanwhile: it was written while it was read.
        OSError: it can't be read, even in part.
    """
    before = os.fstat(fd)
    digest, crcs = hashlib.sha256(), array("I")
    for part in _parts(read_chunks(fd, 0, before.st_size)):
        if part.has_hole:
            raise OSError(5, "the disk does not give all of it")
        digest.update(part.data)
        crcs.append(crc32c(part.data))
    if content(before) != content(os.fstat(fd)):
        raise ChangedMeanwhile
    return Seal(
        before.st_size,
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_ino,
        append_only,
        digest.hexdigest(),
        crcs or array("I", [crc32c(b"")]),
    )


def write(path: Path, seal: Seal) -> None:
    """Stores the seal at `path`, whole or not at all."""
    header = {name: getattr(seal, name) for name in _FIELDS} | {"version": _VERSION}
    with replace_file(path) as file:
        size = 0
        for payload in (json.dumps(header).encode(), *_packed(seal.crcs)):
            framed = leveldb_log.encode(payload, size)
            file.write(framed)
            size += len(framed)


_FIELDS = {"size": int, "mtime_ns": int, "ctime_ns": int, "inode": int, "append_only": bool, "sha256": str}


def _packed(crcs: "array[int]") -> Iterator[bytes]:
    for begin in range(0, len(crcs), _PARTS_PER_RECORD):
        piece = crcs[begin : begin + _PARTS_PER_RECORD]
        if sys.byteorder == "big":
            piece.byteswap()
        yield piece.tobytes()


def read(path: Path) -> Seal:
    """The seal stored at `path`.

    Raises:
        SealDamaged: it is no intact seal.
        OSError: it can't be read.
    """
    fd = open_regular(path, follow=False)
    try:
        items = list(leveldb_log.scan(read_chunks(fd, 0, os.fstat(fd).st_size)))
    finally:
        os.close(fd)
    payloads = [item.data for item in items if isinstance(item, Record) and item.data is not None]
    if not payloads or len(payloads) != len(items):
        raise SealDamaged
    return _unpacked(payloads)


def _unpacked(payloads: list[bytes]) -> Seal:
    try:
        header = json.loads(payloads[0])
        if header["version"] != _VERSION or any(type(header[name]) is not kind for name, kind in _FIELDS.items()):
            raise SealDamaged
        crcs = array("I")
        crcs.frombytes(b"".join(payloads[1:]))
    except (ValueError, KeyError, TypeError) as error:
        raise SealDamaged from error
    if sys.byteorder == "big":
        crcs.byteswap()
    if header["size"] < 0 or len(crcs) != max(1, -(-header["size"] // PART_BYTES)):
        raise SealDamaged
    return Seal(**{name: header[name] for name in _FIELDS}, crcs=crcs)


class Sealed:
    """The format of a file that has a seal: its records are the parts. What an append-only one grew by isn't judged."""

    NAME = "seal"
    encode = None  # nothing can be appended to what was sealed

    def __init__(self, seal: Seal, *, is_whole: bool) -> None:
        """`is_whole`: a `verify` from the start compares the SHA-256 as well, and speaks only when that is known."""
        self._seal = seal
        self._is_whole = is_whole

    def resume_offset(self, begin: int, is_unchanged: bool) -> int:
        """Where a scan can go on that ended at `begin`: at the part."""
        del is_unchanged
        return begin - begin % PART_BYTES

    def read_end(self, end: int) -> int:
        """How far to read in order to judge what ends at `end`: the whole part."""
        return min(self._seal.size, -(-end // PART_BYTES) * PART_BYTES)

    def scan(
        self,
        chunks: Iterable[Buffer | Unreadable],
        *,
        offset: int = 0,
        resumed: bool = False,
        with_data: bool = True,
        record_bytes_max: int = PART_BYTES,
    ) -> Iterator[Record | Finding]:
        """Intact parts and findings, from the file offset `offset`, where a part begins; the last may be `torn`, also
        beyond the end of the file.
        """
        del resumed
        assert offset % PART_BYTES == 0, "a scan begins at a part"
        assert record_bytes_max >= PART_BYTES, "a part is never too long"
        end = offset
        for part in _parts(_until(self._seal.size, chunks, offset), offset):
            if part.begin + len(part.data) < min(self._seal.size, part.begin + PART_BYTES):
                break
            end = part.begin + len(part.data)
            finding = _finding(part, self._seal.crcs[part.begin // PART_BYTES])
            yield finding or Record(part.begin, end, bytes(part.data) if with_data else None)
        if end < self._seal.size:
            yield Finding(end, self._seal.size, Verdict.torn)

    def verify(
        self, chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
    ) -> Iterator[Intact | Finding]:
        """What `scan` says, with intact parts counted; `skipped` is all of it if only the SHA-256 differs."""
        tally, is_damaged = Tally(max(offset, begin)), False
        digest = hashlib.sha256() if self._is_whole and not offset and not begin else None
        watched = chunks if digest is None else _digesting(_until(self._seal.size, chunks, offset), digest)
        for item in self.scan(watched, offset=offset, resumed=resumed, with_data=False):
            is_damaged |= isinstance(item, Finding)
            yield from tally.add(item)
            if digest is None:
                yield from tally.told()
        if digest is not None and not is_damaged and digest.hexdigest() != self._seal.sha256:
            yield Finding(0, self._seal.size, Verdict.skipped)
        else:
            yield from tally.told()


def _until(end: int, chunks: Iterable[Buffer | Unreadable], offset: int) -> Iterator[Buffer | Unreadable]:
    """The chunks, which begin at `offset`, as far as `end`."""
    for chunk in chunks:
        if offset >= end:
            return
        length = chunk.length if isinstance(chunk, Unreadable) else len(chunk)
        rest = min(length, end - offset)
        yield Unreadable(rest) if isinstance(chunk, Unreadable) else memoryview(chunk)[:rest]
        offset += length


def _digesting(chunks: Iterable[Buffer | Unreadable], digest: "hashlib._Hash") -> Iterator[Buffer | Unreadable]:
    for chunk in chunks:
        if not isinstance(chunk, Unreadable):
            digest.update(chunk)
        yield chunk


@dataclass(frozen=True, slots=True)
class _Part:
    begin: int
    data: Buffer  # gone when the next part is asked for; a hole is zeros
    has_hole: bool


def _parts(chunks: Iterable[Buffer | Unreadable], begin: int = 0) -> Iterator[_Part]:
    """The chunks as parts, without a copy of those that lie in one chunk."""
    data, has_hole = bytearray(), False
    for chunk in chunks:
        is_hole = isinstance(chunk, Unreadable)
        rest = memoryview(bytes(chunk.length) if isinstance(chunk, Unreadable) else chunk)
        while rest:
            if not data and len(rest) >= PART_BYTES:
                yield _Part(begin, rest[:PART_BYTES], is_hole)
                begin, rest = begin + PART_BYTES, rest[PART_BYTES:]
                continue
            piece = rest[: PART_BYTES - len(data)]
            data += piece
            has_hole = has_hole or is_hole
            rest = rest[len(piece) :]
            if len(data) == PART_BYTES:
                yield _Part(begin, data, has_hole)
                begin, data, has_hole = begin + PART_BYTES, bytearray(), False
    if data:
        yield _Part(begin, data, has_hole)


def _finding(part: _Part, expected: int) -> Finding | None:
    """What is wrong with the part, or None."""
    end = part.begin + len(part.data)
    if part.has_hole:
        return Finding(part.begin, end, Verdict.unreadable)
    computed = crc32c(part.data)
    if computed == expected:
        return None
    exponent = locate_exponent(expected ^ computed, _CRC_BITS + 8 * len(part.data))
    if exponent < _CRC_BITS:
        return Finding(part.begin, end, Verdict.skipped, expected, computed)
    byte_from_end, bit_from_top = divmod(exponent - _CRC_BITS, 8)
    at, bit = len(part.data) - 1 - byte_from_end, 7 - bit_from_top
    flip = Flip(part.begin + at, bit, part.data[at] >> bit & 1)
    return Finding(part.begin, end, Verdict.flipped, expected, computed, flip)
