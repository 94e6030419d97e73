"""The intact records of a damaged file, copied into a new one.

Enters: an open file. Leaves: a new file of the same format without a finding in it, and the list of what was left out.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from checksum.durable import replace_file, tee
from checksum.files import ReadsDiffer, read_chunks
from checksum.finding import Finding, Record, Unreadable, Verdict, merge
from checksum.formats import Format


class LostTooMuch(Exception):
    """More was damaged than the limit allows; nothing was written."""

    def __init__(self, outcome: "Outcome") -> None:
        super().__init__("lost too much")
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Span:
    """Adjacent records, bytes [begin, end)."""

    begin: int
    end: int
    records: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was copied and what was left out of a file of `size` bytes."""

    size: int
    records: int
    left_out: tuple[Finding, ...]  # merged
    found: tuple[Span, ...]  # what only a search found, and was left out as well; merged

    @property
    def lost_bytes(self) -> int:
        damage = [finding for finding in self.left_out if finding.verdict is not Verdict.stale]
        lost: tuple[Finding | Span, ...] = (*damage, *self.found)
        return sum(part.end - part.begin for part in lost)


def salvage_file(fd: int, format: Format, out: Path, lost_max: float, *, keep_found: bool = False) -> Outcome:
    """Writes the intact records to `out`, which appears whole or not at all, with the permissions of the original.

    Args:
        lost_max: which part of the bytes, 0 to 1, may be left out.
        keep_found: copies also the records that only a search found.

    Raises:
        LostTooMuch: the limit was exceeded; `out` is as it was.
        ReadsDiffer: what was read for the copy isn't what was judged; `out` is as it was.
        OSError: reading or writing failed; `out` is as it was.
    """
    size, mode = os.fstat(fd).st_size, os.fstat(fd).st_mode & 0o777
    with replace_file(out, mode=mode) as file:
        if format.encode is None:
            kept: list[Span] = []
            outcome = _sort(fd, size, format, keep_found, partial(_add, kept), with_data=False)
            _refuse_beyond(lost_max, outcome)
            copy = tee(_pieces(fd, kept), file.write)
            if any(isinstance(item, Finding) for item in format.verify(copy)):
                raise ReadsDiffer
        else:
            outcome = _sort(fd, size, format, keep_found, _Framing(format.encode, file.write), with_data=True)
            _refuse_beyond(lost_max, outcome)
    return outcome


class _Framing:
    """Writes record after record with the framing of its new place."""

    def __init__(self, encode: Callable[[bytes, int], bytes], write: Callable[[bytes], None]) -> None:
        self._encode, self._write, self._offset = encode, write, 0

    def __call__(self, record: Record) -> None:
        assert record.data is not None, "a scan from the start of a file keeps every payload"
        framed = self._encode(record.data, self._offset)
        self._write(framed)
        self._offset += len(framed)


def _sort(
    fd: int, size: int, format: Format, keep_found: bool, keep: Callable[[Record], None], *, with_data: bool
) -> Outcome:
    """Hands the records that are worth it to `keep`, and says which those and the others are."""
    records, left_out, found = 0, [], list[Span]()
    for item in format.scan(read_chunks(fd, 0, size), with_data=with_data):
        if isinstance(item, Finding):
            left_out.append(item)
        elif item.by_search and not keep_found:
            _add(found, item)
        else:
            keep(item)
            records += 1
    return Outcome(size, records, tuple(merge(left_out)), tuple(found))


def _refuse_beyond(lost_max: float, outcome: Outcome) -> None:
    if outcome.lost_bytes > lost_max * outcome.size:
        raise LostTooMuch(outcome)


def _pieces(fd: int, spans: list[Span]) -> Iterator[bytes]:
    for span in spans:
        for chunk in read_chunks(fd, span.begin, span.end):
            if isinstance(chunk, Unreadable):  # which it was not a moment ago
                raise ReadsDiffer
            yield chunk


def _add(spans: list[Span], record: Record) -> None:
    if spans and spans[-1].end == record.begin:
        spans[-1] = Span(spans[-1].begin, record.end, spans[-1].records + 1)
    else:
        spans.append(Span(record.begin, record.end, 1))
