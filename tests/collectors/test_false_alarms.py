import numpy as np
import pytest

from collectors.false_alarms import SLIDES, YEAR_H, Tail, _hourly_maxima, fit, slide_maxima
from collectors.scan import Scan
from tests.collectors.fleets import twelve

SCAN = Scan(twelve())


def test_rate_and_statistic_are_each_other_s_reverse():
    tail = Tail(start_nats=5.0, per_year=300.0, scale_nats=1.2)
    assert tail.far_per_year(5.0) == 300.0
    assert tail.far_per_year(5.0 + 1.2 * np.log(300)) == pytest.approx(1.0)
    assert tail.far_per_year(tail.statistic_nats(0.01)) == pytest.approx(0.01)
    assert tail.far_per_year(-1e9) == YEAR_H and tail.far_per_year(1e9) == 0.0


def test_the_fit_finds_the_closed_form():
    # hourly maxima that are exponential with scale 1.3 above 2 have FAR(x) = YEAR_H * exp(-(x - 2) / 1.3)
    truth = 2 + 1.3 * np.log(YEAR_H)
    thresholds = []
    for seed in range(40):
        maxima = 2 + np.random.default_rng(seed).exponential(1.3, 12 * 24 * 14)
        thresholds.append(fit(maxima).statistic_nats(1.0))
    assert np.median(thresholds) == pytest.approx(truth, abs=0.15)
    # the scale of 120 exponentials is known to 1 part in sqrt(120), and is multiplied by the logarithm of r_u
    assert np.std(thresholds) == pytest.approx(1.3 / np.sqrt(120) * np.log(YEAR_H * 120 / 4032), rel=0.3)


def test_the_fit_counts_hours_without_any_fault():
    maxima = np.concatenate([2 + np.random.default_rng(1).exponential(1.3, 400), np.zeros(3600)])
    assert fit(maxima).statistic_nats(1.0) == pytest.approx(2 + 1.3 * np.log(YEAR_H / 10), abs=1.0)


def test_a_short_tail_is_never_steeper_than_a_likelihood_ratio_s():
    maxima = np.random.default_rng(1).uniform(3.0, 3.1, 1000)
    assert fit(maxima).scale_nats == 1.0


@pytest.mark.parametrize("number", [0, 1, 19])
def test_too_few_maxima_give_a_bound(number):
    maxima = np.concatenate([np.full(number, 6.0), np.zeros(5000)])
    tail = fit(maxima)
    largest = 6.0 if number else 0.0
    assert tail.far_per_year(largest) == pytest.approx((number + 3) / (len(maxima) / YEAR_H))
    assert tail.statistic_nats(1.0) > largest


def null_rows(minutes, seed, per_window=0.2):
    random = np.random.default_rng(seed)
    counts = random.poisson(per_window, (6, minutes, 12)).astype(np.float32)
    return counts, np.full_like(counts, per_window), counts[0] > 0


def test_the_largest_third_of_the_hours_is_exact():
    counts, means, _ = null_rows(48 * 60, 4)
    flat, flat_means = counts.reshape(-1, 12), means.reshape(-1, 12)
    hours = np.tile(np.arange(48 * 60) // 60, 6)
    told = _hourly_maxima(SCAN, flat, flat_means, hours, 48)
    exact = np.zeros(48, np.float32)
    np.maximum.at(exact, hours, SCAN.statistics(flat, flat_means))
    largest = np.argsort(-exact)[:16]
    assert told[largest] == pytest.approx(exact[largest], rel=1e-6)
    assert (told <= exact + 1e-5).all()


def test_slides_keep_a_cluster_s_own_series_and_destroy_what_clusters_share():
    counts, means, _ = null_rows(48 * 60, 5, per_window=0.001)
    counts[:] = 0
    together = 20 * 60 + 30
    counts[:, together, :6] = 2  # six clusters at the same minute
    maxima = slide_maxima(SCAN, counts, means, counts[0] > 0, (1, 2))
    as_it_was = SCAN.statistics(counts[:, together], means[:, together]).max()
    alone = np.zeros((1, 12))
    alone[0, 0] = 2
    assert maxima.shape == (SLIDES * 48,)
    assert maxima.max() < 0.7 * as_it_was
    assert maxima.max() >= SCAN.statistics(alone, means[0, :1])[0] - 0.01
    assert (maxima.reshape(SLIDES, 48) > 0).sum(axis=1).max() <= 6


def test_a_slid_statistic_stays_with_its_hour():
    counts, means, _ = null_rows(48 * 60, 5, per_window=0.001)
    counts[:] = 0
    small, large = 3 * 60 + 10, 30 * 60 + 50
    counts[:, small, 0], counts[:, large, 0] = 2, 5
    maxima = slide_maxima(SCAN, counts, means, counts[0] > 0, (1, 3)).reshape(SLIDES, 48)
    one = np.zeros((2, 12))
    one[:, 0] = 2, 5
    heights = SCAN.statistics(one, means[0, :2])
    for hours in maxima:
        assert np.flatnonzero(hours).size == 2
        first = int(hours.argmax())
        assert hours[[first, first - 27]] == pytest.approx([heights[1], heights[0]], rel=1e-5)


def test_the_same_seed_slides_alike():
    rows = null_rows(48 * 60, 6)
    assert (slide_maxima(SCAN, *rows, (7, 1)) == slide_maxima(SCAN, *rows, (7, 1))).all()
    assert (slide_maxima(SCAN, *rows, (7, 1)) != slide_maxima(SCAN, *rows, (8, 1))).any()
