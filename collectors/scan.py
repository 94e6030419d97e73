"""The scan: how much better does a rise in one direction explain these counts than the baseline does?

Enters: counts and expectations of rows (a row is one window ending at one minute), each divided by the cluster's
over-dispersion, stream by stream. Leaves: the statistic of each row in nats, the largest log-likelihood ratio over all
templates. Pure, numpy only.

A template is a direction in the frame that turns with the Earth and a response: the expectation of a cluster grows by
the factor 1 + A f, with f = max(0, cos(angle between direction and boards)) ** n. Where the source is below the horizon
f is 0, whatever the boards face. A stream's log-likelihood ratio is
sum over clusters of count * ln(1 + A f) - A f * expected (Poisson, scaled by the over-dispersion). Streams are
independent, so theirs add up. Each stream has an amplitude A of its own, the best one or 0: what lifts caches tenfold
may leave memory as it is, and a common amplitude would drown the few faults of one in the many of the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from collectors.inventory import Cluster
from collectors.sky import directions, facings, zeniths

DIRECTIONS = 192
EXPONENTS = (0, 1, 3)
# the last two are for small fleets, where a handful of faults is already hundreds of times the expectation
AMPLITUDES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 128.0, 512.0)
CHUNK_FLOATS = 100_000  # so that a chunk and what is made of it stay in a core's second-level cache
TABLE_FLOATS_MAX = 40_000_000  # a larger table of logarithms isn't kept but computed where it is needed


def responses(clusters: Sequence[Cluster], sources: np.ndarray, exponent: int) -> np.ndarray:
    """f [sources, clusters] for source directions [sources, 3]."""
    above = sources @ zeniths(clusters).T > 0
    facing = sources @ facings(clusters).T
    return np.where(above & (facing > 0), np.maximum(facing, 0.0) ** exponent, 0.0)


@dataclass(frozen=True, slots=True)
class StreamRows:
    """Rows of one stream, scaled. Counts are told for some of the clusters only: elsewhere there are none."""

    counts: np.ndarray  # [rows, columns]
    columns: np.ndarray  # [columns] of which clusters
    means: np.ndarray  # [rows, clusters]

    def take(self, rows: slice | np.ndarray) -> "StreamRows":
        return StreamRows(self.counts[rows], self.columns, self.means[rows])

    def bounds(self) -> np.ndarray:
        """What no template scores above [rows]: the ratio if every cluster had risen by just what suits it best."""
        counts, means = self.counts, np.maximum(self.means[:, self.columns], np.float32(1e-30))
        above = counts > means
        logs = np.log(counts / means, out=np.zeros(counts.shape), where=above)
        bounds: np.ndarray = np.where(above, counts * logs - counts + means, 0).sum(axis=1)
        return bounds

    def where_counted(self) -> "StreamRows":
        """The same, told for no more clusters than there are counts of."""
        some = self.counts.any(axis=0)
        return StreamRows(self.counts[:, some], self.columns[some], self.means)


class Templates:
    """Shapes f [templates, clusters] and amplitudes, ready to be held against many rows."""

    def __init__(self, shapes: np.ndarray, amplitudes: Iterable[float]) -> None:
        self.shapes = np.asarray(shapes, np.float32)
        self.amplitudes = tuple(amplitudes)
        self._by_cluster = np.ascontiguousarray(self.shapes.T)
        fits = self.shapes.size * len(self.amplitudes) <= TABLE_FLOATS_MAX
        self._logs = [np.log1p(np.float32(a) * self._by_cluster) for a in self.amplitudes] if fits else None

    def __deepcopy__(self, memo: object) -> "Templates":
        """Nothing in it ever changes, so copies share it."""
        return self

    def ratios(self, rows: StreamRows) -> Iterator[np.ndarray]:
        """For each amplitude the log-likelihood ratios [rows, templates]."""
        losses = self.losses(rows)
        for index in range(len(self.amplitudes)):
            yield self.ratio(index, rows, losses)

    def losses(self, rows: StreamRows) -> np.ndarray:
        """What every template loses at amplitude 1 [rows, templates]."""
        losses: np.ndarray = rows.means.astype(np.float32, copy=False) @ self._by_cluster
        return losses

    def ratio(self, index: int, rows: StreamRows, losses: np.ndarray) -> np.ndarray:
        """The log-likelihood ratios [rows, templates] at one of the amplitudes, given the rows' `losses`."""
        amplitude = np.float32(self.amplitudes[index])
        some = slice(None) if len(rows.columns) == len(self._by_cluster) else rows.columns
        logs = np.log1p(amplitude * self._by_cluster[some]) if self._logs is None else self._logs[index][some]
        ratio: np.ndarray = rows.counts.astype(np.float32, copy=False) @ logs
        ratio -= amplitude * losses
        return ratio


class Scan:
    """The templates of one set of clusters, ready to be applied to many rows at once."""

    def __init__(
        self,
        clusters: Sequence[Cluster],
        *,
        number: int = DIRECTIONS,
        exponents: Sequence[int] = EXPONENTS,
        amplitudes: Sequence[float] = AMPLITUDES,
    ) -> None:
        sources = directions(number)
        every = np.concatenate([responses(clusters, sources, exponent) for exponent in exponents])
        # few clusters see many directions alike: one template is enough for them
        distinct = np.unique(every.round(6), axis=0)
        self._templates = Templates(distinct[distinct.any(axis=1)], amplitudes)

    def statistics(self, streams: Sequence[StreamRows]) -> np.ndarray:
        """Nats [rows], never below 0; all streams tell of the same rows."""
        number = len(streams[0].counts)
        best = np.zeros(number, np.float32)
        chunk = max(1, CHUNK_FLOATS // len(self._templates.shapes))
        for start in range(0, number, chunk):
            part = slice(start, start + chunk)
            best[part] = np.sum([self._best(rows.take(part)) for rows in streams], axis=0).max(axis=1)
        return best

    def _best(self, rows: StreamRows) -> np.ndarray:
        """The log-likelihood ratio [rows, templates] at each template's own best amplitude.

        It is concave in the amplitude. So what doesn't rise from one amplitude to the next won't rise again, and a row
        of which no template rises is done: in a large fleet the long windows are at once, and with them most clusters.
        """
        best = np.zeros((len(rows.counts), len(self._templates.shapes)), np.float32)
        left, losses = np.arange(len(best)), self._templates.losses(rows)
        prunes = len(rows.columns) > 10 * len(best)  # else to look who rises would take longer than it spares
        for index in range(len(self._templates.amplitudes)):
            ratios = self._templates.ratio(index, rows, losses)
            if not prunes:
                np.maximum(best, ratios, out=best)
                continue
            rising = np.flatnonzero((ratios > best[left]).any(axis=1))
            best[left] = np.maximum(best[left], ratios)
            if not len(rising):
                break
            if 2 * len(rising) <= len(left):
                left, losses, rows = left[rising], losses[rising], rows.take(rising).where_counted()
        return best
