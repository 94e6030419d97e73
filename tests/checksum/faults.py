"""Pristine logs, and damage by seed that knows the truth."""

import base64
import gzip
import hashlib
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from checksum import gzip_members, leveldb_log, warc
from checksum.finding import Finding, Flip, Intact, Record, Unreadable, merge
from checksum.formats import FORMATS

Item = Record | Intact | Finding


@dataclass(frozen=True)
class PristineLog:
    """A log as it was written: its bytes, and each payload by the offset of its first header."""

    data: bytes
    payloads: dict[int, bytes]

    @classmethod
    def of(cls, payloads: Iterable[bytes]) -> "PristineLog":
        data, begins = bytearray(), {}
        for payload in payloads:
            room = leveldb_log.BLOCK_BYTES - len(data) % leveldb_log.BLOCK_BYTES
            begins[len(data) + (room if room < leveldb_log.HEADER_BYTES else 0)] = payload
            data += leveldb_log.encode(payload, len(data))
        return cls(bytes(data), begins)


def append(name: str, payload: bytes, offset: int) -> bytes:
    """The bytes of one more record in a file of the format, `offset` bytes long."""
    if name == gzip_members.NAME:
        return gzip.compress(payload, mtime=0)
    if name == warc.NAME:
        return warc_record(payload)
    return FORMATS[name].encode(payload, offset)


def warc_record(block: bytes, *fields: str) -> bytes:
    """A record with a digest of its block, unless `fields` are given for those that stand before its length."""
    digest = base64.b32encode(hashlib.sha1(block).digest()).decode()
    stated = fields or (f"WARC-Block-Digest: sha1:{digest}",)
    kind = [] if any(field.startswith("WARC-Type") for field in stated) else ["WARC-Type: resource"]
    lines = ["WARC/1.0", *kind, *stated, f"Content-Length: {len(block)}", "", ""]
    header = "\r\n".join(lines).encode()
    return header + block + b"\r\n\r\n"


def flip(data: bytes, offset_bytes: int, bit: int) -> tuple[bytes, Flip]:
    """The data with one bit flipped, and what a reader should say about it."""
    damaged = bytearray(data)
    damaged[offset_bytes] ^= 1 << bit
    return bytes(damaged), Flip(offset_bytes, bit, damaged[offset_bytes] >> bit & 1)


def write_back(path: Path) -> None:
    """Returns when the disk has what was written to the file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def random_flip(data: bytes, rng: random.Random) -> tuple[bytes, Flip]:
    return flip(data, rng.randrange(len(data)), rng.randrange(8))


def garble(data: bytes, rng: random.Random) -> bytes:
    """The data after one of the things that happen to files: garbage, zeros, a cut, a doubled or a misplaced piece."""
    at = rng.randrange(len(data))
    length = rng.randrange(1, min(5000, len(data)) + 1)
    before, piece, after = data[:at], data[at : at + length], data[at + length :]
    source = rng.randrange(len(data))
    return rng.choice(
        (
            before + rng.randbytes(len(piece)) + after,
            before + bytes(len(piece)) + after,
            before,
            before + after,
            before + piece + piece + after,
            before + data[source : source + len(piece)] + after,
            data + bytes(length),
        )
    )


def cut(data: bytes, rng: random.Random) -> list[bytes | Unreadable]:
    """The data in pieces of any size."""
    pieces: list[bytes | Unreadable] = []
    begin = 0
    while begin < len(data):
        end = begin + rng.choice((0, 1, 6, 7, 100, 4096, 32768, 100_000))
        pieces.append(data[begin:end])
        begin = end
    return pieces


def assert_tiles(items: Sequence[Item], begin: int, end: int) -> None:
    for item in items:
        assert item.begin == begin < item.end, (item, begin)
        begin = item.end
    assert begin == end


def assert_no_phantom(items: Iterable[Item], pristine: PristineLog) -> None:
    """Every record that was returned was once written, exactly so."""
    written = set(pristine.payloads.values())
    phantoms = [(item.begin, item.end) for item in items if isinstance(item, Record) and item.data not in written]
    assert phantoms == []


def flips(items: Iterable[Item]) -> list[Flip]:
    return [item.flip for item in items if isinstance(item, Finding) and item.flip]


def records(items: Iterable[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def findings(items: Iterable[Item]) -> list[Finding]:
    return [item for item in items if isinstance(item, Finding)]


def counted(items: Iterable[Item]) -> list[tuple[int, int, int] | Finding]:
    """Neighbouring records and counts joined into (begin, end, records), neighbouring findings merged."""
    told: list[tuple[int, int, int] | Finding] = []
    for is_finding, group in groupby(items, key=lambda item: isinstance(item, Finding)):
        run = list(group)
        if is_finding:
            told += merge(item for item in run if isinstance(item, Finding))
        else:
            count = sum(item.records if isinstance(item, Intact) else 1 for item in run)
            told.append((run[0].begin, run[-1].end, count))
    return told


def with_a_hole(data: bytes, rng: random.Random) -> list[bytes | Unreadable]:
    begin = rng.randrange(len(data))
    end = rng.randrange(begin, len(data)) + 1
    return [*cut(data[:begin], rng), Unreadable(end - begin), *cut(data[end:], rng)]
