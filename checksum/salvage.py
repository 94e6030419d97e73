"""The intact records of a damaged file, copied into a new one.

Enters: an open file. Leaves: a new file of the same format without a finding in it, and the list of what was left out.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from checksum.durable import replace_file
from checksum.files import read_chunks
from checksum.finding import Finding, Record, Verdict, merge
from checksum.formats import FORMATS


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


def salvage_file(fd: int, format: str, out: Path, lost_max: float, *, keep_found: bool = False) -> Outcome:
    """Writes the intact records to `out`, which appears whole or not at all, with the permissions of the original.

    Args:
        lost_max: which part of the bytes, 0 to 1, may be left out.
        keep_found: copies also the records that only a search found.

    Raises:
        LostTooMuch: the limit was exceeded; `out` is as it was.
        OSError: reading or writing failed; `out` is as it was.
    """
    status = os.fstat(fd)
    module = FORMATS[format]
    records = written_bytes = 0
    left_out: list[Finding] = []
    found: list[Span] = []
    with replace_file(out, mode=status.st_mode & 0o777) as file:
        for item in module.scan(read_chunks(fd, 0, status.st_size)):
            if isinstance(item, Finding):
                left_out.append(item)
            elif item.by_search and not keep_found:
                _add(found, item)
            else:
                assert item.data is not None, "a scan from the start of a file keeps every payload"
                framed = module.encode(item.data, written_bytes)
                file.write(framed)
                records, written_bytes = records + 1, written_bytes + len(framed)
        outcome = Outcome(status.st_size, records, tuple(merge(left_out)), tuple(found))
        if outcome.lost_bytes > lost_max * status.st_size:
            raise LostTooMuch(outcome)
    return outcome


def _add(spans: list[Span], record: Record) -> None:
    if spans and spans[-1].end == record.begin:
        spans[-1] = Span(spans[-1].begin, record.end, spans[-1].records + 1)
    else:
        spans.append(Span(record.begin, record.end, 1))
