"""A copy of a file with flipped bits put right: only bits that a checksum names, and that are there when read again.

Enters: an open file. Leaves: a new file, what was put right in it, and what is still wrong with it.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from checksum.crc import CRC_32C, Crc
from checksum.durable import replace_file, tee
from checksum.files import ReadsDiffer, direct_chunks, read_chunks
from checksum.finding import Finding, Unreadable, merge
from checksum.formats import Format
from checksum.framing import Framing

CHANCE_MAX = 1e-4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each flip that a checksum had named, and the findings that a scan of the new file gives."""

    repaired: tuple[Finding, ...]
    refused: tuple[tuple[Finding, str], ...]  # and why
    remaining: tuple[Finding, ...]  # merged
    chance: float  # that, if every repaired record was in truth hit by more than one bit, one was put wrong


def wrong_chance(format: Format, finding: Finding) -> float:
    """The chance that a record hit by more flips than one looks as if this one bit had flipped.

    One in 2^31 for each of its bits under a CRC-32C: so many syndromes it has for odd numbers of flips; an even number
    never does. Other CRCs of w bits that keep the parity have 2^(w-1); those that don't have 2^w for any number.
    """
    crc = _crc_of(format)
    return 8 * (finding.end - finding.begin) / 2.0 ** (crc.width - crc.keeps_parity)


def _crc_of(format: Format) -> Crc:
    return format.declaration.crc if isinstance(format, Framing) else CRC_32C


def repair_file(fd: int, format: Format, out: Path) -> Outcome:
    """Writes the repaired copy to `out`, which appears whole or not at all, and not if nothing can be repaired.

    Raises:
        ReadsDiffer: what was read for the copy isn't what was judged; `out` is as it was.
        OSError: reading or writing failed, also of a part of the file; `out` is as it was.
    """
    status = os.fstat(fd)
    repaired, refused = [], []
    for finding in _named(format, read_chunks(fd, 0, status.st_size)):
        reason = _why_not(fd, format, finding, status.st_size)
        if reason is None:
            repaired.append(finding)
        else:
            refused.append((finding, reason))
    if not repaired:
        return Outcome((), tuple(refused), (), 0.0)
    with replace_file(out, mode=status.st_mode & 0o777) as file:
        chunks = tee(_flipped_back(read_chunks(fd, 0, status.st_size), repaired), file.write)
        remaining = tuple(merge(item for item in format.scan(chunks, with_data=False) if isinstance(item, Finding)))
        if any(rest.begin < mended.end and mended.begin < rest.end for rest in remaining for mended in repaired):
            raise ReadsDiffer
    return Outcome(tuple(repaired), tuple(refused), remaining, sum(wrong_chance(format, each) for each in repaired))


def _named(format: Format, chunks: Iterable[bytes | Unreadable]) -> list[Finding]:
    """The findings that name a bit because a checksum says so."""
    items = format.scan(chunks, with_data=False)
    return [item for item in items if isinstance(item, Finding) and item.flip and item.stored is not None]


def _why_not(fd: int, format: Format, finding: Finding, size: int) -> str | None:
    """Why the finding must not be repaired, or None."""
    if _crc_of(format) != CRC_32C:
        return "the chance that another bit flipped is known well enough for CRC-32C only"
    chance = wrong_chance(format, finding)
    if chance > CHANCE_MAX:
        return f"in so long a record it is the wrong bit with a chance of {chance:.1e}, above {CHANCE_MAX:.0e}"
    begin, end = format.resume_offset(finding.begin, True), min(size, format.read_end(finding.end))
    again = format.scan(direct_chunks(fd, begin, end), offset=begin, resumed=begin > 0, with_data=False)
    if finding not in again:
        return "it was not there when read again"
    return None


def _flipped_back(chunks: Iterable[bytes | Unreadable], findings: Iterable[Finding]) -> Iterator[bytes]:
    flips = sorted((finding.flip for finding in findings if finding.flip), key=lambda flip: flip.offset_bytes)
    begin = 0
    for chunk in chunks:
        if isinstance(chunk, Unreadable):
            raise OSError(errno.EIO, f"the disk does not give {chunk.length} bytes at {begin}; salvage leaves them out")
        data = bytearray(chunk)
        while flips and flips[0].offset_bytes < begin + len(data):
            flip = flips.pop(0)
            if data[flip.offset_bytes - begin] >> flip.bit & 1 != flip.stored:
                raise ReadsDiffer
            data[flip.offset_bytes - begin] ^= 1 << flip.bit
        begin += len(data)
        yield bytes(data)
