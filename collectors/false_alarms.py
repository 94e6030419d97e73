"""False alarms: how often would a statistic this large appear if nothing had happened?

Enters: scaled rows of past days from which known incidents were cut out. Leaves: a Tail, which turns a statistic into a
rate per year and back. Pure, numpy only; the random shifts come from a seed.

Method: time slides. Every cluster's series is shifted by its own random number of whole hours, which destroys what
clusters have in common and keeps everything else. The largest statistic of each hour of the slid series is a draw from
"nothing happened". Above the u that the largest of them exceed, their tail is exponential:
FAR(x) = r_u * exp(-(x - u) / b), with r_u the rate of hours above u and b their mean excess.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collectors.baseline import HOUR_MIN
from collectors.scan import Scan

SLIDES = 12
TAIL_HOURS = 120  # how many of the largest hourly maxima the tail is fitted to
TAIL_HOURS_MIN = 20
YEAR_H = 8766.0
SCORED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Tail:
    """FAR(x) = per_year * exp(-(x - start_nats) / scale_nats)."""

    start_nats: float
    per_year: float
    scale_nats: float

    def far_per_year(self, statistic_nats: float) -> float:
        """How many hours a year reach this statistic by chance; never more than there are hours."""
        exponent = min(-(statistic_nats - self.start_nats) / self.scale_nats, 700.0)
        return float(min(self.per_year * np.exp(exponent), YEAR_H))

    def statistic_nats(self, far_per_year: float) -> float:
        """The statistic that chance reaches this often; the reverse of `far_per_year`."""
        return self.start_nats + self.scale_nats * float(np.log(self.per_year / far_per_year))


def fit(hourly_maxima: np.ndarray) -> Tail:
    """The tail of the maxima of slid hours [hours]; hours without any fault are among them as zeros."""
    years = max(len(hourly_maxima), 1) / YEAR_H
    positive = np.sort(hourly_maxima[hourly_maxima > 0])[::-1]
    if len(positive) < TAIL_HOURS_MIN:
        # too few to fit: all of them, and the three that a Poisson count of none doesn't exclude, may reach the largest
        return Tail(float(positive.max(initial=0.0)), (len(positive) + 3) / years, 1.0)
    number = min(TAIL_HOURS, len(positive) // 2)
    start = float(positive[number])
    # a log-likelihood ratio of one free amplitude falls no faster than exp(-x), whatever a short sample says
    scale = max(float((positive[:number] - start).mean()), 1.0)
    return Tail(start, number / years, scale)


def slide_maxima(
    scan: Scan, counts: np.ndarray, means: np.ndarray, arrived: np.ndarray, seed: Sequence[int]
) -> np.ndarray:
    """Hourly maxima [SLIDES * hours] of slid rows.

    counts, means: [windows, minutes, clusters], scaled; arrived: [minutes, clusters]; minutes a multiple of 60.
    """
    random = np.random.default_rng(seed)
    minutes, clusters = arrived.shape
    maxima = []
    for _ in range(SLIDES):
        shifts = random.integers(0, minutes // HOUR_MIN, clusters) * HOUR_MIN
        source = (np.arange(minutes)[:, None] - shifts) % minutes
        # only where a fault just came in can a window hold more than it did a minute before
        scored = np.flatnonzero(np.take_along_axis(arrived, source, axis=0).any(axis=1))
        at = source[scored]
        slid_counts = np.take_along_axis(counts, at[None], axis=1).reshape(-1, clusters)
        slid_means = np.take_along_axis(means, at[None], axis=1).reshape(-1, clusters)
        hours = np.tile(scored // HOUR_MIN, len(counts))
        maxima.append(_hourly_maxima(scan, slid_counts, slid_means, hours, minutes // HOUR_MIN))
    return np.concatenate(maxima)


def _hourly_maxima(scan: Scan, counts: np.ndarray, means: np.ndarray, hours: np.ndarray, number: int) -> np.ndarray:
    """The largest statistic of each of `number` hours, exact for the largest third of them.

    Rows are scored from the most to the least promising, until none left can enter the largest third: only these
    matter for the tail, and most rows need no scoring.
    """
    bounds = _bounds(counts, means)
    order = np.argsort(-bounds, kind="stable")
    maxima = np.zeros(number, np.float32)
    for start in range(0, len(order), SCORED_AT_ONCE):
        part = order[start : start + SCORED_AT_ONCE]
        if bounds[part[0]] < np.partition(maxima, -(number // 3))[-(number // 3)]:
            break
        np.maximum.at(maxima, hours[part], scan.statistics(counts[part], means[part]))
    return maxima


def _bounds(counts: np.ndarray, means: np.ndarray) -> np.ndarray:
    """No template can score more than every cluster's own best rise together: n ln(n / m) - n + m where n > m."""
    above = (counts > means) & (means > 0)
    ratio = np.divide(counts, means, out=np.ones_like(counts), where=above)
    return np.where(above, counts * np.log(ratio) - counts + means, 0).sum(axis=1)
