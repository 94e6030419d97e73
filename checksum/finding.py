"""What a reader says about a file: intact records, and findings about everything else.

The items of a scan tile the bytes they were read from: each begins where the one before it ended. Offsets are offsets
in the file; bit 0 is the least significant bit of a byte.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum


class Verdict(StrEnum):
    """What is wrong with a stretch of bytes."""

    flipped = "flipped"  # one flipped bit explains the mismatch
    skipped = "skipped"  # not intact, and no single bit explains it
    torn = "torn"  # the file ends before the record does
    zeros = "zeros"  # space that was never written: nothing but zero bytes
    unreadable = "unreadable"  # the disk would not give it
    stale = "stale"  # of the log that the file held before it was used again: no damage, the present one ends before it
    transient = "transient"  # it was wrong once and right when read again


@dataclass(frozen=True, slots=True)
class Flip:
    """The bit that flipped, and the wrong value (0 or 1) that now stands on disk."""

    offset_bytes: int
    bit: int
    stored: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Bytes [begin, end) that are no intact record; `stored` and `computed` are checksums, where they were compared."""

    begin: int
    end: int
    verdict: Verdict
    stored: int | None = None
    computed: int | None = None
    flip: Flip | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """An intact record, bytes [begin, end) of the file with its framing; `data` is None where no payload was kept.

    `by_search`: damage hid where it begins, so that it might be part of the payload of a lost record.
    """

    begin: int
    end: int
    data: bytes | None
    by_search: bool = False


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A stretch of `length` bytes that the disk would not give."""

    length: int


def merge(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings with adjacent equal verdicts joined, in order; two that both name a flip stay apart."""
    held: Finding | None = None
    for finding in findings:
        if held is None:
            held = finding
        elif held.end == finding.begin and held.verdict == finding.verdict and not (held.flip and finding.flip):
            # the checksums belong to one record, so a joined finding can't carry them
            held = replace(held, end=finding.end, stored=None, computed=None, flip=held.flip or finding.flip)
        else:
            yield held
            held = finding
    if held is not None:
        yield held
