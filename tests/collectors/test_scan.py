import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from collectors.baseline import Baseline
from collectors.inventory import Cluster
from collectors.minutes import WINDOWS_MIN, Minutes
from collectors.scan import AMPLITUDES, DIRECTIONS, EXPONENTS, Rows, Scan, responses
from collectors.sky import directions, unit_vectors
from tests.collectors.fleets import background, fault, twelve, watch

CLUSTERS = twelve()
SCAN = Scan(CLUSTERS)
FIRST = 29_000_040 // 60 * 60  # a full hour


def by_the_formula(counts, expected):
    """The statistic of one row, template by template."""
    best = 0.0
    for exponent in EXPONENTS:
        for f in responses(CLUSTERS, directions(DIRECTIONS), exponent):
            for amplitude in AMPLITUDES:
                best = max(best, float((counts * np.log1p(amplitude * f) - amplitude * f * expected).sum()))
    return best


def test_the_statistic_is_the_formula():
    random = np.random.default_rng(3)
    expected = random.gamma(2, 0.2, (4, 12))
    counts = random.poisson(expected * 3)
    assert SCAN.statistics(counts, expected) == pytest.approx(
        [by_the_formula(c, e) for c, e in zip(counts, expected, strict=True)], rel=1e-4
    )


def test_a_dip_scores_nothing():
    assert SCAN.statistics(np.zeros((1, 12)), np.full((1, 12), 50.0)).tolist() == [0]


def test_no_cluster_and_no_row_is_no_trouble():
    assert SCAN.statistics(np.zeros((0, 12)), np.zeros((0, 12))).shape == (0,)


@settings(max_examples=40)
@given(arrays(np.int64, 12, elements=st.integers(0, 6)), arrays(np.int64, 12, elements=st.integers(0, 3)))
def test_more_faults_never_lower_the_statistic(counts, more):
    expected = np.full((1, 12), 0.3)
    before, after = (float(SCAN.statistics(c[None], expected)[0]) for c in (counts, counts + more))
    assert after >= before - 1e-4


def test_a_source_below_the_horizon_never_counts_whatever_the_boards_face():
    wall = Cluster("wall", 0.0, 0.0, facing_azimuth_deg=90.0, facing_elevation_deg=-30.0)
    roof = Cluster("roof", 0.0, 0.0)
    just_up, just_down, behind = unit_vectors(np.zeros(3), np.array([89.0, 91.0, -45.0]))
    f = responses([wall, roof], np.stack([just_up, just_down, behind]), 1)
    assert f[:, 0].tolist() == pytest.approx([np.cos(np.radians(31)), 0, 0])
    assert f[:, 1].tolist() == pytest.approx([np.sin(np.radians(1)), 0, np.cos(np.radians(45))])
    assert responses([wall], just_down[None], 0).item() == 0


def rows_of(minutes, streams, begin, end):
    baselines = {}
    for stream in streams:
        baselines[stream] = Baseline(12)
        for hour in range(FIRST, begin // 60 * 60, 60):
            baselines[stream].fold(minutes.counts(stream, hour, hour + 60), minutes.watching(stream, hour, hour + 60))
    return Rows(minutes, baselines, FIRST // 60, begin, end)


@pytest.fixture(scope="module")
def minutes():
    minutes = Minutes(CLUSTERS)
    for stream, seed in (("dram", 1), ("sram", 2)):
        watch(minutes, CLUSTERS, FIRST, 72 * 60, stream)
        for one in background(CLUSTERS, 2.0, FIRST, 72 * 60, seed):
            minutes.observe(fault(one.time_ns // 60_000_000_000, one.cluster, stream=stream))
    return minutes


def test_rows_hold_the_window_sums_of_all_streams(minutes):
    begin = FIRST + 60 * 60 + 17
    rows = rows_of(minutes, ("dram", "sram"), begin, begin + 30)
    for index, window_min in enumerate(WINDOWS_MIN):
        end = begin + 30
        counts = sum(minutes.counts(s, end - window_min, end)[index].sum(axis=0) for s in ("dram", "sram"))
        assert (rows.observed[index, -1] == counts).all()
        # 2 novel faults per host and hour, 2 hosts, 2 streams
        assert rows.expected[index, -1].sum() == pytest.approx(12 * 8 * window_min / 60, rel=0.15)


def test_the_counts_are_scaled_by_the_over_dispersion(minutes):
    begin = FIRST + 60 * 60
    rows = rows_of(minutes, ("dram",), begin, begin + 60)
    observed, expected, overdispersion = rows.row(5, 30)
    assert (overdispersion > 1).all()
    assert rows.counts[5, 30] == pytest.approx(observed / overdispersion, rel=1e-5)
    assert rows.means[5, 30] == pytest.approx(expected / overdispersion, rel=1e-5)


def test_a_silent_cluster_has_neither_counts_nor_expectation(minutes):
    begin = FIRST + 60 * 60
    masked = Minutes(CLUSTERS)
    hosts = minutes.watching("dram", FIRST, begin + 60)
    hosts[-60:, 4] = 0
    masked.set_watching("dram", FIRST, hosts)
    for one in background(CLUSTERS, 2.0, FIRST, 72 * 60, 1):
        masked.observe(one)
    full, rows = (rows_of(m, ("dram",), begin, begin + 60) for m in (minutes, masked))
    assert not rows.observed[:, -1, 4].any() and not rows.expected[:, -1, 4].any()
    others = [column for column in range(12) if column != 4]
    assert (rows.expected[:, -1, others] == full.expected[:, -1, others]).all()


def test_cutting_takes_away_exposure_too(minutes):
    rows = rows_of(minutes, ("dram",), FIRST + 60 * 60, FIRST + 61 * 60)
    rows.cut(10, 20, 3)
    assert not rows.means[:, 10:20, 3].any() and rows.means[:, 9, 3].all() and rows.means[:, 10:20, 2].all()
    assert not rows.arrived[10:20, 3].any()
