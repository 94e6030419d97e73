"""Which layer flipped it: a core that can't count, our buffer, the page cache, the way from the disk, or the disk.

Enters: the chunks of a file, for a scan. Leaves: what the scan says, each finding with its Layer; one that was right in
any other reading is `transient`. A stretch of damage is judged again as a whole, since what a finding is called may
depend on those beside it: the very bytes in which it was seen, by every kernel on two cores; then what the page cache
holds; then what the disk holds. Damage is the same if its place, checksums and flipped bit are, which is to say its
syndrome. Nothing is written; the page cache may forget the stretch and up to 2 MiB on either side of it.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from checksum import affinity, crc32c
from checksum.crc32c import Buffer
from checksum.files import content, direct_chunks, evict, read_resident
from checksum.finding import Finding, Intact, Layer, Unreadable, Verdict

FINDINGS_MAX = 100  # of one file; where the rest comes from is `unknown`
BYTES_MAX = 2**26  # of one file that are read again
# Linux writes what was changed to the disk after 30 s or a little more; until then there is nothing to compare with.
WRITTEN_BACK_S = 120
_ATTEMPTS = 3  # pages that are just being read ahead can't be evicted

Damage = tuple[Finding, ...]  # what a scan says about a stretch of a file, without what is intact
Chunk = Buffer | Unreadable


class Stretch(Protocol):
    """A stretch of a file that can be judged again."""

    def recounts(self) -> list[Damage]:
        """The bytes in which damage was seen, each time by another kernel or on another core; none if they are gone."""

    def cached(self) -> Damage | None:
        """What the page cache holds; None if it doesn't, or it can't be told."""

    def direct(self) -> tuple[Damage | None, bool]:
        """What was read past the page cache, None if nothing could be; and whether it certainly came from the disk."""

    def is_unchanged(self) -> bool:
        """Whether nobody has written the file since the scan began."""


def diagnose(found: Damage, stretch: Stretch) -> Damage:
    """The findings, each with its layer, and `transient` where any reading was right."""
    recounts, cached = stretch.recounts(), stretch.cached()
    direct: Damage | None = None
    is_from_disk = False
    if any(_is_open(finding, recounts, cached) for finding in found):
        direct, is_from_disk = stretch.direct()
    if not stretch.is_unchanged():
        return unknown(found)
    return tuple(_diagnosed(finding, recounts, cached, direct, is_from_disk) for finding in found)


def unknown(found: Damage) -> Damage:
    """The findings, with nothing said about where they come from."""
    return tuple(replace(finding, layer=Layer.unknown) for finding in found)


def _is_open(finding: Finding, recounts: list[Damage], cached: Damage | None) -> bool:
    """Whether only the disk can tell more."""
    seen = {_syndromes(finding, damage) for damage in recounts}
    return len(seen) <= 1 and () not in seen and (cached is None or _syndromes(finding, cached) != ())


def _diagnosed(
    finding: Finding, recounts: list[Damage], cached: Damage | None, direct: Damage | None, is_from_disk: bool
) -> Finding:
    counted = {_syndromes(finding, damage) for damage in recounts}
    kept = {_syndromes(finding, damage) for damage in (cached,) if damage is not None}
    stored = {_syndromes(finding, damage) for damage in (direct,) if damage is not None}
    readings = counted | kept | stored
    if len(counted) > 1 or () in counted:
        layer = Layer.core
    elif () in kept:
        layer = Layer.buffer if counted else Layer.unknown
    elif direct is not None and _is_unreadable(finding, direct):
        layer = Layer.disk
    elif len(counted | kept) > 1:
        layer = Layer.path
    elif () in stored:
        layer = Layer.page_cache if kept else Layer.unknown
    elif len(readings) > 1:
        layer = Layer.path
    elif is_from_disk and (counted or kept or stored == {_syndromes(finding, (finding,))}):
        layer = Layer.disk
    else:
        layer = Layer.unknown
    return replace(finding, layer=layer, verdict=Verdict.transient if () in readings else finding.verdict)


def _is_unreadable(finding: Finding, damage: Damage) -> bool:
    return any(other.verdict is Verdict.unreadable for other in _beside(finding, damage))


def _syndromes(finding: Finding, damage: Damage) -> tuple[object, ...]:
    """What makes the damage at the finding's place the same, whatever it is called; empty where that is intact."""
    beside = _beside(finding, damage)
    return tuple((other.begin, other.end, other.stored, other.computed, other.flip) for other in beside)


def _beside(finding: Finding, damage: Damage) -> list[Finding]:
    return [other for other in damage if other.begin < finding.end and finding.begin < other.end]


class Judge(Protocol):
    """What has to be known of a format; checksum/formats.py explains its methods."""

    def resume_offset(self, begin: int, is_unchanged: bool) -> int: ...

    def read_end(self, end: int) -> int: ...

    def verify(
        self, chunks: Iterable[Chunk], *, offset: int = 0, resumed: bool = False, begin: int = 0
    ) -> Iterator[Intact | Finding]: ...


@dataclass(frozen=True, slots=True)
class Scanned:
    """An open file that is being scanned."""

    fd: int
    format: Judge
    status: os.stat_result  # before its first byte was read; it is judged as long as it was then
    now_s: float  # the time of day, in seconds since 1970
    pace: Callable[[int], None]  # called with the size of every piece that is read again; it may wait


def diagnosed(
    file: Scanned, chunks: Iterable[Chunk], *, offset: int = 0, resumed: bool = False, begin: int = 0
) -> Iterator[Intact | Finding]:
    """What the format's `verify` says of the file's chunks, with a layer in each finding but leavings of an older log.

    Findings that touch each other are diagnosed together, as soon as they are all known and while the chunk in which
    they were seen is still at hand.
    """
    watched = _Watched(chunks, offset)
    physician = _Physician(file, watched)
    group: list[Finding] = []
    for item in file.format.verify(watched, offset=offset, resumed=resumed, begin=begin):
        is_damage = isinstance(item, Finding) and item.verdict is not Verdict.stale
        if group and not (is_damage and item.begin == group[-1].end and len(group) <= FINDINGS_MAX):
            yield from physician.diagnose(tuple(group))
            group.clear()
        if isinstance(item, Finding) and is_damage:
            group.append(item)
        else:
            yield item
    if group:
        yield from physician.diagnose(tuple(group))


class _Watched:
    """The chunks of a scan, of which the present one can be looked at again while the scan waits."""

    def __init__(self, chunks: Iterable[Chunk], offset: int) -> None:
        self._chunks = chunks
        self._begin = self._end = offset
        self._chunk: Chunk = b""

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            self._begin, self._chunk = self._end, chunk
            self._end += chunk.length if isinstance(chunk, Unreadable) else len(chunk)
            yield chunk

    def held(self, begin: int, end: int) -> bytes | None:
        """A copy of the bytes [begin, end) as they were read, if all of them lie in the present chunk."""
        if isinstance(self._chunk, Unreadable) or not self._begin <= begin <= end <= self._end:
            return None
        return bytes(memoryview(self._chunk)[begin - self._begin : end - self._begin])


class _Physician:
    """Diagnoses the damage in one file, as long as that is little."""

    def __init__(self, file: Scanned, watched: _Watched) -> None:
        self._file, self._watched = file, watched
        self._findings_left, self._bytes_left = FINDINGS_MAX, BYTES_MAX

    def diagnose(self, found: Damage) -> Damage:
        stretch = _FileStretch(self._file, self._watched, found[0].begin, found[-1].end)
        is_too_much = len(found) > self._findings_left or stretch.size > self._bytes_left
        self._findings_left -= min(len(found), self._findings_left)
        if is_too_much:
            return unknown(found)
        self._bytes_left -= stretch.size
        return diagnose(found, stretch)


class _FileStretch:
    """The bytes [begin, end) of a file, where there is damage, and what has to be read around them to judge them."""

    def __init__(self, file: Scanned, watched: _Watched, begin: int, end: int) -> None:
        self._file, self._watched, self._begin, self._end = file, watched, begin, end
        self._read_begin = file.format.resume_offset(begin, True)
        self._read_end = min(file.status.st_size, file.format.read_end(end))

    @property
    def size(self) -> int:
        return self._read_end - self._read_begin

    def recounts(self) -> list[Damage]:
        held = self._watched.held(self._read_begin, self._read_end)
        if held is None:
            return []
        cores = affinity.allowed_cores()
        counted = []
        # If neither is the core on which the damage was seen, they tell the truth about it; else they differ.
        for core in sorted({cores[0], cores[-1]}):
            for kernel in crc32c.kernels():
                with suppress(affinity.CoreGone), affinity.on_core(core), crc32c.computing_by(kernel):
                    counted.append(self._judged([held]))
        return counted

    def cached(self) -> Damage | None:
        data = read_resident(self._file.fd, self._read_begin, self._read_end)
        return None if data is None else self._judged([data])

    def direct(self) -> tuple[Damage | None, bool]:
        if self._file.now_s - self._file.status.st_ctime < WRITTEN_BACK_S:
            return None, False
        try:
            for _ in range(_ATTEMPTS):
                is_evicted = evict(self._file.fd, self._read_begin, self._read_end)
                damage = self._judged(self._from_disk())
                if is_evicted:
                    break
        except OSError:  # the scan was worth something even if its damage can't be looked at again
            return None, False
        return damage, is_evicted

    def is_unchanged(self) -> bool:
        return content(self._file.status) == content(os.fstat(self._file.fd))

    def _judged(self, chunks: Iterable[Chunk]) -> Damage:
        is_resumed = self._read_begin < self._begin
        items = self._file.format.verify(chunks, offset=self._read_begin, resumed=is_resumed, begin=self._begin)
        findings = (item for item in items if isinstance(item, Finding) and item.verdict is not Verdict.stale)
        return tuple(finding for finding in findings if finding.begin < self._end)

    def _from_disk(self) -> Iterator[Chunk]:
        for chunk in direct_chunks(self._file.fd, self._read_begin, self._read_end):
            self._file.pace(chunk.length if isinstance(chunk, Unreadable) else len(chunk))
            yield chunk
