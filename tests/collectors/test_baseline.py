import numpy as np
import pytest

from collectors.baseline import DAY_H, GUARD_H, WARM_UP_H, Baseline
from collectors.minutes import WINDOWS_MIN, Events


def fold(baseline, counts, watching):
    """counts, watching: [hours, 60, clusters]; every window may use every fault."""
    for hour_counts, hour_watching in zip(counts, watching, strict=True):
        minutes, columns = np.nonzero(hour_counts)
        numbers = hour_counts[minutes, columns]
        minutes, columns = np.repeat(minutes, numbers), np.repeat(columns, numbers)
        at = minutes + baseline.folded_until * 60
        baseline.fold(Events(at, np.zeros(len(at), np.int64), columns), hour_watching)


def poisson(rate_per_host_min, hosts, hours, seed=1, unrest=None):
    random = np.random.default_rng(seed)
    watching = np.tile(np.array(hosts), (hours, 60, 1))
    expected = watching * rate_per_host_min
    return random.poisson(expected if unrest is None else expected * unrest), watching


def test_the_rate_of_each_cluster_is_found():
    hosts, rates = [1000, 2000, 4000], np.array([1e-3, 5e-4, 2e-3])
    baseline = Baseline(3, 0)
    fold(baseline, *poisson(rates, hosts, 300))
    assert baseline.in_force(300).rate[2] == pytest.approx(rates, rel=0.05)


def test_a_small_cluster_is_drawn_towards_the_fleet():
    hosts = [2, 50_000]
    counts, watching = poisson(1e-4, hosts, 200)
    counts[:, :, 0] = 0  # by chance it had none
    baseline = Baseline(2, 0)
    fold(baseline, counts, watching)
    assert baseline.in_force(200).rate[0, 0] == pytest.approx(1e-4, rel=0.3)


def test_a_level_does_not_know_the_last_six_hours():
    counts, watching = poisson(1e-3, [1000] * 4, 120)
    raised = counts.copy()
    raised[-GUARD_H:] += 50
    levels = []
    for history in (counts, raised):
        baseline = Baseline(4, 0)
        fold(baseline, history, watching)
        levels.append((baseline.in_force(120).rate, baseline.in_force(126).rate))
    assert (levels[0][0] == levels[1][0]).all()
    assert (levels[0][1] < levels[1][1]).all(), "six hours later they count"


def test_nothing_is_expected_while_warming_up():
    baseline = Baseline(1, 0)
    fold(baseline, *poisson(1e-3, [1000], 2 * WARM_UP_H))
    assert not baseline.in_force(WARM_UP_H + GUARD_H - 1).rate.any()
    assert baseline.in_force(WARM_UP_H + GUARD_H).rate.all()


def test_warming_up_counts_from_the_first_watched_hour():
    counts, watching = poisson(1e-3, [1000], 3 * WARM_UP_H)
    watching[: 2 * WARM_UP_H] = 0
    baseline = Baseline(1, 0)
    fold(baseline, counts * (watching > 0), watching)
    assert not baseline.in_force(3 * WARM_UP_H + GUARD_H - 1).rate.any()
    assert baseline.in_force(3 * WARM_UP_H + GUARD_H).rate == pytest.approx(1e-3, rel=0.1)


def test_hours_without_exposure_do_not_dilute_the_rate():
    counts, watching = poisson(1e-3, [1000, 1000], 200)
    watching[100:140, :, 0] = 0
    baseline = Baseline(2, 0)
    fold(baseline, counts * (watching > 0), watching)
    assert baseline.in_force(200).rate[5] == pytest.approx([1e-3, 1e-3], rel=0.1)


def test_an_incident_does_not_become_the_new_normal():
    counts, watching = poisson(1e-4, [1000] * 3, 200)
    counts[150, :, 1] += 500
    baseline = Baseline(3, 0)
    fold(baseline, counts, watching)
    assert baseline.in_force(200).rate[0, 1] < 1.5e-4


def test_a_tide_of_the_whole_fleet_is_known_within_hours():
    tide = np.where(np.arange(200) < 170, 1.0, 1.3)[:, None, None]
    fleet, alone = Baseline(20, 0), Baseline(20, 0)
    fold(fleet, *poisson(1e-4, [10_000] * 20, 200, unrest=tide))
    fold(alone, *poisson(1e-4, [10_000] * 20, 200, unrest=np.where(np.arange(20) < 1, 3 * tide, 1.0)))
    assert fleet.in_force(200).rate[5].mean() == pytest.approx(1.3e-4, rel=0.05)
    assert alone.in_force(200).rate[5, 1:].mean() == pytest.approx(1e-4, rel=0.05), "one cluster is no fleet"


def test_few_faults_make_no_tide():
    baseline = Baseline(3, 0)
    fold(baseline, *poisson(1e-6, [10_000] * 3, 400))
    assert all(0.8 < baseline.in_force(hour).tide < 1.25 for hour in range(50, 400))


def test_over_dispersion_is_measured_where_there_is_some():
    hosts, hours = [20_000] * 10, 400
    gamma = np.random.default_rng(2).gamma(10, 1 / 10, (hours, 6, 10)).repeat(10, axis=1)
    quiet, restless = Baseline(10, 0), Baseline(10, 0)
    fold(quiet, *poisson(1e-4, hosts, hours))
    fold(restless, *poisson(1e-4, hosts, hours, unrest=gamma))
    ten_min = WINDOWS_MIN.index(10)
    assert quiet.in_force(hours).excess_variance[ten_min] < 0.01
    assert restless.in_force(hours).excess_variance[ten_min] == pytest.approx(0.1, rel=0.3)
    expected = np.full((len(WINDOWS_MIN), 1, 10), 20.0)
    assert restless.in_force(hours).overdispersion(expected)[ten_min] == pytest.approx(3.0, rel=0.3)


def test_the_hours_of_the_day_are_learnt_and_drawn_towards_one():
    local = 1 + 0.5 * np.cos(2 * np.pi * np.arange(40 * DAY_H) / DAY_H)
    daily, hosts = local[:, None, None] * np.ones((1, 60, 2)), [200_000, 200]
    baseline = Baseline(2, 0)
    fold(baseline, *poisson(1e-4, hosts, len(local), unrest=daily))
    rates = np.array([baseline.in_force(len(local) - DAY_H + GUARD_H + hour).rate[5] for hour in range(DAY_H)])
    peak, trough = rates[(DAY_H - GUARD_H) % DAY_H], rates[(DAY_H // 2 - GUARD_H) % DAY_H]
    assert peak[0] / trough[0] == pytest.approx(3.0, rel=0.2), "1.5 / 0.5"
    assert peak[1] / trough[1] < 1.4, "17 faults in each hour of the day are too few to tell"
    assert rates.mean(axis=0)[0] == pytest.approx(1e-4, rel=0.05)


def test_a_young_cluster_expects_nothing_until_it_is_warm():
    counts, watching = poisson(1e-3, [1000, 1000], 100)
    counts[:60, :, 1] = watching[:60, :, 1] = 0
    baseline = Baseline(2, 0)
    fold(baseline, counts, watching)
    for hour, warm in ((60 + WARM_UP_H + GUARD_H - 1, False), (60 + WARM_UP_H + GUARD_H, True)):
        rate = baseline.in_force(hour).rate
        assert rate[:, 0].all() and rate[:, 1].all() == warm and rate[:, 1].any() == warm


def test_old_levels_can_be_forgotten():
    baseline = Baseline(1, 0)
    fold(baseline, *poisson(1e-3, [1000], 60))
    baseline.forget_before(50)
    assert not baseline.in_force(49).rate.any() and baseline.in_force(50).rate.all()
