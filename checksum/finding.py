"""What a reader says about a file: intact records, and findings about everything else.

The items of a scan tile the bytes they were read from: each begins where the one before it ended. Offsets are offsets
in the file; bit 0 is the least significant bit of a byte.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

_TOLD_BYTES = 2**20


class Verdict(StrEnum):
    """What is wrong with a stretch of bytes."""

    flipped = "flipped"  # one flipped bit explains the mismatch
    skipped = "skipped"  # not intact, and no single bit explains it
    torn = "torn"  # the file ends before the record does
    zeros = "zeros"  # space that was never written: nothing but zero bytes
    unreadable = "unreadable"  # the disk would not give it
    stale = "stale"  # of the log that the file held before it was used again: no damage, the present one ends before it
    transient = "transient"  # it was wrong once and right when read again


class Layer(StrEnum):
    """Where bytes went wrong, between the disk and the sum."""

    core = "core"  # the same bytes give another sum by another kernel or on another core
    buffer = "buffer"  # what the page cache holds is right: it happened on the way to our memory, or in it
    page_cache = "page-cache"  # what the disk holds is right, what the kernel keeps of it in memory isn't
    path = "path"  # damaged in another way at each reading: bus, controller or memory on the way
    disk = "disk"  # the same damage comes from the disk again
    unknown = "unknown"  # it can't be told, or there was too much damage to look into it


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
    layer: Layer | None = None  # None: nobody looked


@dataclass(frozen=True, slots=True)
class Record:
    """An intact record, bytes [begin, end) of the file with its framing; `data` is None where no payload was kept.

    `by_search`: damage hid where it begins, so that it might be part of the payload of a lost record.
    `is_checked`: False where it carries no checksum, and only its framing could be verified.
    """

    begin: int
    end: int
    data: bytes | None
    by_search: bool = False
    is_checked: bool = True


@dataclass(frozen=True, slots=True)
class Intact:
    """Bytes [begin, end) that are intact; `records` end there, of which `unchecked` carry no checksum."""

    begin: int
    end: int
    records: int
    unchecked: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A stretch of `length` bytes that the disk would not give."""

    length: int


class Tally:
    """Counts intact records instead of returning them. What it tells tiles the bytes from `begin` on.

    Records and findings that end at or before `begin` are passed over: a scan that goes on there begins earlier, at a
    place where it can find its way.
    """

    def __init__(self, begin: int) -> None:
        self._begin = self._told_end = self._intact_end = begin
        self._records = self._unchecked = 0

    def add_intact(self, end: int, records: int) -> None:
        """`records` more that end behind `begin`, the last of them at `end`."""
        self._intact_end, self._records = max(self._intact_end, end), self._records + records

    def add(self, item: Record | Finding) -> Iterator[Intact | Finding]:
        """The item after those before it; a finding is told at once."""
        if isinstance(item, Record):
            self.add_intact(item.end, int(item.end > self._begin))
            self._unchecked += item.end > self._begin and not item.is_checked
        elif item.end > self._begin:
            yield from self.told()
            yield item
            self._told_end = self._intact_end = item.end

    def told(self) -> Iterator[Intact]:
        """What was counted since the last time."""
        if self._intact_end > self._told_end:
            yield Intact(self._told_end, self._intact_end, self._records, self._unchecked)
            self._told_end, self._records, self._unchecked = self._intact_end, 0, 0


def counted(items: Iterable[Record | Finding], offset: int, begin: int) -> Iterator[Intact | Finding]:
    """The items of a scan from `offset` on, with intact records counted instead of returned, told at least each MiB.

    Records and findings that end at or before `begin` are passed over.
    """
    tally, told_end = Tally(max(offset, begin)), offset
    for item in items:
        yield from tally.add(item)
        if item.end - told_end >= _TOLD_BYTES:
            yield from tally.told()
            told_end = item.end
    yield from tally.told()


def merge(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings with adjacent equal verdicts joined, in order; two that both name a flip stay apart."""
    held: Finding | None = None
    for finding in findings:
        if held is None:
            held = finding
        elif held.end == finding.begin and held.verdict == finding.verdict and not (held.flip and finding.flip):
            # the checksums belong to one record, so a joined finding can't carry them
            layer = held.layer if held.layer == finding.layer else Layer.unknown
            flip = held.flip or finding.flip
            held = replace(held, end=finding.end, stored=None, computed=None, flip=flip, layer=layer)
        else:
            yield held
            held = finding
    if held is not None:
        yield held
