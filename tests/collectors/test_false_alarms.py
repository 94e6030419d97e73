import json

import numpy as np
import pytest

from collectors.false_alarms import (
    CENSORED_SHARE,
    HOURS_PER_INDEPENDENT,
    SHIFTS_H,
    SLIDES,
    TAIL_HOURS,
    YEAR_H,
    Maxima,
    Slides,
    Tail,
    _peaks,
    coarse_scan,
    fit,
    summary,
)
from collectors.minutes import WINDOWS_MIN
from collectors.scan import Scan, StreamRows
from collectors.windows import BlockStream
from tests.collectors.fleets import twelve

SCAN = Scan(twelve())
SLIDER = Slides(SCAN, coarse_scan(twelve()))


def test_rate_and_statistic_are_each_other_s_reverse():
    tail = Tail(start_nats=5.0, per_year=300.0, scale_nats=1.2, independent=20.0)
    assert tail.far_per_year(5.0) == pytest.approx(300.0)
    assert tail.far_per_year(5.0 + 24.0) == pytest.approx(300.0 / 2**20)
    assert tail.far_per_year(tail.statistic_nats(0.01)) == pytest.approx(0.01)
    assert tail.far_per_year(-1e9) == YEAR_H and 0 < tail.far_per_year(1e9) < 1e-100


def test_a_tail_that_is_well_known_is_exponential():
    tail = Tail(start_nats=5.0, per_year=300.0, scale_nats=1.2, independent=1e6)
    assert tail.far_per_year(5.0 + 1.2 * np.log(300)) == pytest.approx(1.0, rel=1e-4)
    assert 0 < tail.far_per_year(1e9) < 1e-300


def test_the_fit_finds_the_closed_form():
    # hourly maxima that are exponential with scale 1.3 above 2 have FAR(x) = YEAR_H * exp(-(x - 2) / 1.3)
    fits = [fit([summary(2 + np.random.default_rng(seed).exponential(1.3, 12 * 24 * 14))]) for seed in range(40)]
    exact = [2 + 1.3 * np.log(YEAR_H / tail.per_year) for tail in fits]
    known = TAIL_HOURS * (1 - CENSORED_SHARE)
    independent = known / HOURS_PER_INDEPENDENT
    assert {tail.independent for tail in fits} == {independent}
    # the rate is told higher by 1 part in `independent`, so where it is reached lies lower
    starts = np.array([tail.start_nats for tail in fits]) - 1.3 * np.log(1 + 1 / independent)
    assert starts == pytest.approx(np.array(exact), abs=0.35) and np.mean(starts - exact) == pytest.approx(0, abs=0.05)
    scales = [tail.scale_nats for tail in fits]
    assert np.mean(scales) == pytest.approx(1.3, rel=0.05)
    assert np.std(scales) == pytest.approx(1.3 / np.sqrt(known), rel=0.3)


@pytest.mark.parametrize("rate_per_year", [100.0, 10.0, 1.0])
def test_thresholds_keep_their_rate_on_average_though_few_maxima_are_independent(rate_per_year):
    """Each value is there as often as a rise in one cluster is in the slides; the truth is the closed form again."""
    true_rates = []
    for seed in range(2000):
        drawn = 2 + np.random.default_rng(seed).exponential(2.5, 24 * 14)
        threshold = fit([summary(np.repeat(drawn, HOURS_PER_INDEPENDENT))]).statistic_nats(rate_per_year)
        true_rates.append(YEAR_H * np.exp(-(threshold - 2) / 2.5))
    assert np.mean(true_rates) == pytest.approx(rate_per_year, rel=0.15)


def test_an_incident_that_was_not_cut_out_does_not_blind_the_scan():
    quiet = 2 + np.random.default_rng(5).exponential(1.3, 12 * 24 * 14)
    incident = np.concatenate([quiet, [40.0, 35.0, 30.0, 30.0, 25.0, 25.0, 24.0, 24.0]])
    before, after = (fit([summary(maxima)]).statistic_nats(1.0) for maxima in (quiet, incident))
    assert before < after < before + 2


def test_the_fit_counts_hours_without_any_fault():
    maxima = np.concatenate([2 + np.random.default_rng(1).exponential(1.3, 400), np.zeros(3600)])
    assert fit([summary(maxima)]).statistic_nats(1.0) == pytest.approx(2 + 1.3 * np.log(YEAR_H / 10), abs=1.0)


def test_a_short_tail_is_never_steeper_than_a_likelihood_ratio_s():
    maxima = np.random.default_rng(1).uniform(3.0, 3.1, 1000)
    assert fit([summary(maxima)]).scale_nats == 1.0


@pytest.mark.parametrize("number", [0, 1, 19])
def test_too_few_maxima_give_a_bound(number):
    maxima = np.concatenate([np.full(number, 6.0), np.zeros(5000)])
    tail = fit([summary(maxima)])
    largest = 6.0 if number else 0.0
    assert tail.far_per_year(largest) == pytest.approx((number + 3) / (len(maxima) / YEAR_H))
    assert tail.statistic_nats(1.0) > largest


def test_blocks_kept_as_summaries_fit_as_all_their_hours_would():
    hours = 2 + np.random.default_rng(3).exponential(1.3, 4000)
    hours[::7] = 0
    parts = [summary(part) for part in np.split(hours, 4)]
    assert fit(parts) == fit([summary(hours)])
    assert {len(part.largest) for part in parts} == {TAIL_HOURS + 1}
    assert fit([Maxima.from_document(json.loads(json.dumps(part.document()))) for part in parts]) == fit(parts)


def block(counts, expected=0.001):
    """A stream's block of given counts [hours * 60, clusters] in every window, as many for each window's minute."""
    hours = len(counts) // 60
    pieces = counts.reshape(hours, 60, -1).transpose(0, 2, 1)
    at, columns = np.nonzero(pieces.any(axis=2))
    rows = np.repeat(pieces[at, columns][:, None], len(WINDOWS_MIN), axis=1).astype(np.float32)
    return BlockStream(rows, columns, at, np.full((hours, len(WINDOWS_MIN), 12), expected, np.float32))


def height(number, expected=0.001):
    """The statistic of so many faults in one cluster."""
    counts = np.zeros((1, 12))
    counts[0, 0] = number
    return float(SCAN.statistics([StreamRows(counts, np.arange(12), np.full((1, 12), expected))])[0])


def test_the_hourly_maxima_are_nearly_those_of_all_rows():
    """The coarse scan may miss an hour's best row, but not by what would matter."""
    random = np.random.default_rng(4)
    minutes = random.poisson(0.02, (48 * 60, 12))
    sums = np.stack([_trailing(minutes, window) for window in WINDOWS_MIN])
    stream = block(np.ones((48 * 60, 12)))
    pieces = sums.reshape(6, 48, 60, 12).transpose(1, 3, 0, 2).reshape(-1, 6, 60)
    means = np.repeat(0.02 * np.array(WINDOWS_MIN)[:, None], 12, axis=1)
    stream = BlockStream(pieces.astype(np.float32), stream.columns, stream.hours, np.tile(means, (48, 1, 1)))
    told = SLIDER.maxima([stream], (1, 2)).reshape(SLIDES, 48)
    shifts = np.random.default_rng((1, 2)).integers(0, SHIFTS_H, 12)
    exact = []
    for hour in range(48):
        at = (hour - shifts) % 48
        rows = pieces.reshape(48, 12, 6, 60)[at, np.arange(12)].reshape(12, -1).T
        exact.append(float(SCAN.statistics([StreamRows(rows, np.arange(12), np.repeat(means, 60, axis=0))]).max()))
    assert (told[0] <= np.array(exact) + 1e-4).all()
    assert (np.array(exact) - told[0]).mean() < 0.02 and (np.array(exact) - told[0]).max() < 0.3


def _trailing(minutes, window):
    padded = np.concatenate([np.zeros((window - 1, minutes.shape[1]), minutes.dtype), minutes])
    return np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).sum(axis=-1)


def test_slides_keep_a_cluster_s_own_series_and_destroy_what_clusters_share():
    counts = np.zeros((48 * 60, 12))
    counts[20 * 60 + 30, :6] = 2  # six clusters at the same minute
    maxima = SLIDER.maxima([block(counts)], (1, 2))
    as_it_was = float(
        SCAN.statistics([StreamRows(counts[None, 20 * 60 + 30], np.arange(12), np.full((1, 12), 0.001))])[0]
    )
    assert maxima.shape == (SLIDES * 48,)
    assert maxima.max() < 0.7 * as_it_was
    assert maxima.max() >= height(2) - 0.01
    assert (maxima.reshape(SLIDES, 48) > 0).sum(axis=1).max() <= 6


def test_slides_keep_what_all_clusters_have_for_many_hours():
    counts = np.zeros((48 * 60, 12))
    counts[12 * 60 : 36 * 60] = np.random.default_rng(8).poisson(0.05, (24 * 60, 12))  # a day of a month's end
    maxima = SLIDER.maxima([block(counts)], (1, 5)).reshape(SLIDES, 48)
    begin, end = 12, 36 + SHIFTS_H - 1
    assert not maxima[:, :begin].any() and not maxima[:, end:].any()
    assert (maxima[:, begin + SHIFTS_H - 1 : 36] > np.median(maxima[:, begin:end])).mean() > 0.5


def test_a_slid_statistic_stays_with_its_hour():
    counts = np.zeros((48 * 60, 12))
    counts[3 * 60 + 10, 0], counts[30 * 60 + 50, 0] = 2, 5
    for hours in SLIDER.maxima([block(counts)], (1, 3)).reshape(SLIDES, 48):
        assert np.flatnonzero(hours).size == 2
        first = int(hours.argmax())
        assert hours[[first, first - 27]] == pytest.approx([height(5), height(2)], rel=1e-5)


def test_a_cluster_s_streams_are_shifted_together():
    counts = np.zeros((48 * 60, 12))
    counts[3 * 60 + 10, 0] = 3
    maxima = SLIDER.maxima([block(counts), block(counts)], (1, 4)).reshape(SLIDES, 48)
    assert maxima.max(axis=1) == pytest.approx(np.full(SLIDES, 2 * height(3)), rel=1e-5)


def test_the_same_seed_slides_alike():
    counts = np.random.default_rng(6).poisson(0.02, (48 * 60, 12))
    first, again, other = (SLIDER.maxima([block(counts, 0.02)], seed) for seed in ((7, 1), (7, 1), (8, 1)))
    assert (first == again).all() and (first != other).any()


def test_a_row_that_a_neighbour_contains_is_never_an_hour_s_only_largest():
    random = np.random.default_rng(5)
    for _ in range(50):
        arrivals = random.poisson(0.02, (12, 59 + 60))
        counts = np.stack(
            [[arrivals[:, 60 + t - w : 60 + t].sum(axis=1) for t in range(60)] for w in WINDOWS_MIN]
        )  # [windows, minutes, clusters]
        means = np.repeat(random.gamma(2, 0.02, (len(WINDOWS_MIN), 1, 12)), 60, axis=1)
        pieces = np.ascontiguousarray(counts.transpose(2, 0, 1)).reshape(12, -1)
        streams = [StreamRows(pieces.T, np.arange(12), means.reshape(-1, 12))]
        kept = _peaks(streams)
        every = SCAN.statistics(streams)
        assert every[kept].max(initial=0.0) == pytest.approx(every.max(initial=0.0), abs=1e-4)
        assert kept.mean() < 1
