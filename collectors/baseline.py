"""The baseline: how many novel faults each cluster should have had, learnt hour by hour.

Enters: complete hours of faults and watching hosts of one stream. Leaves: for every hour the Level in force in it. A
level knows only hours that are older than GUARD_H, so that data which arrive up to six hours late, in any order, find
it unchanged. Pure, numpy only. An hour is `minute // 60`.

Model: a cluster's rate per host is a mean over the past that fades with TAU_H, weighted by exposure and drawn towards
the fleet's rate by PRIOR_FAULTS, times a factor for the hour of the day that is drawn towards 1 by PROFILE_FAULTS, and
times the fleet's tide: what all clusters together had in the last TIDE_TAU_H against what the other two expected, drawn
towards 1 by TIDE_FAULTS. A fleet knows within hours that the month's end has come, where a cluster needs days. An hour
far above its expectation counts only up to a limit, so that an incident doesn't become the new normal at once.
Counts vary more than a Poisson process: the variance of a window's count is `mu * phi`, with
phi = 1 + mu * excess_variance + mu / (PRIOR_FAULTS + evidence); the second part is measured per window length, the
third is the level's own uncertainty.
"""

from dataclasses import dataclass

import numpy as np

from collectors.minutes import HOUR_MIN, WINDOWS_MIN, Events

DAY_H = 24
GUARD_H = 6
TAU_H = 72.0
EXCESS_VARIANCE_TAU_H = 14 * 24.0
PROFILE_TAU_DAYS = 14.0
WARM_UP_H = 24  # a cluster that has been watched for less expects nothing, so nothing is scored there
TIDE_TAU_H = 12.0
PRIOR_FAULTS = 5.0
PROFILE_FAULTS = 100.0  # what a factor's spread is worth: between clusters' hours it is about a tenth
TIDE_FAULTS = 50.0
PRIOR_EXCESS_VARIANCE = 0.05
PRIOR_EXPECTED_SQUARES = 1.0  # how much the prior of the excess variance weighs


@dataclass(frozen=True, slots=True)
class Level:
    """What is expected, per window length and cluster."""

    rate: np.ndarray  # [windows, clusters] novel faults per host and minute that this window may use; 0: not yet warm
    evidence: np.ndarray  # [windows, clusters] faults the rate rests on
    excess_variance: np.ndarray  # [windows]
    tide: float = 1.0  # the factor of the whole fleet, which is in every rate

    def overdispersion(self, expected: np.ndarray) -> np.ndarray:
        """phi for expected counts [windows, ..., clusters]."""
        middle = (1,) * (expected.ndim - 2)
        excess = self.excess_variance.reshape(-1, *middle, 1)
        own = (1 / (PRIOR_FAULTS + self.evidence)).reshape(len(excess), *middle, -1)
        phi: np.ndarray = 1 + expected * (excess + own).astype(np.float32)
        return phi


class Baseline:
    """One stream's levels. The hours before `folded_until` have gone in; levels reach GUARD_H hours further."""

    def __init__(self, clusters: int, first_hour: int) -> None:
        shape = (len(WINDOWS_MIN), clusters)
        self.folded_until = first_hour
        self._faults = np.zeros(shape)
        self._exposure = np.zeros(clusters)
        self._seen = np.zeros((DAY_H, clusters))  # per hour of the day, and what the level without its factor expected
        self._due = np.zeros((DAY_H, clusters))
        self._surplus_squares = np.zeros(len(WINDOWS_MIN))
        self._expected_squares = np.zeros(len(WINDOWS_MIN))
        self._tide_surplus = np.zeros(clusters)  # faults above what the levels without tide expected, and these
        self._tide_due = np.zeros(clusters)
        self._watched_h = np.zeros(clusters)
        nothing = np.zeros(shape, np.float32)
        self._nothing = Level(nothing, nothing, np.zeros(len(WINDOWS_MIN)))
        self._levels: dict[int, Level] = {}

    def in_force(self, hour: int) -> Level:
        """The level for an hour before folded_until + GUARD_H + 1; before anything was warm it expects nothing."""
        return self._levels.get(hour, self._nothing)

    def forget_before(self, hour: int) -> None:
        """Drops the levels of earlier hours: they take much memory, and are soon needed no more."""
        for old in [other for other in self._levels if other < hour]:
            del self._levels[old]

    def fold(self, events: Events, watching: np.ndarray) -> None:
        """The hour `folded_until`: its faults and watching[60, clusters]."""
        hour = self.folded_until
        level = self.in_force(hour)
        profile = self._profile(hour)
        exposure = watching.sum(axis=0)
        whole = np.zeros(len(events.minutes), np.int64)
        faults = np.stack([_counts(events, w, whole, 1, len(exposure))[0] for w in range(len(WINDOWS_MIN))])
        if level is not self._nothing:
            faults = np.where(level.rate > 0, np.minimum(faults, _limit(level.rate * exposure)), faults)
            self._measure_variance(events, watching, level)
            self._measure_profile(hour, faults[-1], level.rate[-1] / profile * exposure)
            self._measure_tide(faults[-1], level.rate[-1] / level.tide * exposure)
        fade = np.exp(-1 / TAU_H)
        self._faults = self._faults * fade + faults / profile
        self._exposure = self._exposure * fade + exposure
        self._watched_h += exposure > 0
        self.folded_until += 1
        self._levels[hour + 1 + GUARD_H] = self._level(hour + 1 + GUARD_H)

    def _level(self, hour: int) -> Level:
        warm = self._watched_h >= WARM_UP_H
        if not warm.any():
            return self._nothing
        # half a fault, so that a stream without any isn't expected to stay so for ever
        fleet_rate = (self._faults.sum(axis=1, keepdims=True) + 0.5) / max(self._exposure.sum(), 1.0)
        own_rate = (self._faults + PRIOR_FAULTS) / (self._exposure + PRIOR_FAULTS / fleet_rate)
        tide = self._tide()
        rate = np.where(warm, own_rate * self._profile(hour) * tide, 0).astype(np.float32)
        surplus = self._surplus_squares + PRIOR_EXCESS_VARIANCE * PRIOR_EXPECTED_SQUARES
        excess_variance = np.maximum(surplus / (self._expected_squares + PRIOR_EXPECTED_SQUARES), 0.0)
        return Level(rate, self._faults.astype(np.float32), excess_variance, tide)

    def _profile(self, hour: int) -> np.ndarray:
        """The factor [clusters] of this hour of the day; its mean over a day is 1."""
        factors = (self._seen + PROFILE_FAULTS) / (self._due + PROFILE_FAULTS)
        profile: np.ndarray = factors[hour % DAY_H] / factors.mean(axis=0)
        return profile

    def _measure_profile(self, hour: int, faults: np.ndarray, due: np.ndarray) -> None:
        fade = np.exp(-1 / PROFILE_TAU_DAYS)
        for kept, new in ((self._seen, np.where(due > 0, faults, 0)), (self._due, due)):
            kept[hour % DAY_H] = kept[hour % DAY_H] * fade + new

    def _tide(self) -> float:
        """The largest surplus counts no more than the second: what one cluster has alone is no tide."""
        second = np.sort(np.append(self._tide_surplus, 0.0))[-2]
        return float(1 + np.minimum(self._tide_surplus, second).sum() / (self._tide_due.sum() + TIDE_FAULTS))

    def _measure_tide(self, faults: np.ndarray, due: np.ndarray) -> None:
        fade = np.exp(-1 / TIDE_TAU_H)
        self._tide_surplus = self._tide_surplus * fade + np.where(due > 0, faults - due, 0)
        self._tide_due = self._tide_due * fade + due

    def _measure_variance(self, events: Events, watching: np.ndarray, level: Level) -> None:
        fade = np.exp(-1 / EXCESS_VARIANCE_TAU_H)
        self._surplus_squares *= fade
        self._expected_squares *= fade
        for index, window_min in enumerate(WINDOWS_MIN):
            tiles = HOUR_MIN // window_min
            expected = level.rate[index] * watching.reshape(tiles, window_min, -1).sum(axis=1)
            tile = events.minutes % HOUR_MIN // window_min
            counts = _counts(events, index, tile, tiles, watching.shape[1])
            observed = np.minimum(counts, _limit(expected))
            self._surplus_squares[index] += np.where(expected > 0, (observed - expected) ** 2 - expected, 0).sum()
            self._expected_squares[index] += (expected**2).sum()


def _counts(events: Events, window: int, tiles: np.ndarray, number: int, clusters: int) -> np.ndarray:
    """Counts [tiles, clusters] of what this window may use; tiles[faults] says where each fault belongs."""
    usable = events.windows <= window
    at = tiles[usable] * clusters + events.columns[usable]
    return np.bincount(at, minlength=number * clusters).reshape(number, clusters)


def _limit(expected: np.ndarray) -> np.ndarray:
    """The most that counts as ordinary: five standard deviations of an over-dispersed count, and three more."""
    return expected + 5 * np.sqrt(expected * (1 + expected / 10)) + 3
