"""The lifecycle: which crossings belong together.

Enters: crossings, that is windows that scored high enough, in any order. Leaves: episodes, each the story of one burst.
Pure.

A burst raises every window that overlaps it, up to an hour after it ended. So of two crossings that overlap, the weaker
is the shadow of the stronger and says nothing new; what is left are peaks that follow each other, and peaks that lie
close together are one episode.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Crossing:
    """A window that ends with this minute (inclusive) and its statistic."""

    minute: int
    window_min: int
    statistic_nats: float

    @property
    def first_minute(self) -> int:
        return self.minute - self.window_min + 1


@dataclass(frozen=True, slots=True)
class Episode:
    """The peaks that belong together, in the order of time: they don't overlap."""

    peaks: tuple[Crossing, ...]

    @property
    def first_minute(self) -> int:
        return self.peaks[0].first_minute

    @property
    def last_minute(self) -> int:
        """Included."""
        return self.peaks[-1].minute

    @property
    def best(self) -> Crossing:
        """The strongest, the first of equals."""
        return max(self.peaks, key=lambda crossing: crossing.statistic_nats)


def episodes(crossings: Iterable[Crossing], gap_min: int) -> list[Episode]:
    """Episodes in the order of time; peaks with at most `gap_min` quiet minutes between them are one."""
    found: list[Episode] = []
    for peak in _peaks(crossings):
        if found and peak.first_minute - found[-1].last_minute - 1 <= gap_min:
            found[-1] = Episode((*found[-1].peaks, peak))
        else:
            found.append(Episode((peak,)))
    return found


def overlap(a_first: int, a_last: int, b_first: int, b_last: int, gap_min: int) -> bool:
    """True if two spans of minutes touch or lie at most `gap_min` quiet minutes apart."""
    return a_first - b_last - 1 <= gap_min and b_first - a_last - 1 <= gap_min


def _peaks(crossings: Iterable[Crossing]) -> Sequence[Crossing]:
    """The crossings that no stronger one overlaps, in the order of time."""
    peaks: list[Crossing] = []  # disjoint and in the order of time, so a search finds the one neighbour that matters
    for crossing in sorted(crossings, key=lambda c: (-c.statistic_nats, c.minute, c.window_min)):
        place = bisect_left(peaks, crossing.first_minute, key=lambda peak: peak.minute)
        if place == len(peaks) or peaks[place].first_minute > crossing.minute:
            peaks.insert(place, crossing)
    return peaks
