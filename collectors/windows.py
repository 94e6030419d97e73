"""Windows: what was counted and what was expected in windows of every length, for each minute in which one ends.

Enters: minutes and baselines. Leaves: rows for the scan (scaled by the over-dispersion, many at once, sparse in the
clusters) or one row in full for a verdict. Pure, numpy only.

The expectation of the newest minute is that of the whole minute while its counts are still coming in, so that a
statistic taken early never exceeds the final one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from collectors.baseline import Baseline
from collectors.minutes import HOUR_MIN, WINDOWS_MIN, Minutes
from collectors.scan import StreamRows

LONGEST_MIN = WINDOWS_MIN[-1]


@dataclass(frozen=True, slots=True)
class Row:
    """One window of all streams, arrays [streams, clusters]. Where nothing is expected nobody watched, or not yet."""

    observed: np.ndarray
    expected: np.ndarray
    overdispersion: np.ndarray

    def scaled(self) -> list[StreamRows]:
        """The row for the scan, with the clusters that have counts: the same however it came about."""
        rows = []
        for observed, expected, overdispersion in zip(self.observed, self.expected, self.overdispersion, strict=True):
            columns = np.flatnonzero(observed)
            counts, means = observed[columns] / overdispersion[columns], expected / overdispersion
            rows.append(StreamRows(counts[None], columns, means[None]))
        return rows


def row(minutes: Minutes, baselines: Mapping[str, Baseline], minute: int, window_min: int) -> Row:
    """The window of this length that ends with this minute."""
    window, end = WINDOWS_MIN.index(window_min), minute + 1
    clusters = len(minutes.cluster_names)
    rows = []
    for stream, baseline in baselines.items():
        events = minutes.events(stream, end - window_min, end)
        observed = np.bincount(events.columns[events.windows <= window], minlength=clusters)
        level = baseline.in_force(minute // HOUR_MIN)
        exposure = np.zeros((len(WINDOWS_MIN), clusters), np.float32)
        exposure[window] = minutes.watching(stream, end - window_min, end).sum(axis=0)
        expected = level.rate * exposure
        rows.append((observed * (expected[window] > 0), expected[window], level.overdispersion(expected)[window]))
    observed, expected, overdispersion = (np.array(values) for values in zip(*rows, strict=True))
    return Row(observed, expected, overdispersion)


@dataclass(frozen=True, slots=True)
class BlockStream:
    """One stream's block of days, cut into pieces of one cluster's hour each. Scaled by the over-dispersion.

    Where a cluster had no fault in an hour nor in the 59 minutes before there is no piece.
    """

    counts: np.ndarray  # [pieces, windows, 60]
    columns: np.ndarray  # [pieces] the cluster
    hours: np.ndarray  # [pieces] the hour in the block
    means: np.ndarray  # [hours, windows, clusters] of a window that lies wholly in the hour

    def without(self, cut: np.ndarray) -> "BlockStream":
        """Masks cut[hours, clusters], as if they hadn't been watching."""
        keep = ~cut[self.hours, self.columns]
        means = np.where(cut[:, None, :], 0, self.means)
        return BlockStream(self.counts[keep], self.columns[keep], self.hours[keep], means)


def block_stream(minutes: Minutes, stream: str, baseline: Baseline, first_hour: int, hours: int) -> BlockStream:
    """The hours [first_hour, first_hour + hours) of one stream."""
    counts, columns, at, means = [], [], [], []
    for index, hour in enumerate(range(first_hour, first_hour + hours)):
        begin, end = hour * HOUR_MIN, (hour + 1) * HOUR_MIN
        watching = minutes.watching(stream, begin, end)
        watched = np.maximum((watching > 0).sum(axis=0), 1)
        level = baseline.in_force(hour)
        expected = level.rate * (watching.sum(axis=0) / watched * np.array(WINDOWS_MIN)[:, None])
        phi = level.overdispersion(expected)
        means.append((expected / phi).astype(np.float32))
        struck, observed = _observed(minutes, stream, begin, end)
        scaled = np.where(expected[-1, struck] > 0, observed / phi[:, None, struck], 0).transpose(2, 0, 1)
        counts.append(scaled.astype(np.float32))
        columns.append(struck)
        at.append(np.full(len(struck), index))
    return BlockStream(np.concatenate(counts), np.concatenate(columns), np.concatenate(at), np.stack(means))


class Windows:
    """All windows that end in the minutes [begin, end), [windows, minutes, ...]."""

    def __init__(self, minutes: Minutes, baselines: Mapping[str, Baseline], begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.arrived = np.zeros(end - begin, bool)  # a fault came in that minute, so a window may hold more than before
        self.totals = np.zeros((len(WINDOWS_MIN), end - begin), np.int64)  # faults
        self._streams = [self._stream(minutes, stream, baseline) for stream, baseline in baselines.items()]

    def rows(self, at: np.ndarray) -> list[StreamRows]:
        """Of each stream the rows [windows * chosen minutes] of the minutes chosen by the mask `at`."""
        number = len(WINDOWS_MIN) * int(np.count_nonzero(at))
        return [
            StreamRows(
                rows.counts[:, at].reshape(number, rows.counts.shape[-1]),
                rows.columns,
                rows.means[:, at].reshape(number, rows.means.shape[-1]),
            )
            for rows in self._streams
        ]

    def _stream(self, minutes: Minutes, stream: str, baseline: Baseline) -> StreamRows:
        columns, observed = _observed(minutes, stream, self.begin, self.end)
        watching = minutes.watching(stream, self.begin - LONGEST_MIN + 1, self.end)
        exposure = _window_sums(watching[None])
        scaled, means = np.zeros_like(observed), np.zeros_like(exposure)
        hours = np.arange(self.begin, self.end) // HOUR_MIN
        for hour in range(hours[0], hours[-1] + 1):
            at = slice(*np.searchsorted(hours, [hour, hour + 1]))
            level = baseline.in_force(hour)
            expected = level.rate[:, None, :] * exposure[:, at]
            phi = level.overdispersion(expected)
            seen = np.where(expected[..., columns] > 0, observed[:, at], 0)
            self.totals[:, at] += seen.sum(axis=2).astype(np.int64)
            scaled[:, at] = seen / phi[..., columns]
            means[:, at] = expected / phi
        self.arrived[minutes.events(stream, self.begin, self.end).minutes - self.begin] = True
        return StreamRows(scaled, columns, means)


def _observed(minutes: Minutes, stream: str, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """The clusters with any fault, and their counts [windows, minutes, these] in the windows that end in [begin, end).

    Most clusters have no fault in most hours, and need no column.
    """
    earliest = begin - LONGEST_MIN + 1
    events = minutes.events(stream, earliest, end)
    columns, place = np.unique(events.columns, return_inverse=True)
    if end - begin == 1:  # a live step's single minute: ten times as fast
        age_min = end - events.minutes
        usable = [(events.windows <= i) & (age_min <= window_min) for i, window_min in enumerate(WINDOWS_MIN)]
        sums = [np.bincount(place[some], minlength=len(columns)) for some in usable]
        return columns, np.stack(sums)[:, None].astype(np.float32)
    counts = np.zeros((len(WINDOWS_MIN), end - earliest, len(columns)), np.int32)
    np.add.at(counts, (events.windows, events.minutes - earliest, place), 1)
    return columns, _window_sums(counts.cumsum(axis=0))


def _window_sums(minutes: np.ndarray) -> np.ndarray:
    """Sums [windows, ...] of minutes[windows or 1, minutes, clusters] over the windows that end in each minute.

    LONGEST_MIN - 1 minutes come before the first that is told.
    """
    each = range(len(WINDOWS_MIN)) if len(minutes) > 1 else [0] * len(WINDOWS_MIN)
    if minutes.shape[1] == LONGEST_MIN:  # a live step's single minute: five times as fast
        sums = [minutes[i, -window_min:].sum(axis=0) for i, window_min in zip(each, WINDOWS_MIN, strict=True)]
        return np.stack(sums)[:, None].astype(np.float32)
    running = np.zeros((len(minutes), minutes.shape[1] + 1, minutes.shape[2]), np.int64)
    minutes.cumsum(axis=1, out=running[:, 1:], dtype=np.int64)
    ends = running[:, LONGEST_MIN:]
    begins = [slice(LONGEST_MIN - window_min, running.shape[1] - window_min) for window_min in WINDOWS_MIN]
    return np.stack([ends[i] - running[i, begin] for i, begin in zip(each, begins, strict=True)]).astype(np.float32)
