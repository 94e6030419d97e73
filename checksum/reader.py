"""The intact records of an open file, as long as not too much of it is lost.

Enters: an open file and its format. Leaves: record after record, what was passed over in between, and an end as soon as
that is more than the caller allows.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from checksum.files import read_chunks
from checksum.finding import Finding, Record, Verdict, merge
from checksum.formats import Format


@dataclass(frozen=True, slots=True)
class Span:
    """Adjacent records, bytes [begin, end)."""

    begin: int
    end: int
    records: int


def add_to(spans: list[Span], record: Record) -> None:
    """Joins the record to the last of the spans, if it follows upon it; else it makes one of its own."""
    if spans and spans[-1].end == record.begin:
        spans[-1] = Span(spans[-1].begin, record.end, spans[-1].records + 1)
    else:
        spans.append(Span(record.begin, record.end, 1))


class LostTooMuch(Exception):
    """More of the file is lost than the caller allows; `so_far` tells what."""

    def __init__(self, so_far: "Records") -> None:
        super().__init__(f"{so_far.lost_bytes} of {so_far.size} bytes are lost already")
        self.so_far = so_far


class Records:
    """Iterates over the intact records of a file, as long as it was when this began; see `findings` for the rest.

    Args:
        lost_max: which part of the bytes, 0 to 1, may be lost.
        keep_found: returns also records that only a search found behind damage; they may have been part of a lost one.
        with_data: False keeps no payloads.

    Iterating raises:
        LostTooMuch: as soon as more than `lost_max` is lost.
        OSError: reading failed, other than by a disk that would not give some of the bytes.
    """

    def __init__(
        self, fd: int, format: Format, lost_max: float = 0.01, *, keep_found: bool = False, with_data: bool = True
    ) -> None:
        self.size = os.fstat(fd).st_size
        self.count = 0  # of the records returned so far
        self.findings: list[Finding] = []  # what was passed over so far, merged
        self.found: list[Span] = []  # what only a search found, and was passed over as well
        self.lost_bytes = 0  # all of these; what is left of an older log is no loss
        self._items = format.scan(read_chunks(fd, 0, self.size), with_data=with_data)
        self._lost_max, self._keep_found = lost_max, keep_found

    def __iter__(self) -> Iterator[Record]:
        for item in self._items:
            if isinstance(item, Record) and (self._keep_found or not item.by_search):
                self.count += 1
                yield item
            else:
                self._pass_over(item)

    def _pass_over(self, item: Record | Finding) -> None:
        if isinstance(item, Record):
            add_to(self.found, item)
        else:
            self.findings[-1:] = merge([*self.findings[-1:], item])
        if isinstance(item, Record) or item.verdict is not Verdict.stale:
            self.lost_bytes += item.end - item.begin
        if self.lost_bytes > self._lost_max * self.size:
            raise LostTooMuch(self)
