"""False alarms: how often would a statistic this large appear if nothing had happened?

Enters: past days from which known incidents were cut out. Leaves: a Tail, which turns a statistic into a rate per year
and back. Pure, numpy only; the random shifts come from a seed.

Method: time slides. Every cluster's series is shifted by its own random number of whole hours, fewer than SHIFTS_H.
That destroys what clusters have in common for an hour or less, which is a burst, and keeps everything else: what one
cluster does by itself, and what all have in common for longer, such as a month's end. The largest statistic of each
hour of the slid series is a draw from "nothing happened". Above the u that the largest of them exceed, their tail is
exponential, and its scale b is their mean excess, of which the largest tenth is only known to be at least as large as
the next: so an incident that nobody recognised doesn't blind the scan for months. But b and the rate r_u of hours above
u rest on k independent maxima only, and an alarm is due at the rate that is asked for on average over what else they
might be, so
FAR(x) = r_u (1 + 1/k) (1 + (x - u) / (k b)) ** -k, which is the exponential tail if k is large.

A block of days is slid once, when it is complete, and what remains of it are its largest maxima. So another day costs
one block at most, and a restart costs none.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from collectors.baseline import GUARD_H
from collectors.inventory import Cluster
from collectors.minutes import HOUR_MIN, WINDOWS_MIN
from collectors.scan import AMPLITUDES, Scan, StreamRows
from collectors.windows import BlockStream

SLIDES = 6
SHIFTS_H = GUARD_H  # so long the baseline is blind; what has lasted for longer it knows
TAIL_HOURS = 120  # how many of the largest hourly maxima the tail is fitted to
HOURS_PER_INDEPENDENT = 6  # a rise in one cluster is in every slide, and the fleet's bad hours are bad in all of them
TAIL_HOURS_MIN = 20
CENSORED_SHARE = 0.1  # of these hours
KNOWN = 1e6  # of a scale that isn't estimated
YEAR_H = 8766.0
COARSE_DIRECTIONS = 48
COARSE_EXPONENTS = (0, 1)
ROWS_PER_HOUR = 8  # so many of an hour's rows, those that a coarse scan finds the largest, are scored in full


@dataclass(frozen=True, slots=True)
class Tail:
    """FAR(x) = per_year * (1 + (x - start_nats) / (independent * scale_nats)) ** -independent."""

    start_nats: float
    per_year: float
    scale_nats: float
    independent: float  # on so many maxima the scale rests

    def far_per_year(self, statistic_nats: float) -> float:
        """How many hours a year reach this statistic by chance: never more than there are, and never 0."""
        excess = (statistic_nats - self.start_nats) / self.scale_nats
        if excess <= -self.independent:
            return YEAR_H
        exponent = max(-self.independent * math.log1p(excess / self.independent), -700.0)
        return min(max(self.per_year * math.exp(exponent), sys.float_info.min), YEAR_H)

    def statistic_nats(self, far_per_year: float) -> float:
        """The statistic that chance reaches this often; the reverse of `far_per_year`."""
        excess = self.independent * math.expm1(math.log(self.per_year / far_per_year) / self.independent)
        return self.start_nats + self.scale_nats * excess


@dataclass(frozen=True, slots=True)
class Maxima:
    """What a tail needs to know of slid hours: how many there were, how many had a fault, and the largest maxima."""

    hours: int
    positive: int
    largest: tuple[float, ...]  # descending, in nats

    def document(self) -> dict[str, Any]:
        """As JSON; `from_document` is the way back."""
        return {"hours": self.hours, "positive": self.positive, "largest": list(self.largest)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Maxima":
        return cls(int(document["hours"]), int(document["positive"]), tuple(map(float, document["largest"])))


def summary(hourly_maxima: np.ndarray) -> Maxima:
    """Of the maxima of slid hours [hours]; hours without any fault are among them as zeros."""
    positive = np.sort(hourly_maxima[hourly_maxima > 0])[::-1]
    largest = positive[: TAIL_HOURS + 1].astype(float).round(4)  # what is stored and read again must be the same
    return Maxima(len(hourly_maxima), len(positive), tuple(largest.tolist()))


def fit(parts: Iterable[Maxima]) -> Tail:
    """The tail of all these maxima together."""
    kept = list(parts)
    years = max(sum(part.hours for part in kept), 1) / YEAR_H
    positive = sum(part.positive for part in kept)
    largest = np.sort(np.array([value for part in kept for value in part.largest]))[::-1]
    if positive < TAIL_HOURS_MIN:
        # too few to fit: all of them, and the three that a Poisson count of none doesn't exclude, may reach the largest
        return Tail(float(largest.max(initial=0.0)), (positive + 3) / years, 1.0, KNOWN)
    number = min(TAIL_HOURS, positive // 2)
    start = float(largest[number])
    excess = largest[:number] - start
    censored = int(number * CENSORED_SHARE)
    scale = float(np.minimum(excess, excess[censored]).sum()) / (number - censored)
    independent = (number - censored) / HOURS_PER_INDEPENDENT
    # a log-likelihood ratio of one free amplitude falls no faster than exp(-x), whatever a short sample says
    return Tail(start, number / years * (1 + 1 / independent), max(scale, 1.0), independent)


class Slides:
    """Slides blocks of days of one set of clusters."""

    def __init__(self, scan: Scan, coarse: Scan) -> None:
        self._scan = scan
        self._coarse = coarse

    def maxima(self, streams: Sequence[BlockStream], seed: Sequence[int]) -> np.ndarray:
        """Hourly maxima [SLIDES * hours] of the slid block, 0 where no fault came in.

        A cluster's streams are shifted together. An hour's expectation is the same in all its minutes, so a row whose
        counts are nowhere above those of a neighbour can't be the largest. The others are ranked by a coarser scan, and
        only an hour's best are scored in full: what the coarse scan misjudges by is much less than what lies between an
        hour's rows.
        """
        random = np.random.default_rng(seed)
        hours, _, clusters = streams[0].means.shape
        maxima = np.zeros((SLIDES, hours))
        for slide in range(SLIDES):
            shifts = random.integers(0, SHIFTS_H, size=(clusters,))
            targets = [(stream.hours + shifts[stream.columns]) % hours for stream in streams]
            for hour in range(hours):
                rows = [_slid(stream, shifts, at == hour, hour) for stream, at in zip(streams, targets, strict=True)]
                maxima[slide, hour] = self._maximum(rows)
        return maxima.ravel()

    def _maximum(self, streams: list[StreamRows]) -> float:
        some = np.any([rows.counts.any(axis=1) for rows in streams], axis=0)
        streams = [rows.take(some & _peaks(streams)) for rows in streams]
        if not len(streams[0].counts):
            return 0.0
        rough = self._coarse.statistics(streams)
        best = np.argsort(-rough, kind="stable")[:ROWS_PER_HOUR]
        return float(self._scan.statistics([rows.take(best) for rows in streams]).max())


def coarse_scan(clusters: Sequence[Cluster]) -> Scan:
    """Finds nearly the same rows large as the full scan, at a twentieth of its cost."""
    return Scan(clusters, number=COARSE_DIRECTIONS, exponents=COARSE_EXPONENTS, amplitudes=AMPLITUDES[::2])


def _peaks(streams: Sequence[StreamRows]) -> np.ndarray:
    """Which rows [windows * 60] of a slid hour may be its largest: not those whose neighbour holds all that they do."""
    rises = falls = np.zeros((len(WINDOWS_MIN), HOUR_MIN - 1), bool)
    for rows in streams:
        steps = np.diff(rows.counts.T.reshape(-1, len(WINDOWS_MIN), HOUR_MIN), axis=2)
        rises, falls = rises | (steps > 0).any(axis=0), falls | (steps < 0).any(axis=0)
    peaks = np.ones((len(WINDOWS_MIN), HOUR_MIN), bool)
    peaks[:, 1:] = rises
    peaks[:, :-1] &= falls | ~rises
    return peaks.ravel()


def _slid(stream: BlockStream, shifts: np.ndarray, pieces: np.ndarray, hour: int) -> StreamRows:
    """The rows [windows * 60] of one slid hour."""
    hours, windows, clusters = stream.means.shape
    chosen = np.flatnonzero(pieces)
    chosen = chosen[np.argsort(stream.columns[chosen])]  # a cluster has at most one piece in a slid hour
    counts = stream.counts[chosen].reshape(-1, windows * HOUR_MIN).T
    means = stream.means[(hour - shifts) % hours, :, np.arange(clusters)].T
    return StreamRows(counts, stream.columns[chosen], np.repeat(means, HOUR_MIN, axis=0))
