"""One file verified from its first byte to its last.

Enters: an open file. Leaves: a FileReport, how many records are intact and what is wrong with the rest, and in which
layer that went wrong.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checksum import seal as seal_of
from checksum.diagnose import Scanned, diagnosed
from checksum.files import CHUNK_BYTES, content, is_hole, read_views
from checksum.finding import Finding, Intact, Unreadable, Verdict, merge
from checksum.formats import Format

SETTLING_S = 600  # a file changed within this time may still be growing
_UNFINISHED = (Verdict.torn, Verdict.zeros, Verdict.stale)  # what the end of a growing file looks like


@dataclass(frozen=True, slots=True)
class FileReport:
    """What was found in one file."""

    path: Path
    format: str | None  # None: not recognised, and nothing was verified
    bytes: int
    records: int = 0  # intact ones
    findings: tuple[Finding, ...] = ()  # merged
    seal: seal_of.State | None = None  # what its seal says, where it was verified against one
    unchecked: int = 0  # of the records, those that carry no checksum, so that only their framing was verified
    settling: int = 0  # how many of the last findings are the end of a file that may still be growing

    @property
    def corrupt(self) -> tuple[Finding, ...]:
        """The findings that count: all but the end of a growing file, and what is left of an older log."""
        counting = self.findings[: len(self.findings) - self.settling]
        return tuple(finding for finding in counting if finding.verdict is not Verdict.stale)

    def is_settling(self, number: int) -> bool:
        """Whether the finding of this number is the end of a file that may still be growing."""
        return number >= len(self.findings) - self.settling


def verify_file(fd: int, path: Path, format: Format, now_s: float, pace: Callable[[int], None]) -> FileReport:
    """Verifies the file as long as it was when this began.

    Args:
        now_s: the time of day, in seconds since 1970.
        pace: called with the size of every piece that was read; it may wait.

    Raises:
        OSError: reading failed, other than by a disk that would not give some of the bytes.
    """
    before = os.fstat(fd)
    records = unchecked = end = 0

    def findings() -> Iterator[Finding]:
        nonlocal records, unchecked, end
        for item in diagnosed(Scanned(fd, format, before, now_s, pace), _paced(fd, before.st_size, pace)):
            end = item.end
            if isinstance(item, Intact):
                records += item.records
                unchecked += item.unchecked
            else:
                yield item

    merged = tuple(merge(findings()))
    after = os.fstat(fd)
    changed = (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size)
    is_settling = changed or now_s - after.st_mtime < SETTLING_S
    settling = _unfinished(merged, end) if is_settling else 0
    return FileReport(path, format.NAME, before.st_size, records, merged, unchecked=unchecked, settling=settling)


def verify_sealed(fd: int, path: Path, now_s: float, pace: Callable[[int], None]) -> FileReport:
    """Verifies the file against the seal beside it; `changed` if somebody wrote it since.

    Args:
        now_s, pace: as for `verify_file`.

    Raises:
        SealDamaged: there is a seal, but it isn't intact.
        OSError: reading failed, of the file or its seal.
    """
    seal, before = seal_of.read(seal_of.path_for(path)), os.fstat(fd)
    changed = FileReport(path, seal_of.Sealed.NAME, before.st_size, seal=seal_of.State.changed)
    if seal.state_of(before) is seal_of.State.changed:
        return changed
    report = verify_file(fd, path, seal_of.Sealed(seal, is_whole=True), now_s, pace)
    after = os.fstat(fd)
    if not seal.append_only and content(before) != content(after):
        return changed
    is_damaged = any(finding.verdict is not Verdict.transient for finding in report.findings)
    state = seal.state_of(after) if is_damaged else seal_of.State.intact
    return replace(report, seal=state, records=report.records if seal.size else 1, settling=0)


def mismatches(fd: int, format: Format, now_s: float) -> Iterator[Finding]:
    """The damage in the file, finding by finding, each with its layer and the checksums that differ.

    Args:
        now_s: the time of day, in seconds since 1970.
    """
    scanned = Scanned(fd, format, os.fstat(fd), now_s, pace=lambda _size: None)
    for item in diagnosed(scanned, _paced(fd, scanned.status.st_size, scanned.pace)):
        if isinstance(item, Finding) and item.verdict is not Verdict.stale:
            yield item


def _paced(fd: int, size: int, pace: Callable[[int], None]) -> Iterator[memoryview | Unreadable]:
    for piece in read_views(fd, 0, size, bytearray(min(size, CHUNK_BYTES))):
        yield piece
        if not is_hole(piece):
            pace(piece.length if isinstance(piece, Unreadable) else len(piece))


def _unfinished(findings: tuple[Finding, ...], end: int) -> int:
    """How many of the last findings are torn or zero and reach to the `end` of what was read."""
    count, begin = 0, end
    for finding in reversed(findings):
        if finding.end < begin or finding.verdict not in _UNFINISHED:
            break
        count, begin = count + 1, finding.begin
    return count


def as_json(report: FileReport) -> dict[str, Any]:
    """The report as one entry of "files" in `verify --json`."""
    optional = {"seal": report.seal and str(report.seal), "unchecked": report.unchecked}
    return {key: value for key, value in optional.items() if value} | {
        "path": str(report.path),
        "format": report.format,
        "bytes": report.bytes,
        "records": report.records,
        "findings": [
            finding_json(finding) | ({"settling": True} if report.is_settling(number) else {})
            for number, finding in enumerate(report.findings)
        ],
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """The finding as one entry of "findings" in `verify --json`."""
    flip = finding.flip
    return {
        "begin": finding.begin,
        "end": finding.end,
        "verdict": str(finding.verdict),
        "flip": flip and {"offset_bytes": flip.offset_bytes, "bit": flip.bit, "stored": flip.stored},
        "layer": finding.layer and str(finding.layer),
    }
