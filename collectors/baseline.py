"""The baseline: how many novel faults each cluster should have had, learnt hour by hour.

Enters: complete hours of counts and watching hosts of one stream. Leaves: for every hour the Level in force in it. A
level knows only hours that are older than GUARD_H, so that data which arrive up to six hours late, in any order, find
it unchanged. Pure, numpy only.

Model: a cluster's rate per host is a mean over the past that fades with TAU_H, weighted by exposure and drawn towards
the fleet's rate by PRIOR_FAULTS. An hour far above its expectation counts only up to a limit, so that an incident
doesn't become the new normal at once. Counts vary more than a Poisson process: the variance of a window's count is
`mu * phi`, with phi = 1 + mu * excess_variance + mu / (PRIOR_FAULTS + evidence); the second part is measured per window
length, the third is the level's own uncertainty.
"""

from dataclasses import dataclass

import numpy as np

from collectors.minutes import WINDOWS_MIN

HOUR_MIN = 60
GUARD_H = 6
TAU_H = 72.0
EXCESS_VARIANCE_TAU_H = 14 * 24.0
WARM_UP_H = 24  # before that nothing is expected, so nothing is scored
PRIOR_FAULTS = 5.0
PRIOR_EXCESS_VARIANCE = 0.05
PRIOR_EXPECTED_SQUARES = 1.0  # how much the prior of the excess variance weighs


@dataclass(frozen=True, slots=True)
class Level:
    """What is expected, per window length and cluster."""

    rate: np.ndarray  # [windows, clusters] novel faults per host and minute that this window may use
    evidence: np.ndarray  # [windows, clusters] faults the rate rests on
    excess_variance: np.ndarray  # [windows]

    def overdispersion(self, expected: np.ndarray) -> np.ndarray:
        """phi for expected counts [windows, minutes, clusters]."""
        return 1 + expected * (self.excess_variance[:, None] + 1 / (PRIOR_FAULTS + self.evidence))[:, None]


class Baseline:
    """One stream's levels. `folded_h` hours have gone in; `in_force(hour)` answers up to hour folded_h + GUARD_H."""

    def __init__(self, clusters: int) -> None:
        shape = (len(WINDOWS_MIN), clusters)
        self._faults = np.zeros(shape)
        self._exposure = np.zeros(clusters)
        self._surplus_squares = np.zeros(len(WINDOWS_MIN))
        self._expected_squares = np.zeros(len(WINDOWS_MIN))
        self._watched_h = 0
        self._nothing = Level(np.zeros(shape), np.zeros(shape), np.zeros(len(WINDOWS_MIN)))
        self._levels = [self._nothing]

    @property
    def folded_h(self) -> int:
        return len(self._levels) - 1

    def in_force(self, hour: int) -> Level:
        """The level for an hour, counted from the first that was folded; while warming up nothing is expected."""
        return self._levels[max(hour - GUARD_H, 0)]

    def fold(self, counts: np.ndarray, watching: np.ndarray) -> None:
        """One more hour: counts[windows, 60, clusters] and watching[60, clusters]."""
        level = self.in_force(self.folded_h)
        exposure = watching.sum(axis=0)
        faults = counts.sum(axis=1)
        if level is not self._nothing:
            faults = np.minimum(faults, _limit(level.rate * exposure))
            self._measure_variance(counts, watching, level)
        fade = np.exp(-1 / TAU_H)
        self._faults = self._faults * fade + faults
        self._exposure = self._exposure * fade + exposure
        self._watched_h += bool(exposure.any())
        self._levels.append(self._level() if self._watched_h >= WARM_UP_H else self._nothing)

    def _level(self) -> Level:
        # half a fault, so that a stream without any isn't expected to stay so for ever
        fleet_rate = (self._faults.sum(axis=1, keepdims=True) + 0.5) / self._exposure.sum()
        rate = (self._faults + PRIOR_FAULTS) / (self._exposure + PRIOR_FAULTS / fleet_rate)
        surplus = self._surplus_squares + PRIOR_EXCESS_VARIANCE * PRIOR_EXPECTED_SQUARES
        excess_variance = np.maximum(surplus / (self._expected_squares + PRIOR_EXPECTED_SQUARES), 0.0)
        return Level(rate, self._faults, excess_variance)

    def _measure_variance(self, counts: np.ndarray, watching: np.ndarray, level: Level) -> None:
        fade = np.exp(-1 / EXCESS_VARIANCE_TAU_H)
        self._surplus_squares *= fade
        self._expected_squares *= fade
        for index, window_min in enumerate(WINDOWS_MIN):
            expected = level.rate[index] * _tiles(watching, window_min)
            observed = np.minimum(_tiles(counts[index], window_min), _limit(expected))
            self._surplus_squares[index] += ((observed - expected) ** 2 - expected).sum()
            self._expected_squares[index] += (expected**2).sum()


def _tiles(minutes: np.ndarray, window_min: int) -> np.ndarray:
    """Sums [60 / window_min, clusters] over the windows that tile an hour."""
    return minutes.reshape(HOUR_MIN // window_min, window_min, -1).sum(axis=1)


def _limit(expected: np.ndarray) -> np.ndarray:
    """The most that counts as ordinary: five standard deviations of an over-dispersed count, and three more."""
    return expected + 5 * np.sqrt(expected * (1 + expected / 10)) + 3
