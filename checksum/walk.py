"""Goes through a file from record to record, and where one is lost, to the next that a search finds.

Enters: a window into a file, and what a format says about a place in it. Leaves: items that tile the file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from checksum.chain import Clues, lost
from checksum.finding import Finding, Record, Verdict
from checksum.window import Window


@dataclass(frozen=True, slots=True)
class Lost:
    """What is here isn't intact, and nothing says where it ends; the next record begins at `search_begin` or later."""

    search_begin: int


def walk(
    window: Window,
    item_at: Callable[[int], Record | Finding | Lost],
    clues: Clues,
    doubtful_end: Callable[[int, int], int],
) -> Iterator[Record | Finding]:
    """The items of the file, from where the window begins to its end.

    Args:
        item_at: what is at a place where something begins.
        clues: for the search.
        doubtful_end: (begin of a search, the record it found) -> before where records may be part of the lost one.
    """
    position = doubtful = window.begin
    while window.reach(position + 1):
        item = item_at(position)
        if isinstance(item, Lost):
            if item.search_begin > position:
                yield Finding(position, item.search_begin, Verdict.skipped)
            position = item.search_begin
            for finding in lost(window, position, clues):
                yield finding
                position = finding.end
            doubtful = doubtful_end(item.search_begin, position)
        else:
            if isinstance(item, Record) and item.begin < doubtful:
                item = replace(item, by_search=True)
            yield item
            position = item.end
        window.drop(position)
