"""Peers: other people's ways to notice that something hit many clusters, judged beside ours.

Enters: observed and expected counts of windows [rows, clusters]. Leaves: each peer's statistic [rows]; what it takes
for an alarm comes from its own statistics of quiet times, at the false-alarm rate that is asked of everybody. Pure,
numpy only.

- sum: the novel faults of the whole fleet in ten minutes, whatever was expected.
- k-of-n: the coincidence of k clusters; the k-th largest log-likelihood ratio of a single cluster's rise.
- kulldorff: the scan of spherical caps, given the window's total (Kulldorff, "A spatial scan statistic", 1997).
"""

from collections.abc import Sequence

import numpy as np

from collectors.inventory import Cluster
from collectors.minutes import WINDOWS_MIN
from collectors.sky import zeniths

SUM_WINDOW_MIN = 10
COINCIDENT = (2, 3, 5)
CHUNK_ROWS = 2048


class Peers:
    """The peers of one set of clusters."""

    def __init__(self, clusters: Sequence[Cluster]) -> None:
        self._caps = caps(clusters)
        self.names = ("sum", *(f"{k}-of-n" for k in COINCIDENT), "kulldorff")

    def statistics(self, window_min: int, observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Each peer's statistic [peers, rows] of windows of one length; none is below 0."""
        total = observed.sum(axis=1) * (window_min == SUM_WINDOW_MIN)
        strongest = np.sort(rise_nats(observed, expected), axis=1)
        coincidences = [strongest[:, -k] if k <= strongest.shape[1] else np.zeros(len(total)) for k in COINCIDENT]
        return np.stack([total, *coincidences, kulldorff(self._caps, observed, expected)])


def caps(clusters: Sequence[Cluster]) -> np.ndarray:
    """Which clusters [caps, clusters] each cap holds: around every cluster, with every number of nearest neighbours."""
    up = zeniths(clusters)
    nearest = np.argsort(-(up @ up.T), axis=1, kind="stable")
    rank = np.argsort(nearest, axis=1)
    inside = np.concatenate([rank <= number for number in range(len(up) - 1)])
    return np.unique(inside, axis=0)


def rise_nats(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The log-likelihood ratio n ln(n / m) - n + m of a rise; 0 where there is none."""
    above = (observed > expected) & (expected > 0)
    ratio = np.divide(observed, expected, out=np.ones(observed.shape), where=above)
    return np.where(above, observed * np.log(ratio) - observed + expected, 0.0)


def kulldorff(inside: np.ndarray, observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The largest conditional log-likelihood ratio [rows] over caps that hold more than their share."""
    best = np.zeros(len(observed))
    for start in range(0, len(observed), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        best[rows] = _kulldorff(inside.T.astype(np.float32), observed[rows], expected[rows])
    return best


def _kulldorff(members: np.ndarray, observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    total = observed.sum(axis=1, keepdims=True)
    share = expected / np.maximum(expected.sum(axis=1, keepdims=True), 1e-30)
    n, m = observed.astype(np.float32) @ members, (share * total).astype(np.float32) @ members
    raised = (n > m) & (m > 0)
    n, m = np.where(raised, n, 1), np.where(raised, m, 1)
    rest = np.maximum(total - n, 0)
    outside = np.where(rest > 0, rest * np.log(np.maximum(rest, 1) / np.maximum(total - m, 1e-6)), 0)
    best: np.ndarray = np.where(raised, n * np.log(n / m) + outside, 0).max(axis=1)
    return best


def window_sums(minutes: np.ndarray, window_min: int) -> np.ndarray:
    """Sums [minutes - longest + 1, clusters] over windows that end with each minute that has a longest one behind."""
    running = np.concatenate([np.zeros((1, minutes.shape[1])), minutes.cumsum(axis=0)])
    longest = WINDOWS_MIN[-1]
    return running[longest:] - running[longest - window_min : len(running) - window_min]
