"""The scan: how much better does a rise in one direction explain these counts than the baseline does?

Enters: counts and expectations of rows (a row is one window ending at one minute), each divided by the cluster's
over-dispersion. Leaves: the statistic of each row in nats, the largest log-likelihood ratio over all templates.
Pure, numpy only.

A template is a direction in the frame that turns with the Earth, a response and an amplitude A: the expectation of a
cluster grows by the factor 1 + A f, with f = max(0, cos(angle between direction and boards)) ** n. Where the source is
below the horizon f is 0, whatever the boards face. The log-likelihood ratio of a row is
sum over clusters of count * ln(1 + A f) - A f * expected (Poisson, scaled by the over-dispersion). Independent streams
add up, so a row may hold the sums over streams.
"""

from collections.abc import Sequence

import numpy as np

from collectors.baseline import HOUR_MIN, Baseline
from collectors.inventory import Cluster
from collectors.minutes import WINDOWS_MIN, Minutes
from collectors.sky import directions, facings, zeniths

DIRECTIONS = 192
EXPONENTS = (0, 1, 3)
# the last two are for small fleets, where a handful of faults is already hundreds of times the expectation
AMPLITUDES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 128.0, 512.0)
CHUNK_FLOATS = 400_000  # what a core's second-level cache holds


def responses(clusters: Sequence[Cluster], sources: np.ndarray, exponent: int) -> np.ndarray:
    """f [sources, clusters] for source directions [sources, 3]."""
    above = sources @ zeniths(clusters).T > 0
    facing = sources @ facings(clusters).T
    return np.where(above & (facing > 0), np.maximum(facing, 0.0) ** exponent, 0.0)


class Scan:
    """The templates of one set of clusters, ready to be applied to many rows at once."""

    def __init__(self, clusters: Sequence[Cluster]) -> None:
        sources = directions(DIRECTIONS)
        every = np.concatenate([responses(clusters, sources, exponent) for exponent in EXPONENTS])
        # few clusters see many directions alike: one template is enough for them
        distinct = np.unique(every.round(6), axis=0)
        rises = np.concatenate([amplitude * distinct[distinct.any(axis=1)] for amplitude in AMPLITUDES])
        self._weights = np.concatenate([np.log1p(rises), -rises], axis=1).T.astype(np.float32)

    def statistics(self, counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Nats [rows] of scaled counts and expectations [rows, clusters]; never below 0."""
        rows = np.concatenate([counts, expected], axis=1, dtype=np.float32)
        best = np.zeros(len(rows), np.float32)
        chunk = max(1, CHUNK_FLOATS // self._weights.shape[1])
        scores = np.empty((chunk, self._weights.shape[1]), np.float32)
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            np.matmul(part, self._weights, out=scores[: len(part)])
            scores[: len(part)].max(axis=1, out=best[start : start + chunk])
        return np.maximum(best, 0)


class Rows:
    """Observed, expected and scaled counts of every window ending in a range of minutes, summed over streams.

    All arrays are [windows, minutes, clusters]; `arrived` [minutes, clusters] tells where a fault came in that minute.
    The expectation of the newest minute is that of the whole minute while its counts are still coming in, so that a
    statistic taken early never exceeds the final one.
    """

    def __init__(self, minutes: Minutes, baselines: dict[str, Baseline], first_hour: int, begin: int, end: int) -> None:
        shape = (len(WINDOWS_MIN), end - begin, len(minutes.cluster_names))
        self.begin = begin
        self.observed, self.expected = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.counts, self.means = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.arrived = np.zeros(shape[1:], bool)
        for stream, baseline in baselines.items():
            self._add(minutes, stream, baseline, first_hour)

    def row(self, window: int, minute: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observed, expected and over-dispersion [clusters] of one row, given by its indices."""
        expected, means = self.expected[window, minute], self.means[window, minute]
        overdispersion = np.divide(expected, means, out=np.ones_like(expected), where=means > 0)
        return self.observed[window, minute], expected, overdispersion

    def most_raised(self, window: int, minute: int) -> int:
        """The cluster whose count lies furthest above its expectation, against its spread."""
        counts, means = self.counts[window, minute], self.means[window, minute]
        return int(((counts - means) / np.sqrt(means + 1)).argmax())

    def cut(self, begin: int, end: int, columns: int | slice) -> None:
        """Masks clusters from the row index `begin` to `end`, as if they hadn't been watching."""
        for rows in (self.observed, self.expected, self.counts, self.means):
            rows[:, begin:end, columns] = 0
        self.arrived[begin:end, columns] = False

    def _add(self, minutes: Minutes, stream: str, baseline: Baseline, first_hour: int) -> None:
        end = self.begin + self.arrived.shape[0]
        earliest = self.begin - WINDOWS_MIN[-1] + 1
        counts = minutes.counts(stream, earliest, end)
        watching = minutes.watching(stream, earliest, end)
        self.arrived |= counts[-1, WINDOWS_MIN[-1] - 1 :] > 0
        observed = np.stack([_window_sums(counts[i], window_min) for i, window_min in enumerate(WINDOWS_MIN)])
        exposure = np.stack([_window_sums(watching, window_min) for window_min in WINDOWS_MIN])
        hours = np.arange(self.begin, end) // HOUR_MIN - first_hour
        for hour in np.unique(hours):
            at = slice(*np.searchsorted(hours, [hour, hour + 1]))
            level = baseline.in_force(int(hour))
            expected = level.rate[:, None, :] * exposure[:, at]
            phi = level.overdispersion(expected)
            seen = np.where(expected > 0, observed[:, at], 0)
            self.observed[:, at] += seen
            self.expected[:, at] += expected
            self.counts[:, at] += seen / phi
            self.means[:, at] += expected / phi


def _window_sums(minutes: np.ndarray, window_min: int) -> np.ndarray:
    """Sums over the last `window_min` minutes, for each minute that has WINDOWS_MIN[-1] - 1 others before it."""
    longest = WINDOWS_MIN[-1]
    running = np.concatenate([np.zeros((1, minutes.shape[1])), minutes.cumsum(axis=0, dtype=np.float64)])
    ends = running[longest:]
    return ends - running[longest - window_min : len(running) - window_min]
