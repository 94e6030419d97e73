import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from collectors import scan
from collectors.inventory import Cluster
from collectors.scan import AMPLITUDES, DIRECTIONS, EXPONENTS, Scan, StreamRows, Templates, responses
from collectors.sky import directions, unit_vectors
from tests.collectors.fleets import twelve

CLUSTERS = twelve()
SCAN = Scan(CLUSTERS)


def rows(counts, expected):
    return StreamRows(counts, np.arange(12), expected)


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
    assert SCAN.statistics([rows(counts, expected)]) == pytest.approx(
        [by_the_formula(c, e) for c, e in zip(counts, expected, strict=True)], rel=1e-4
    )


def test_a_dip_scores_nothing():
    assert SCAN.statistics([rows(np.zeros((1, 12)), np.full((1, 12), 50.0))]).tolist() == [0]


def test_no_cluster_and_no_row_is_no_trouble():
    assert SCAN.statistics([rows(np.zeros((0, 12)), np.zeros((0, 12)))]).shape == (0,)


@settings(max_examples=40)
@given(arrays(np.int64, 12, elements=st.integers(0, 6)), arrays(np.int64, 12, elements=st.integers(0, 3)))
def test_more_faults_never_lower_the_statistic(counts, more):
    expected = np.full((1, 12), 0.3)
    before, after = (float(SCAN.statistics([rows(c[None], expected)])[0]) for c in (counts, counts + more))
    assert after >= before - 1e-4


@settings(max_examples=60)
@given(arrays(np.int64, (3, 12), elements=st.integers(0, 9)), arrays(float, (3, 12), elements=st.floats(0.01, 5)))
def test_no_row_scores_above_its_bound(counts, expected):
    for told in (rows(counts, expected), rows(counts, expected).where_counted()):
        bounds = told.bounds()
        assert (SCAN.statistics([told]) <= bounds * (1 + 1e-5) + 1e-4).all()
    assert bounds[counts.sum(axis=1) == 0].sum() == 0


def test_the_bound_of_one_cluster_is_its_ratio_at_the_best_amplitude():
    assert rows(np.eye(1, 12) * 6, np.full((1, 12), 2.0)).bounds() == pytest.approx([6 * np.log(3) - 4])


def test_a_source_below_the_horizon_never_counts_whatever_the_boards_face():
    wall = Cluster("wall", 0.0, 0.0, facing_azimuth_deg=90.0, facing_elevation_deg=-30.0)
    roof = Cluster("roof", 0.0, 0.0)
    just_up, just_down, behind = unit_vectors(np.zeros(3), np.array([89.0, 91.0, -45.0]))
    f = responses([wall, roof], np.stack([just_up, just_down, behind]), 1)
    assert f[:, 0].tolist() == pytest.approx([np.cos(np.radians(31)), 0, 0])
    assert f[:, 1].tolist() == pytest.approx([np.sin(np.radians(1)), 0, np.cos(np.radians(45))])
    assert responses([wall], just_down[None], 0).item() == 0


def test_clusters_without_counts_need_no_column():
    random = np.random.default_rng(5)
    counts, expected = random.poisson(0.2, (6, 12)), random.gamma(2, 0.2, (6, 12))
    columns = np.flatnonzero(counts.any(axis=0))
    sparse = StreamRows(counts[:, columns], columns, expected)
    assert len(columns) < 12
    assert SCAN.statistics([sparse]) == pytest.approx(SCAN.statistics([rows(counts, expected)]), rel=1e-5)


def test_each_stream_has_an_amplitude_of_its_own():
    """What lifts caches alone isn't drowned in memory's many faults, and what lifts both adds up."""
    facing = responses(CLUSTERS, unit_vectors(np.array(-10.0), np.array(60.0))[None], 1)
    caches, memory = np.full((1, 12), 0.1), np.full((1, 12), 30.0)
    raised = rows((facing * 5).round(), caches)
    alone = float(SCAN.statistics([raised])[0])
    assert float(SCAN.statistics([raised, rows(memory, memory)])[0]) == pytest.approx(alone, rel=1e-4)
    assert float(SCAN.statistics([raised, raised])[0]) == pytest.approx(2 * alone, rel=1e-4)
    assert float(SCAN.statistics([rows(raised.counts + memory, caches + memory)])[0]) < alone / 3


def test_a_table_too_large_to_keep_changes_nothing(monkeypatch):
    shapes = responses(CLUSTERS, directions(20), 1)
    kept = Templates(shapes, (1.0, 8.0))
    monkeypatch.setattr(scan, "TABLE_FLOATS_MAX", 0)
    row = rows(np.arange(12.0)[None], np.ones((1, 12)))
    for a, b in zip(kept.ratios(row), Templates(shapes, (1.0, 8.0)).ratios(row), strict=True):
        assert a == pytest.approx(b)


def test_rows_that_are_done_early_score_as_if_all_amplitudes_had_been_tried():
    """Few rows over many clusters are pruned; the same rows among many others aren't."""
    random = np.random.default_rng(4)
    vectors = directions(150)
    latitudes, longitudes = np.degrees(np.arcsin(vectors[:, 2])), np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0]))
    places = [
        Cluster(f"c{n}", float(lat), float(lon)) for n, (lat, lon) in enumerate(zip(latitudes, longitudes, strict=True))
    ]
    many = Scan(places, number=48)
    expected = random.gamma(1, 1, (6, 150)) * np.array([[0.01], [0.1], [0.5], [1], [3], [9]])
    counts = random.poisson(expected * np.array([[9], [3], [1], [1.3], [1], [0.5]]))
    few = StreamRows(counts, np.arange(150), expected)
    tiled = StreamRows(np.tile(counts, (9, 1)), np.arange(150), np.tile(expected, (9, 1)))
    assert many.statistics([few]) == pytest.approx(many.statistics([tiled])[:6], rel=1e-4, abs=1e-3)
