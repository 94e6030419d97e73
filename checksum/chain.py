"""Going through a file whose records follow one another, without blocks or marks between them, whatever is damaged.

Enters: a window into a file, and what a format knows about its records. Leaves: intact records and findings that tile
the bytes. Where nothing says how long a damaged record is, the next one is searched for; what a hostile file can make
that do is bounded.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from checksum.crc32c import zeros_end
from checksum.finding import Finding, Intact, Record, Tally, Verdict
from checksum.window import Walk, Window

_STEP_BYTES = 2**20
_EVIDENCE_BITS = 40  # chance forms so good a chain once in a million searches of a mebibyte

Run = Callable[[Window, int], list[Record]]
Item = Callable[[Window, int], Record | Finding | None]
Lost = Callable[[Window, int], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Clues:
    """What a format knows: how its records are told, and what they prove."""

    candidates: Callable[[bytes, int, int], Iterator[int]]  # (bytes, begin, end) -> where a record may begin
    first: Item  # an intact record that begins at a place, or anything else
    item: Item
    header_bytes: int  # that must be seen behind a candidate
    reach_bytes: int  # no record is longer
    work_bytes: int  # to spend, at most, for each `reach_bytes` that are gone through
    record_bits: int  # how improbable an intact record is among garbage: one in two to this
    end_bits: int  # and that garbage should end just where the file does


def reaches(size: int, begin: int, end_of: Callable[[int], int | None], records_max: int) -> bool:
    """Whether so many records at most, each beginning where the one before it ends, lead from `begin` to `size`.

    `end_of` tells where the record at a place ends, by its header alone; None if none begins there.
    """
    for _ in range(records_max):
        end = end_of(begin)
        if end is None or end >= size:
            return end == size
        begin = end
    return False


def scan(window: Window, run: Run, item: Item, lost: Lost, reach_bytes: int) -> Iterator[Record | Finding]:
    """Records and findings from the beginning of the window to the end of the file.

    Args:
        run: the intact records from a place on that lie in the window, the short way that most records take.
        item: what is at a place; None if it can't be said where it ends.
        lost: then, the findings up to the next record.
        reach_bytes: no record is longer; so far behind a search everything is marked as found by it.
    """
    position = searched_until = window.end
    while window.reach(position + 1):
        items: Iterable[Record | Finding] = run(window, position)
        if not items:
            one = item(window, position)
            items = lost(window, position) if one is None else [one]
            if one is None:
                searched_until = sys.maxsize  # until it is known where the search ends
        for each in items:
            position = each.end
            if isinstance(each, Record) and each.begin < searched_until:
                each = replace(each, by_search=True)
            yield each
        if searched_until == sys.maxsize:
            searched_until = position + reach_bytes
        window.drop(position)


def count(
    window: Window, begin: int, walk: Walk | None, run: Run, item: Item, lost: Lost
) -> Iterator[Intact | Finding]:
    """What `scan` says, with intact records counted; by `walk` in C, if there is one, as long as nothing is wrong.

    Records and findings that end at or before `begin` are passed over.
    """
    position = window.end
    tally = Tally(max(position, begin))
    while True:
        if position == window.end and walk is not None:
            position, records = window.pass_over(walk, begin)
            tally.add_intact(position, records)
            yield from tally.told()
        if not window.reach(position + 1):
            break
        end, records = _counted(window, position, begin, walk, run)
        if end > position:
            position = end
            tally.add_intact(end, records)
        else:
            one = item(window, position)
            for each in lost(window, position) if one is None else [one]:
                position = each.end
                yield from tally.add(each)
        window.drop(position)
    yield from tally.told()


def _counted(window: Window, position: int, begin: int, walk: Walk | None, run: Run) -> tuple[int, int]:
    """The end of the intact records from `position` on that lie in the window, and how many end behind `begin`."""
    if walk is None or window.holes:
        intact = run(window, position)
        return intact[-1].end if intact else position, sum(record.end > begin for record in intact)
    length, records = walk(window.data, position - window.begin, begin - window.begin)
    return window.begin + length, records


def lost(window: Window, position: int, clues: Clues) -> Iterator[Finding]:
    """Findings from `position` up to the next record that a search finds, or to the end of the file."""
    search = Search(window, position, clues)
    while True:
        for begin in range(position, window.pass_zeros(position, _STEP_BYTES, clues.header_bytes), _STEP_BYTES):
            position = begin + _STEP_BYTES
            yield Finding(begin, position, Verdict.zeros)
        end = position + _STEP_BYTES  # the same wherever the chunks were cut
        is_last = not window.reach(end + clues.header_bytes)
        hit = search.first_in(position, end)
        if hit is not None:
            end = hit
        elif is_last:
            end = window.end
        yield from _named(window, position, end, clues.header_bytes)
        if is_last or hit is not None:
            return
        window.drop(end)
        position = end


class Search:
    """Finds intact records whose chain closes, with a bound on what a hostile file can make it do."""

    def __init__(self, window: Window, begin: int, clues: Clues) -> None:
        self._window = window
        self._clues = clues
        self._slice_begin = begin
        self._work_bytes_max = window.work_bytes + clues.work_bytes
        self._dead_ends: set[int] = set()  # milestones from which no chain closes

    def first_in(self, begin: int, end: int) -> int | None:
        """The first record in [begin, end) of the window that a chain confirms."""
        window = self._window
        base = window.begin  # of the snapshot, which reading on would change
        data = bytes(window.data[begin - base : end + self._clues.header_bytes - base])
        first = max(0, zeros_end(data, 0) - self._clues.header_bytes)  # a sparse file may hold many
        for at in self._clues.candidates(data, first, end - begin):
            if self._closes(begin + at):
                return begin + at
        return None

    def _closes(self, candidate: int) -> bool:
        """Whether records follow one another from an intact one to the end of the file, or far enough.

        Far enough is further than any record that began before `candidate` could reach: what is nested in the payload
        of a record ends before its footer, where no header is.
        """
        position, bits, milestones = candidate, 0, []
        while position <= candidate + self._clues.reach_bytes or bits < _EVIDENCE_BITS:
            if position in self._dead_ends or not self._may_work(candidate):
                break
            if position > candidate and not self._window.reach(position + 1):
                if bits + self._clues.end_bits >= _EVIDENCE_BITS:
                    return True
                break
            if _is_milestone(position):
                milestones.append(position)
            look = self._clues.first if position == candidate else self._clues.item
            item = look(self._window, position)
            if item is None or not _is_link(item, is_first=position == candidate):
                break
            bits += self._clues.record_bits if isinstance(item, Record) else 0
            position = item.end
        else:
            return True
        self._dead_ends.update(milestones)
        return False

    def _may_work(self, candidate: int) -> bool:
        if candidate - self._slice_begin > self._clues.reach_bytes:
            self._slice_begin, self._work_bytes_max = candidate, self._window.work_bytes + self._clues.work_bytes
            self._dead_ends = {position for position in self._dead_ends if position > candidate}
        return self._window.work_bytes < self._work_bytes_max


def _is_link(item: Record | Finding, *, is_first: bool) -> bool:
    """Whether a chain goes on after the item: its end is known, and at the first one everything fits."""
    return isinstance(item, Record) or (not is_first and item.verdict is not Verdict.torn)


def _is_milestone(position: int) -> bool:
    """One position in sixteen, so that what a search remembers stays small; chains that join meet one soon."""
    return (position * 0x9E3779B1 >> 16) % 16 == 0


def _named(window: Window, begin: int, end: int, header_bytes: int) -> Iterator[Finding]:
    """The findings about lost bytes [begin, end): what the disk would not give, zeros, and the rest."""
    edges = sorted({begin, end, *(min(max(edge, begin), end) for hole in window.holes for edge in hole)})
    for part_begin, part_end in pairwise(edges):
        if window.has_hole(part_begin, part_end):
            yield Finding(part_begin, part_end, Verdict.unreadable)
            continue
        data = window.bytes(part_begin, part_end)
        zeros = zeros_end(data, 0)
        blank_end = part_begin + (zeros if zeros >= header_bytes or zeros == len(data) else 0)
        if blank_end > part_begin:
            yield Finding(part_begin, blank_end, Verdict.zeros)
        if blank_end < part_end:
            yield Finding(blank_end, part_end, Verdict.skipped)
