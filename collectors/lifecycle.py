"""The lifecycle: which crossings belong together.

Enters: crossings, that is windows that scored high enough, in any order. Leaves: episodes, each the story of one burst.
Pure.

A burst raises every window that overlaps it, up to an hour after it ended. So of two crossings that overlap, the weaker
is the shadow of the stronger and says nothing new; what is left are peaks that follow each other, and peaks that lie
close together are one episode. A long window over two pulses with a quiet time between them may be stronger than each
of them, yet it explains less than both: it is no peak.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate


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


def episodes(crossings: Iterable[Crossing], gap_min: int, alarm_nats: float = math.inf) -> list[Episode]:
    """Episodes in the order of time; peaks with at most `gap_min` quiet minutes between them are one.

    alarm_nats: a crossing that reaches it would be a burst by itself; only of two such is a longer window the bridge.
    """
    found: list[Episode] = []
    for peak in _peaks(crossings, gap_min, alarm_nats):
        if found and peak.first_minute - found[-1].last_minute - 1 <= gap_min:
            found[-1] = Episode((*found[-1].peaks, peak))
        else:
            found.append(Episode((peak,)))
    return found


def overlap(a_first: int, a_last: int, b_first: int, b_last: int, gap_min: int) -> bool:
    """True if two spans of minutes touch or lie at most `gap_min` quiet minutes apart."""
    return a_first - b_last - 1 <= gap_min and b_first - a_last - 1 <= gap_min


def _peaks(crossings: Iterable[Crossing], gap_min: int, alarm_nats: float) -> Sequence[Crossing]:
    """The crossings that no stronger one overlaps, but for bridges, in the order of time."""
    by_strength = sorted(crossings, key=lambda c: (-c.statistic_nats, c.minute, c.window_min))
    pulses = sorted((c for c in by_strength if c.statistic_nats >= alarm_nats), key=lambda c: c.minute)
    peaks: list[Crossing] = []  # disjoint and in the order of time, so a search finds the one neighbour that matters
    for crossing in by_strength:
        place = bisect_left(peaks, crossing.first_minute, key=lambda peak: peak.minute)
        is_free = place == len(peaks) or peaks[place].first_minute > crossing.minute
        if is_free and not _is_bridge(crossing, pulses, gap_min):
            peaks.insert(place, crossing)
    return peaks


def _is_bridge(crossing: Crossing, pulses: Sequence[Crossing], gap_min: int) -> bool:
    """True if it holds two pulses, too far apart for one episode, that together explain more than it does.

    `pulses` are in the order of their last minutes.
    """
    first, end = (bisect_left(pulses, minute, key=_last) for minute in (crossing.first_minute, crossing.minute + 1))
    inside = [pulse for pulse in pulses[first:end] if pulse.first_minute >= crossing.first_minute]
    strongest = list(accumulate((pulse.statistic_nats for pulse in inside), max))  # of those that end by then
    for later in inside:
        earlier = bisect_right(inside, later.first_minute - gap_min - 2, key=_last)
        if earlier and strongest[earlier - 1] + later.statistic_nats > crossing.statistic_nats:
            return True
    return False


def _last(crossing: Crossing) -> int:
    return crossing.minute
