"""The world: how a fleet's ordinary faults come and how many of its hosts watch, though nothing happens.

Enters: clusters, a rate, how unsteady life is, a seed. Leaves: one block of minutes after the other, each with the
watching hosts and the expected novel faults of every cluster. Pure, numpy only; counts are the caller's to draw.

A cluster's rate is the product of a level (constant but for upgrades), the local time of the day, the weekend, the last
two days of a month, a slow drift (an AR(1) process of the logarithm), an unrest drawn anew every ten minutes (gamma
with mean 1, so a count's variance is m + m^2 / shape) and, while hosts come back from a reboot, what the fresh tests of
their memory bring to light.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collectors.inventory import Cluster
from collectors.minutes import DAY_MIN

SLICE_MIN = 10
YEAR_MIN = 525_960.0
WARMEST_LOCAL_H = 15.0
DOWN_SHARE = 0.002
REBOOT_WAVE_MIN = 480  # a wave of reboots walks through all hosts of a cluster in this time
REBOOT_RISE = 10.0  # the rate of a host in the ten minutes after its reboot
UPGRADE_MIN = 240
UPGRADE_SPREAD_MIN = 5 * DAY_MIN  # a roll-out reaches the last cluster after five days
LEVEL_MEMORY = 0.7  # what is left of a level's logarithm after the next upgrade, so that it doesn't run away
COMMON_LEVEL_SD, OWN_LEVEL_SD = 0.2, 0.1
MONTH_END_DAYS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrest:
    """How much ordinary life varies; the defaults leave out all that is rare."""

    gamma_shape: float = 20.0
    diurnal_share: float = 0.1  # the amplitude of the day's course
    weekend_share: float = 0.0  # by how much the rate falls on Saturday and Sunday
    drift_sd: float = 0.0  # of the logarithm of the rate
    drift_h: float = 12.0  # in which the drift forgets
    month_end_share: float = 0.0  # by how much the rate rises then, everywhere
    reboot_waves_per_year: float = 0.0  # of each cluster
    upgrades_per_year: float = 0.0  # of the fleet, cluster by cluster, with a new level afterwards


CALM = Unrest()
RESTLESS = Unrest(
    weekend_share=0.1, drift_sd=0.2, month_end_share=0.3, reboot_waves_per_year=12.0, upgrades_per_year=6.0
)


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive minutes; both arrays are [minutes, clusters]."""

    first_minute: int
    watching: np.ndarray
    expected: np.ndarray  # novel faults


class World:
    """A fleet that lives on from `first_minute`, which counts slices of ten minutes."""

    def __init__(
        self, clusters: Sequence[Cluster], novel_per_host_hour: float, unrest: Unrest, first_minute: int, seed: int
    ) -> None:
        self.clusters = tuple(clusters)
        self.minute = first_minute
        self.random = np.random.default_rng(seed)
        self._unrest = unrest
        self._hosts = np.array([cluster.hosts for cluster in clusters])
        self._longitude_deg = np.array([cluster.longitude_deg for cluster in clusters])
        self._rate = novel_per_host_hour / 60
        number = len(self.clusters)
        self._drift = unrest.drift_sd * self.random.standard_normal(number)
        self._reboots_until = np.zeros(number, np.int64)
        self._level, self._next_level = np.zeros(number), np.zeros(number)  # logarithms
        self._upgrade_from = np.full(number, -UPGRADE_MIN, np.int64)

    def advance(self, minutes: int) -> Block:
        """The next block; only the last may end within a slice of ten minutes."""
        slices = -(-minutes // SLICE_MIN)
        number = len(self.clusters)
        factor, away = np.empty((slices, number)), np.empty((slices, number))
        for index in range(slices):
            factor[index], away[index] = self._slice(self.minute + index * SLICE_MIN)
        watching = self._hosts - np.rint(self._hosts * np.minimum(away + DOWN_SHARE, 1)).astype(np.int64)
        watching = np.repeat(watching, SLICE_MIN, axis=0)[:minutes]
        course = self._course(np.arange(self.minute, self.minute + minutes))
        expected = watching * self._rate * course * np.repeat(factor, SLICE_MIN, axis=0)[:minutes]
        block = Block(self.minute, watching, expected)
        self.minute += minutes
        return block

    def _slice(self, minute: int) -> tuple[np.ndarray, np.ndarray]:
        """Factor of the rate and share of the hosts that are away, in one slice."""
        unrest, number = self._unrest, len(self.clusters)
        gamma = self.random.gamma(unrest.gamma_shape, 1 / unrest.gamma_shape, number)
        kept = math.exp(-SLICE_MIN / 60 / unrest.drift_h)
        fresh = unrest.drift_sd * math.sqrt(1 - kept * kept)
        self._drift = kept * self._drift + fresh * self.random.standard_normal(number)
        self._begin_upgrade(minute)
        self._begin_reboots(minute)
        upgrading = np.clip((minute - self._upgrade_from) / UPGRADE_MIN, 0, 1)
        level = self._level + (self._next_level - self._level) * upgrading
        away = SLICE_MIN / REBOOT_WAVE_MIN * (minute < self._reboots_until)
        away = away + SLICE_MIN / UPGRADE_MIN * ((upgrading > 0) & (upgrading < 1))
        drift = np.exp(self._drift - unrest.drift_sd**2 / 2)
        return gamma * drift * np.exp(level) * (1 + (REBOOT_RISE - 1) * away), away

    def _begin_upgrade(self, minute: int) -> None:
        finished = minute >= self._upgrade_from + UPGRADE_MIN
        if not finished.all() or self.random.random() >= self._unrest.upgrades_per_year * SLICE_MIN / YEAR_MIN:
            return
        number = len(self.clusters)
        self._level = self._next_level
        step = COMMON_LEVEL_SD * self.random.standard_normal() + OWN_LEVEL_SD * self.random.standard_normal(number)
        self._next_level = LEVEL_MEMORY * self._level + step
        self._upgrade_from = minute + self.random.integers(0, UPGRADE_SPREAD_MIN, number)

    def _begin_reboots(self, minute: int) -> None:
        begins = self.random.random(len(self.clusters)) < self._unrest.reboot_waves_per_year * SLICE_MIN / YEAR_MIN
        self._reboots_until[begins] = minute + REBOOT_WAVE_MIN

    def _course(self, minutes: np.ndarray) -> np.ndarray:
        """The factor [minutes, clusters] of the local time of the day, the weekend and the end of the month."""
        local_h = minutes[:, None] / 60 + self._longitude_deg / 15
        day = 1 + self._unrest.diurnal_share * np.cos(2 * np.pi * (local_h - WARMEST_LOCAL_H) / 24)
        weekday = np.floor(local_h / 24).astype(np.int64) % 7  # 0 is a Thursday, as 1970-01-01 was
        weekend = 1 - self._unrest.weekend_share * ((weekday == 2) | (weekday == 3))
        month_end = 1 + self._unrest.month_end_share * _is_month_end(minutes)
        return day * weekend * month_end[:, None]


def _is_month_end(minutes: np.ndarray) -> np.ndarray:
    ahead = minutes // DAY_MIN + MONTH_END_DAYS
    month = ahead.astype("datetime64[D]").astype("datetime64[M]")
    return month != (minutes // DAY_MIN).astype("datetime64[D]").astype("datetime64[M]")
