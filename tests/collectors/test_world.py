"""The world against closed forms: means, over-dispersion, the calendar, reboots and upgrades."""

from dataclasses import replace

import numpy as np
import pytest

from collectors.inventory import Cluster
from collectors.minutes import DAY_MIN
from collectors.world import CALM, DOWN_SHARE, REBOOT_RISE, REBOOT_WAVE_MIN, RESTLESS, SLICE_MIN, Unrest, World

FIRST = 20_089 * DAY_MIN  # 2025-01-01, a Wednesday
FLAT = Unrest(gamma_shape=1e6, diurnal_share=0.0)


def clusters(number=1, hosts=10_000):
    return [Cluster(f"c{index}", 0.0, 0.0, hosts=hosts) for index in range(number)]


def rates(unrest, days, number=1, seed=0):
    """Expected faults per watching host and hour, [minutes, clusters]."""
    block = World(clusters(number), 0.01, unrest, FIRST, seed).advance(days * DAY_MIN)
    return block.expected / block.watching * 60


def test_a_flat_world_has_the_rate_that_was_asked_for():
    block = World(clusters(), 0.01, FLAT, FIRST, 0).advance(DAY_MIN)
    assert (block.watching == 10_000 - round(10_000 * DOWN_SHARE)).all()
    np.testing.assert_allclose(block.expected, block.watching * 0.01 / 60, rtol=0.01)


@pytest.mark.parametrize("shape", [5.0, 20.0])
def test_unrest_is_gamma_drawn_anew_every_ten_minutes(shape):
    factor = rates(replace(FLAT, gamma_shape=shape), 30, number=20) / 0.01
    slices = factor[::SLICE_MIN]
    assert (factor == np.repeat(slices, SLICE_MIN, axis=0)).all()
    assert slices.mean() == pytest.approx(1, abs=0.01)
    assert slices.var() == pytest.approx(1 / shape, rel=0.05)  # so counts have the variance m + m^2 / shape


def test_the_drift_has_its_spread_and_its_memory():
    logs = np.log(rates(replace(FLAT, drift_sd=0.2, drift_h=12.0), 60, number=20)[::SLICE_MIN])
    assert logs.std() == pytest.approx(0.2, rel=0.1)
    assert np.exp(logs).mean() == pytest.approx(0.01, rel=0.05)
    lag = 12 * 60 // SLICE_MIN
    centred = logs - logs.mean()
    assert (centred[lag:] * centred[:-lag]).mean() / centred.var() == pytest.approx(np.exp(-1), abs=0.1)


def test_day_weekend_and_month_end():
    course = rates(replace(FLAT, diurnal_share=0.1), 1)[:, 0]
    assert course.mean() == pytest.approx(0.01, rel=0.01) and course.argmax() // 60 in (14, 15)
    days = rates(replace(FLAT, weekend_share=0.3), 7).reshape(7, -1).mean(axis=1)
    assert [round(rate / 0.01, 1) for rate in days] == [1, 1, 1, 0.7, 0.7, 1, 1]  # from Wednesday on
    days = rates(replace(FLAT, month_end_share=0.5), 60).reshape(60, -1).mean(axis=1)
    busy = [day + 1 for day, rate in enumerate(days) if rate > 0.0125]
    assert busy == [30, 31, 31 + 27, 31 + 28]  # January and February 2025


def test_reboots_take_hosts_away_and_bring_faults():
    block = World(clusters(5), 0.01, replace(FLAT, reboot_waves_per_year=50.0), FIRST, 1).advance(100 * DAY_MIN)
    away = SLICE_MIN / REBOOT_WAVE_MIN
    rebooting = block.watching < 10_000 * (1 - DOWN_SHARE) - 1
    assert rebooting.mean() == pytest.approx(50 * REBOOT_WAVE_MIN / 525_960, rel=0.4)
    assert (block.watching[rebooting] == 10_000 - round(10_000 * (away + DOWN_SHARE))).all()
    per_host = (block.expected / block.watching)[rebooting] * 60 / 0.01
    np.testing.assert_allclose(per_host, 1 + (REBOOT_RISE - 1) * away, rtol=0.01)


def test_upgrades_move_levels_that_stay_near():
    level = rates(replace(FLAT, upgrades_per_year=60.0), 150, number=4).reshape(150, DAY_MIN, 4)
    logs = np.log(np.median(level, axis=1) / 0.01)  # the median of a day skips the upgrade's own reboots
    assert (np.abs(np.diff(logs, axis=0)) > 0.02).any(axis=0).all(), "every cluster's level moved"
    assert 0.1 < logs.std() < 0.5


def test_the_same_seed_is_the_same_world_however_it_is_advanced():
    whole = World(clusters(3), 0.01, RESTLESS, FIRST, 5).advance(2 * DAY_MIN)
    world = World(clusters(3), 0.01, RESTLESS, FIRST, 5)
    parts = [world.advance(minutes) for minutes in (DAY_MIN, 60, DAY_MIN - 60)]
    assert (np.concatenate([part.expected for part in parts]) == whole.expected).all()
    assert (np.concatenate([part.watching for part in parts]) == whole.watching).all()
    assert (World(clusters(3), 0.01, RESTLESS, FIRST, 6).advance(60).expected != whole.expected[:60]).any()
    assert CALM.upgrades_per_year == 0
